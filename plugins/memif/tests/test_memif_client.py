"""A client over real sockets, with servers by hand: what it offers, and how it comes back."""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emudev_core.device import Device
from emudev_core.errors import ConfigError
from emudev_core.host import Host
from emudev_core.testing.builders import descriptors
from emudev_memif import channel, client
from emudev_memif.testing import MemifServer, records


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY", 0.05)


@pytest.fixture
def address(name: str) -> bytes:
    return b"\0" + name.encode()


@pytest.fixture
def server(host: Host, address: bytes) -> Iterator[MemifServer]:
    with MemifServer(host.loop.turn, address) as made:
        yield made


def start(host: Host, name: str, keys: str = "", link: bool = True) -> Device:
    device: Device = host.add(f"emu_memif,role=client,socket={name},id=5{keys}")
    host.start()
    device.set_attr("link", link)
    return device


def test_it_offers_what_it_was_configured_for(host: Host, name: str, server: MemifServer) -> None:
    device = start(host, name, ",queues=2,rsize=3,bsize=2048,secret=abc")
    server.join()
    ring = 128 + 16 * 8
    size = struct.unpack_from("<Q", server.messages[1], 4)[0]
    assert size >= 4 * ring + 4 * 8 * 2048
    assert server.messages == [
        records.init(5, b"abc", name=b"emudev 0.1.0"),
        records.add_region(0, size),
        records.add_ring(True, 0, 0, 0, 3),
        records.add_ring(True, 1, 0, ring, 3),
        records.add_ring(False, 0, 0, 2 * ring, 3),
        records.add_ring(False, 1, 0, 3 * ring, 3),
        records.connect(b"memif_emudev_5"),
    ]
    host.loop.turn(0.01)
    assert device.get_attr("carrier") is True
    assert device.get_attr("peer") == "by hand"
    assert device.get_attr("peer_interface") == "hand0"
    assert [device.get_queue_info(queue).base for queue in range(4)] == [
        0,
        2 * ring,
        ring,
        3 * ring,
    ]


def test_its_memory_can_not_be_shrunk(host: Host, name: str, server: MemifServer) -> None:
    start(host, name)
    hand = server.accept()
    assert hand.receive()[0] == records.init(5, name=b"emudev 0.1.0")
    hand.send(records.ACK)
    _, (memory,) = hand.receive()
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 4096)
    os.close(memory)


@pytest.mark.parametrize(
    ("greeting", "rings", "log2"),
    [
        (records.hello(c2s=0, s2c=0), 2, 10),
        (records.hello(c2s=1, s2c=0), 3, 10),
        (records.hello(c2s=300, s2c=300), 6, 10),
        (records.hello(log2=4), 6, 4),
        (records.hello(log2=14), 6, 10),
        (records.hello(region=0), 6, 10),
    ],
)
def test_it_makes_no_more_than_the_server_takes(
    host: Host, name: str, address: bytes, greeting: bytes, rings: int, log2: int
) -> None:
    with MemifServer(host.loop.turn, address, greeting) as server:
        device = start(host, name, ",queues=3")
        server.join()
        made = [data for data in server.messages if data[0] == 5]
        assert len(made) == rings
        assert {data[12] for data in made} == {log2}
        host.loop.turn(0.01)
        assert sum(device.get_queue_info(queue).enabled for queue in range(6)) == rings


def test_a_server_that_takes_no_rings_is_left(host: Host, name: str, address: bytes) -> None:
    with MemifServer(host.loop.turn, address, records.hello(log2=0)) as server:
        start(host, name)
        assert server.accept().refused() == "The server takes rings of 2**0 descriptors"


def test_frames_go_both_ways(host: Host, name: str, server: MemifServer) -> None:
    host.add(f"emu_memif,role=client,socket={name},id=0")
    host.add("echo,emu=memif_emudev_0")
    host.start()
    server.join()
    frames = [bytes(12) + b"\x88\xb5" + bytes([i]) * 50 for i in range(10)]
    server.until(lambda: server.s2c[0].head)  # buffers are offered by its first look
    assert server.send(frames) == 10
    assert [frame[12:] for frame in server.receive(count=10)] == [f[12:] for f in frames]


# -- coming and going


def test_it_connects_when_somebody_begins_to_listen(
    host: Host, name: str, address: bytes, until: Callable[..., None]
) -> None:
    device = start(host, name)
    until(lambda: device.get_attr("refusals") >= 2)
    assert device.get_attr("status") == f"nobody listens at abstract:{name}"
    with MemifServer(host.loop.turn, address) as server:
        server.join()
        until(lambda: device.get_attr("carrier"))


def test_waiting_for_a_server_costs_a_look_in_a_while(host: Host, name: str) -> None:
    device = start(host, name)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        host.loop.turn(0.1)
    assert device.get_attr("refusals") <= 7


def test_what_does_not_change_is_said_once(
    host: Host, name: str, until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    device = start(host, name)
    until(lambda: device.get_attr("refusals") >= 3)
    assert caplog.text.count("nobody listens") == 1


def test_it_comes_back_to_a_server_that_was_killed(
    host: Host, name: str, address: bytes, until: Callable[..., None]
) -> None:
    device = start(host, name)
    before = descriptors()
    for _ in range(3):
        with MemifServer(host.loop.turn, address) as server:
            server.join()
            until(lambda: device.get_attr("carrier"))
        until(lambda: not device.get_attr("carrier"))
        assert not device.get_mem_table().regions
        assert not any(device.get_queue_info(queue).enabled for queue in range(2))
    assert device.get_attr("connects") == 3
    until(lambda: descriptors() == before)


def test_it_comes_back_to_a_server_that_sent_it_away(
    host: Host, name: str, server: MemifServer, until: Callable[..., None]
) -> None:
    device = start(host, name)
    server.join()
    until(lambda: device.get_attr("carrier"))
    assert server.hand is not None
    server.hand.send(records.disconnect(b"come again"))
    until(lambda: not device.get_attr("carrier"))
    assert device.get_attr("status") == "come again"
    server.hand.close()
    server.accept()


def test_a_server_that_acknowledges_and_leaves_has_not_taken_it(
    host: Host, name: str, server: MemifServer, until: Callable[..., None]
) -> None:
    # libmemif does so for an id that it does not know.
    device = start(host, name)
    hand = server.accept()
    hand.receive()
    hand.send(records.ACK)
    hand.close()
    until(lambda: device.get_attr("refusals") == 1)
    assert device.get_attr("connects") == 0
    server.accept()


def test_a_server_may_let_it_wait_for_the_answer_to_init(
    host: Host, name: str, server: MemifServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HANDSHAKE", 0.05)
    start(host, name)
    hand = server.accept()
    hand.receive()
    assert hand.quiet(0.15)


def test_a_server_that_says_nothing_is_left_in_time(
    host: Host, name: str, address: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HANDSHAKE", 0.05)
    with MemifServer(host.loop.turn, address, b"") as server:
        server._greeting = records.hello()[:0]
        start(host, name)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            host.loop.turn(0.01)
            try:
                sock, _ = server.listener.accept()
            except BlockingIOError:
                continue
            break
        sock.setblocking(False)
        while time.monotonic() < end:
            host.loop.turn(0.01)
            try:
                data = sock.recv(256)
            except BlockingIOError:
                continue
            break
        sock.close()
        assert records.reason_of(data).startswith("Timeout")


def test_a_link_that_goes_down_leaves_and_one_that_comes_up_returns(
    host: Host, name: str, server: MemifServer, until: Callable[..., None]
) -> None:
    device = start(host, name, link=False)
    for _ in range(5):
        host.loop.turn(0.01)
    with pytest.raises(BlockingIOError):
        server.listener.accept()
    device.set_attr("link", True)
    server.join()
    until(lambda: device.get_attr("carrier"))
    device.set_attr("link", False)
    assert device.get_attr("carrier") is False
    assert server.hand is not None
    assert server.hand.refused() == "Link is down"
    for _ in range(10):
        host.loop.turn(0.01)
    with pytest.raises(BlockingIOError):
        server.listener.accept()


def test_a_stopped_one_tries_no_more(host: Host, name: str, server: MemifServer) -> None:
    device = start(host, name)
    hand = server.accept()
    device.stop()
    hand.receive()
    assert hand.ended()
    for _ in range(10):
        host.loop.turn(0.01)
    with pytest.raises(BlockingIOError):
        server.listener.accept()


def test_rings_that_a_server_breaks_are_left(
    host: Host, name: str, server: MemifServer, until: Callable[..., None]
) -> None:
    host.add(f"emu_memif,role=client,socket={name},id=5")
    host.add("null,emu=memif_emudev_5")
    host.start()
    device = host.registry.get("memif_emudev_5")
    server.join()
    until(lambda: device.get_attr("carrier"))
    server.s2c[0].tail = 5000
    os.eventfd_write(server.s2c_fds[0], 1)
    assert server.hand is not None
    assert server.hand.refused().startswith("Broken rings: queue 1: the peer's tail")
    assert device.get_attr("breaches") == 1


def test_a_path_that_is_another_kind_of_socket_is_explained(
    host: Host, tmp_path: Path, until: Callable[..., None]
) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen(1)
        device = host.add(f"emu_memif,socket={path},socket-abstract=no")
        host.start()
        device.set_attr("link", True)
        until(lambda: device.get_attr("refusals"))
        assert device.get_attr("status") == f"{path} is a socket of another type"


def test_an_inherited_socket_is_for_servers(host: Host) -> None:
    host.add("emu_memif,role=client,socket=fd:3")
    with pytest.raises(ConfigError, match="is for role=server"):
        host.start()


def test_two_devices_of_one_process_reach_each_other(
    host: Host, name: str, until: Callable[..., None]
) -> None:
    one = host.add(f"emu_memif,role=server,socket={name},id=1,queues=2,secret=s")
    two = host.add(f"emu_memif,role=client,socket={name},id=2,memif-id=1,queues=4,secret=s")
    host.start()
    for device in (one, two):
        device.set_attr("link", True)
    until(lambda: one.get_attr("carrier") and two.get_attr("carrier"), 30)
    assert (one.get_attr("peer_interface"), two.get_attr("peer_interface")) == (two.name, one.name)
    assert [two.get_queue_info(queue).enabled for queue in range(8)] == [True] * 4 + [False] * 4
    one.stop()
    until(lambda: not two.get_attr("carrier"))
    one.start()
    until(lambda: one.get_attr("carrier") and two.get_attr("carrier"))
