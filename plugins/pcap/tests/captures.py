"""Bytes of capture files, worked out by hand from the specifications.

Source of the layouts: draft-ietf-opsawg-pcap, sections 4 and 5; draft-ietf-opsawg-pcapng, sections
3 and 4.
"""

from __future__ import annotations

import struct

import attrs

from emudev_pcap import reader_kernels as k
from emudev_pcap.capture_file import Cursor
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


def opened(file, tolerant=0):
    """A cursor at the begin of a file, which nobody is told of."""
    cursor = Cursor()
    cursor.enter(file)
    for word, value in ((k.OPEN, 1), (k.QUEUES, 1), (k.TOLERANT, tolerant), (k.BELL, -1)):
        cursor.set(word, value)
    return cursor
