"""Capture files record by record, of both formats and byte orders.

The bytes are those of `captures`, worked out by hand.
"""

from __future__ import annotations

import struct

import pytest
from captures import (
    ENHANCED_BIG,
    ENHANCED_LITTLE,
    FRAME,
    HALF_PAST,
    INTERFACE_BIG,
    INTERFACE_LITTLE,
    OTHER,
    PCAP_BIG,
    PCAP_BIG_NANO,
    PCAP_LITTLE,
    PCAP_LITTLE_NANO,
    RECORD_BIG,
    RECORD_LITTLE,
    SECTION_BIG,
    SECTION_LITTLE,
    block,
    enhanced,
    interface,
    opened,
    option,
    raw,
    section,
)

from emudev_net.burst import Burst
from emudev_pcap import reader_kernels as k
from emudev_pcap.capture_file import CaptureFile

pytestmark = pytest.mark.usefixtures("kernels")


# -- pcap


@pytest.mark.parametrize(
    ("header", "record", "time"),
    [
        (PCAP_LITTLE, RECORD_LITTLE, HALF_PAST),
        (PCAP_BIG, RECORD_BIG, HALF_PAST),
        (PCAP_LITTLE_NANO, RECORD_LITTLE, 1_700_000_000_000_500_000),
        (PCAP_BIG_NANO, RECORD_BIG, 1_700_000_000_000_500_000),
    ],
    ids=["little", "big", "little-ns", "big-ns"],
)
def test_pcap_is_read_in_both_byte_orders_and_resolutions(read, header, record, time):
    found = read(raw(header, record, FRAME, record, FRAME))
    assert found.packets == [FRAME, FRAME]
    assert found.times == [time, time]
    assert found.error is None
    assert found.word(k.DONE) == 1
    assert (found.word(k.PACKETS), found.word(k.BYTES)) == (2, 36)


def test_a_file_without_packets_is_at_its_end_at_once(read):
    for data in (raw(PCAP_LITTLE), raw(SECTION_BIG), raw(SECTION_LITTLE, INTERFACE_LITTLE)):
        found = read(data)
        assert (found.packets, found.error, found.word(k.DONE)) == ([], None, 1)


def test_what_was_not_captured_is_not_there_and_is_counted(read):
    found = read(raw(PCAP_LITTLE, "00000000 00000000 12000000 dc050000", FRAME))
    assert found.packets == [FRAME]
    assert found.word(k.TRUNCATED) == 1


def test_packets_too_short_to_be_frames_are_left_out_and_counted_once(read):
    short = raw("00000000 00000000 0d000000 0d000000", FRAME[:13])
    empty = raw("00000000 00000000 00000000 00000000")
    whole = raw(RECORD_LITTLE, FRAME)
    found = read(raw(PCAP_LITTLE, short, whole, empty, whole, short), rows=1)
    assert found.packets == [FRAME, FRAME]
    assert found.word(k.SHORT) == 3


def test_a_check_sequence_that_the_header_tells_of_is_left_out(read):
    # The four highest bits: words of 16 bits; bit 26: they are known. Source: section 4.
    header = raw(PCAP_LITTLE)[:20] + bytes.fromhex("01000024")
    # 18 bytes with their check sequence, of which all, two bytes, and nothing was captured.
    sizes = ((22, 22), (20, 22), (18, 22))
    records_ = [
        struct.pack("<IIII", 0, 0, caught, wire) + (FRAME + b"\xfc\xfc\xfc\xfc")[:caught]
        for caught, wire in sizes
    ]
    found = read(header + b"".join(records_))
    assert found.packets == [FRAME] * 3
    assert found.word(k.TRUNCATED) == 0


# -- pcapng


@pytest.mark.parametrize(
    ("start", "described", "packet", "end"),
    [
        (SECTION_LITTLE, INTERFACE_LITTLE, ENHANCED_LITTLE, "34000000"),
        (SECTION_BIG, INTERFACE_BIG, ENHANCED_BIG, "00000034"),
    ],
    ids=["little", "big"],
)
def test_pcapng_is_read_in_both_byte_orders(read, start, described, packet, end):
    found = read(raw(start, described, packet, FRAME, "0000", end))
    assert found.packets == [FRAME]
    assert found.times == [HALF_PAST]
    assert found.error is None


def test_sections_of_different_byte_order_follow_one_another(read):
    data = b""
    for order, frame in (("<", FRAME), (">", OTHER), ("<", OTHER)):
        data += section(order) + interface(order=order) + enhanced(frame, 7, order=order)
    assert read(data).packets == [FRAME, OTHER, OTHER]


def test_a_section_forgets_the_interfaces_of_the_one_before(read):
    data = section() + interface() + interface() + enhanced(number=1)
    found = read(data + section() + interface() + enhanced(number=1))
    assert found.packets == [FRAME]
    assert "interface 1, which its section does not declare" in str(found.error)
    assert found.error.offset == len(data + section() + interface())


def test_packets_shown_before_a_change_are_shown_again_as_they_were(tmp_path, memory):
    # Nothing is released: the second look must not read the first packet by the second section.
    data = section("<") + interface(option(9, b"\x09")) + enhanced(FRAME, 5)
    data += section(">") + interface(order=">") + enhanced(OTHER, 6, order=">")
    path = tmp_path / "file"
    path.write_bytes(data)
    cursor = opened(CaptureFile(str(path), memory))
    burst = Burst(8)
    for _ in range(3):
        assert k.peek(cursor.words.address, burst.address, 8) == 1
        [packet] = burst.packets(1)
        assert (packet.data, packet.time) == (FRAME, 5)
    k.release(cursor.words.address, burst.address, 1)
    for _ in range(2):
        assert k.peek(cursor.words.address, burst.address, 8) == 1
        [packet] = burst.packets(1)
        assert (packet.data, packet.time) == (OTHER, 6000)
    cursor.leave()


@pytest.mark.parametrize(
    ("resolution", "ticks", "time"),
    [
        (b"\x00", 3, 3_000_000_000),
        (b"\x03", 1234, 1_234_000_000),
        (b"\x06", 1_700_000_000_500_000, HALF_PAST),
        (b"\x09", HALF_PAST, HALF_PAST),
        (b"\x0c", 1_234_567_000, 1_234_567),  # picoseconds
        (b"\x80", 3, 3_000_000_000),
        (b"\x81", 3, 1_500_000_000),
        (b"\xa0", 3 << 31, 1_500_000_000),
        (b"\xbf", 1 << 62, 500_000_000),  # 2**-63 seconds
        (b"\x94", 5 << 18, 1_250_000_000),  # 2**-20
    ],
)
def test_timestamps_have_the_resolution_of_their_interface(read, resolution, ticks, time):
    found = read(section() + interface(option(9, resolution)) + enhanced(ticks=ticks))
    assert found.times == [time]


def test_a_time_offset_is_added_in_seconds(read):
    offset = struct.pack("<q", -10)
    found = read(section() + interface(option(14, offset)) + enhanced(ticks=15_000_001))
    assert found.times == [5_000_001_000]
    offset = struct.pack(">q", 1_700_000_000)
    data = section(">") + interface(option(14, offset, ">"), order=">")
    assert read(data + enhanced(ticks=500_000, order=">")).times == [HALF_PAST]


def test_each_packet_is_read_by_its_own_interface(read):
    data = section() + interface(option(9, b"\x09")) + interface(option(9, b"\x00"))
    found = read(data + enhanced(ticks=5, number=1) + enhanced(OTHER, 5, number=0))
    assert found.times == [5_000_000_000, 5]


def test_unknown_options_and_what_is_behind_the_last_one_are_passed_over(read):
    options = option(2, b"eth0") + option(0x8001, b"abc") + option(9, b"\x09") + option(0, b"")
    found = read(section() + interface(options + b"\x09\x00\xff\xff") + enhanced(ticks=1))
    assert found.times == [1]


def test_a_check_sequence_of_an_interface_is_left_out(read):
    data = section() + interface(option(13, b"\x20")) + interface(option(13, b"\x04"))
    with_check = FRAME + b"\xfc\xfc\xfc\xfc"
    found = read(data + enhanced(with_check) + enhanced(with_check, number=1))
    assert found.packets == [FRAME, FRAME]


def test_other_blocks_are_passed_over(read):
    # Name resolution, statistics, a custom block and one that nobody knows.
    others = b"".join(block(kind, bytes(20)) for kind in (4, 5, 0x0BAD, 0x7777))
    data = section() + others + interface() + others + enhanced() + others + enhanced(OTHER)
    assert read(data + others).packets == [FRAME, OTHER]


def test_simple_packets_are_cut_to_the_snap_length_and_have_no_time(read):
    simple = block(3, struct.pack("<I", len(FRAME)) + FRAME)
    cut = block(3, struct.pack("<I", 1500) + FRAME[:16])
    assert read(section() + interface() + simple).packets == [FRAME]
    found = read(section() + interface(snaplen=16) + cut + cut)
    assert found.packets == [FRAME[:16]] * 2
    assert found.times == [0, 0]
    assert found.word(k.TRUNCATED) == 2


def test_obsolete_packet_blocks_are_read(read):
    # Interface 1 of 16 bits, drop count, time, captured and original length.
    head = struct.pack("<HHIIII", 1, 9, 0, 77, len(FRAME), len(FRAME))
    data = section() + interface() + interface(option(9, b"\x09")) + block(2, head + FRAME)
    found = read(data)
    assert (found.packets, found.times) == ([FRAME], [77])


def test_options_behind_a_packet_are_no_part_of_it(read):
    head = struct.pack("<IIIII", 0, 0, 1, len(FRAME), len(FRAME))
    comment = option(1, b"a comment") + option(0, b"")
    data = section() + interface() + block(6, head + FRAME + b"\0\0" + comment)
    assert read(data).packets == [FRAME]


# -- larger files


def test_a_file_of_many_pieces_is_read_whole(read):
    # Records across the ends of what is read at one time, 256 KiB.
    frames = [FRAME[:14] + bytes([i & 0xFF]) * (1 + i * 37 % 9000) for i in range(200)]
    data = raw(PCAP_LITTLE) + b"".join(
        struct.pack("<IIII", i, 0, len(f), len(f)) + f for i, f in enumerate(frames)
    )
    assert len(data) > 2 * k.CHUNK
    found = read(data, rows=32)
    assert found.packets == frames
    assert found.times == [i * 1_000_000_000 for i in range(200)]


def test_a_block_of_megabytes_is_passed_over(read):
    large = block(0x0BAD, bytes(3 << 20))
    data = section() + interface() + enhanced() + large + enhanced(OTHER) + large
    assert read(data).packets == [FRAME, OTHER]
