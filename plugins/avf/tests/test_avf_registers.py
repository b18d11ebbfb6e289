import pytest

from emudev_avf.registers import MAP
from emudev_pci.register_file import RegisterFile

#: avf.md 2.1, as printed there: name, index, offset, reset.
TABLE = [
    ("QTX_TAIL1", 0, 0x0000, 0),
    ("QTX_TAIL1", 255, 0x03FC, 0),
    ("QRX_TAIL1", 0, 0x2000, 0),
    ("QRX_TAIL1", 255, 0x23FC, 0),
    ("VFINT_ITRN1", 0, 0x2800, 0),
    ("VFINT_ITRN1", 16, 0x2840, 0),
    ("VFINT_ITRN1", 16 * 2 + 15, 0x2800 + 64 * 2 + 4 * 15, 0),
    ("VFINT_DYN_CTLN1", 0, 0x3800, 0),
    ("VFINT_DYN_CTLN1", 63, 0x38FC, 0),
    ("VFINT_ICR01", 0, 0x4800, 0),
    ("VFINT_ITR01", 2, 0x4C08, 0),
    ("VFINT_ICR0_ENA1", 0, 0x5000, 0),
    ("VFINT_STAT_CTL01", 0, 0x5400, 0),
    ("VFINT_DYN_CTL01", 0, 0x5C00, 0),
    ("VF_ARQBAH1", 0, 0x6000, 0),
    ("VF_ATQH1", 0, 0x6400, 0),
    ("VF_ATQLEN1", 0, 0x6800, 0),
    ("VF_ARQBAL1", 0, 0x6C00, 0),
    ("VF_ARQT1", 0, 0x7000, 0),
    ("VF_ARQH1", 0, 0x7400, 0),
    ("VF_ATQBAH1", 0, 0x7800, 0),
    ("VF_ATQBAL1", 0, 0x7C00, 0),
    ("VF_ARQLEN1", 0, 0x8000, 0),
    ("VF_ATQT1", 0, 0x8400, 0),
    ("VFGEN_RSTAT", 0, 0x8800, 2),
    ("VFQF_HENA", 1, 0xC404, 0),
    ("VFQF_HKEY", 12, 0xCC30, 0),
    ("VFQF_HLUT", 15, 0xD03C, 0),
]


@pytest.mark.parametrize(("name", "index", "offset", "reset"), TABLE)
def test_a_register_is_where_the_reference_puts_it(name, index, offset, reset):
    assert MAP.offset(name, index) == offset
    assert RegisterFile(MAP).read(offset, 4) == reset


def test_the_reference_and_the_map_have_the_same_registers():
    assert {name for name, *_ in TABLE} == {reg.name for reg in MAP.regs}


def test_the_bar_is_at_least_64_kib_and_a_power_of_two():
    """avf.md 1: the highest register is at 0xD03C."""
    assert MAP.size >= 0x1_0000
    assert MAP.size & MAP.size - 1 == 0


@pytest.mark.parametrize("offset", [0x6400, 0x7000, 0x7400, 0x8400])
def test_heads_and_tails_keep_bits_9_to_0(offset):
    regs = RegisterFile(MAP)
    regs.write(offset, 4, 0xFFFF_FFFF)
    assert regs.read(offset, 4) == 0x3FF


@pytest.mark.parametrize("offset", [0x6800, 0x8000])
def test_error_bits_of_a_length_are_plain_and_cleared_by_writing_0(offset):
    """avf.md 2.2: plain RW bits, not write-1-clear."""
    regs = RegisterFile(MAP)
    regs.write(offset, 4, 0xFFFF_FFFF)
    assert regs.read(offset, 4) == 0xF000_03FF
    regs.write(offset, 4, 0x8000_0020)
    assert regs.read(offset, 4) == 0x8000_0020


def test_the_cause_register_is_cleared_by_reading_it():
    regs = RegisterFile(MAP)
    regs.VFINT_ICR01 = 0x4000_0001
    assert regs.read(0x4800, 4) == 0x4000_0001
    assert regs.read(0x4800, 4) == 0
    regs.write(0x4800, 4, 0xFFFF_FFFF)
    assert regs.read(0x4800, 4) == 0


def test_the_reset_state_is_read_only():
    regs = RegisterFile(MAP)
    regs.write(0x8800, 4, 0)
    assert regs.read(0x8800, 4) == 2


@pytest.mark.parametrize("offset", [0x1000, 0x3000, 0x4804, 0x9000, 0xFFFC, 0x1_FFFC])
def test_what_is_not_listed_reads_0_and_ignores_writes(offset):
    regs = RegisterFile(MAP)
    regs.write(offset, 4, 0xDEAD_BEEF)
    assert regs.read(offset, 4) == 0


def test_every_register_and_every_field_of_more_than_a_bit_is_explained():
    for reg in MAP.regs:
        assert reg.doc, reg.name
        assert reg.source or reg.name.endswith(("H1", "T1")), reg.name


def test_traces_name_a_register_of_a_row():
    assert MAP.label(0x380C) == "VFINT_DYN_CTLN1[3]"
