"""Configuration space: bytes, masks, BAR sizing, capabilities and where they stand."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.errors import DecodeError
from emudev_pci.bars import BarError, IoBar, MemoryBar, bar_registers
from emudev_pci.capabilities import (
    Capability,
    CapabilityError,
    message_signalled,
    message_signalled_x,
    pci_express,
    place,
    power_management,
    serial_number,
    vendor,
    vendor_extended,
)
from emudev_pci.config_space import ConfigSpace, PciIds
from emudev_pci.interrupts import Msi, Msix
from emudev_pci.layout import Layout
from emudev_pci.registers import Reg, RegisterMap

IDS = PciIds(vendor=0x8086, device=0x1889, class_code=0x020000, revision=2, subsystem=0x77)
LAYOUT = Layout(
    IDS,
    {
        0: MemoryBar(size=0x20000, wide=True, prefetchable=True),
        2: IoBar(size=32),
        3: MemoryBar(size=0x4000, wide=True, prefetchable=True),
    },
    msix=Msix(vectors=65, bar=3, table=0, pending=0x2000),
    msi=Msi(vectors=8),
    intx=True,
    capabilities=(vendor(b"\x01\x02"), serial_number(0x1122334455667788)),
)


@pytest.fixture
def space():
    return LAYOUT.build()[0]


def test_the_header_is_where_pci_puts_it(space):
    assert space.read_bytes(0, 4) == bytes.fromhex("86808918")
    assert space.read_bytes(8, 4) == bytes.fromhex("02000002")
    assert space.read_bytes(0x2C, 4) == bytes.fromhex("86807700")
    assert space.read(0x06, 2) == 0x0010  # capabilities
    assert space.read(0x34, 1) == 0x40
    assert space.read(0x3D, 1) == 1
    assert space.read(0x0E, 1) == 0


@settings(deadline=None)
@given(st.integers(0, 4095), st.integers(1, 64))
def test_any_read_is_a_slice_of_the_whole(offset, size):
    space = LAYOUT.build()[0]
    whole = space.read_bytes(0, 4096)
    assert len(whole) == 4096
    size = min(size, 4096 - offset)
    assert space.read_bytes(offset, size) == whole[offset : offset + size]


def test_reading_by_1_2_and_4_bytes_at_every_offset_gives_the_same_bytes(space):
    whole = space.read_bytes(0, 4096)
    for size in (1, 2, 4):
        for offset in range(256 - size):
            value = space.read(offset, size)
            assert value.to_bytes(size, "little") == whole[offset : offset + size]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=8)), max_size=20))
def test_no_write_changes_a_read_only_bit(writes):
    space = LAYOUT.build()[0]
    for offset, data in writes:
        space.write_bytes(offset, data)
    assert space.read_bytes(0, 4) == bytes.fromhex("86808918")
    assert space.read(0x04, 2) & ~0x0547 == 0
    assert space.read(0x06, 2) == 0x0010
    assert space.read(0x10, 4) & 0x1FFFF == 0xC
    assert space.read(0x28, 8) == 0x0077_8086_0000_0000
    assert space.read(0x30, 5) == 0x40_0000_0000  # no ROM, capability pointer
    space.restore(space.save())


def test_four_bytes_at_the_command_register_store_it_and_keep_the_status(space):
    space.write(4, 4, 0xFFFFFFFF)
    assert space.read(4, 4) == 0x00100547


def test_one_byte_at_an_odd_place_is_accepted(space):
    space.write(5, 1, 0xFF)
    assert space.read(4, 2) == 0x0500
    space.write(3, 2, 0x06FF)
    assert space.read(4, 2) == 0x0506
    assert space.read(2, 2) == 0x1889


def test_status_bits_are_cleared_by_ones(space):
    space.put(6, 2, 0xF910)
    space.write(6, 2, 0x2000)
    assert space.read(6, 2) == 0xD910


def test_bars_show_their_size_and_kind(space):
    for at, size, ones in ((0x10, 8, 0xFFFFFFFFFFFE000C), (0x18, 4, 0xFFFFFFE1)):
        space.write(at, size, (1 << 8 * size) - 1)
        assert space.read(at, size) == ones
    space.write(0x10, 4, 0xFE123456)
    assert space.read(0x10, 4) == 0xFE12000C
    for at in (0x24, 0x30):
        space.write(at, 4, 0xFFFFF800)
        assert space.read(at, 4) == 0


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ({0: MemoryBar(size=3000)}, "BAR 0: expected a power of two from 16"),
        ({0: MemoryBar(size=8)}, "from 16 to 0x80000000 bytes, came 0x8"),
        ({6: MemoryBar(size=16)}, "BAR 6: expected a number from 0 to 5"),
        ({5: MemoryBar(size=16, wide=True)}, "BAR 6 has to be free"),
        ({0: MemoryBar(size=16, wide=True), 1: IoBar(size=4)}, "BAR 1 has to be free"),
        ({0: IoBar(size=512)}, "from 4 to 0x100 bytes"),
        (
            {0: MemoryBar(RegisterMap("m", 0x20, [Reg("A", 0)]), size=16)},
            "BAR 0 has 0x10 bytes, m needs 0x20",
        ),
    ],
)
def test_bars_that_cant_be_are_refused(bars, message):
    with pytest.raises(BarError, match=message):
        bar_registers(bars)


def test_a_map_is_rounded_up_to_a_power_of_two():
    bar = MemoryBar(RegisterMap("m", 0x1800, [Reg("A", 0)]))
    assert bar.bytes == 0x2000


def chain(space):
    found, at = [], space.read(0x34, 1)
    while at:
        found.append((space.read(at, 1), at))
        at = space.read(at + 1, 1)
    return found


def extended_chain(space):
    found, at = [], 0x100
    while at:
        head = space.read(at, 4)
        found.append((head & 0xFFFF, head >> 16 & 0xF, at))
        at = head >> 20
    return found


def test_capabilities_are_linked_in_order_from_0x40(space):
    # PM 8 bytes, MSI with masks 24, MSI-X 12, PCIe 60, vendor 5.
    assert chain(space) == [(1, 0x40), (5, 0x48), (0x11, 0x60), (0x10, 0x6C), (9, 0xA8)]
    assert space.read_bytes(0xA8, 5) == bytes.fromhex("0900050102")
    assert extended_chain(space) == [(3, 1, 0x100)]
    assert space.read(0x104, 8) == 0x1122334455667788


def test_explicit_places_are_kept_and_the_others_fill_in():
    space = ConfigSpace()
    capabilities = [power_management(), pci_express(at=0xA0), message_signalled_x(5, 3, 0, 0x2000)]
    assert place(space, capabilities) == {1: 0x40, 0x10: 0xA0, 0x11: 0x48}
    assert chain(space) == [(1, 0x40), (0x10, 0xA0), (0x11, 0x48)]


@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        ([power_management(at=0x3C)], "can't be at 0x3c"),
        ([power_management(at=0x42)], "can't be at 0x42"),
        ([power_management(at=0x40), vendor(b"", at=0x44)], "overlaps capability 0x1 at 0x40"),
        ([vendor(bytes(180)), pci_express()], "no room for capability 0x10 of 60 bytes"),
        ([serial_number(1)], "need the PCI Express capability"),
        ([pci_express(), serial_number(1, at=0x200)], "has to be at 0x100, not 0x200"),
    ],
)
def test_capabilities_that_cant_be_placed_are_refused(capabilities, message):
    with pytest.raises(CapabilityError, match=message):
        place(ConfigSpace(), capabilities)


def test_extended_capabilities_are_linked(space):
    space = ConfigSpace()
    one, two = vendor_extended(7, 2, b"abcd"), serial_number(5)
    assert place(space, [pci_express(), one, two]) == {0x10: 0x40, 0x1000B: 0x100, 0x10003: 0x10C}
    assert extended_chain(space) == [(0xB, 1, 0x100), (3, 1, 0x10C)]
    assert space.read(0x104, 4) == 7 | 2 << 16 | 12 << 20
    assert space.read_bytes(0x108, 4) == b"abcd"


def image(capability: Capability) -> bytes:
    return capability.image


def test_msix_says_table_and_pending_bits():
    assert image(message_signalled_x(65, 3, 0, 0x2000)) == struct.pack(
        "<BBHII", 0x11, 0, 64, 0x3, 0x2003
    )
    with pytest.raises(CapabilityError, match="1 to 2048 vectors, came 2049"):
        message_signalled_x(2049, 0, 0, 0x8000)
    with pytest.raises(CapabilityError, match="multiples of 8"):
        message_signalled_x(1, 0, 4, 0x8000)


def test_msi_says_its_vectors_width_and_masks():
    assert image(message_signalled(8))[:4] == bytes.fromhex("05008601")
    assert len(image(message_signalled(8))) == 24
    assert image(message_signalled(1, maskable=False)) == bytes.fromhex("05008000") + bytes(10)
    with pytest.raises(CapabilityError, match="16 or 32 vectors, came 3"):
        message_signalled(3)


def test_pcie_is_a_version_2_endpoint_with_flr():
    data = image(pci_express())
    assert len(data) == 0x3C
    assert struct.unpack_from("<BBHIHH", data) == (0x10, 0, 2, 0x10008001, 0x2010, 0)


def test_power_management_has_no_soft_reset_and_two_states():
    assert image(power_management()) == bytes.fromhex("0100030008000000")


def test_watchers_get_what_was_written_whatever_is_stored(space):
    seen = []
    space.watch(0x0A, 2, lambda old, written: seen.append((old, written)))
    space.write(0x0B, 1, 0xFF)
    space.write(0x08, 4, 0x12345678)
    space.write(0x0C, 4, 1)
    assert seen == [(0x0200, 0xFF00), (0x0200, 0x1234)]


def test_msix_in_a_bar_with_registers_must_not_overlap_them():
    regs = RegisterMap("m", 0x1000, [Reg("A", 0x800)])
    layout = Layout(IDS, {0: MemoryBar(regs)}, msix=Msix(vectors=2, bar=0, table=0x400))
    with pytest.raises(BarError, match=r"pending bits at 0xc00|overlap"):
        Layout(IDS, {0: MemoryBar(regs)}, msix=Msix(vectors=2, bar=0, table=0x7F0)).build()
    layout.build()
    with pytest.raises(BarError, match="needs 0x2008 bytes, the BAR has 0x1000"):
        Layout(IDS, {0: MemoryBar(regs)}, msix=Msix(2, 0, pending=0x2000)).build()
    with pytest.raises(BarError, match="table and pending bits overlap"):
        Layout(IDS, {}, msix=Msix(2, 0, pending=0x10)).build()


def test_a_function_without_pci_express_has_256_bytes():
    space, places = Layout(IDS, {}, pcie=False).build()
    assert space.size == 256
    assert places == {1: 0x40}
    assert space.read_bytes(250, 10)[6:] == bytes(4)


def test_nothing_behind_the_end_is_written(space):
    space.write_bytes(4094, b"\xff" * 8)
    assert space.size == len(space.save()) == 4096


def test_the_state_of_another_function_is_refused(space):
    other = Layout(PciIds(1, 2, 3), {}).build()[0]
    with pytest.raises(DecodeError, match="at 0x0: 0x01 of another function"):
        space.restore(other.save())
