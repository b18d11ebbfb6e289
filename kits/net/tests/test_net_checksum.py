"""Checksums against scapy's and the vectors of the standards."""

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import checksum as scapy_checksum

from emudev_net import checksum as c
from emudev_net.burst import Burst, Packet
from emudev_net.jit import jit_wanted
from emudev_net.testing import Probe
from emudev_net.testing import probes as compile_probes

FUNCTIONS = (
    c.fold,
    c.sum16,
    c.checksum_rows,
    c.ipv4_header_sum,
    c.pseudo_header_sum,
    c.gather,
    c.crc32c_rows,
)


@pytest.fixture(scope="module", params=["compiled", "plain"])
def run(request):
    if request.param == "plain":
        return {function: Probe(function) for function in FUNCTIONS}
    if not jit_wanted():
        pytest.skip("kernels are not compiled here")
    return dict(zip(FUNCTIONS, compile_probes(*FUNCTIONS), strict=True))


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


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4, as numbers
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_gives_the_vectors_of_rfc_3720(run, data, expected):
    # The four bytes at 8 count as zero here, so the vectors are moved behind them in a way that
    # the CRC can be told: a table-driven CRC over the very bytes in Python.
    def crc(value):
        result = 0xFFFF_FFFF
        for byte in value:
            result ^= byte
            for _ in range(8):
                result = result >> 1 ^ (0x82F63B78 if result & 1 else 0)
        return result ^ 0xFFFF_FFFF

    assert crc(data) == expected
    for split in (0, 5):
        burst = Burst.of([b"front" + data], split=split)
        found = run[c.crc32c_rows](c.CRC32C_TABLE.address, burst.address, 0, burst.count, 5)
        assert found == crc(data[:8] + bytes(4) + data[12:])
    if data == bytes(32):
        assert found == expected
