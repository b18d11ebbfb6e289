"""The burst: an int64 table in which packets are handed on, a row for each segment.

    word 0 ADDRESS   host address of the segment
    word 1 LENGTH    its length, bytes
    word 2 FLAGS     see below; the packet's metadata is in its first row
    word 3 CSUM      checksum start, checksum offset, header length, GSO size (16 bits each)
    word 4 VLAN      VLAN TCI, VLAN TPID, packet type, outer VLAN TCI (16 bits each)
    word 5 HASH      RSS hash (low 32 bits), mark (high)
    word 6 COOKIE    the source's own: which descriptor to complete
    word 7 TIME      timestamp, ns, 0 if none

Meanings follow ``struct virtio_net_hdr``: offsets count from the start of the frame, the checksum offset
from the checksum start. Counts are rows, always of whole packets. Source: design, "A packet".
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from .jit import inline
from .primitives import Words, load64

__all__ = [
    "ADDRESS",
    "COOKIE",
    "CRC32C_WANTED",
    "CSUM",
    "CSUM_BAD",
    "CSUM_GOOD",
    "CSUM_WANTED",
    "FIRST",
    "FLAGS",
    "GSO_MASK",
    "GSO_NONE",
    "GSO_TCP4",
    "GSO_TCP6",
    "GSO_UDP",
    "HASH",
    "HASH_VALID",
    "LAST",
    "LENGTH",
    "OUTER_VLAN_PRESENT",
    "ROW",
    "ROW_WORDS",
    "TIME",
    "VLAN",
    "VLAN_PRESENT",
    "Burst",
    "Packet",
    "csum_word",
    "frame_length",
    "packet_rows",
    "vlan_word",
]

ROW_WORDS: Final = 8
ROW: Final = 64  #: bytes of a row

ADDRESS: Final = 0
LENGTH: Final = 1
FLAGS: Final = 2
CSUM: Final = 3
VLAN: Final = 4
HASH: Final = 5
COOKIE: Final = 6
TIME: Final = 7

FIRST: Final = 1 << 0  #: first row of a packet
LAST: Final = 1 << 1  #: last row of a packet
CSUM_WANTED: Final = 1 << 2  #: the checksum at start + offset is still to be completed
CSUM_GOOD: Final = 1 << 3  #: somebody has verified the checksums
CSUM_BAD: Final = 1 << 4  #: somebody has found one wrong
VLAN_PRESENT: Final = 1 << 5  #: a tag beside the frame
HASH_VALID: Final = 1 << 6
CRC32C_WANTED: Final = 1 << 7  #: the SCTP checksum is still to be computed
OUTER_VLAN_PRESENT: Final = 1 << 8  #: a second tag, outside the other, TPID 0x88a8
GSO_MASK: Final = 0xF000
GSO_NONE: Final = 0
GSO_TCP4: Final = 0x1000
GSO_UDP: Final = 0x3000  #: segmented into datagrams (USO), not into fragments
GSO_TCP6: Final = 0x4000


@inline
def csum_word(start: int, offset: int, header: int, gso_size: int) -> int:
    """Word 3: where the checksum starts, where in there it lies, bytes of header, bytes a segment."""
    return start | offset << 16 | header << 32 | gso_size << 48


@inline
def vlan_word(tci: int, tpid: int, ptype: int, outer: int) -> int:
    """Word 4."""
    return tci | tpid << 16 | ptype << 32 | outer << 48


@inline
def packet_rows(burst: int, row: int, rows: int) -> int:
    """Rows of the packet that starts at `row`, at most what is left of `rows`."""
    end = row
    while end < rows:
        end += 1
        if load64(burst + (end - 1) * 64 + 16) & 2:
            break
    return end - row


@inline
def frame_length(burst: int, row: int, count: int) -> int:
    """Bytes of a packet of `count` rows."""
    total = 0
    for i in range(row, row + count):
        total += load64(burst + i * 64 + 8)
    return total


@attrs.frozen
class Packet:
    """A packet of a burst, for readers in Python and tests.

    Attributes:
        data: The frame, its segments joined.
        flags: Word 2 of its first row, without FIRST and LAST.
        csum: (start, offset, header length, GSO size).
        vlan: (TCI, TPID, packet type, outer TCI).
        hash: Word 5.
        cookie: Word 6.
        rows: Rows that it takes.
    """

    data: bytes
    flags: int = 0
    csum: tuple[int, int, int, int] = (0, 0, 0, 0)
    vlan: tuple[int, int, int, int] = (0, 0, 0, 0)
    hash: int = 0
    cookie: int = 0
    rows: int = 1


def _four(word: int) -> tuple[int, int, int, int]:
    word &= (1 << 64) - 1
    return word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32 & 0xFFFF, word >> 48


class Burst:
    """A table of rows in memory of its own.

    Args:
        capacity: Rows.

    Attributes:
        address: Of the first row.
        capacity: Rows.
    """

    def __init__(self, capacity: int) -> None:
        self.words = Words(capacity * ROW_WORDS)
        self.address = self.words.address
        self.capacity = capacity
        self._keep: list[object] = []

    @classmethod
    def of(cls, packets: Iterable[bytes | Sequence[bytes] | Packet], capacity: int = 0) -> Burst:
        """A burst that holds some packets; each may be given in segments.

        The segments' memory lives as long as the burst. `Burst.rows` says how many rows were filled.
        """
        filled: list[tuple[Sequence[bytes], Packet]] = []
        for packet in packets:
            if isinstance(packet, Packet):
                filled.append(([packet.data], packet))
            elif isinstance(packet, bytes):
                filled.append(([packet], Packet(packet)))
            else:
                filled.append((packet, Packet(b"".join(packet))))
        burst = cls(max(capacity, sum(len(segments) for segments, _ in filled), 1))
        row = 0
        for segments, packet in filled:
            for i, segment in enumerate(segments):
                memory = ctypes.create_string_buffer(segment, max(len(segment), 1))
                burst._keep.append(memory)
                at = row * ROW_WORDS
                burst.words[at + ADDRESS] = ctypes.addressof(memory)
                burst.words[at + LENGTH] = len(segment)
                flags = (FIRST if i == 0 else 0) | (LAST if i == len(segments) - 1 else 0)
                if i == 0:
                    flags |= packet.flags
                    a, b, c, d = packet.csum
                    burst.words[at + CSUM] = a | b << 16 | c << 32 | d << 48
                    a, b, c, d = packet.vlan
                    burst.words[at + VLAN] = a | b << 16 | c << 32 | d << 48
                    burst.words[at + HASH] = packet.hash
                burst.words[at + FLAGS] = flags
                burst.words[at + COOKIE] = packet.cookie
                row += 1
        burst.rows = row
        return burst

    #: Rows that `of` filled.
    rows: int = 0

    def packets(self, rows: int) -> list[Packet]:
        """Copies of the packets in the first `rows` rows."""
        found = []
        start = 0
        for row in range(rows):
            if not self.words[row * ROW_WORDS + FLAGS] & LAST:
                continue
            head = start * ROW_WORDS
            data = b"".join(
                ctypes.string_at(
                    self.words[i * ROW_WORDS + ADDRESS], self.words[i * ROW_WORDS + LENGTH]
                )
                for i in range(start, row + 1)
            )
            found.append(
                Packet(
                    data=data,
                    flags=self.words[head + FLAGS] & ~(FIRST | LAST),
                    csum=_four(self.words[head + CSUM]),
                    vlan=_four(self.words[head + VLAN]),
                    hash=self.words[head + HASH],
                    cookie=self.words[head + COOKIE],
                    rows=row + 1 - start,
                )
            )
            start = row + 1
        return found
