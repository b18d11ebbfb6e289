"""Register maps: what building one checks, and what is derived."""

import pytest

from emudev_core.listing import maps_of, register_dict
from emudev_pci.function import MemoryBar, PciFunction
from emudev_pci.handlers import handlers_of
from emudev_pci.registers import RC, RO, RW, W1C, WO, Bits, Reg, RegisterMap, RegisterMapError

MAP = RegisterMap(
    "test.bar0",
    size=0x100,
    doc="A test.",
    regs=[
        Reg("ROW", 0x20, count=4, stride=8, reset=3),
        Reg("ONE", 0x00, reset=0x1234, source="manual 1.2"),
        Reg("WIDE", 0x08, size=8),
        Reg(
            "FIELDS", 0x10, bits=[Bits("LOW", 0, 4, values={1: "on"}), Bits("EVENT", 8, access=W1C)]
        ),
        Reg("READS", 0x14, access=RO),
        Reg("WRITES", 0x18, access=WO),
    ],
)


@pytest.mark.parametrize(
    ("regs", "message"),
    [
        ([Reg("A", 0), Reg("B", 2, size=2)], r"A at 0x0\+4 overlaps B at 0x2\+2"),
        (
            [Reg("A", 0, count=2, stride=16), Reg("B", 0x10)],
            r"A\[1\] at 0x10\+4 overlaps B at 0x10\+4|B at 0x10\+4 overlaps A\[1\] at 0x10\+4",
        ),
        ([Reg("A", 2)], "A at 0x2: expected a multiple of its size of 4"),
        ([Reg("A", 0, size=3)], "size of 1, 2, 4 or 8 bytes, not 3"),
        ([Reg("A", 0x100)], "ends at 0x104, behind the region's end at 0x100"),
        ([Reg("A", 0, count=65)], "ends at 0x104, behind"),
        ([Reg("A", 0, count=0)], "count of at least 1, not 0"),
        ([Reg("A", 0, count=2, stride=2)], "stride that is a multiple of 4 bytes, not 2"),
        ([Reg("A", 0, reset=1 << 32)], "reset 0x100000000 does not fit 4 bytes"),
        ([Reg("A", 0), Reg("A", 8)], "A at 0x8: the same name is at 0x0"),
        ([Reg("lower", 0)], "starts with a capital letter"),
        ([Reg("A", 0, bits=[Bits("X", 30, 3)])], r"X, bits 30\+3, does not fit 32 bits"),
        ([Reg("A", 0, bits=[Bits("X", 0, 4), Bits("Y", 3)])], r"X \(bits 0\+4\) overlaps Y"),
        ([Reg("A", 0, bits=[Bits("X", 0), Bits("X", 1)])], "two fields are called X"),
        ([Reg("A", 0, bits=[Bits("X", 0, 2, values={4: "no"})])], "value 4 of field X"),
    ],
)
def test_a_map_that_cant_be_right_is_refused_with_both_parties(regs, message):
    with pytest.raises(RegisterMapError, match=message):
        RegisterMap("test", 0x100, regs)


def test_rows_may_interleave():
    MAP2 = RegisterMap("x", 32, [Reg("A", 0, count=2, stride=8), Reg("B", 4, count=2, stride=8)])
    assert [MAP2.label(o) for o in (0, 4, 8, 12)] == ["A[0]", "B[0]", "A[1]", "B[1]"]


def test_labels_name_what_is_at_an_offset():
    assert MAP.label(0) == "ONE"
    assert MAP.label(2) == "ONE+2"
    assert MAP.label(0x28) == "ROW[1]"
    assert MAP.label(0x24) == "0x24"
    assert MAP.label(0xF0) == "0xf0"


def test_offsets_are_found_by_name_and_index():
    assert MAP.offset("ROW", 3) == 0x38
    with pytest.raises(IndexError, match=r"ROW\[4\], there are 4"):
        MAP.offset("ROW", 4)
    with pytest.raises(KeyError, match="did you mean WIDE"):
        MAP.offset("WIDER")
    with pytest.raises(KeyError, match=r"FIELDS has no field LO .did you mean LOW"):
        MAP["FIELDS"].field("LO")


def test_the_registers_that_an_access_touches_are_found():
    assert [MAP.instances[s][0].name for s, _ in MAP.find(6, 12)] == ["WIDE", "FIELDS"]
    assert MAP.find(0x1C, 4) == []


def test_the_core_lists_a_map_as_it_is():
    (listed,) = maps_of(MAP)
    assert [row.name for row in listed.regs] == ["ONE", "WIDE", "FIELDS", "READS", "WRITES", "ROW"]
    fields = register_dict(MAP["FIELDS"])["bits"]
    assert [(b["name"], b["first"], b["width"], b["access"]) for b in fields] == [
        ("LOW", 0, 4, "RW"),
        ("EVENT", 8, 1, "W1C"),
    ]


def test_a_handler_of_an_unknown_register_is_an_error_at_import():
    with pytest.raises(RegisterMapError, match=r"no register ONCE .did you mean ONE"):

        @MAP.on_read("ONCE")
        def once(self): ...


def test_a_handler_that_would_never_be_asked_is_an_error():
    with pytest.raises(RegisterMapError, match="WRITES is WO"):
        MAP.on_read("WRITES")
    with pytest.raises(RegisterMapError, match="READS can't be written"):
        MAP.on_write("READS")


def test_a_handler_takes_what_its_register_needs():
    with pytest.raises(RegisterMapError, match=r"ROW takes \(self, index, value\)"):

        class Wrong(PciFunction):
            bars = {0: MemoryBar(MAP)}  # noqa: RUF012

            @MAP.on_write("ROW")
            def row(self, value): ...


def test_two_handlers_of_one_class_for_one_register_are_an_error():
    with pytest.raises(RegisterMapError, match="a and b both handle reads of ONE"):

        class Twice(PciFunction):
            bars = {0: MemoryBar(MAP)}  # noqa: RUF012

            @MAP.on_read("ONE")
            def a(self): ...

            @MAP.on_read("ONE")
            def b(self): ...


def test_a_subclass_replaces_handlers_by_name_or_by_register():
    class Base:
        @MAP.on_read("ONE")
        def one(self): ...

        @MAP.on_read("WIDE")
        def wide(self): ...

    class Derived(Base):
        def one(self): ...

        @MAP.on_read("WIDE")
        def other(self): ...

    found = handlers_of(Derived, MAP)
    assert found["ONE", False][0] == "one"
    assert found["WIDE", False][0] == "other"


def test_one_method_may_serve_several_registers():
    class Both:
        @MAP.on_read("ONE")
        @MAP.on_read("WIDE")
        def both(self): ...

    assert {key for key, _ in handlers_of(Both, MAP)} == {"ONE", "WIDE"}


def test_masks_follow_rules_and_reserved_bits_none():
    reg = Reg("A", 0, access=RC, bits=[Bits("X", 0, 4), Bits("Y", 8, 4, access=RW)])
    assert (reg.mask_of(RC), reg.mask_of(RW), reg.mask_of(RO)) == (0xF, 0xF00, 0)
