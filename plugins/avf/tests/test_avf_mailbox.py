import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_avf.mailbox import AqDescriptor, AqFlag, Mailbox
from emudev_avf.registers import MAP
from emudev_core.errors import MemoryAccessError
from emudev_core.memory import EMPTY_TABLE, MemoryRegion, MemoryTable
from emudev_pci.register_file import RegisterFile

ATQH, ATQT, ATQLEN, ATQBAL = 0x6400, 0x8400, 0x6800, 0x7C00
ARQH, ARQT, ARQLEN = 0x7400, 0x7000, 0x8000
CRIT, OVFL, ENABLE = 1 << 30, 1 << 29, 1 << 31


class Rig:
    """A mailbox behind its registers, with a handler that the test chooses."""

    def __init__(self, table):
        self.table = table
        self.regs = RegisterFile(MAP, self)
        self.raised = 0
        self.later = []
        self.seen = []
        self.handle = lambda opcode, payload: self.mailbox.post(opcode, 0, payload)
        self.mailbox = Mailbox(
            self.regs, lambda: self.table, self._receive, self._raise, self.later.append
        )

    def _receive(self, opcode, payload):
        self.seen.append((opcode, payload))
        self.handle(opcode, payload)

    def _raise(self):
        self.raised += 1

    @MAP.on_write("VF_ATQT1")
    def send_tail(self, value):
        self.mailbox.send_tail_written()

    @MAP.on_write("VF_ARQT1")
    def receive_tail(self, value):
        self.mailbox.receive_tail_written()

    def read(self, offset):
        return self.regs.read(offset, 4)

    def write(self, offset, value):
        self.regs.write(offset, 4, value)

    def reset(self):
        self.mailbox.reset()
        self.regs.reset()


@pytest.fixture
def rig(guest_memory):
    return Rig(guest_memory.table)


@pytest.fixture
def driver(rig, guest_memory, mailer):
    made = mailer(guest_memory, rig.read, rig.write)
    made.start()
    return made


def test_golden_version_request_and_reply(rig, driver, guest_memory):
    """Worked out by hand from avf.md 3.2: VERSION 1.1 and its reply."""
    at = driver.send_buffers
    guest_memory.write(at, bytes.fromhex("0100000001000000"))
    request = bytes.fromhex("00340108 08000000 01000000 00000000 00000000 00000000")
    request += struct.pack("<II", at >> 32, at & 0xFFFFFFFF)
    guest_memory.write(driver.atq, request)
    rig.handle = lambda opcode, payload: rig.mailbox.post(
        opcode, 0, bytes.fromhex("0100000001000000")
    )
    rig.write(ATQT, 1)
    assert rig.seen == [(1, bytes.fromhex("0100000001000000"))]
    done = guest_memory.read(driver.atq, 32)
    assert done[:8] == bytes.fromhex("0334010808000000")
    assert done[8:] == request[8:]
    reply = guest_memory.read(driver.arq, 32)
    assert reply[:24] == bytes.fromhex("03120208 08000000 01000000 00000000 00000000 00000000")
    assert reply[24:] == struct.pack(
        "<II", driver.receive_buffers >> 32, driver.receive_buffers & 0xFFFFFFFF
    )
    assert guest_memory.read(driver.receive_buffers, 8) == bytes.fromhex("0100000001000000")


def test_golden_negative_status_is_a_signed_number_in_the_low_cookie(rig, driver, guest_memory):
    """Quirk 28: cookie fields carry the virtchnl result; -5 is 0xFFFFFFFB."""
    rig.handle = lambda opcode, payload: rig.mailbox.post(opcode, -5)
    driver.send(6)
    reply = guest_memory.read(driver.arq, 32)
    assert reply[6:16] == bytes.fromhex("0000 06000000 fbffffff")


def test_fact_1_head_equals_tail_when_the_tail_write_has_returned(rig, driver):
    """Fact 1 and quirk 1: the driver spins on ATQH right after it wrote ATQT."""
    for n in range(70):
        driver.send(1, b"abcd")
        assert rig.read(ATQH) == (n + 1) % 32
        assert driver.receive() == [(1, 0, b"abcd")]


def test_quirk_2_enable_comes_before_the_base_and_heads_are_zeroed_while_enabled(rig, driver):
    """Quirk 2: neither may process anything; only tail writes do."""
    driver.send(1)
    driver.receive()
    rig.write(ATQH, 0)  # with the old tail of 1: the old descriptor must not run again
    assert len(rig.seen) == 1
    driver.stop()
    assert len(rig.seen) == 1
    driver.start()
    driver.send(3, b"caps")
    assert rig.seen[-1] == (3, b"caps")


def test_fact_4_a_reset_inside_the_drain_loop_stops_it(rig, driver, guest_memory):
    """Fact 4 and quirk 3: descriptors behind RESET_VF are not executed, and nothing is stored."""
    before = guest_memory.read(driver.arq, 32 * 32)
    rig.handle = lambda opcode, payload: rig.reset()
    for opcode in (2, 10, 11, 12):
        driver.fill(opcode, b"x" * 12)
    driver.ring()
    assert [opcode for opcode, _ in rig.seen] == [2]
    assert rig.read(ARQLEN) >> 31 == 0
    assert guest_memory.read(driver.arq, 32 * 32) == before
    flags = [struct.unpack("<H", guest_memory.read(driver.atq + 32 * i, 2))[0] for i in range(4)]
    assert [f & 1 for f in flags] == [1, 0, 0, 0]


def test_a_naive_restart_after_a_reset_does_not_replay_the_old_ring(rig, driver):
    rig.handle = lambda opcode, payload: rig.reset()
    driver.send(2)
    driver.start()
    rig.handle = lambda opcode, payload: rig.mailbox.post(opcode, 0)
    driver.send(3)
    assert [opcode for opcode, _ in rig.seen] == [2, 3]


def test_40_events_with_31_buffers_arrive_in_order_after_tail_writes(rig, driver):
    for n in range(40):
        rig.mailbox.post(17, 0, bytes([n]))
    assert rig.read(ARQH) == 31
    assert len(rig.mailbox.waiting) == 9
    first = driver.receive()
    second = driver.receive()
    assert [p[0] for _, _, p in first + second] == list(range(40))
    assert rig.read(ARQLEN) == ENABLE | 32


def test_overflow_is_shown_only_when_a_message_is_really_dropped(rig, driver):
    for n in range(31 + 1024):
        rig.mailbox.post(17, 0, b"")
        assert not rig.read(ARQLEN) & OVFL, n
    rig.mailbox.post(17, 0, b"")
    assert rig.read(ARQLEN) & OVFL
    assert rig.mailbox.dropped == 1


def test_the_interrupt_is_raised_once_for_a_flush_of_many(rig, driver):
    rig.write(ARQT, 0)  # takes the buffers back: head equals tail
    for _ in range(5):
        rig.mailbox.post(17, 0, b"")
    assert rig.raised == 0
    rig.write(ARQT, 31)
    assert rig.raised == 1


def test_queue_shutdown_is_completed_without_a_message(rig, driver, guest_memory):
    """avf.md 3.3: opcode 0x0003 is completed, no ARQ reply."""
    driver.fill(0, aq=0x0003)
    driver.ring()
    assert rig.read(ATQH) == 1
    assert guest_memory.read(driver.atq, 8) == bytes.fromhex("0320030000000000")
    assert rig.seen == []
    assert driver.receive() == []


@pytest.mark.parametrize("aq", [0x0001, 0x0802, 0x0B02, 0x0B05, 0xFFFF])
def test_other_commands_are_completed_with_einval_and_err(rig, driver, guest_memory, aq):
    """avf.md 3.3: retval 14, flags DD, CMP and ERR (0x7)."""
    driver.fill(0, aq=aq)
    driver.ring()
    flags, _, _, retval = struct.unpack("<HHHH", guest_memory.read(driver.atq, 8))
    assert (flags, retval) == (0x2007, 14)
    assert rig.read(ATQH) == 1
    assert rig.seen == []


def test_a_payload_longer_than_4096_bytes_is_refused(rig, driver, guest_memory):
    driver.fill(6, b"x" * 8)
    guest_memory.write(driver.atq + 4, struct.pack("<H", 4097))
    driver.ring()
    assert guest_memory.read(driver.atq, 8)[:2] == bytes.fromhex("0734")
    assert rig.seen == []


def test_quirk_22_the_longest_payload_passes_with_the_lb_flag(rig, driver):
    driver.send(47, b"f" * 2616)
    assert rig.seen == [(47, b"f" * 2616)]
    assert driver.receive() == [(47, 0, b"f" * 2616)]


def test_quirk_27_messages_without_buffer_are_legal(rig, driver):
    for opcode in (2, 25, 27, 28, 44, 50, 51):
        driver.send(opcode)
    assert rig.seen == [(op, b"") for op in (2, 25, 27, 28, 44, 50, 51)]


def test_an_unmapped_send_ring_sets_crit_and_moves_nothing(rig, driver):
    rig.write(ATQBAL, 0)
    rig.write(0x7800, 0)
    rig.write(ATQT, 1)
    assert rig.read(ATQLEN) == ENABLE | CRIT | 32
    assert rig.read(ATQH) == 0
    rig.write(ATQLEN, ENABLE | 32)  # the driver writes it back with the bit cleared
    assert rig.read(ATQLEN) == ENABLE | 32


def test_an_unmapped_send_buffer_fails_the_command_and_the_ring_goes_on(rig, driver, guest_memory):
    driver.fill(10, b"x" * 12)
    guest_memory.write(driver.atq + 24, bytes(8))
    driver.fill(3, b"caps")
    driver.ring()
    assert rig.read(ATQH) == 2
    assert rig.seen == [(3, b"caps")]
    assert rig.read(ATQLEN) & CRIT


def test_an_unmapped_receive_ring_sets_crit_and_keeps_the_message(rig, driver):
    rig.write(0x6000, 0xFFFF)
    rig.mailbox.post(17, 0, b"event")
    assert rig.read(ARQLEN) & CRIT
    assert rig.read(ARQH) == 0
    rig.write(0x6000, driver.arq >> 32)
    rig.write(ARQT, 31)
    assert driver.receive() == [(17, 0, b"event")]


def test_quirk_21_a_read_only_ring_is_never_written(rig, driver, guest_memory):
    region = guest_memory.region
    rig.table = MemoryTable([MemoryRegion(region.guest, region.size, region.host, writable=False)])
    before = guest_memory.read(driver.atq, 32 * 32)
    driver.fill(1, b"")
    filled = guest_memory.read(driver.atq, 32 * 32)
    driver.ring()
    assert before != filled
    assert guest_memory.read(driver.atq, 32 * 32) == filled
    assert rig.read(ATQLEN) & CRIT
    assert rig.seen == []


def test_no_memory_at_all_is_survived(rig, driver):
    rig.table = EMPTY_TABLE
    driver.fill(1)
    driver.ring()
    rig.mailbox.post(17, 0, b"")
    assert rig.read(ATQLEN) & CRIT
    assert rig.read(ARQLEN) & CRIT


def test_a_disabled_ring_is_not_looked_at(rig, driver):
    rig.write(ATQLEN, 32)
    driver.send(1)
    rig.write(ARQLEN, 0)
    rig.mailbox.post(17, 0, b"")
    assert rig.seen == []
    assert rig.read(ARQH) == 0


@pytest.mark.parametrize(
    ("head", "tail", "length"), [(40, 1, 32), (0, 40, 32), (0, 1, 0), (3, 1, 2)]
)
def test_indices_beyond_the_ring_process_nothing(rig, driver, head, tail, length):
    rig.write(ATQLEN, ENABLE | length)
    rig.write(ATQH, head)
    rig.write(ATQT, tail)
    assert rig.seen == []


def test_a_posted_buffer_that_is_too_small_gets_what_fits(rig, driver, guest_memory):
    guest_memory.write(driver.arq + 4, struct.pack("<H", 4))
    rig.mailbox.post(17, 0, b"0123456789abcdef")
    assert struct.unpack("<H", guest_memory.read(driver.arq + 4, 2)) == (4,)
    assert guest_memory.read(driver.receive_buffers, 8) == b"0123\0\0\0\0"
    assert rig.mailbox.dropped == 1


@settings(max_examples=50, deadline=None)
@given(ring=st.binary(min_size=1024, max_size=1024), tail=st.integers(0, 31))
def test_any_bytes_in_the_ring_leave_head_at_tail(new_memory, ring, tail):
    memory = new_memory(size=0x1_0000)
    rig = Rig(memory.table)
    memory.write(memory.base, ring)
    rig.write(ATQLEN, ENABLE | 32)
    rig.write(ATQBAL, memory.base & 0xFFFFFFFF)
    rig.write(0x7800, memory.base >> 32)
    rig.write(ATQT, tail)
    assert rig.read(ATQH) == tail


class Channel:
    """Guest memory that only messages reach; reading is refused while a client waits."""

    def __init__(self, memory):
        self.memory = memory
        self.client_waits = True
        self.meanwhile = []

    def read(self, address, size):
        if self.client_waits:
            raise MemoryAccessError(address, size, "not reachable inside a handler")
        for command in self.meanwhile[:]:
            self.meanwhile.remove(command)
            self.client_waits = True
            command()
            self.client_waits = False
        return self.memory.read(address, size)

    def write(self, address, data):
        self.memory.write(address, data)


@pytest.fixture
def by_message(rig, driver, guest_memory):
    channel = Channel(guest_memory)
    region = guest_memory.region
    rig.table = MemoryTable([MemoryRegion(region.guest, region.size, None, channel=channel)])
    return channel


def run_later(rig, channel):
    channel.client_waits = False
    while rig.later:
        rig.later.pop(0)()
    channel.client_waits = True


def test_rings_that_only_messages_reach_are_processed_after_the_access(rig, driver, by_message):
    driver.send(1, b"abcd")
    assert rig.seen == []
    assert rig.read(ATQLEN) == ENABLE | 32
    assert len(rig.later) == 1
    run_later(rig, by_message)
    assert rig.seen == [(1, b"abcd")]
    assert rig.read(ATQH) == 1
    assert driver.receive() == [(1, 0, b"abcd")]


def test_requests_that_come_during_a_read_by_message_are_taken_in_order(rig, driver, by_message):
    driver.send(1, b"first")
    by_message.meanwhile.append(lambda: driver.send(3, b"second"))
    run_later(rig, by_message)
    assert rig.seen == [(1, b"first"), (3, b"second")]
    assert [r[0] for r in driver.receive()] == [1, 3]


def test_a_reset_during_a_read_by_message_drops_the_request(rig, driver, by_message, guest_memory):
    driver.send(1, b"abcd")
    before = guest_memory.read(driver.atq, 32)
    by_message.meanwhile.append(rig.reset)
    run_later(rig, by_message)
    assert rig.seen == []
    assert guest_memory.read(driver.atq, 32) == before
    assert rig.read(ATQH) == 0
    assert rig.read(ATQLEN) == 0


def test_requests_that_come_after_a_reset_during_a_read_are_taken(rig, driver, by_message):
    def start_anew():
        rig.reset()
        driver.start()
        driver.send(3, b"new")

    driver.send(1, b"old")
    by_message.meanwhile.append(start_anew)
    run_later(rig, by_message)
    assert rig.seen == [(3, b"new")]
    assert driver.receive() == [(3, 0, b"new")]


def test_after_a_reset_that_dropped_what_was_deferred_the_mailbox_works(rig, driver, by_message):
    driver.send(1, b"old")
    rig.later.clear()  # the function forgets deferred calls at a reset
    rig.reset()
    driver.start()
    driver.send(3, b"new")
    run_later(rig, by_message)
    assert rig.seen == [(3, b"new")]


def test_a_guest_with_a_thousand_requests_lets_others_have_their_turn(rig, guest_memory):
    ring = guest_memory.take(1023 * 32)
    request = struct.pack("<HHHHIIIIII", 0x2000, 0x0801, 0, 0, 7, 0, 0, 0, 0, 0)
    guest_memory.write(ring, request * 1023)
    rig.handle = lambda opcode, payload: None
    rig.write(ATQLEN, ENABLE | 1023)
    rig.write(ATQBAL, ring & 0xFFFFFFFF)
    rig.write(0x7800, ring >> 32)
    rig.write(ATQT, 1022)
    turns = []
    while rig.later:
        turns.append(len(rig.seen))
        rig.later.pop(0)()
    assert max(b - a for a, b in zip([0, *turns], turns, strict=False)) == 32
    assert len(rig.seen) == rig.read(ATQH) == 1022


def test_descriptor_fields_lie_where_the_reference_puts_them():
    descriptor = AqDescriptor.unpack(bytes(range(32)))
    assert descriptor.flags == 0x0100
    assert descriptor.cookie_high == 0x0B0A0908
    assert descriptor.address == 0x1B1A19181F1E1D1C
    assert AqFlag.BUF | AqFlag.LB == 0x1200
