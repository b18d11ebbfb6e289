"""Mappings and the table of guest memory."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emudev_core.errors import MemoryAccessError
from emudev_core.memory import EMPTY_TABLE, Mapping, MemoryRegion, MemoryTable
from emudev_core.testing.builders import GuestMemory, open_descriptors


@pytest.fixture
def memfd():
    fd = os.memfd_create("emudev-unit", os.MFD_CLOEXEC)
    os.ftruncate(fd, 0x4000)
    yield fd
    os.close(fd)


def maps_of(name):
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if name in line]


def test_a_mapping_starts_at_any_byte_of_the_file(memfd):
    os.pwrite(memfd, b"here", 0x1234)
    mapping = Mapping(memfd, 0x1234, 4)
    table = MemoryTable([MemoryRegion(0x9000, 4, mapping.address)])
    assert table.read(0x9000, 4) == b"here"
    table.write(0x9000, b"back")
    assert os.pread(memfd, 4, 0x1234) == b"back"
    mapping.close()


def test_closing_unmaps_and_twice_is_once(memfd):
    before = len(maps_of("emudev-unit"))
    mapping = Mapping(memfd, 0, 0x2000)
    assert len(maps_of("emudev-unit")) == before + 1
    mapping.close()
    mapping.close()
    assert len(maps_of("emudev-unit")) == before


def test_a_mapping_needs_no_descriptor_of_its_own(memfd):
    before = open_descriptors()
    for _ in range(200):
        Mapping(memfd, 0, 0x4000).close()
    mapping = Mapping(memfd, 0, 0x4000)
    assert open_descriptors() == before
    mapping.close()


def test_protection_is_as_asked_for(memfd):
    mapping = Mapping(memfd, 0, 0x1000, writable=False)
    [line] = [m for m in maps_of("emudev-unit") if re.match(f"{mapping.address:08x}-", m)]
    assert line.split()[1] == "r--s"
    mapping.close()


@pytest.mark.parametrize(("offset", "size"), [(0, 0x4001), (0x4000, 1), (1 << 62, 1)])
def test_a_range_behind_the_end_of_the_file_is_refused(memfd, offset, size):
    with pytest.raises(OSError, match="behind the file's end at 0x4000") as caught:
        Mapping(memfd, offset, size)
    assert caught.value.errno == 6  # ENXIO


def test_a_table_is_sorted_and_finds_whole_ranges():
    table = MemoryTable(
        [MemoryRegion(0x3000, 0x1000, 1), MemoryRegion(0x1000, 0x1000, 2)], generation=5
    )
    assert [r.guest for r in table.regions] == [0x1000, 0x3000]
    assert table.generation == 5
    assert table.find(0x1000, 0x1000).host == 2
    assert table.find(0x1FFF).host == 2
    for address, size in ((0xFFF, 1), (0x2000, 1), (0x1FFF, 2), (0x4000, 1), (1 << 64, 1)):
        assert table.find(address, size) is None
    assert EMPTY_TABLE.find(0) is None


def test_overlaps_are_refused_with_both_named():
    with pytest.raises(ValueError, match=r"0x1000\+0x1001 and 0x2000\+0x10 overlap"):
        MemoryTable([MemoryRegion(0x1000, 0x1001, 1), MemoryRegion(0x2000, 0x10, 2)])


def test_the_last_byte_of_the_address_space_is_usable():
    table = MemoryTable([MemoryRegion((1 << 64) - 0x1000, 0x1000, 1)])
    assert table.find((1 << 64) - 1) is not None


class Recorded:
    """A channel that keeps what goes through it."""

    def __init__(self):
        self.calls = []

    def read(self, address, size):
        self.calls.append(("read", address, size))
        return bytes([0xEE]) * size

    def write(self, address, data):
        self.calls.append(("write", address, data))


def test_accesses_span_adjacent_regions_of_both_kinds():
    memory = GuestMemory(0x1000, guest=0x1000)
    channel = Recorded()
    table = MemoryTable([memory.region, MemoryRegion(0x2000, 0x1000, None, channel=channel)])
    table.write(0x1FFE, b"abcd")
    assert memory.read(0xFFE, 2) == b"ab"
    assert table.read(0x1FFE, 4) == b"ab\xee\xee"
    assert channel.calls == [("write", 0x2000, b"cd"), ("read", 0x2000, 2)]
    memory.close()


def test_nothing_is_written_unless_all_of_it_can_be():
    memory = GuestMemory(0x1000, guest=0x1000)
    table = MemoryTable([memory.region, MemoryRegion(0x2000, 0x1000, 1, writable=False)])
    with pytest.raises(MemoryAccessError, match="read-only"):
        table.write(0x1FFE, b"abcd")
    with pytest.raises(MemoryAccessError, match=r"0x3000\+0x1: not mapped"):
        table.write(0x3000, b"x")
    assert memory.read(0xFFE, 2) == bytes(2)
    memory.close()


def test_unreadable_memory_is_not_read():
    table = MemoryTable([MemoryRegion(0, 16, 1, readable=False)])
    with pytest.raises(MemoryAccessError, match="not readable"):
        table.read(0, 1)


def test_numbers_are_little_endian():
    memory = GuestMemory(0x1000, guest=0)
    table = MemoryTable([memory.region])
    table.write_u32(0, 0x1_2345_6789)
    table.write_u64(8, 0x0102030405060708)
    assert memory.read(0, 4) == b"\x89\x67\x45\x23"
    assert memory.read(8, 8) == b"\x08\x07\x06\x05\x04\x03\x02\x01"
    assert (table.read_u32(0), table.read_u64(8)) == (0x23456789, 0x0102030405060708)
    memory.close()


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=8),
    st.integers(-2, 60),
    st.integers(1, 6),
)
def test_finding_agrees_with_looking_at_every_byte(ranges, address, size):
    taken, regions = set(), []
    for guest, length in ranges:
        cells = set(range(guest, guest + length))
        if not cells & taken:
            taken |= cells
            regions.append(MemoryRegion(guest, length, 1))
    found = MemoryTable(regions).find(address, size)
    holds = [r for r in regions if r.guest <= address and address + size <= r.guest + r.size]
    assert ([found] if found else []) == holds


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 6)), max_size=30),
)
def test_a_table_that_grows_and_shrinks_is_the_one_made_anew(steps):
    table, generation = EMPTY_TABLE, 0
    for grows, guest, size in steps:
        region = MemoryRegion(guest, size, 1)
        before = table.regions
        if grows:
            taken = {a for r in before for a in range(r.guest, r.end)}
            overlaps = bool(taken & set(range(guest, guest + size)))
            assert (table.overlap(guest, size) is not None) == overlaps
            if overlaps:
                with pytest.raises(ValueError, match="overlap"):
                    table.plus(region)
                continue
            table = table.plus(region)
        else:
            table = table.minus([r for r in before if r.guest < guest])
        generation += 1
        assert table.generation == generation
        wanted = {*before, region} if grows else {r for r in before if r.guest >= guest}
        assert list(table.regions) == sorted(wanted, key=lambda r: r.guest)
        for address in range(30):
            anew = MemoryTable(table.regions).find(address)
            assert table.find(address) is anew
