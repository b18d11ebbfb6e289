"""What a guest's access does to registers: each rule, each size, handlers, doorbells."""

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.errors import DecodeError
from emudev_core.queues import Doorbell
from emudev_pci.register_file import MAX_UNDECLARED, RegisterFile
from emudev_pci.registers import RC, RO, RW, W1C, WO, Bits, Reg, RegisterMap, RegisterMapError


def file_of(*regs, size=0x100, owner=None, defer=None):
    return RegisterFile(RegisterMap("test", size, regs), owner, defer)


def test_ro_reads_its_value_and_ignores_writes():
    regs = file_of(Reg("A", 0, access=RO, reset=0x12345678))
    regs.write(0, 4, 0xFFFFFFFF)
    assert regs.read(0, 4) == 0x12345678


def test_rw_stores_what_is_written():
    regs = file_of(Reg("A", 0, access=RW, reset=1))
    assert regs.read(0, 4) == 1
    regs.write(0, 4, 0xA5A5A5A5)
    assert regs.read(0, 4) == 0xA5A5A5A5


def test_wo_reads_zero_and_keeps_the_value_for_the_device():
    regs = file_of(Reg("A", 0, access=WO, reset=9))
    regs.write(0, 4, 7)
    assert regs.read(0, 4) == 0
    assert regs.A == 7


def test_w1c_clears_ones_and_keeps_zeroes():
    regs = file_of(Reg("A", 0, access=W1C, reset=0b1111))
    regs.write(0, 4, 0b0101)
    assert regs.read(0, 4) == 0b1010


def test_w1c_by_bytes_clears_only_in_the_byte_that_was_written():
    regs = file_of(Reg("A", 0, access=W1C, reset=0xFFFFFFFF))
    regs.write(1, 1, 0xFF)
    assert regs.read(0, 4) == 0xFFFF00FF


def test_rc_is_cleared_by_reading_and_not_by_writing():
    regs = file_of(Reg("A", 0, access=RC, reset=0xABCD))
    regs.write(0, 4, 0)
    assert regs.read(0, 4) == 0xABCD
    assert regs.read(0, 4) == 0


def test_rc_by_bytes_clears_what_was_read():
    regs = file_of(Reg("A", 0, access=RC, reset=0xABCD))
    assert regs.read(0, 1) == 0xCD
    assert regs.read(0, 4) == 0xAB00


def test_fields_follow_their_own_rules_and_reserved_bits_stay():
    fields = [Bits("RW", 0, 4), Bits("RO", 4, 4, access=RO), Bits("EVENT", 8, 4, access=W1C)]
    regs = file_of(Reg("A", 0, reset=0x30F5A, bits=fields))
    regs.write(0, 4, 0xFFFFF3C3 & ~0xF00 | 0x100)
    assert regs.read(0, 4) == 0x30E53


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.sampled_from([1, 2, 4]))
def test_any_write_keeps_reserved_bits(value, offset, size):
    fields = [Bits("X", 3, 5), Bits("Y", 20, 7, access=W1C), Bits("Z", 30, access=WO)]
    reg = Reg("A", 0, reset=0x8A5F_00C3, bits=fields)
    regs = file_of(reg)
    reserved = 0xFFFFFFFF & ~(0x1F << 3 | 0x7F << 20 | 1 << 30)
    regs.write(offset, size, value & (1 << 8 * size) - 1)
    assert regs.A & reserved == 0x8A5F_00C3 & reserved


@settings(deadline=None)
@given(st.binary(min_size=64, max_size=64), st.integers(0, 63), st.integers(1, 64))
def test_any_read_gives_the_bytes_of_memory(content, offset, size):
    """Registers of all sizes side by side are like plain memory to reads of any kind."""
    rows = [Reg("W", 0, size=8, count=2), Reg("D", 16, count=4), Reg("H", 32, size=2, count=8)]
    regs = file_of(*rows, Reg("B", 48, size=1, count=16), size=64)
    regs.write_bytes(0, content)
    size = min(size, 64 - offset)
    assert regs.read_bytes(offset, size) == content[offset : offset + size]
    if size in (1, 2, 4, 8):
        assert regs.read(offset, size) == int.from_bytes(content[offset : offset + size], "little")


@settings(deadline=None)
@given(st.integers(0, 60), st.binary(min_size=1, max_size=8))
def test_any_write_changes_the_bytes_it_names_and_no_other(offset, data):
    regs = file_of(Reg("W", 0, size=8, count=4), Reg("D", 32, count=8), size=64)
    regs.write_bytes(0, bytes(range(64)))
    data = data[: 64 - offset]
    if len(data) in (1, 2, 4, 8):
        regs.write(offset, len(data), int.from_bytes(data, "little"))
    else:
        regs.write_bytes(offset, data)
    expected = bytearray(range(64))
    expected[offset : offset + len(data)] = data
    assert regs.read_bytes(0, 64) == expected


MAP = RegisterMap(
    "handled",
    0x100,
    [
        Reg("READ", 0, access=RO),
        Reg("WRITE", 4, reset=0x11223344),
        Reg("ROW", 8, count=3),
        Reg("COMMAND", 0x20, access=WO),
        Reg("WIDE", 0x28, size=8),
    ],
)


class Owner:
    def __init__(self):
        self.calls = []

    @MAP.on_read("READ")
    def read(self):
        self.calls.append("read")
        return 0x1_0000_0007

    @MAP.on_write("WRITE")
    def write(self, value):
        self.calls.append(("write", value))

    @MAP.on_read("ROW")
    def read_row(self, index):
        return 100 + index

    @MAP.on_write("ROW")
    def write_row(self, index, value):
        self.calls.append(("row", index, value))

    @MAP.on_write("COMMAND", deferred=True)
    def command(self, value):
        self.calls.append(("command", value))

    @MAP.on_write("WIDE")
    def wide(self, value):
        self.calls.append(("wide", value))


def test_handlers_answer_reads_and_follow_writes():
    owner = Owner()
    regs = RegisterFile(MAP, owner)
    assert regs.read(0, 4) == 7  # cut to the register's size
    assert regs.read(12, 4) == 101
    regs.write(4, 4, 5)
    regs.write(16, 4, 6)
    assert owner.calls == ["read", ("write", 5), ("row", 2, 6)]
    assert regs.WRITE == 5


def test_a_partial_write_tells_the_whole_register():
    owner = Owner()
    regs = RegisterFile(MAP, owner)
    regs.write(5, 1, 0xAA)
    regs.write(0x21, 1, 0xAA)
    regs.write(0x2C, 4, 1)
    assert owner.calls == [("write", 0x1122AA44), ("command", 0xAA00), ("wide", 1 << 32)]


def test_an_access_across_registers_asks_each_once_lowest_first():
    owner = Owner()
    regs = RegisterFile(MAP, owner)
    assert regs.read(0, 8) == 0x11223344_00000007
    regs.write(4, 8, 0x00000002_00000001)
    assert owner.calls == ["read", ("write", 1), ("row", 0, 2)]


def test_deferred_handlers_are_handed_over():
    owner, waiting = Owner(), []
    regs = RegisterFile(MAP, owner, waiting.append)
    regs.write(0x20, 4, 3)
    assert owner.calls == []
    waiting.pop()()
    assert owner.calls == [("command", 3)]


def test_the_device_sees_and_sets_values_without_rules():
    regs = file_of(Reg("A", 0, access=RO), Reg("ROW", 8, count=2, bits=[Bits("F", 4, 4)]))
    regs.A = 5
    regs["ROW", 1] = 0x1FF
    regs.ROW[0] = 3
    assert regs.read(0, 4) == 5
    assert list(regs.ROW) == [3, 0x1FF]
    assert regs.field("ROW", "F", 1) == 0xF
    regs.set_field("ROW", "F", 0x12, 1)
    assert regs["ROW", 1] == 0x12F
    with pytest.raises(AttributeError, match=r"no register ROWS .did you mean ROW"):
        regs.ROWS  # noqa: B018
    with pytest.raises(AttributeError, match="no register B"):
        regs.B = 1


def test_undeclared_accesses_read_zero_and_are_counted_once_each():
    regs = file_of(Reg("A", 0))
    for _ in range(3):
        assert regs.read(0x40, 4) == 0
    regs.write(0x48, 2, 7)
    regs.read(0x48, 4)
    assert regs.undeclared == {(0x40, 4, False): 3, (0x48, 2, True): 1, (0x48, 4, False): 1}
    assert regs.suggestions() == [
        'Reg("REG_40", 0x40, access=RO),  # test: read 3, written 0 times',
        'Reg("REG_48", 0x48, access=RW),  # test: read 1, written 1 times',
    ]


def test_suggested_rows_can_be_pasted():
    regs = file_of(Reg("A", 0))
    for offset, size in ((0x40, 4), (0x50, 8), (0x61, 1)):
        regs.write(offset, size, 0)
    rows = eval("[" + "\n".join(regs.suggestions()) + "\n]", {"Reg": Reg, "WO": WO})
    assert [(r.offset, r.size) for r in rows] == [(0x40, 4), (0x50, 8), (0x61, 1)]
    RegisterMap("pasted", 0x100, rows)


def test_a_guest_cant_make_the_count_grow_without_bound():
    regs = file_of(Reg("A", 0), size=1 << 20)
    for offset in range(4, 8 * MAX_UNDECLARED, 4):
        regs.read(offset, 4)
    assert len(regs.undeclared) == MAX_UNDECLARED


def test_doorbells_store_ring_and_are_read_back():
    words = (ctypes.c_uint32 * 2)()
    bells = [Doorbell(i, ctypes.addressof(words) + 4 * i) for i in range(2)]
    rung = []
    bells[1].subscribe(lambda: rung.append(bells[1].value))
    regs = file_of(Reg("TAIL", 0x10, count=2, stride=16))
    regs.bind_doorbells("TAIL", bells)
    regs.write(0x20, 4, 77)
    regs.write(0x22, 1, 1)
    assert rung == [77, 77 | 1 << 16]
    assert regs.read(0x20, 4) == regs["TAIL", 1] == 77 | 1 << 16
    (window,) = regs.doorbell_windows
    assert (window.offset, window.stride, window.doorbells) == (0x10, 16, tuple(bells))
    regs.reset()
    assert (regs.read(0x20, 4), len(rung)) == (0, 2)


def test_doorbells_that_cant_be_are_refused():
    word = ctypes.c_uint32()
    bell = Doorbell(0, ctypes.addressof(word))
    with pytest.raises(RegisterMapError, match="expected 1 to 2 doorbells of 4 bytes, came 3"):
        file_of(Reg("TAIL", 0, count=2)).bind_doorbells("TAIL", [bell] * 3)
    with pytest.raises(RegisterMapError, match="came 1 for registers of 8"):
        file_of(Reg("TAIL", 0, size=8)).bind_doorbells("TAIL", [bell])
    with pytest.raises(RegisterMapError, match="has handlers"):
        RegisterFile(MAP, Owner()).bind_doorbells("WRITE", [bell])


def test_the_rest_of_a_row_with_fewer_doorbells_is_plain():
    word = ctypes.c_uint32()
    regs = file_of(Reg("TAIL", 0, count=3))
    regs.bind_doorbells("TAIL", [Doorbell(0, ctypes.addressof(word))])
    regs.write(0, 4, 1)
    regs.write(8, 4, 2)
    assert (word.value, list(regs.TAIL)) == (1, [1, 0, 2])
    assert len(regs.doorbell_windows[0].doorbells) == 1


def test_what_was_saved_comes_back():
    regs = file_of(Reg("A", 0, reset=1), Reg("B", 4), Reg("ROW", 8, count=2))
    regs.B, regs["ROW", 1] = 5, 6
    saved = regs.save()
    assert saved == {"B": [5], "ROW": [0, 6]}
    regs.A = 9
    regs.restore(saved)
    assert (regs.A, regs.B, list(regs.ROW)) == (1, 5, [0, 6])


@pytest.mark.parametrize(
    "bad", [{"C": [1]}, {"A": [1, 2]}, {"A": [-1]}, {"A": [1 << 32]}, {"A": 1}]
)
def test_bad_saved_values_change_nothing(bad):
    regs = file_of(Reg("A", 0), Reg("B", 4))
    regs.B = 3
    with pytest.raises(DecodeError):
        regs.restore({"B": [4], **bad})
    assert regs.B == 3
