"""Checksums against scapy's and the vectors of the standards."""

import ctypes
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import checksum as scapy_checksum

from emudev_net import checksum as c
from emudev_net.burst import FIRST, Burst, Packet

FUNCTIONS = (
    c.fold,
    c.sum16,
    c.checksum_rows,
    c.ipv4_header_sum,
    c.pseudo_header_sum,
    c.gather,
    c.crc_more,
    c.crc_rows,
    c.crc32c_rows,
)


def buffer(data):
    memory = ctypes.create_string_buffer(data, max(1, len(data)))
    return memory, ctypes.addressof(memory)


def swap(value):
    return (value & 0xFF) << 8 | value >> 8


@given(data=st.binary(max_size=300))
def test_a_sum_is_the_internet_checksum(run, data):
    _memory, at = buffer(data)
    value = ~run[c.fold](run[c.sum16](at, len(data))) & 0xFFFF
    assert swap(value) == scapy_checksum(data)


def test_the_example_of_rfc_1071_gives_ddf2(run):
    _memory, at = buffer(bytes.fromhex("0001f203f4f5f6f7"))
    assert swap(run[c.fold](run[c.sum16](at, 8))) == 0xDDF2


def test_a_sum_of_many_large_words_does_not_overflow(run):
    _memory, at = buffer(b"\xff" * 65535)
    assert run[c.fold](run[c.sum16](at, 65534)) == 0xFFFF


@given(
    data=st.binary(min_size=1, max_size=200),
    start=st.integers(0, 199),
    sizes=st.lists(st.integers(1, 17), max_size=20),
)
@settings(max_examples=80)
def test_a_sum_over_rows_does_not_depend_on_how_they_are_cut(run, data, start, sizes):
    start %= len(data)
    burst = Burst.of([Packet(data, segments=tuple(sizes))])
    value = run[c.checksum_rows](burst.address, 0, burst.count, start)
    assert swap(~run[c.fold](value) & 0xFFFF) == scapy_checksum(data[start:])


def frames(payload):
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for ip in (IP(src="10.1.2.3", dst="192.0.2.77"), IPv6(src="fe80::1", dst="2001:db8::5")):
        yield ether / ip / TCP(sport=1, dport=65535, seq=7) / payload, 16, 6
        yield ether / ip / UDP(sport=53, dport=9) / payload, 6, 17


@given(payload=st.binary(max_size=70), split=st.integers(1, 40))
@settings(max_examples=30)
def test_completed_checksums_are_those_of_scapy(run, payload, split):
    for frame, field, protocol in frames(payload):
        raw = bytes(frame)
        version = 4 if IP in frame else 6
        start = 34 if version == 4 else 54
        place = start + field
        expected = raw[place : place + 2]
        _memory, at = buffer(raw)
        seed = run[c.pseudo_header_sum](at + 14, version, protocol, len(raw) - start)
        prepared = raw[:place] + seed.to_bytes(2, "little") + raw[place + 2 :]
        burst = Burst.of([prepared], split=split)
        value = ~run[c.fold](run[c.checksum_rows](burst.address, 0, burst.count, start)) & 0xFFFF
        # 0 and 0xFFFF are one number; UDP and scapy write the second (RFC 768).
        assert value.to_bytes(2, "little") == expected or (value, expected) == (0, b"\xff\xff")


@given(options=st.integers(0, 10), words=st.binary(min_size=60, max_size=60))
def test_the_ipv4_header_checksum_ignores_what_is_in_its_field(run, options, words):
    size = 20 + 4 * options
    header = words[:size]
    _memory, at = buffer(header)
    expected = scapy_checksum(header[:10] + b"\0\0" + header[12:])
    value = swap(run[c.ipv4_header_sum](at, size))
    assert value == expected or {value, expected} == {0, 0xFFFF}


@given(
    data=st.binary(min_size=1, max_size=90),
    offset=st.integers(0, 100),
    size=st.integers(1, 100),
    split=st.integers(1, 30),
)
@settings(max_examples=80)
def test_gathering_copies_what_there_is_and_no_more(run, data, offset, size, split):
    burst = Burst.of([data], split=split)
    memory, at = buffer(b"." * 120)
    expected = data[offset : offset + size]
    assert run[c.gather](burst.address, 0, burst.count, offset, at, size) == len(expected)
    assert memory.raw == expected + b"." * (120 - len(expected))


#: RFC 3720, B.4, as numbers; in the first and the last one bytes 8 to 11 are zero.
RFC3720 = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (
        bytes.fromhex("01c0000000000000000000000000000014000000000004000000001400000018")
        + bytes.fromhex("28000000000000000200000000000000"),
        0xD9963A56,
    ),
]


@pytest.mark.parametrize("split", [0, 1, 5, 12])
@pytest.mark.parametrize(("data", "expected"), RFC3720)
def test_crc32c_gives_the_vectors_of_rfc_3720(run, data, expected, split):
    table = c.CRC32C_TABLE.address
    _memory, at = buffer(data)
    assert run[c.crc_more](table, 0xFFFF_FFFF, at, len(data)) ^ 0xFFFF_FFFF == expected
    burst = Burst.of([b"front" + data + b"behind"], split=split)
    found = run[c.crc_rows](table, 0xFFFF_FFFF, burst.address, 0, 5, len(data))
    assert found ^ 0xFFFF_FFFF == expected


@pytest.mark.parametrize("split", [0, 1, 5, 12, 17])
@pytest.mark.parametrize(("data", "expected"), [RFC3720[0], RFC3720[4]])
def test_the_crc_of_sctp_takes_its_field_as_zero_and_ends_with_the_packet(
    run, data, expected, split
):
    for field in (bytes(4), b"\xff\x01\x80\x7f"):
        frame = b"front" + data[:8] + field + data[12:] + b"padding"
        burst = Burst.of([b"another", frame], split=split)
        first = next(i for i in range(1, burst.count) if burst.words[8 * i + 2] & FIRST)
        found = run[c.crc32c_rows](c.CRC32C_TABLE.address, burst.address, first, 5, len(data))
        assert found == expected


@given(data=st.binary(max_size=80), sizes=st.lists(st.integers(1, 17), max_size=20))
@settings(max_examples=60)
def test_a_crc_is_the_same_however_a_packet_is_cut(run, data, sizes):
    """Against zlib's, with the polynomial of IEEE 802.3."""
    table = c.crc_table(0xEDB88320)
    burst = Burst.of([Packet(data, segments=tuple(sizes))])
    found = run[c.crc_rows](table.address, 0xFFFF_FFFF, burst.address, 0, 0, len(data))
    assert found ^ 0xFFFF_FFFF == zlib.crc32(data)
