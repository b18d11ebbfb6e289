"""The clock that a guest can read, with payloads worked out by hand from avf.md section 4.10.

Linux 7.3 and DPDK 24.11 send PTP_GET_CAPS in two layouts of 48 bytes; avf.md has DPDK's.
"""

import struct
import time

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.rings import Port
from emudev_avf.vf import Vf, host_time
from emudev_avf.virtchnl.dispatch import Dispatcher

GET_CAPS, GET_TIME = 60, 61
PTP, FLEX = 0x8000_0000, 0x0400_0000
#: RX timestamps (bit 1) and reading (bit 2), as both drivers ask.
WANTED = 0x06


class Guest:
    """A VF with a clock of the test's, as a driver sees it."""

    def __init__(self, **keys):
        self.now = 0
        self.sent = []
        config = AvfConfig(**keys)
        vf = Vf(config, bytes(6), Port(1, 2), self, clock=lambda: self.now)
        self.dispatcher = Dispatcher(vf)

    def send(self, opcode, status, payload):
        self.sent.append((opcode, status, payload))

    def ask(self, opcode, payload=b""):
        """Status and payload of the only reply."""
        self.sent.clear()
        self.dispatcher.receive(opcode, payload)
        ((answered, status, data),) = self.sent
        assert answered == opcode
        return status, data

    def negotiate(self, caps=PTP | FLEX):
        status, data = self.ask(3, struct.pack("<I", caps))
        assert status == 0
        return struct.unpack_from("<I", data, 8)[0]


@pytest.fixture
def guest():
    made = Guest()
    assert made.negotiate() == PTP | FLEX
    return made


def test_linux_finds_the_flags_in_front(guest):
    request = bytes.fromhex("06000000" + "00" * 44)
    assert guest.ask(GET_CAPS, request) == (0, request)


def test_dpdk_finds_the_flags_behind_24_bytes_of_registers(guest):
    request = bytes.fromhex("00" * 24 + "06000000" + "00" * 20)
    assert guest.ask(GET_CAPS, request) == (0, request)


#: The first is recorded from DPDK 24.11, which sets the flags alone.
RECORDED = (
    "a86cfdd3547f0000 006a4b1ffd7f0000 c0a43c0001000000"
    "06000000fd7f0000 80cd3c0001000000 c0a43c0001000000"
)


@pytest.mark.parametrize("request_", [RECORDED, "ff" * 24 + "06000000" + "ff" * 20])
def test_what_dpdk_leaves_around_its_flags_is_not_looked_at(guest, request_):
    answer = bytes.fromhex("00" * 24 + "06000000" + "00" * 20)
    assert guest.ask(GET_CAPS, bytes.fromhex(request_)) == (0, answer)


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [(0x04, 0x04), (0x1F, 0x06), (0xFFFF_FFFF, 0x06), (0x19, 0x00), (0x02, 0x02), (0x00, 0x00)],
)
def test_reading_and_times_of_received_frames_are_granted_to_who_wants_them(guest, wanted, granted):
    """Bit 0 TX timestamps, 1 RX timestamps, 2 read, 3 write, 4 registers."""
    front = struct.pack("<I44x", wanted)
    assert guest.ask(GET_CAPS, front) == (0, struct.pack("<I44x", granted))
    behind = struct.pack("<24xI20x", wanted)
    assert guest.ask(GET_CAPS, behind) == (0, struct.pack("<24xI20x", granted))


def test_a_driver_without_flexible_descriptors_has_no_room_for_times():
    guest = Guest()
    assert guest.negotiate(PTP) == PTP
    assert guest.ask(GET_CAPS, struct.pack("<I44x", 0x06)) == (0, struct.pack("<I44x", 0x04))


def test_the_time_is_64_bits_of_nanoseconds_and_8_reserved_bytes(guest):
    guest.now = 0x0102_0304_0506_0708
    golden = bytes.fromhex("0807060504030201" + "00" * 8)
    assert guest.ask(GET_TIME, bytes(16)) == (0, golden)
    assert guest.ask(GET_TIME, b"\xff" * 16) == (0, golden)


def test_the_clock_is_read_for_each_request(guest):
    for now in (0, 1, 2**63 - 1):
        guest.now = now
        assert guest.ask(GET_TIME, bytes(16)) == (0, struct.pack("<QQ", now, 0))


@pytest.mark.parametrize("opcode", [62, 63, 64, 65])
def test_setting_steering_and_stamping_are_not_supported(guest, opcode):
    """SET_TIME, ADJ_TIME, ADJ_FREQ, TX_TIMESTAMP."""
    assert guest.ask(opcode, bytes(16)) == (-64, b"")


@pytest.mark.parametrize(("opcode", "size"), [(GET_CAPS, 48), (GET_TIME, 16)])
def test_short_requests_are_refused_and_longer_ones_fine(guest, opcode, size):
    for short in (0, 4, size - 1):
        assert guest.ask(opcode, bytes(short)) == (-5, b"")
    assert guest.ask(opcode, bytes(size + 4))[0] == 0


def test_a_device_that_offers_no_clock_answers_no_question_about_it():
    guest = Guest(caps=0x0208_84E1)
    assert guest.negotiate() == 0
    assert guest.ask(GET_CAPS, struct.pack("<I44x", WANTED)) == (-64, b"")
    assert guest.ask(GET_TIME, bytes(16)) == (-64, b"")


def test_without_another_clock_the_guest_reads_the_hosts_utc():
    before = time.time_ns()
    vf = Vf(AvfConfig(), bytes(6), Port(1, 2), Guest())
    assert before <= vf.clock() <= time.time_ns()
    assert vf.clock is host_time
