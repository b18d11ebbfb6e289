"""Capture files that are cut short, damaged, or none: what is refused, where, and what is read."""

from __future__ import annotations

import struct

import pytest
from captures import (
    FRAME,
    OTHER,
    PCAP_BIG,
    PCAP_LITTLE,
    RECORD_LITTLE,
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
from emudev_pcap.formats import CaptureError

pytestmark = pytest.mark.usefixtures("kernels")

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


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "file"
    record = struct.pack("<IIII", 0, 0, 60_000, 60_000) + FRAME + bytes(60_000 - len(FRAME))
    path.write_bytes(raw(PCAP_LITTLE) + record * 20)
    cursor = opened(CaptureFile(str(path), 0))
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
