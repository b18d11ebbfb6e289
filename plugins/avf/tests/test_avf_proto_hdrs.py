"""The three forms of protocol headers, as bytes worked out by hand from avf.md section 4.9."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emudev_avf.virtchnl.proto_hdrs import (
    HeaderType,
    ProtoHeader,
    ProtoHeaders,
    RawPattern,
)
from emudev_core.errors import DecodeError

# ethtool -N eth0 flow-type tcp4 dst-port 7001: IPv4 without fields, TCP with field 1.
TCP_PORT = bytes.fromhex("0000 1b59") + bytes(60)  # source port 0, destination port 7001
SELECTED = (
    bytes.fromhex("00 000000 02000000")  # outermost, padding, two headers
    + bytes.fromhex("04000000 00000000") + bytes(64)  # IPv4, no field
    + bytes.fromhex("06000000 02000000") + TCP_PORT  # TCP, bit 1
    + bytes(2312 - 8 - 2 * 72)
)  # fmt: skip
MASKED = (
    bytes.fromhex("01 000000 21000000")  # first inner header, 33: one header with a mask
    + bytes.fromhex("05000000 00000000") + b"\x60" + bytes(63) + b"\xf0" + bytes(63)
    + bytes(2312 - 8 - 136)
)  # fmt: skip
RAW = (
    bytes.fromhex("00 000000 00000000 0300 aabbcc") + bytes(1021)
    + bytes.fromhex("ff00ff") + bytes(1021) + bytes(2312 - 10 - 2048)
)  # fmt: skip


def test_headers_with_selectors():
    found = ProtoHeaders.unpack(SELECTED)
    assert found == ProtoHeaders(
        0,
        (ProtoHeader(HeaderType.IPV4, 0, bytes(64)), ProtoHeader(HeaderType.TCP, 2, TCP_PORT)),
    )
    assert not found.masked
    assert found.pack() == SELECTED


def test_headers_with_masks():
    found = ProtoHeaders.unpack(MASKED)
    header = ProtoHeader(HeaderType.IPV6, 0, b"\x60" + bytes(63), b"\xf0" + bytes(63))
    assert found == ProtoHeaders(1, (header,))
    assert found.masked
    assert found.pack() == MASKED


def test_a_raw_pattern():
    found = ProtoHeaders.unpack(RAW)
    assert found == ProtoHeaders(0, (), RawPattern(b"\xaa\xbb\xcc", b"\xff\x00\xff"))
    assert found.pack() == RAW


def test_it_may_lie_inside_a_message():
    assert ProtoHeaders.unpack(bytes(8) + SELECTED, 8) == ProtoHeaders.unpack(SELECTED)


def test_what_is_not_all_there_is_refused():
    for size in (0, 7, 8, 100, 2311):
        with pytest.raises(DecodeError, match="2312"):
            ProtoHeaders.unpack(SELECTED[:size])
    with pytest.raises(DecodeError):
        ProtoHeaders.unpack(SELECTED, 1)
    with pytest.raises(DecodeError):
        ProtoHeaders.unpack(SELECTED, -1)


@pytest.mark.parametrize("count", [49, 1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_counts_over_range_are_refused(count):
    data = SELECTED[:4] + struct.pack("<I", count) + SELECTED[8:]
    with pytest.raises(DecodeError, match="48"):
        ProtoHeaders.unpack(data)


def test_the_largest_counts():
    data = SELECTED[:4] + struct.pack("<I", 32) + SELECTED[8:]
    assert len(ProtoHeaders.unpack(data).headers) == 32
    data = SELECTED[:4] + struct.pack("<I", 48) + SELECTED[8:]
    assert len(ProtoHeaders.unpack(data).headers) == 16


def test_mask_bits_behind_the_length_count_as_linux_means_them():
    """As sent by Linux 6.12 for `tc u32 match ip dport 7005 0xffff match ip protocol 17 0xff`:
    length 26, the end of the last key, with the other one behind it.
    """
    spec, mask = bytearray(38), bytearray(38)
    spec[12:14], mask[12:14] = b"\x08\0", b"\xff\xff"
    spec[23:24], mask[23:24] = b"\x11", b"\xff"
    spec[36:38], mask[36:38] = b"\x1b\x5d", b"\xff\xff"
    data = bytes(8) + struct.pack("<H", 26) + bytes(spec).ljust(1024, b"\0") + bytes(mask)
    found = ProtoHeaders.unpack(data.ljust(2312, b"\0"))
    assert found.raw == RawPattern(bytes(spec), bytes(mask))


@pytest.mark.parametrize("length", [0, 1025, 0xFFFF])
def test_raw_lengths_out_of_range_are_refused(length):
    with pytest.raises(DecodeError, match="1024"):
        ProtoHeaders.unpack(RAW[:8] + struct.pack("<H", length) + RAW[10:])


def test_a_raw_pattern_of_1024_bytes():
    found = ProtoHeaders.unpack(RAW[:8] + struct.pack("<H", 1024) + RAW[10:])
    assert found.raw is not None
    assert (len(found.raw.spec), len(found.raw.mask)) == (1024, 1024)


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1))
def test_any_bytes_give_headers_or_a_decode_error(start, count):
    data = (start[:4].ljust(4, b"\0") + struct.pack("<I", count) + start).ljust(2312, b"\xff")
    try:
        found = ProtoHeaders.unpack(data)
    except DecodeError:
        return
    assert ProtoHeaders.unpack(found.pack()) == found


def test_what_has_no_wire_form_is_not_packed():
    header = ProtoHeader(1, 0, b"")
    for bad in (
        ProtoHeaders(0, ()),
        ProtoHeaders(0, (header,) * 33),
        ProtoHeaders(0, (ProtoHeader(1, 0, b"", b""),) * 17),
        ProtoHeaders(0, (header, ProtoHeader(1, 0, b"", b""))),
        ProtoHeaders(0, (ProtoHeader(1, 0, bytes(65)),)),
        ProtoHeaders(0, (), RawPattern(b"", b"")),
        ProtoHeaders(0, (), RawPattern(b"a", b"")),
    ):
        with pytest.raises(ValueError, match=r"header|raw"):
            bad.pack()
