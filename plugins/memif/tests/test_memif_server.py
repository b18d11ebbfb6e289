"""A server over real sockets, with clients by hand: handshakes, refusals, comings and goings."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emudev_core.device import Device
from emudev_core.errors import ConfigError, TransportError
from emudev_core.events import EventChannel, EventKind
from emudev_core.host import Host
from emudev_core.testing.builders import descriptors
from emudev_memif import channel, server
from emudev_memif.testing import (
    ACK,
    HandMade,
    MemifClient,
    add_region,
    add_ring,
    connect,
    connected,
    disconnect,
    event_file,
    hello,
    init,
    memory_file,
    reason_of,
)

RING = 128 + 16 * 16


def start(host: Host, *vdevs: str, link: bool = True) -> list[Device]:
    """Start devices with their links up, and wait until they would take a peer."""
    devices = [host.add(vdev) for vdev in vdevs]
    host.start()
    for device in devices:
        if link:
            device.set_attr("link", True)
        provider = device.members[0].plugin
        deadline = time.monotonic() + 60
        while not provider._ready:  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            host.loop.turn(0.01)
    return devices


@pytest.fixture
def device(host: Host, name: str) -> Device:
    return start(host, f"emu_memif,role=server,socket={name},id=5,queues=2")[0]


@pytest.fixture
def reach(host: Host, name: str) -> Iterator[Callable[..., HandMade]]:
    """Connects clients by hand; the first record is taken unless that is not wanted."""
    made = []

    def connect_one(greeted: bool = True, address: bytes = b"") -> HandMade:
        hand = HandMade.client(host.loop.turn, address or b"\0" + name.encode())
        made.append(hand)
        if greeted:
            assert hand.receive()[0][:2] == b"\2\0"
        return hand

    yield connect_one
    for hand in made:
        hand.close()


def offer(hand: HandMade, file: int, *, id: int = 5, log2: int = 4) -> None:
    """Take a connection to where CONNECT is due: one ring each way."""
    hand.send(init(id))
    hand.expect(ACK)
    hand.send(add_region(0, 1 << 20), file)
    hand.expect(ACK)
    for c2s in (True, False):
        hand.give(add_ring(c2s, 0, 0, 0 if c2s else RING, log2), event_file())
        hand.expect(ACK)


@pytest.fixture
def file() -> Iterator[int]:
    fd = memory_file(cookies=(0, RING))
    yield fd
    os.close(fd)


# -- sound ones


def test_the_first_record_promises_what_the_interface_has(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    hand = reach(greeted=False)
    assert hand.receive() == (hello(name=b"emudev 0.1.0", s2c=1, c2s=1), [])


def test_a_whole_handshake_record_by_record(
    device: Device, reach: Callable[..., HandMade], file: int, until: Callable[..., None]
) -> None:
    assert device.address.startswith("memif:abstract:emudev-test-")
    hand = reach()
    offer(hand, file)
    hand.send(connect(b"net_memif0"))
    hand.expect(connected(b"memif_emudev_5"))
    assert device.get_attr("carrier") is True
    assert device.get_attr("peer") == "by hand"
    assert device.get_attr("peer_interface") == "net_memif0"
    assert device.get_attr("peer_process").startswith(f"process {os.getpid()} of user")
    queues = [device.get_queue_info(queue) for queue in range(4)]
    assert [(q.enabled, q.size, q.base) for q in queues] == [
        (True, 16, RING),
        (True, 16, 0),
        (False, 0, 0),
        (False, 0, 0),
    ]
    (region,) = device.get_mem_table().regions
    assert (region.guest, region.size) == (0, 1 << 20)


def test_a_client_that_sends_ahead_is_served(
    device: Device, reach: Callable[..., HandMade], file: int
) -> None:
    hand = reach()
    hand.send(init(5))
    hand.send(add_region(0, 1 << 20), file)
    for c2s in (True, False):
        hand.give(add_ring(c2s, 0, 0, 0 if c2s else RING, 4), event_file())
    hand.send(connect())
    for _ in range(4):
        hand.expect(ACK)
    hand.expect(connected(b"memif_emudev_5"))


def test_a_flood_of_regions_is_answered_at_the_pace_of_its_reader(
    host: Host, device: Device, reach: Callable[..., HandMade]
) -> None:
    hand = reach()
    hand.sock.setblocking(True)
    hand.sock.settimeout(3)
    file = memory_file(4096)
    hand.send(init(5))
    sent = 0
    hand.sock.setblocking(False)
    for index in range(256):
        for _ in range(50):
            try:
                hand.send(add_region(index, 4096), file)
            except BlockingIOError:
                host.loop.turn(0.001)
            else:
                sent += 1
                break
    os.close(file)
    for _ in range(1 + sent):
        hand.expect(ACK)
    assert sent == 256


def test_frames_go_both_ways(host: Host, name: str) -> None:
    host.add(f"emu_memif,role=server,socket={name},id=0")
    host.add("echo,emu=memif_emudev_0")
    host.start()
    frames = [bytes(12) + b"\x88\xb5" + bytes([i]) * 50 for i in range(10)]
    with MemifClient(host.loop.turn, b"\0" + name.encode()) as client:
        assert client.send(frames) == 10
        assert [frame[12:] for frame in client.receive(count=10)] == [f[12:] for f in frames]


def test_several_interfaces_share_one_socket(host: Host, name: str) -> None:
    keys = f"emu_memif,role=server,socket={name}"
    one, two = start(host, f"{keys},id=1,queues=1", f"{keys},id=2,queues=3")
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 2, pairs=3) as second:
        assert second.answer == connected(b"memif_emudev_2")
        assert (one.get_attr("carrier"), two.get_attr("carrier")) == (False, True)
        with MemifClient(host.loop.turn, b"\0" + name.encode(), 1) as first:
            assert first.answer == connected(b"memif_emudev_1")
            one.stop()  # the other one and the socket stay
            assert two.get_attr("carrier") is True
            with pytest.raises(AssertionError, match=r"ID not found|came"):
                MemifClient(host.loop.turn, b"\0" + name.encode(), 1)


def test_one_number_is_for_one_interface_of_a_socket(host: Host, name: str) -> None:
    keys = f"emu_memif,role=server,socket={name},memif-id=9"
    host.add(f"{keys},id=1")
    host.add(f"{keys},id=2")
    with pytest.raises(ConfigError, match="has an interface 9 already: memif_emudev_1"):
        host.start()


def test_a_number_of_its_own_may_differ_from_the_devices(host: Host, name: str) -> None:
    start(host, f"emu_memif,role=server,socket={name},id=1,memif-id=4000000000")
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 4000000000) as client:
        assert client.answer == connected(b"memif_emudev_1")


def test_two_servers_of_one_process_must_agree_about_the_file(host: Host, tmp_path: Path) -> None:
    keys = f"emu_memif,role=server,socket-abstract=no,socket={tmp_path}/s"
    host.add(f"{keys},id=1")
    host.add(f"{keys},id=2,mode=0666")
    with pytest.raises(ConfigError, match="another mode or owner"):
        host.start()


# -- the link


def test_a_client_waits_until_the_link_comes_up(
    host: Host, name: str, reach: Callable[..., HandMade]
) -> None:
    (device,) = start(host, f"emu_memif,role=server,socket={name},id=5", link=False)
    hand = reach()
    hand.send(init(5))
    assert hand.quiet()
    device.set_attr("link", True)
    hand.expect(ACK)


def test_a_client_that_goes_while_it_waits_leaves_the_interface_free(
    host: Host, name: str, reach: Callable[..., HandMade], until: Callable[..., None]
) -> None:
    (device,) = start(host, f"emu_memif,role=server,socket={name},id=5", link=False)
    first = reach()
    first.send(init(5))
    assert first.quiet()
    first.close()
    until(lambda: device.get_attr("refusals") == 1)
    device.set_attr("link", True)
    second = reach()
    second.send(init(5))
    second.expect(ACK)


def test_a_link_that_goes_down_sends_the_client_away(
    device: Device, reach: Callable[..., HandMade], file: int
) -> None:
    hand = reach()
    offer(hand, file)
    hand.send(connect())
    hand.expect(connected(b"memif_emudev_5"))
    device.set_attr("link", False)
    assert hand.refused() == "Link is down"
    assert device.get_attr("carrier") is False
    assert device.get_attr("status") == "Link is down"


def test_comings_and_goings_are_told(
    host: Host, device: Device, name: str, until: Callable[..., None]
) -> None:
    channel = EventChannel()
    device.subscribe_event(channel)
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5):
        seen = [(e.kind, e.queue, e.value) for e in channel.drain()]
        assert seen == [
            (EventKind.MEMORY, -1, 1),
            (EventKind.CLIENT, -1, 1),
            (EventKind.QUEUE_STATE, 0, 1),
            (EventKind.QUEUE_STATE, 1, 1),
            (EventKind.LINK, -1, 1),
        ]
    until(lambda: not device.get_attr("carrier"))
    seen = [(e.kind, e.queue, e.value) for e in channel.drain()]
    assert seen == [
        (EventKind.LINK, -1, 0),
        (EventKind.RESET, -1, 0),
        (EventKind.QUEUE_STATE, 0, 0),
        (EventKind.QUEUE_STATE, 1, 0),
        (EventKind.MEMORY, -1, 2),
        (EventKind.CLIENT, -1, 0),
    ]
    assert not device.get_mem_table().regions
    device.unsubscribe_event(channel)
    channel.close()


# -- goings


@pytest.mark.parametrize("how", ["close", "word", "stop", "reset"])
def test_whoever_leaves_nothing_is_left_and_the_next_one_is_served(
    host: Host, device: Device, name: str, how: str, until: Callable[..., None]
) -> None:
    before = descriptors()
    for log2 in (4, 7):
        with MemifClient(host.loop.turn, b"\0" + name.encode(), 5, pairs=2, log2=log2) as client:
            assert device.get_queue_info(3).size == 1 << log2
            assert client.hand is not None
            if how == "word":
                client.hand.send(disconnect(b"enough"))
                assert client.hand.ended()
                assert device.get_attr("status") == "enough"
            elif how == "stop":
                device.stop()
                assert client.hand.refused() == "Interface has stopped"
                device.start()
            elif how == "reset":
                from emudev_core.regions import ResetKind

                device.reset(ResetKind.POWER)
                assert client.hand.refused() == "Interface was reset"
        until(lambda: not device.get_attr("carrier"))
        assert not any(device.get_queue_info(queue).enabled for queue in range(4))
    until(lambda: len(descriptors()) == len(before))
    assert device.get_attr("connects") == 2


def test_a_second_client_is_refused_and_the_first_one_stays(
    host: Host, device: Device, name: str, reach: Callable[..., HandMade]
) -> None:
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5):
        hand = reach()
        hand.send(init(5))
        assert hand.refused() == "Already connected"
        assert device.get_attr("carrier") is True


def test_kernels_rest_while_the_memory_is_taken_away(
    host: Host, device: Device, name: str, until: Callable[..., None]
) -> None:
    class Runner:
        inside = False
        seen: list[tuple[bool, int]] = []  # noqa: RUF012

        def pause(self) -> Any:
            import contextlib

            @contextlib.contextmanager
            def resting() -> Iterator[None]:
                regions = device.get_mem_table().regions
                self.seen.append((device.get_queue_info(0).enabled, len(regions)))
                yield
                self.seen.append((device.get_queue_info(0).enabled, len(regions)))

            return resting()

    runner = Runner()
    device.add_runner(runner)
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5):
        assert runner.seen == [(False, 0), (True, 0)]
        runner.seen.clear()
    until(lambda: not device.get_attr("carrier"))
    assert runner.seen == [(True, 1), (False, 1)]
    device.remove_runner(runner)


def test_kernels_that_do_not_rest_put_the_device_in_error_and_keep_the_memory(
    host: Host, device: Device, name: str, until: Callable[..., None]
) -> None:
    from emudev_core.errors import BackendError
    from emudev_core.lifecycle import State

    class Stuck:
        stuck = False

        def pause(self) -> Any:
            import contextlib

            if self.stuck:
                raise BackendError("a worker is stuck")
            return contextlib.nullcontext()

    runner = Stuck()
    device.add_runner(runner)
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5):
        runner.stuck = True
        (region,) = device.get_mem_table().regions
    until(lambda: device.state is State.ERROR)
    assert "a worker is stuck" in device.error
    assert region.host is not None
    maps = Path("/proc/self/maps").read_text()
    assert f"{region.host:x}-" in maps  # still mapped
    device.close()
    assert f"{region.host:x}-" not in Path("/proc/self/maps").read_text()


# -- bad ones


BAD_CONNECTS = [
    ("no cookie", (RING,), "Wrong cookie: expected 0x3e31f20 in C2S ring 0, came 00000000"),
    ("no second cookie", (0,), "Wrong cookie: expected 0x3e31f20 in S2C ring 0, came 00000000"),
]


@pytest.mark.parametrize(
    ("cookies", "reason"), [b[1:] for b in BAD_CONNECTS], ids=[b[0] for b in BAD_CONNECTS]
)
def test_rings_without_cookie_are_refused_at_connect(
    device: Device, reach: Callable[..., HandMade], cookies: tuple[int, ...], reason: str
) -> None:
    before = descriptors()
    file = memory_file(cookies=cookies)
    hand = reach()
    offer(hand, file)
    hand.send(connect())
    assert hand.refused() == reason
    os.close(file)
    hand.close()
    assert descriptors() == before
    assert device.get_attr("refusals") == 1


def test_memory_that_shrinks_before_connect_is_refused(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    file = memory_file(cookies=(0, RING), seal=False)
    hand = reach()
    offer(hand, file)
    os.ftruncate(file, 4096)
    hand.send(connect())
    assert hand.refused().startswith("Region 0 can't be mapped")
    os.close(file)


def test_memory_that_can_not_be_written_is_refused(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    file = memory_file(cookies=(0, RING))
    readable = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    os.close(file)
    hand = reach()
    offer(hand, readable)
    hand.send(connect())
    assert hand.refused() == "Region 0 can't be mapped: Permission denied"
    os.close(readable)


def test_unsealed_memory_is_refused_where_that_is_asked_for(
    host: Host, name: str, reach: Callable[..., HandMade]
) -> None:
    start(host, f"emu_memif,role=server,socket={name},id=5,unsealed=refuse")
    file = memory_file(seal=False)
    hand = reach()
    hand.send(init(5))
    hand.expect(ACK)
    hand.send(add_region(), file)
    assert hand.refused() == "Invalid region: it is not sealed against shrinking"
    os.close(file)


def test_unsealed_memory_is_warned_about_otherwise(
    device: Device, reach: Callable[..., HandMade], caplog: pytest.LogCaptureFixture
) -> None:
    file = memory_file(seal=False)
    hand = reach()
    hand.send(init(5))
    hand.expect(ACK)
    hand.send(add_region(), file)
    hand.expect(ACK)
    os.close(file)
    assert "can still truncate the memory" in caplog.text


def test_memory_above_the_limit_is_refused(
    host: Host, name: str, reach: Callable[..., HandMade], file: int
) -> None:
    start(host, f"emu_memif,role=server,socket={name},id=5,memory-limit=1")
    hand = reach()
    hand.send(init(5))
    hand.expect(ACK)
    hand.send(add_region(0, 1 << 20), file)
    hand.expect(ACK)
    hand.send(add_region(1, 4096), file)
    assert hand.refused() == "Invalid region size: 1052672 bytes in all, 1048576 are allowed"


def test_an_eventfd_that_waits_is_made_one_that_does_not(
    device: Device, reach: Callable[..., HandMade], file: int
) -> None:
    hand = reach()
    hand.send(init(5))
    hand.expect(ACK)
    hand.send(add_region(0, 1 << 20), file)
    hand.expect(ACK)
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    hand.send(add_ring(), fd)
    hand.expect(ACK)
    assert not os.get_blocking(fd)
    os.close(fd)


def test_an_empty_record_is_refused_and_not_taken_for_the_end(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    hand = reach()
    hand.send(b"")
    assert hand.refused() == "Invalid message size: expected 128 bytes, came 0"


def test_many_descriptors_on_one_record_are_all_closed(
    device: Device, reach: Callable[..., HandMade], file: int
) -> None:
    before = descriptors()
    hand = reach()
    hand.send(init(5), *[file] * 253)
    assert hand.refused() == "INIT comes with no file descriptor, not 253"
    hand.close()
    assert descriptors() == before


def test_rings_that_break_end_the_connection_and_are_counted(
    host: Host, name: str, until: Callable[..., None]
) -> None:
    host.add(f"emu_memif,role=server,socket={name},id=5")
    host.add("null,emu=memif_emudev_5")
    host.start()
    device = host.registry.get("memif_emudev_5")
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5) as client:
        client.c2s[0].head = 17  # of 16 slots
        os.eventfd_write(client.c2s_fds[0], 1)
        assert client.hand is not None
        assert client.hand.refused() == (
            "Broken rings: queue 1: the peer's head is beyond the ring"
        )
    assert device.get_attr("breaches") == 1
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5) as client:
        client.send([bytes(60)])
        until(lambda: device.get_attr("tx_packets") == 1)


# -- time and numbers


@pytest.mark.parametrize("after", ["HELLO", "INIT"])
def test_a_silent_client_is_sent_away_in_time(
    device: Device, reach: Callable[..., HandMade], monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr(channel if after == "HELLO" else server, "HANDSHAKE", 0.05)
    hand = reach()
    if after == "INIT":
        hand.send(init(5))
        hand.expect(ACK)
    assert hand.refused().startswith("Timeout: no connection within")


def test_too_many_silent_clients_wait_outside(
    host: Host, device: Device, reach: Callable[..., HandMade], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PENDING", 3)
    inside = [reach() for _ in range(3)]
    outside = reach(greeted=False)
    assert outside.quiet()
    inside[0].close()
    assert outside.receive()[0][:2] == b"\2\0"


def test_a_connected_client_does_not_count_as_silent(
    host: Host,
    device: Device,
    name: str,
    reach: Callable[..., HandMade],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "PENDING", 1)
    with MemifClient(host.loop.turn, b"\0" + name.encode(), 5):
        reach()


def test_nobody_keeps_a_stopping_server(
    host: Host, device: Device, reach: Callable[..., HandMade]
) -> None:
    silent, waiting = reach(), reach()
    waiting.send(init(5))
    waiting.expect(ACK)
    device.stop()
    assert reason_of(silent.receive()[0]) == "The server has stopped"
    assert reason_of(waiting.receive()[0]) == "Interface has stopped"
    with pytest.raises(ConnectionRefusedError):
        reach()


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
