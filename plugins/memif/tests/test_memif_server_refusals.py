"""A server over real sockets, and clients by hand whose memory, rings or records are bad."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from emudev_core.device import Device
from emudev_core.host import Host
from emudev_core.testing.builders import descriptors
from emudev_memif.testing import HandMade, MemifClient, records
from emudev_memif.testing.steps import RING, offer, start

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
    file = records.memory_file(cookies=cookies)
    hand = reach()
    offer(hand, file)
    hand.send(records.connect())
    assert hand.refused() == reason
    os.close(file)
    hand.close()
    assert descriptors() == before
    assert device.get_attr("refusals") == 1


def test_memory_that_shrinks_before_connect_is_refused(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    file = records.memory_file(cookies=(0, RING), seal=False)
    hand = reach()
    offer(hand, file)
    os.ftruncate(file, 4096)
    hand.send(records.connect())
    assert hand.refused().startswith("Region 0 can't be mapped")
    os.close(file)


def test_memory_that_can_not_be_written_is_refused(
    device: Device, reach: Callable[..., HandMade]
) -> None:
    file = records.memory_file(cookies=(0, RING))
    readable = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    os.close(file)
    hand = reach()
    offer(hand, readable)
    hand.send(records.connect())
    assert hand.refused() == "Region 0 can't be mapped: Permission denied"
    os.close(readable)


def test_unsealed_memory_is_refused_where_that_is_asked_for(
    host: Host, name: str, reach: Callable[..., HandMade]
) -> None:
    start(host, f"emu_memif,role=server,socket={name},id=5,unsealed=refuse")
    file = records.memory_file(seal=False)
    hand = reach()
    hand.send(records.init(5))
    hand.expect(records.ACK)
    hand.send(records.add_region(), file)
    assert hand.refused() == "Invalid region: it is not sealed against shrinking"
    os.close(file)


def test_unsealed_memory_is_warned_about_otherwise(
    device: Device, reach: Callable[..., HandMade], caplog: pytest.LogCaptureFixture
) -> None:
    file = records.memory_file(seal=False)
    hand = reach()
    hand.send(records.init(5))
    hand.expect(records.ACK)
    hand.send(records.add_region(), file)
    hand.expect(records.ACK)
    os.close(file)
    assert "can still truncate the memory" in caplog.text


def test_memory_above_the_limit_is_refused(
    host: Host, name: str, reach: Callable[..., HandMade], file: int
) -> None:
    start(host, f"emu_memif,role=server,socket={name},id=5,memory-limit=1")
    hand = reach()
    hand.send(records.init(5))
    hand.expect(records.ACK)
    hand.send(records.add_region(0, 1 << 20), file)
    hand.expect(records.ACK)
    hand.send(records.add_region(1, 4096), file)
    assert hand.refused() == "Invalid region size: 1052672 bytes in all, 1048576 are allowed"


def test_an_eventfd_that_waits_is_made_one_that_does_not(
    device: Device, reach: Callable[..., HandMade], file: int
) -> None:
    hand = reach()
    hand.send(records.init(5))
    hand.expect(records.ACK)
    hand.send(records.add_region(0, 1 << 20), file)
    hand.expect(records.ACK)
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    hand.send(records.add_ring(), fd)
    hand.expect(records.ACK)
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
    hand.send(records.init(5), *[file] * 253)
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
