"""A server over real sockets, with clients by hand: handshakes, comings and goings, patience."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emudev_core.device import Device
from emudev_core.errors import ConfigError
from emudev_core.events import EventChannel, EventKind
from emudev_core.host import Host
from emudev_core.testing.builders import descriptors
from emudev_memif import channel, server
from emudev_memif.testing import HandMade, MemifClient, records
from emudev_memif.testing.steps import RING, offer, start

# -- sound ones


def test_the_first_record_promises_what_the_interface_has(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    hand = reach(greeted=False)
    assert hand.receive() == (records.hello(name=b"emudev 0.1.0", s2c=1, c2s=1), [])


def test_a_whole_handshake_record_by_record(
    device: Device, reach: Callable[..., HandMade], file: int, until: Callable[..., None]
) -> None:
    assert device.address.startswith("memif:abstract:emudev-test-")
    hand = reach()
    offer(hand, file)
    hand.send(records.connect(b"net_memif0"))
    hand.expect(records.connected(b"memif_emudev_5"))
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
    hand.send(records.init(5))
    hand.send(records.add_region(0, 1 << 20), file)
    for c2s in (True, False):
        hand.give(records.add_ring(c2s, 0, 0, 0 if c2s else RING, 4), records.event_file())
    hand.send(records.connect())
    for _ in range(4):
        hand.expect(records.ACK)
    hand.expect(records.connected(b"memif_emudev_5"))


def test_a_flood_of_regions_is_answered_at_the_pace_of_its_reader(
    host: Host, device: Device, reach: Callable[..., HandMade]
) -> None:
    hand = reach()
    hand.sock.setblocking(True)
    hand.sock.settimeout(3)
    file = records.memory_file(4096)
    hand.send(records.init(5))
    sent = 0
    hand.sock.setblocking(False)
    for index in range(256):
        for _ in range(50):
            try:
                hand.send(records.add_region(index, 4096), file)
            except BlockingIOError:
                host.loop.turn(0.001)
            else:
                sent += 1
                break
    os.close(file)
    for _ in range(1 + sent):
        hand.expect(records.ACK)
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
        assert second.answer == records.connected(b"memif_emudev_2")
        assert (one.get_attr("carrier"), two.get_attr("carrier")) == (False, True)
        with MemifClient(host.loop.turn, b"\0" + name.encode(), 1) as first:
            assert first.answer == records.connected(b"memif_emudev_1")
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
        assert client.answer == records.connected(b"memif_emudev_1")


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
    hand.send(records.init(5))
    assert hand.quiet()
    device.set_attr("link", True)
    hand.expect(records.ACK)


def test_a_client_that_goes_while_it_waits_leaves_the_interface_free(
    host: Host, name: str, reach: Callable[..., HandMade], until: Callable[..., None]
) -> None:
    (device,) = start(host, f"emu_memif,role=server,socket={name},id=5", link=False)
    first = reach()
    first.send(records.init(5))
    assert first.quiet()
    first.close()
    until(lambda: device.get_attr("refusals") == 1)
    device.set_attr("link", True)
    second = reach()
    second.send(records.init(5))
    second.expect(records.ACK)


def test_a_link_that_goes_down_sends_the_client_away(
    device: Device, reach: Callable[..., HandMade], file: int
) -> None:
    hand = reach()
    offer(hand, file)
    hand.send(records.connect())
    hand.expect(records.connected(b"memif_emudev_5"))
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
                client.hand.send(records.disconnect(b"enough"))
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
        hand.send(records.init(5))
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


# -- time and numbers


@pytest.mark.parametrize("after", ["HELLO", "INIT"])
def test_a_silent_client_is_sent_away_in_time(
    device: Device, reach: Callable[..., HandMade], monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr(channel if after == "HELLO" else server, "HANDSHAKE", 0.05)
    hand = reach()
    if after == "INIT":
        hand.send(records.init(5))
        hand.expect(records.ACK)
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
    waiting.send(records.init(5))
    waiting.expect(records.ACK)
    device.stop()
    assert records.reason_of(silent.receive()[0]) == "The server has stopped"
    assert records.reason_of(waiting.receive()[0]) == "Interface has stopped"
    with pytest.raises(ConnectionRefusedError):
        reach()
