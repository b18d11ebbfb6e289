"""The times of received frames; expectations worked out by hand from avf.md 4.5, 4.10 and 6.8.

A time is 40 bits, as drivers take it apart: bit 0 says that there is one, seven bits of parts of a
nanosecond, and the low 32 bits of nanoseconds, which a driver completes with a time that it has
read by PTP_GET_TIME within the last two seconds.
"""

import struct
import time

import pytest

from emudev_avf.driver.rings import read_flexible
from emudev_avf.rings import TagPlace
from emudev_avf.testing.requests import Guest, pair, queues
from emudev_core.errors import DecodeError
from emudev_net.burst import Burst

WITH_ROOM = [2, 6, 16, 22, 23]
WITHOUT_ROOM = [17, 18, 19, 20, 21, 25]
FRAME = bytes.fromhex("525400770002525400770001") + b"\x88\xb5" + bytes(range(46))
#: 66.9.149.187 to 161.142.100.80, whose hash avf.md 7 gives.
IPV4 = bytes.fromhex("4500001400000000403d0000420995bba18e6450")
DATAGRAM = FRAME[:12] + b"\x08\x00" + IPV4 + bytes(26)
FLEX, PTP, VLAN_V2 = 1 << 26, 1 << 31, 1 << 15
KEY = (
    bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
    + bytes(12)
)  # fmt: skip


def after(clock, stamp):
    """How many ns a stamp is after the time `clock`; negative: before."""
    return ((stamp - clock + (1 << 31)) & 0xFFFF_FFFF) - (1 << 31)


def stamped(guests, rxdid, pairs=1, **keys):
    guest = guests(pairs, rxdid=rxdid, **keys)
    for rx in guest.port.rx:
        rx.configure(rx.base, rx.length, guest.buffer_size, 9728, False, rxdid, timestamps=True)
        rx.enable()
    return guest


def raw(guest, index=0, queue=0):
    return guest.memory.read(guest.entry(guest.port.rx[queue], index), 32)


def stamp_of(data):
    """The time of a descriptor, or None: byte 19, and bytes 28 to 31."""
    assert data[19] in (0, 1)
    return struct.unpack_from("<I", data, 28)[0] if data[19] else None


@pytest.mark.parametrize("rxdid", WITH_ROOM)
def test_a_descriptor_says_when_its_frame_came(guests, rxdid):
    guest = stamped(guests, rxdid)
    guest.post(1)
    before = time.time_ns()
    guest.deliver(FRAME)
    passed = time.time_ns() - before
    data = raw(guest)
    assert 0 <= after(before, stamp_of(data)) <= passed
    flow, other = (12, 24) if rxdid in (22, 23) else (24, 12)
    assert struct.unpack_from("<I", data, flow) == (0xFFFF_FFFF,)
    assert struct.unpack_from("<I", data, other) == (0,)
    assert data[16:19] == bytes(3)
    assert data[20:24] == bytes(4)


def test_the_hash_keeps_its_place_beside_the_time(guests):
    guest = stamped(guests, 22)
    guest.port.set_rss(KEY, bytes(64), 1 << 35)
    guest.post(1)
    guest.deliver(DATAGRAM)
    data = raw(guest)
    assert struct.unpack_from("<I", data, 24) == (0x323E8FC2,)
    assert stamp_of(data) is not None


@pytest.mark.parametrize("rxdid", WITHOUT_ROOM)
def test_auxiliary_words_keep_the_place_that_they_would_share(guests, rxdid):
    asked, without = stamped(guests, rxdid), guests(rxdid=rxdid)
    for guest in (asked, without):
        guest.post(1)
        guest.deliver(FRAME)
    assert stamp_of(raw(asked)) is None
    assert raw(asked) == raw(without)
    assert not asked.port.rx[0].stamped


@pytest.mark.parametrize("rxdid", [0, 1])
def test_legacy_descriptors_have_no_room(guests, rxdid):
    guest = stamped(guests, rxdid)
    guest.post(1)
    guest.deliver(FRAME)
    assert raw(guest)[16:] == bytes(16)


def test_who_did_not_ask_is_not_told(guests):
    guest = guests(rxdid=2)
    guest.post(1)
    guest.deliver(FRAME)
    assert raw(guest)[16:24] + raw(guest)[28:] == bytes(12)


def test_frames_of_one_push_have_one_time_and_those_of_the_next_a_later_one(guests):
    guest = stamped(guests, 2)
    guest.post(4)
    guest.deliver(FRAME, FRAME)
    time.sleep(0.000_01)
    guest.deliver(FRAME)
    first, second, third = (stamp_of(raw(guest, i)) for i in range(3))
    assert first == second
    assert 10_000 <= after(second, third) < 1 << 30


def test_the_last_descriptor_of_a_frame_has_its_time(guests):
    guest = stamped(guests, 22, buffer_size=128)
    guest.post(4)
    guest.deliver(FRAME + bytes(200))
    assert [stamp_of(raw(guest, i)) is None for i in range(3)] == [True, True, False]


def test_a_second_tag_and_a_time_stand_side_by_side(guests):
    guest = stamped(guests, 2)
    guest.port.set_vlan_offload(TagPlace.L2TAG1, TagPlace.L2TAG2, strip_tpid=0x88A8)
    guest.post(1)
    guest.deliver(FRAME[:12] + b"\x88\xa8\xa0\x05\x81\x00\x60\x07" + FRAME[12:])
    data = raw(guest)
    assert struct.unpack_from("<H", data, 16) == (1 << 11,)
    assert struct.unpack_from("<H", data, 22) == (0x6007,)
    assert stamp_of(data) is not None


def test_a_buffer_that_comes_back_for_its_address_has_no_time(guests):
    guest = stamped(guests, 2)
    guest.post(1, addresses=[0x10])  # nobody's memory
    guest.deliver(FRAME)
    assert raw(guest)[0] == 2
    assert raw(guest)[16:] == bytes(16)


def test_each_queue_is_asked_on_its_own(guests):
    guest = stamped(guests, 2, 2)
    rx = guest.port.rx[1]
    rx.configure(rx.base, rx.length, guest.buffer_size, 9728, False, 2)
    rx.enable()
    assert [ring.stamped for ring in guest.port.rx] == [True, False]
    for queue, there in ((0, True), (1, False)):
        guest.port.set_rss(KEY, bytes([queue]) * 64, 1 << 35)
        guest.post(1, queue)
        guest.deliver(DATAGRAM)
        assert (stamp_of(raw(guest, queue=queue)) is not None) == there


def test_the_drivers_end_reads_a_time():
    """Status 3 is DD and EOF; the time is 0x89ABCDEF ns."""
    end = struct.pack("<BBHHHHHIHBBHHIHH", 2, 0, 1, 60, 0, 3, 0, 0, 0, 0, 1, 0, 0, 0xFFFFFFFF,
                      0xCDEF, 0x89AB)  # fmt: skip
    received = read_flexible(end)[1]
    assert received is not None
    assert received.time == 0x89AB_CDEF
    received = read_flexible(end[:19] + b"\xfe" + end[20:])[1]
    assert received is not None
    assert received.time is None


# -- what switches it on: bit 0 of the flags, byte 46 of a pair in CONFIG_VSI_QUEUES


@pytest.mark.parametrize(
    ("caps", "rxdid", "flags", "on"),
    [
        (PTP | FLEX, 2, 0x01, True),
        (PTP | FLEX, 22, 0xFF, True),
        (PTP | FLEX, 2, 0x00, False),
        (PTP | FLEX, 2, 0xFE, False),
        (PTP | FLEX, 1, 0x01, False),
        (PTP | FLEX, 0, 0x01, False),
        (PTP | FLEX, 18, 0x01, False),
        (FLEX, 2, 0x01, False),
        (PTP, 1, 0x01, False),
    ],
)
def test_a_queue_is_configured_with_the_flag_or_in_spite_of_it(caps, rxdid, flags, on):
    """Hardware's PF takes the flag from a driver that may not use it, and ignores it."""
    driver = Guest()
    driver.negotiate(caps | VLAN_V2)
    assert driver.ask(6, queues(pair(rxdid=rxdid, flags=flags))) == (0, b"")
    assert driver.port.rx[0].stamped == on
    assert not driver.port.rx[1].stamped


def test_one_queue_is_configured_with_the_flag_too():
    driver = Guest()
    driver.negotiate(PTP | FLEX)
    rx = struct.pack("<HHIHHIIBBBBQiI", 1, 0, 512, 0, 0, 2048, 1518, 0, 2, 1, 0, 1 << 32, 0, 0)
    assert driver.ask(5, rx) == (0, b"")
    assert driver.port.rx[0].stamped
    assert driver.ask(6, queues(pair(rxdid=2))) == (0, b"")
    assert not driver.port.rx[0].stamped


def test_a_reset_ends_it():
    driver = Guest()
    driver.negotiate(PTP | FLEX)
    driver.ask(6, queues(pair(rxdid=2, flags=1)))
    assert driver.port.rx[0].stamped
    driver.vf.reset()
    assert not driver.port.rx[0].stamped


# -- a whole device


def opened(machine):
    """Queue 0 of a driver that asks for times; the first descriptor's buffer is posted."""
    machine.device.set_attr("link", True)
    machine.probe(caps=0xBE0BC7E1)
    flags = struct.pack("<24xI20x", 0x06)
    assert machine.mail.request(60, flags) == (0, flags)
    memory = machine.memory
    ring, buffer, tx = memory.take(512 * 32), memory.take(2048), memory.take(512 * 32)
    body = pair(rx=(512, ring), tx=(512, tx), rxdid=2, flags=1)
    assert machine.mail.request(6, queues(body)) == (0, b"")
    machine.mail.request(14, struct.pack("<HH", 1, 3))
    memory.write(ring, struct.pack("<QQQQ", buffer, 0, 0, 0))
    return ring


def start(machine):
    machine.mail.send(8, struct.pack("<HHII", 1, 0, 1, 1))
    machine.mail.receive()
    machine.write(0x2000, 1)


def push(machine):
    kernels = machine.avf.port.kernels(0)
    burst = Burst.of([FRAME])
    assert kernels.push(kernels.state, burst.address, burst.count) == 1


def clock(machine):
    status, data = machine.mail.request(61, bytes(16))
    assert status == 0
    return struct.unpack_from("<Q", data)[0]


def test_times_lie_between_two_readings_of_the_clock(machine):
    ring = opened(machine)
    start(machine)
    before = clock(machine)
    push(machine)
    behind = clock(machine)
    stamp = stamp_of(machine.memory.read(ring, 32))
    assert stamp is not None
    assert before <= before + after(before, stamp) <= behind
    (rings,) = [one for one in machine.avf.sections.all() if one.name == "queues"]
    said = {(row["queue"], row["direction"]): row["timestamps"] for row in rings.read()}
    assert said == {(0, "rx"): True, (1, "tx"): False, (2, "rx"): False, (3, "tx"): False}


def test_a_saved_queue_says_times_where_it_goes_on(machine, go_on):
    ring = opened(machine)
    other = go_on(machine)
    start(other)
    push(other)
    assert stamp_of(machine.memory.read(ring, 32)) is not None


def test_a_queue_that_was_saved_before_there_were_times_says_none(machine, make):
    opened(machine)
    state = machine.avf.emudev_save()
    queue = state["device"]["state"]["rx"][0]
    assert queue.pop("timestamps")
    other = make()
    other.device.stop()
    assert other.avf.emudev_restore(state)
    assert not other.avf.port.rx[0].stamped
    queue["timestamps"] = "often"
    with pytest.raises(DecodeError, match="timestamps"):
        other.avf.emudev_restore(state)
