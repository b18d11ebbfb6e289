"""Where a server listens: files, abstract names, sockets that it inherits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from emudev_core.errors import ConfigError, TransportError
from emudev_core.host import Host
from emudev_memif.testing import HandMade
from emudev_memif.testing.steps import start

# -- sockets


def test_a_path_is_a_file_while_it_listens(
    host: Host, tmp_path: Path, reach: Callable[..., HandMade]
) -> None:
    path = tmp_path / "m.sock"
    (device,) = start(host, f"emu_memif,role=server,socket={path},socket-abstract=no,mode=0640")
    assert device.address == f"memif:{path}"
    assert path.stat().st_mode & 0o777 == 0o640
    reach(address=os.fsencode(path))
    device.stop()
    assert not path.exists()


def test_an_abstract_name_makes_no_file(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    start(host, f"emu_memif,role=server,socket={path}")
    assert not path.exists()
    HandMade.client(host.loop.turn, b"\0" + os.fsencode(path)).close()


def test_an_abstract_name_in_use_says_so(host: Host, name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(b"\0" + name.encode())
        host.add(f"emu_memif,role=server,socket={name}")
        with pytest.raises(TransportError, match=f"abstract:{name} is in use"):
            host.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_is_given_to_its_owner(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    keys = "owner-uid=12,owner-gid=34"
    start(host, f"emu_memif,role=server,socket={path},socket-abstract=no,{keys}")
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_an_inherited_socket_is_used_and_kept(
    host: Host, name: str, reach: Callable[..., HandMade], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(b"\0" + name.encode())
        sock.listen(1)
        (device,) = start(host, f"emu_memif,role=server,socket=fd:{sock.fileno()},id=5")
        reach()
        device.stop()
        sock.setblocking(False)
        hand = reach(greeted=False)  # it waits for the next process
        sock.accept()[0].close()
        hand.close()


def test_an_inherited_descriptor_of_another_kind_is_refused(host: Host) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        host.add(f"emu_memif,role=server,socket=fd:{sock.fileno()}")
        with pytest.raises(ConfigError, match="not a listening unix seqpacket socket"):
            host.start()


def test_an_inherited_name_that_is_not_there_is_explained(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "a:b")
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    host.add("emu_memif,role=server,socket=fd:memif")
    with pytest.raises(ConfigError, match=r"socket=fd:memif: .*\(LISTEN_FDNAMES has: a, b"):
        host.start()
