"""The control socket: what hostile clients get, and who may connect at all."""

import contextlib
import json
import os
import socket
import stat
import threading

import pytest

from emudev_core.control import server as control
from emudev_core.control.places import default_path, found_sockets, make_folder, runtime_folder
from emudev_core.control.server import ControlServer
from emudev_core.errors import TransportError
from emudev_core.events import Event, EventKind
from emudev_core.testing.control import Looker, Wire

# -- hostile clients


def test_a_line_that_is_too_long_ends_the_connection(wire):
    wire.socket.setblocking(True)
    wire.socket.settimeout(5)
    sender = threading.Thread(target=_send_all, args=(wire.socket, b"x" * 70000))
    sender.start()
    reply = wire.line()
    sender.join()
    assert (reply["type"], reply["kind"]) == ("error", "request")
    assert "65536" in reply["expected"]
    wire.socket.setblocking(False)
    assert wire.ended()


def _send_all(peer, data):
    with contextlib.suppress(OSError):
        peer.sendall(data)


def test_further_clients_are_told_that_it_is_full_until_one_goes(server, wire):
    others = [Wire(server) for _ in range(control.MAX_CLIENTS - 1)]
    assert all(other.line()["type"] == "hello" for other in others)
    late = Wire(server)
    refused = late.line()
    assert (refused["type"], refused["kind"]) == ("error", "busy")
    assert late.ended()
    others[0].socket.close()
    server.loop.turn(0.01)
    again = Wire(server)
    assert again.line()["type"] == "hello"
    for one in [*others, late, again]:
        one.socket.close()


def test_who_asks_and_does_not_read_is_not_served_further_and_then_let_go(
    server, wire, monkeypatch
):
    monkeypatch.setattr(control, "PATIENCE", 0.05)
    small = Wire(server)
    small.line()
    sent = 0
    with contextlib.suppress(OSError):  # the last: the connection was closed
        for _ in range(3000):
            with contextlib.suppress(BlockingIOError):
                sent += small.socket.send(b'{"op":"show","id":1,"device":"port_emudev_0"}\n' * 50)
            server.loop.turn(0.001)
            [client] = [c for c in server._clients if c is not None][-1:]
            assert len(client._in) <= 2 * control.MAX_LINE
            assert len(client._out) <= control.MAX_WAITING
            if len(server._clients) == 1:
                break
    assert len(server._clients) == 1, "the other client is still there"
    assert wire.ask(b'{"op":"list","id":9}')["id"] == 9
    small.socket.close()


def test_a_follower_that_does_not_read_costs_a_bounded_amount(
    server, wire, port_device, monkeypatch
):
    monkeypatch.setattr(control, "MAX_WAITING", 100_000)
    wire.ask(b'{"op":"follow","id":5}')
    for _ in range(200):
        for _ in range(50):
            port_device.post_event(Event(EventKind.LINK, value=1, text="x" * 100))
        server.loop.turn(0.0)
        if not server._clients:
            break
    assert not server._clients
    assert port_device._channels == []


def test_a_client_may_hang_up_at_any_moment(server):
    for data in (b"", b"{", b'{"op":"list","id":1}\n' * 20, b'{"op":"follow","id":1}\n{"op'):
        for turns in range(4):
            one = Wire(server)
            one.socket.sendall(data)
            for _ in range(turns):
                server.loop.turn(0.001)
            one.socket.close()
    for _ in range(20):
        server.loop.turn(0.001)
    assert not server._clients


def test_a_client_may_say_its_last_word_before_it_reads(wire):
    wire.socket.sendall(b'{"op":"list","id":1}\n{"op":"list","id":2}\n')
    wire.socket.shutdown(socket.SHUT_WR)
    assert [wire.line()["id"], wire.line()["id"]] == [1, 2]
    assert wire.ended()


def test_one_turn_of_the_loop_does_one_piece_of_one_request(server, wire, port_device):
    looker = Looker()
    done = []
    for number in range(5):
        looker.sections.add(f"s{number}", "", lambda number=number: done.append(number) or [])
    port_device.register(looker, "looker")
    wire.socket.sendall(b'{"op":"show","id":1,"device":"port_emudev_0"}\n')
    steps = []
    while len(done) < 5:
        before = len(done)
        server.loop.turn(0.01)
        steps.append(len(done) - before)
    assert max(steps) == 1


# -- who may connect


def _as_user(uid, path, words=b""):
    """What a process of another user gets: bytes, or the name of an error."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            try:
                peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                peer.settimeout(5)
                peer.connect(str(path))
                os.write(theirs, b"connected\n")
                os.write(theirs, peer.recv(4096))
                os.write(theirs, peer.recv(4096))
            except OSError as exc:
                os.write(theirs, type(exc).__name__.encode())
        finally:
            os._exit(0)
    os.close(theirs)
    return child, ours


def _answer_of(child, pipe, loop):
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        loop.turn(0.01)
    with os.fdopen(pipe, "rb") as reader:
        return reader.read()


def _let_others_come_to(path):
    for folder in path.parents[:4]:
        if folder.stat().st_uid == 0 and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o055)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@needs_root
def test_another_user_can_not_open_the_socket(server):
    _let_others_come_to(server.path)
    child, pipe = _as_user(65534, server.path)
    assert _answer_of(child, pipe, server.loop) == b"PermissionError"
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@needs_root
def test_another_user_who_got_to_the_socket_is_refused_by_its_credentials(server):
    _let_others_come_to(server.path)
    server.path.chmod(0o666)
    child, pipe = _as_user(65534, server.path)
    connected, line = _answer_of(child, pipe, server.loop).split(b"\n", 1)
    assert connected == b"connected"
    reply = json.loads(line)
    assert (reply["type"], reply["kind"], reply["came"]) == ("error", "permission", "user 65534")
    assert server.refused == 1
    assert not server._clients


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(port_host, server, tmp_path):
    with pytest.raises(TransportError, match="another process listens there"):
        ControlServer(port_host.registry, port_host.loop, server.path)
    dead = tmp_path / "dead.sock"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(dead))
    left.close()
    with ControlServer(port_host.registry, port_host.loop, dead):
        assert dead.exists()
    assert not dead.exists()


def test_a_file_that_is_no_socket_is_left_alone(port_host, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(TransportError, match="expected a socket"):
        ControlServer(port_host.registry, port_host.loop, path)
    assert path.read_text() == "mine"


def test_closing_removes_its_own_socket_only(port_host, tmp_path):
    path = tmp_path / "ctl.sock"
    first = ControlServer(port_host.registry, port_host.loop, path)
    path.unlink()
    second = ControlServer(port_host.registry, port_host.loop, path)
    first.close()
    assert path.exists()
    second.close()
    second.close()
    assert not path.exists()


def test_the_folder_is_the_users_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", str(tmp_path / "run"))
    folder = make_folder()
    assert folder == runtime_folder() == tmp_path / "run"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(TransportError, match="expected a folder that only user"):
        make_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(TransportError, match="expected a folder"):
        make_folder()


def test_sockets_of_dead_processes_are_swept_and_live_ones_found(port_host, monkeypatch, tmp_path):
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", str(tmp_path / "run"))
    folder = make_folder()
    dead = folder / "1.sock"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(dead))
    left.close()
    assert default_path() == folder / f"{os.getpid()}.sock"
    assert not dead.exists()
    with ControlServer(port_host.registry, port_host.loop) as made:
        assert found_sockets() == [made.path]
    assert found_sockets() == []


def test_no_descriptor_is_left_after_all(port_host, tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    with ControlServer(port_host.registry, port_host.loop, tmp_path / "x.sock") as made:
        one = Wire(made)
        one.line()
        one.ask(b'{"op":"follow","id":1}')
    one.socket.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
