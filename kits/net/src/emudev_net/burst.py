"""The burst: how packets pass between queues. An ``int64[n, 8]`` table, a row for each segment.

A packet is one or more rows in sequence; `FIRST` is set on its first, `LAST` on its last one (both
if it is the only one). The metadata of a packet is in its first row. Counts are rows, always of
whole packets.

Constants like `ADDRESS` are byte offsets of the words in a row: ``load64(row + LENGTH)`` with
``row = burst + i * ROW``. The meanings are those of ``struct virtio_net_hdr``:

- `CSUM_WANTED`: sum from `csum_start` to the end of the frame and store the complement at
  ``csum_start + csum_offset``, where the folded pseudo-header sum is already.
- GSO (`gso_type` not 0): the frame is to be cut into segments of `gso_size` payload bytes behind
  `header_length` bytes of header. IP lengths and the IPv4 header checksum are right for the whole
  frame; `CSUM_WANTED` is set, too.
- `CRC32C_WANTED`: as `CSUM_WANTED`, with SCTP's CRC over zeroes in its place.

Source: design section 5, "The burst"; virtio 1.2, 5.1.6.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Final

import attrs

from .jit import inline
from .primitives import Words, load64

__all__ = [
    "ADDRESS",
    "CRC32C_WANTED",
    "CSUM_BAD",
    "CSUM_GOOD",
    "CSUM_WANTED",
    "FIRST",
    "FLAGS",
    "GSO_ECN",
    "GSO_MASK",
    "GSO_SHIFT",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP_L4",
    "HASH",
    "HASH_VALID",
    "LAST",
    "LENGTH",
    "OFFLOAD",
    "OUTER_VLAN_PRESENT",
    "OWN",
    "ROW",
    "TIME",
    "VLAN",
    "VLAN_PRESENT",
    "Burst",
    "Packet",
    "csum_offset",
    "csum_start",
    "frame_length",
    "from_gso",
    "gso_size",
    "gso_type",
    "header_length",
    "offload_word",
    "packet_rows",
    "to_gso",
    "vlan_word",
]

ROW: Final = 64  #: bytes of a row

ADDRESS: Final = 0  #: address of the segment in this process
LENGTH: Final = 8  #: its bytes
FLAGS: Final = 16
OFFLOAD: Final = 24  #: checksum start, checksum offset, header length, GSO size, 16 bits each
VLAN: Final = 32  #: TCI, TPID, packet type, outer TCI, 16 bits each from bit 0
HASH: Final = 40  #: RSS hash (low 32 bits), mark (high)
OWN: Final = 48  #: the source's own
TIME: Final = 56  #: ns, 0 if none

FIRST: Final = 1 << 0
LAST: Final = 1 << 1
CSUM_WANTED: Final = 1 << 2  #: the L4 checksum is to be completed
CSUM_GOOD: Final = 1 << 3  #: checksums were verified
CSUM_BAD: Final = 1 << 4  #: the L4 checksum is known to be wrong
VLAN_PRESENT: Final = 1 << 5  #: TCI and TPID belong in front of the frame's ethertype
HASH_VALID: Final = 1 << 6
CRC32C_WANTED: Final = 1 << 7  #: an SCTP checksum is to be computed
OUTER_VLAN_PRESENT: Final = 1 << 8  #: a tag of the outer TCI, TPID 0x88A8, comes first
GSO_ECN: Final = 1 << 9  #: the TCP header has CWR set
GSO_SHIFT: Final = 16
GSO_MASK: Final = 0xF << GSO_SHIFT

# GSO types, as in struct virtio_net_hdr.
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
_VIRTIO_ECN: Final = 0x80


@inline
def gso_type(flags: int) -> int:
    """The GSO type in a flags word: 0, `GSO_TCPV4`, `GSO_TCPV6` or `GSO_UDP_L4`."""
    return (flags & GSO_MASK) >> GSO_SHIFT


@inline
def to_gso(type_: int) -> int:
    """The flags for the ``gso_type`` byte of a virtio_net_hdr, the ECN bit included."""
    flags = (type_ & 0xF) << GSO_SHIFT
    if type_ & _VIRTIO_ECN:
        flags |= GSO_ECN
    return flags


@inline
def from_gso(flags: int) -> int:
    """The ``gso_type`` byte of a virtio_net_hdr for a flags word."""
    kind = (flags & GSO_MASK) >> GSO_SHIFT
    if flags & GSO_ECN and kind != 0:
        kind |= _VIRTIO_ECN
    return kind


@inline
def offload_word(start: int, offset: int, header: int, size: int) -> int:
    """The offload word: checksum start and offset, header length, GSO size, each below 2**16.

    A GSO size from 2**15 on makes the word negative, as an int64 is.
    """
    return start | offset << 16 | header << 32 | (size & 0x7FFF) << 48 | -(size >> 15 << 63)


@inline
def csum_start(word: int) -> int:
    """Where the sum of an offload word begins, bytes from the start of the frame."""
    return word & 0xFFFF


@inline
def csum_offset(word: int) -> int:
    """Where the checksum of an offload word lies, bytes from `csum_start`."""
    return word >> 16 & 0xFFFF


@inline
def header_length(word: int) -> int:
    """The bytes of header of an offload word, Ethernet to L4; for GSO."""
    return word >> 32 & 0xFFFF


@inline
def gso_size(word: int) -> int:
    """The payload bytes of each segment of an offload word."""
    return word >> 48 & 0xFFFF


@inline
def vlan_word(tci: int, tpid: int, packet_type: int, outer_tci: int) -> int:
    """The VLAN word, each part below 2**16."""
    high = (outer_tci & 0x7FFF) << 48 | -(outer_tci >> 15 << 63)
    return tci | tpid << 16 | packet_type << 32 | high


@inline
def packet_rows(burst: int, row: int, rows: int) -> int:
    """How many rows the packet has that begins at row number `row`.

    Args:
        burst: Address of the table.
        row: Its first row.
        rows: Rows of the table; a packet without end ends there.
    """
    end = row
    while end < rows:
        end += 1
        if load64(burst + (end - 1) * ROW + FLAGS) & LAST:
            break
    return end - row


@inline
def frame_length(burst: int, row: int, count: int) -> int:
    """The bytes of the packet in `count` rows from row number `row` on."""
    total = 0
    for i in range(row, row + count):
        total += load64(burst + i * ROW + LENGTH)
    return total


@attrs.frozen
class Packet:
    """One packet of a burst, for readers in Python.

    Attributes:
        data: The bytes of all its segments.
        flags: Flags of its first row, `LAST` added.
        offload: The offload word.
        vlan: The VLAN word.
        hash: RSS hash and mark.
        own: The source's own word.
        time: ns, 0 if none.
        segments: Lengths of the segments.
    """

    data: bytes
    flags: int = FIRST | LAST
    offload: int = 0
    vlan: int = 0
    hash: int = 0
    own: int = 0
    time: int = 0
    segments: tuple[int, ...] = ()


class Burst:
    """A table of rows.

    Args:
        rows: How many it has room for.

    Attributes:
        words: The table; 8 words a row.
        rows: How many it has room for.
        address: Where row 0 lies.
        count: Rows in use; `of` and `append` set it, kernels don't.
    """

    __slots__ = ("_kept", "address", "count", "rows", "words")

    def __init__(self, rows: int) -> None:
        self.words = Words(8 * rows)
        self.rows = rows
        self.address = self.words.address
        self.count = 0
        self._kept: list[object] = []

    @classmethod
    def of(cls, packets: Iterable[bytes | Packet], split: int = 0, rows: int = 0) -> Burst:
        """A burst of packets, whose bytes it keeps.

        Args:
            packets: Frames.
            split: Bytes of a segment at most; 0 keeps frames whole, but for a `Packet` with
                `segments`.
            rows: Room; 0 for as many as needed, at least 1.
        """
        found = [p if isinstance(p, Packet) else Packet(p) for p in packets]
        pieces: list[tuple[Packet, list[bytes]]] = []
        for packet in found:
            sizes = packet.segments or ((split,) * (len(packet.data) // split + 1) if split else ())
            parts, at = [], 0
            for size in sizes:
                if packet.data[at : at + size]:
                    parts.append(packet.data[at : at + size])
                at += size
            if packet.data[at:] or not parts:
                parts.append(packet.data[at:])
            pieces.append((packet, parts))
        burst = cls(max(rows, 1, sum(len(parts) for _, parts in pieces)))
        for packet, parts in pieces:
            burst.append(packet, parts)
        return burst

    def append(self, packet: Packet, parts: list[bytes]) -> None:
        """Add a packet, its bytes given in segments of their own."""
        for i, part in enumerate(parts):
            memory = ctypes.create_string_buffer(part, max(1, len(part)))
            self._kept.append(memory)
            at = 8 * self.count
            flags = packet.flags & ~(FIRST | LAST) if i == 0 else 0
            flags |= (FIRST if i == 0 else 0) | (LAST if i == len(parts) - 1 else 0)
            row = self.words.view[at : at + 8]
            row[0] = ctypes.addressof(memory)
            row[1] = len(part)
            row[2] = flags
            if i == 0:
                row[3], row[4], row[5] = packet.offload, packet.vlan, packet.hash
                row[6], row[7] = packet.own, packet.time
            self.count += 1

    def extend(self, other: Burst) -> None:
        """Add the packets of another burst, and keep what it keeps.

        Raises:
            ValueError: There are too few rows.
        """
        if self.count + other.count > self.rows:
            raise ValueError(
                f"{other.count} rows do not fit behind {self.count} of {self.rows} rows"
            )
        at, more = 8 * self.count, 8 * other.count
        self.words.view[at : at + more] = other.words.view[:more]
        self._kept += other._kept
        self.count += other.count

    def clear(self) -> None:
        """Forget the packets, and the bytes that it keeps."""
        self.count = 0
        self._kept.clear()

    def packets(self, rows: int | None = None) -> list[Packet]:
        """The packets of the first `rows` rows (of those in use by default).

        Raises:
            ValueError: The rows don't hold whole packets.
        """
        found: list[Packet] = []
        parts: list[bytes] = []
        first: list[int] = []
        for i in range(self.count if rows is None else rows):
            row = list(self.words.view[8 * i : 8 * i + 8])
            if bool(row[2] & FIRST) == bool(parts):
                expected = "goes on" if parts else "begins"
                raise ValueError(f"row {i}: flags {row[2]:#x} where a packet {expected}")
            if not parts:
                first = row
            parts.append(ctypes.string_at(row[0], row[1]))
            if row[2] & LAST:
                lengths = tuple(len(p) for p in parts)
                found.append(
                    Packet(
                        data=b"".join(parts),
                        flags=first[2] | LAST,
                        offload=first[3],
                        vlan=first[4],
                        hash=first[5],
                        own=first[6],
                        time=first[7],
                        segments=lengths,
                    )
                )
                parts = []
        if parts:
            raise ValueError(f"the last packet has no end in {len(parts)} rows")
        return found
