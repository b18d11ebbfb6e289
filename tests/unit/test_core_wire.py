"""Declared wire structs, against bytes worked out by hand."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emudev_core.errors import DecodeError
from emudev_core.wire import Wire, be16, pad, raw, s32, u8, u16, u32, u64, wire


@wire(size=16)
class Header(Wire):
    """The head of a vfio-user message: u16, u16, u32, u32, u32, little endian."""

    msg_id: int = u16("id")
    command: int = u16("command")
    msg_size: int = u32("bytes")
    flags: int = u32("flags")
    error: int = u32("errno", default=0)


@wire(size=24)
class Mixed(Wire):
    """Holes, bytes, a signed number and one in network order."""

    kind: int = u8("kind")
    _hole = pad(1)
    proto: int = be16("EtherType")
    delta: int = s32("difference")
    name: bytes = raw(6, "name")
    _tail = pad(2)
    address: int = u64("address")


@wire(size=6, order=">")
class Big(Wire):
    """Network order."""

    length: int = u16("length")
    value: int = u32("value")


#: version, 16 + 0x20 bytes, command without flags: by the layout of the vfio-user header.
HEADER = bytes.fromhex("01000100300000000000000000000000")
MIXED = bytes.fromhex("07000800feffffff61626364656600008877665544332211")


def test_a_header_by_hand():
    header = Header.unpack(HEADER)
    assert header == Header(msg_id=1, command=1, msg_size=0x30, flags=0)
    assert header.pack() == HEADER
    assert Header.SIZE == 16


def test_holes_and_orders_by_hand():
    mixed = Mixed(kind=7, proto=0x0800, delta=-2, name=b"abcdef", address=0x1122334455667788)
    assert mixed.pack() == MIXED
    assert Mixed.unpack(MIXED) == mixed
    assert Big(length=1, value=2).pack() == bytes.fromhex("000100000002")


def test_what_is_in_a_hole_is_ignored():
    assert Mixed.unpack(MIXED[:1] + b"\xff" + MIXED[2:]) == Mixed.unpack(MIXED)


def test_structs_are_read_at_an_offset_of_any_buffer():
    for buffer in (b"..." + HEADER, bytearray(b"..." + HEADER), memoryview(b"..." + HEADER)):
        assert Header.unpack(buffer, 3).msg_size == 0x30


@pytest.mark.parametrize("length", range(16))
def test_short_data_is_refused_with_need_and_what_came(length):
    with pytest.raises(DecodeError, match=f"^Header needs 16 bytes, {length} came$"):
        Header.unpack(HEADER[:length])


def test_offsets_outside_are_refused():
    for offset in (1, 17, -1):
        with pytest.raises(DecodeError, match="Header needs 16 bytes"):
            Header.unpack(HEADER, offset)


def test_a_count_is_compared_before_anything_is_made():
    assert [h.msg_id for h in Header.unpack_many(HEADER * 3, 3)] == [1, 1, 1]
    assert Header.unpack_many(b"", 0) == []
    with pytest.raises(DecodeError, match=r"4294967295 x Header need .* bytes, 48 came"):
        Header.unpack_many(HEADER * 3, 0xFFFF_FFFF)
    with pytest.raises(DecodeError):
        Header.unpack_many(HEADER, -1)


def test_values_that_do_not_fit_are_our_mistake():
    with pytest.raises(struct.error):
        Header(msg_id=0x10000, command=0, msg_size=0, flags=0).pack()
    with pytest.raises(struct.error):
        Mixed(kind=0, proto=0x10000, delta=0, name=b"", address=0).pack()


def test_a_wrong_size_fails_when_the_class_is_made():
    with pytest.raises(TypeError, match="Wrong: fields add up to 2 bytes, declared are 4"):

        @wire(size=4)
        class Wrong(Wire):
            """Two bytes."""

            value: int = u16("value")


def test_instances_are_frozen_and_replaced():
    header = Header.unpack(HEADER)
    with pytest.raises(AttributeError):
        header.flags = 1
    assert header.replace(flags=1).flags == 1
    assert header.flags == 0
    buffer = bytearray(20)
    header.pack_into(buffer, 4)
    assert buffer == bytes(4) + HEADER


def test_fields_are_described():
    assert [(f.name, f.offset, f.size) for f in Mixed.FIELDS if not f.padding] == [
        ("kind", 0, 1),
        ("proto", 2, 2),
        ("delta", 4, 4),
        ("name", 8, 6),
        ("address", 16, 8),
    ]


@given(st.binary(min_size=24, max_size=24))
def test_any_bytes_come_back_but_for_the_holes(data):
    expected = bytearray(data)
    expected[1] = expected[14] = expected[15] = 0
    assert Mixed.unpack(data).pack() == expected
