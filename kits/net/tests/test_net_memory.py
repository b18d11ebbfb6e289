"""Guest addresses reach memory only through the table, whatever the guest says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_net.jit import jit_wanted
from emudev_net.memory import READ, WRITE, KernelTable, signed, span, translate
from emudev_net.testing import Probe
from emudev_net.testing import probes as compile_probes

TOP = 1 << 64


@pytest.fixture(scope="module", params=["compiled", "plain"])
def lookups(request):
    """(translate, span), compiled or plain."""
    if request.param == "plain":
        return Probe(translate), Probe(span)
    if not jit_wanted():
        pytest.skip("kernels are not compiled here")
    return compile_probes(translate, span)


def table_of(*regions):
    return KernelTable(MemoryTable([MemoryRegion(*r[:3], **r[3]) for r in regions], 7))


def test_a_range_in_one_region_has_an_address(lookups):
    translate, span = lookups
    table = table_of((0x1000, 0x2000, 0x7000_0000, {}))
    assert table.generation == 7
    assert translate(table.address, 0x1000, 0x2000, READ) == 0x7000_0000
    assert translate(table.address, 0x2FFF, 1, WRITE) == 0x7000_1FFF
    for guest, size in ((0xFFF, 1), (0x3000, 1), (0x2FFF, 2), (0x1000, 0x2001), (0x1000, 0)):
        assert translate(table.address, guest, size, READ) == 0
    assert span(table.address, 0x2FF0, 100, READ) == 0x10
    assert span(table.address, 0x2FF0, 3, READ) == 3
    assert span(table.address, 0x3000, 3, READ) == 0


def test_adjacent_regions_are_not_one(lookups):
    translate, span = lookups
    table = table_of((0x1000, 0x1000, 0x10000, {}), (0x2000, 0x1000, 0x50000, {}))
    assert translate(table.address, 0x1FFF, 2, READ) == 0
    assert span(table.address, 0x1FFF, 2, READ) == 1
    assert translate(table.address, 0x2000, 2, READ) == 0x50000


def test_access_is_what_the_region_allows(lookups):
    translate, span = lookups
    table = table_of(
        (0x1000, 0x1000, 0x10000, {"writable": False}),
        (0x2000, 0x1000, 0x20000, {"readable": False}),
    )
    assert translate(table.address, 0x1000, 4, READ) == 0x10000
    assert translate(table.address, 0x1000, 4, WRITE) == 0
    assert span(table.address, 0x1000, 4, WRITE) == 0
    assert translate(table.address, 0x2000, 4, READ) == 0
    assert translate(table.address, 0x2000, 4, WRITE) == 0x20000


def test_regions_that_only_messages_reach_are_left_out(lookups):
    translate, _ = lookups
    table = table_of((0x1000, 0x1000, None, {}), (0x2000, 0x1000, 0x9000, {}))
    assert translate(table.address, 0x1000, 4, READ) == 0
    assert translate(table.address, 0x2000, 4, READ) == 0x9000


def test_an_empty_table_holds_nothing(lookups):
    translate, span = lookups
    table = table_of()
    for guest in (0, 1, -(1 << 63), (1 << 63) - 1, -1):
        assert translate(table.address, guest, 1, READ) == 0
        assert span(table.address, guest, 1, READ) == 0


def test_the_last_region_may_end_at_the_top_of_the_address_space(lookups):
    translate, span = lookups
    table = table_of((TOP - 0x1000, 0x1000, 0x4000, {}), (0, 0x1000, 0x8000, {}))
    assert translate(table.address, signed(TOP - 1), 1, READ) == 0x4FFF
    assert translate(table.address, signed(TOP - 1), 2, READ) == 0
    assert translate(table.address, signed(TOP - 0x1000), 0x1000, READ) == 0x4000
    assert span(table.address, signed(TOP - 2), 1 << 62, READ) == 2
    assert translate(table.address, 0, 0x1000, READ) == 0x8000


sizes = st.one_of(st.integers(-2, 80), st.integers(-(1 << 63), (1 << 63) - 1))


@st.composite
def tables(draw):
    """Regions in some order, with their bases near 0, 2**63 or 2**64."""
    regions = []
    base = draw(st.sampled_from([0, 1 << 32, (1 << 63) - 64, TOP - 400]))
    host = 0x10_0000
    for _ in range(draw(st.integers(0, 6))):
        base += draw(st.sampled_from([0, 0, 1, 17]))
        size = draw(st.integers(1, 40))
        if base + size > TOP:
            break
        regions.append((base, size, host, draw(st.booleans()), draw(st.booleans())))
        base += size
        host += 0x1000
    return draw(st.permutations(regions))


@given(regions=tables(), asks=st.lists(st.tuples(st.integers(0, 300), sizes), max_size=12))
@settings(max_examples=150)
def test_lookups_agree_with_a_walk_over_all_regions(lookups, regions, asks):
    translate, span = lookups
    table = KernelTable(
        MemoryTable(MemoryRegion(g, s, h, readable=r, writable=w) for g, s, h, r, w in regions)
    )
    start = min((r[0] for r in regions), default=0)
    for offset, size in asks:
        guest = (start - 20 + offset) % TOP
        for access in (READ, WRITE):
            found, reach = 0, 0
            for base, length, host, readable, writable in regions:
                allowed = writable if access == WRITE else readable
                if base <= guest < base + length and allowed and size > 0:
                    reach = min(size, base + length - guest)
                    if reach == size:
                        found = host + guest - base
            assert translate(table.address, signed(guest), size, access) == found
            assert span(table.address, signed(guest), size, access) == reach


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60), st.data())
def test_a_table_that_came_by_one_change_is_as_one_made_anew(changes, data):
    table = MemoryTable()
    kept = KernelTable(table)
    there = {}
    for page, by_message in changes:
        guest = (page << 13) + (1 << 32)
        if page in there:
            table = table.minus([there.pop(page)])
        else:
            host = None if by_message else 0x7000_0000 + (page << 12)
            there[page] = MemoryRegion(guest, 0x1000, host, writable=bool(page & 1))
            table = table.plus(there[page])
        kept = KernelTable(table, kept)
        assert kept.generation == table.generation
        look = data.draw(st.integers(0, 41))
        for at in ((look << 13) + (1 << 32), (look << 13) + (1 << 32) + 0x1000):
            region = table.find(at)
            expected = 0 if region is None or region.host is None else region.host
            assert Probe(translate)(kept.address, at, 0x1000, READ) == expected
            if not look & 1:
                assert Probe(translate)(kept.address, at, 1, WRITE) == 0


def test_a_table_of_another_history_takes_nothing_over():
    one = MemoryTable().plus(MemoryRegion(0x1000, 0x1000, 0x5000))
    other = MemoryTable().plus(MemoryRegion(0x9000, 0x1000, 0x6000))
    table = one.plus(MemoryRegion(0x3000, 0x1000, 0x7000))
    kept = KernelTable(table, KernelTable(other))
    assert Probe(translate)(kept.address, 0x1000, 1, READ) == 0x5000
    assert Probe(translate)(kept.address, 0x3000, 1, READ) == 0x7000
    assert Probe(translate)(kept.address, 0x9000, 1, READ) == 0


def test_lookups_among_ten_thousand_mappings_find_each(lookups):
    translate, _ = lookups
    regions = [MemoryRegion((1 << 40) + (i << 13), 0x1000, (i + 1) << 12) for i in range(10_000)]
    table = KernelTable(MemoryTable(regions))
    for i in range(0, 10_000, 37):
        assert translate(table.address, (1 << 40) + (i << 13) + 5, 8, READ) == ((i + 1) << 12) + 5
        assert translate(table.address, (1 << 40) + (i << 13) + 0x1000, 1, READ) == 0
