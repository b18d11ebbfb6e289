"""Capture files record by record: bytes worked out by hand from the specifications.

Source of the layouts: draft-ietf-opsawg-pcap, sections 4 and 5; draft-ietf-opsawg-pcapng, sections
3 and 4.
"""

from __future__ import annotations

import struct

import attrs
import pytest

from emudev_net.burst import Burst
from emudev_pcap import reader_kernels as k
from emudev_pcap.capture_file import CaptureFile, Cursor
from emudev_pcap.formats import CaptureError

FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5 0102 0304".replace(" ", ""))  # 18 bytes
OTHER = bytes.fromhex("020000000002 020000000001 88b5 aabbcc".replace(" ", ""))  # 17 bytes

# Header of a pcap file: magic, version 2.4, two unused words, snap length 65535, link type 1.
PCAP_LITTLE = "d4c3b2a1 0200 0400 00000000 00000000 ffff0000 01000000"
PCAP_BIG = "a1b2c3d4 0002 0004 00000000 00000000 0000ffff 00000001"
PCAP_LITTLE_NANO = "4d3cb2a1 0200 0400 00000000 00000000 ffff0000 01000000"
PCAP_BIG_NANO = "a1b23c4d 0002 0004 00000000 00000000 0000ffff 00000001"
# 1700000000 s is 0x6553f100; 500000 is 0x7a120; 18 bytes captured of 18.
RECORD_LITTLE = "00f15365 20a10700 12000000 12000000"
RECORD_BIG = "6553f100 0007a120 00000012 00000012"

# A section, byte order and version 1.0, length unknown; an interface of Ethernet, no snap length.
SECTION_LITTLE = "0a0d0d0a 1c000000 4d3c2b1a 0100 0000 ffffffffffffffff 1c000000"
SECTION_BIG = "0a0d0d0a 0000001c 1a2b3c4d 0001 0000 ffffffffffffffff 0000001c"
INTERFACE_LITTLE = "01000000 14000000 0100 0000 00000000 14000000"
INTERFACE_BIG = "00000001 00000014 0001 0000 00000000 00000014"
# Enhanced packet: 32 bytes and 18 padded to 20 (0x34); 1700000000.5 s in us is 0x00060a24_1825e120.
ENHANCED_LITTLE = "06000000 34000000 00000000 240a0600 20e12518 12000000 12000000"
ENHANCED_BIG = "00000006 00000034 00000000 00060a24 1825e120 00000012 00000012"

HALF_PAST = 1_700_000_000_500_000_000


def raw(*parts):
    """Bytes of hexadecimal digits, and of bytes as they are."""
    return b"".join(bytes.fromhex(p) if isinstance(p, str) else p for p in parts)


def block(kind, body, order="<"):
    """A pcapng block, its length filled in."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order="<"):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(*options, link=1, snaplen=0, order="<"):
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + b"".join(options), order)


def enhanced(data=FRAME, ticks=0, number=0, wire=None, order="<"):
    wire = len(data) if wire is None else wire
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), wire)
    return block(6, head + data, order)


@attrs.frozen
class Read:
    """What a file gave: packets, their times, why it ended, and the cursor."""

    packets: list
    times: list
    error: CaptureError | None
    cursor: Cursor

    def word(self, word):
        return self.cursor.get(word)


@pytest.fixture(autouse=True)
def kernels(compiled_or_plain):
    compiled_or_plain(*k.KERNELS)


@pytest.fixture(params=["in memory", "streamed"])
def memory(request):
    return 1 << 30 if request.param == "in memory" else 0


@pytest.fixture
def read(tmp_path, memory):
    """Reads all packets of bytes by the kernels."""

    def run(data, rows=8, tolerant=0):
        path = tmp_path / "file"
        path.write_bytes(data)
        file = CaptureFile(str(path), memory)
        cursor = Cursor()
        cursor.enter(file)
        for word, value in ((k.OPEN, 1), (k.QUEUES, 1), (k.TOLERANT, tolerant), (k.BELL, -1)):
            cursor.set(word, value)
        burst = Burst(rows)
        packets, times = [], []
        while burst_rows := k.peek(cursor.words.address, burst.address, rows):
            found = burst.packets(burst_rows)
            packets += [p.data for p in found]
            times += [p.time for p in found]
            k.release(cursor.words.address, burst.address, burst_rows)
        error = cursor.fault(str(path))
        cursor.leave()
        return Read(packets, times, error, cursor)

    return run


@pytest.fixture
def refuse(tmp_path, memory):
    """The error for which bytes are refused, by `CaptureFile` or by its check."""

    def run(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(CaptureError) as caught:
            CaptureFile(str(path), memory).check(tolerant=False)
        assert str(path) in str(caught.value)
        return caught.value

    return run


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
    cursor = Cursor()
    cursor.enter(CaptureFile(str(path), memory))
    cursor.set(k.OPEN, 1)
    cursor.set(k.QUEUES, 1)
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


# -- files that are cut short or damaged


GOOD = {
    "pcap": raw(PCAP_LITTLE, RECORD_LITTLE, FRAME, RECORD_LITTLE, FRAME),
    "pcapng": section() + interface(option(9, b"\x09")) + enhanced() + enhanced(OTHER),
}
#: Where a record or block begins, and the end.
BORDERS = {"pcap": (24, 58, 92), "pcapng": (0, 28, 56, 108, 160)}


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_a_file_may_end_between_records_and_nowhere_else(read, refuse, kind):
    data, borders = GOOD[kind], BORDERS[kind]
    assert borders[-1] == len(data)
    first = borders.index(58 if kind == "pcap" else 108)
    for end in range(1, len(data)):
        if end in borders:
            assert read(data[:end]).error is None
            continue
        error = refuse(data[:end])
        if end >= 24:
            assert "cut short" in str(error)
            start = max(b for b in borders if b < end)
            assert error.offset == start
            assert f"at offset {start}" in str(error)
            assert f"the file ends after {end - start}" in str(error)
            whole = borders.index(start) - first + 1
            assert len(read(data[:end], tolerant=1).packets) == max(0, whole)


def test_a_pcap_file_cut_in_its_header_is_no_file(refuse):
    data = raw(PCAP_BIG)
    assert "is empty" in str(refuse(b""))
    for end in range(1, 4):
        assert "no pcap or pcapng" in str(refuse(data[:end]))
    for end in range(4, 24):
        error = refuse(data[:end])
        assert f"cut short: the file header has 24 bytes, the file {end}" in str(error)


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (b"GIF89a..........", "it begins with 47 49 46 38 39 61 2e 2e", 0),
        (bytes(100), "it begins with 00 00 00 00", 0),
        (b"\x1f\x8b\x08" + bytes(30), r"compressed \(gzip\)", None),
        (b"\x28\xb5\x2f\xfd" + bytes(30), r"compressed \(zstd\)", None),
        (raw("34cdb2a1", bytes(20)), "convert it", None),
        (raw(PCAP_LITTLE)[:6] + b"\x03\x00" + raw(PCAP_LITTLE)[8:], "2.4, it has 2.3", 4),
        (raw(PCAP_LITTLE)[:20] + raw("65000000"), r"\(Ethernet\), it has link type 101", 20),
        (raw(PCAP_BIG)[:20] + raw("00000071"), "it has link type 113", 20),
        # 262145 bytes
        (raw(PCAP_LITTLE, "00000000 00000000 01000400 01000400"), "262144 bytes, it has 2", 24),
        (raw(PCAP_LITTLE, bytes(8), "ffffffff ffffffff"), "it has 4294967295", 24),
        (raw(SECTION_LITTLE)[:8] + bytes(20), "byte-order magic", 8),
        (block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "1.0, it has 2.0", 0),
        (block(0x0A0D0D0A, struct.pack("<I", 0x1A2B3C4D)), "needs 28 bytes", 0),
        (section() + interface(link=113), "link type 113", 28),
        (section() + enhanced(), "interface 0, which its section does not declare", 28),
        (section() + block(3, bytes(20)), "interface 0, which", 28),
        (section() + interface() + block(6, bytes(16)), "needs 32 bytes", 48),
        (section() + interface() + block(3, b""), "needs 16 bytes", 48),
        (section() + block(1, bytes(4)), "needs 20 bytes", 28),
        (section() + raw("07000000 0b000000 00000000"), "12 to 16777216 bytes", 28),
        (section() + raw("07000000 0d000000 00000000 00000000"), "it has 13", 28),
        (section() + raw("07000000 04000001 00000000"), "it has 16777220", 28),
        (section() + raw("07000000 10000000 00000000 14000000"), "than it begins with: 20", 28),
        (section() + interface(option(9, b"\x06\x06")), "option 9 has an impossible length, 2", 28),
        (section() + interface(option(14, b"1234")), "option 14 has an impossible length, 4", 28),
        (section() + interface(option(13, b"")), "option 13 has", 28),
        (section() + interface(raw("0200 4000")), "option 2 has an impossible length, 64", 28),
        (section() + interface(option(9, b"\x1c")), "impossible resolution, 0x1c", 28),
        (section() + interface(option(9, b"\xc0")), "impossible resolution, 0xc0", 28),
        (section() + interface() * 1025, "declares 1025 interfaces", 28 + 1024 * 20),
        # 100 bytes captured, 20 are there
        (
            section()
            + interface()
            + block(6, struct.pack("<IIIII", 0, 0, 0, 100, 100) + bytes(20)),
            "needs 132 bytes",
            48,
        ),
        (section() + interface() + block(3, struct.pack("<I", 100) + bytes(20)), "needs 116", 48),
        (
            section()
            + interface()
            + block(6, struct.pack("<IIIII", 0, 0, 0, 1 << 31, 0) + bytes(9)),
            "it has 2147483648",
            48,
        ),
    ],
)
def test_what_is_no_capture_of_ethernet_is_refused_with_the_offset(refuse, data, message, offset):
    error = refuse(data)
    assert error.offset == offset
    with pytest.raises(CaptureError, match=message):
        raise error


def test_what_is_there_is_no_file(tmp_path):
    with pytest.raises(CaptureError, match=r"missing: can't be opened: No such file"):
        CaptureFile(str(tmp_path / "missing"), 0)
    with pytest.raises(CaptureError, match="expected a file, it is something else"):
        CaptureFile(str(tmp_path), 0)
    with pytest.raises(CaptureError, match="expected a file, it is something else"):
        CaptureFile("/dev/null", 0)


def test_tolerance_ends_the_file_where_the_damage_is(read):
    # The second packet is impossibly long, the third one is whole.
    data = raw(PCAP_LITTLE, RECORD_LITTLE, FRAME, bytes(8), "ffffffff ffffffff", RECORD_LITTLE)
    found = read(data, tolerant=1)
    assert (found.packets, found.error) == ([FRAME], None)
    assert found.word(k.DONE) == 1


def test_tolerance_does_not_extend_to_what_can_not_be_replayed_at_all(read):
    found = read(section() + interface() + enhanced() + interface(link=113), tolerant=1)
    assert found.packets == [FRAME]
    assert "link type 113" in str(found.error)


def test_a_check_tells_what_is_in_a_file(tmp_path, memory):
    path = tmp_path / "file"
    short = raw("00000000 00000000 01000000 01000000", b"x")
    first = struct.pack("<IIII", 10, 0, 18, 18) + FRAME
    last = struct.pack("<IIII", 12, 500_000, 17, 1500) + OTHER
    path.write_bytes(raw(PCAP_LITTLE) + short + first + last)
    found = CaptureFile(str(path), memory).check(tolerant=False)
    assert (found.packets, found.bytes, found.short, found.truncated) == (2, 35, 1, 1)
    assert (found.longest, found.duration, found.damage) == (18, 2_500_000_000, None)


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


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "file"
    record = struct.pack("<IIII", 0, 0, 60_000, 60_000) + FRAME + bytes(60_000 - len(FRAME))
    path.write_bytes(raw(PCAP_LITTLE) + record * 20)
    cursor = Cursor()
    cursor.enter(CaptureFile(str(path), 0))
    for word, value in ((k.OPEN, 1), (k.QUEUES, 1), (k.BELL, -1)):
        cursor.set(word, value)
    burst = Burst(1)
    assert k.peek(cursor.words.address, burst.address, 1) == 1
    path.write_bytes(raw(PCAP_LITTLE) + record)
    seen = 1
    k.release(cursor.words.address, burst.address, 1)
    while k.peek(cursor.words.address, burst.address, 1):
        k.release(cursor.words.address, burst.address, 1)
        seen += 1
    assert seen == 4  # what had been read
    assert "became shorter while it was read" in str(cursor.fault("x"))
    cursor.leave()
