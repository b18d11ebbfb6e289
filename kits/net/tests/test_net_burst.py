"""The burst's rows mean the same to Python and to kernels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emudev_net import burst as b
from emudev_net.burst import Burst, Packet

FUNCTIONS = (
    b.packet_rows,
    b.frame_length,
    b.offload_word,
    b.csum_start,
    b.csum_offset,
    b.header_length,
    b.gso_size,
    b.gso_type,
    b.to_gso,
    b.from_gso,
    b.vlan_word,
)


def test_packets_come_back_as_they_were_put_in():
    packets = [
        Packet(b"a" * 70, flags=b.CSUM_WANTED, offload=5, vlan=6, hash=7, own=8, time=9),
        Packet(b"b"),
        Packet(b""),
    ]
    burst = Burst.of(packets, split=32)
    assert burst.count == 5
    found = burst.packets()
    assert [p.data for p in found] == [p.data for p in packets]
    assert found[0].segments == (32, 32, 6)
    assert found[0].flags == b.FIRST | b.LAST | b.CSUM_WANTED
    assert (found[0].offload, found[0].vlan, found[0].hash) == (5, 6, 7)
    assert (found[0].own, found[0].time) == (8, 9)


def test_the_words_of_a_row_stand_where_the_design_says():
    burst = Burst.of([Packet(b"xyz", flags=0, offload=11, vlan=12, hash=13, own=14, time=15)])
    row = list(burst.words.view[:8])
    assert row[1:] == [3, b.FIRST | b.LAST, 11, 12, 13, 14, 15]
    offsets = (b.ADDRESS, b.LENGTH, b.FLAGS, b.OFFLOAD, b.VLAN, b.HASH, b.OWN, b.TIME)
    assert offsets == tuple(8 * i for i in range(8))
    assert b.ROW == 64


def test_a_burst_that_ends_in_the_middle_of_a_packet_is_an_error():
    burst = Burst.of([b"abcdef"], split=2)
    with pytest.raises(ValueError, match="no end"):
        burst.packets(2)
    burst.words[2] = 0
    with pytest.raises(ValueError, match="row 0"):
        burst.packets()


def test_rows_and_bytes_of_a_packet_are_counted(run):
    burst = Burst.of([b"a" * 10, b"b" * 25, b"c"], split=10)
    at = burst.address
    assert run[b.packet_rows](at, 0, 5) == 1
    assert run[b.packet_rows](at, 1, 5) == 3
    assert run[b.packet_rows](at, 1, 3) == 2  # the table ends there
    assert run[b.packet_rows](at, 5, 5) == 0
    assert run[b.frame_length](at, 1, 3) == 25


short = st.integers(0, 0xFFFF)


@given(start=short, offset=short, header=short, size=short)
def test_the_offload_word_holds_four_numbers(run, start, offset, header, size):
    word = run[b.offload_word](start, offset, header, size)
    raw = b"".join(n.to_bytes(2, "little") for n in (start, offset, header, size))
    assert word.to_bytes(8, "little", signed=True) == raw
    assert run[b.csum_start](word) == start
    assert run[b.csum_offset](word) == offset
    assert run[b.header_length](word) == header
    assert run[b.gso_size](word) == size


@given(tci=short, tpid=short, kind=short, outer=short)
def test_the_vlan_word_holds_four_numbers(run, tci, tpid, kind, outer):
    word = run[b.vlan_word](tci, tpid, kind, outer)
    raw = b"".join(n.to_bytes(2, "little") for n in (tci, tpid, kind, outer))
    assert word.to_bytes(8, "little", signed=True) == raw


@pytest.mark.parametrize("byte", [0, 1, 4, 5, 0x81, 0x84])
def test_gso_types_are_those_of_virtio(run, byte):
    flags = run[b.to_gso](byte)
    assert run[b.from_gso](flags) == byte
    assert run[b.gso_type](flags) == byte & 0x7F
    assert bool(flags & b.GSO_ECN) == bool(byte & 0x80)
    assert flags & (b.FIRST | b.LAST | b.CSUM_WANTED) == 0
