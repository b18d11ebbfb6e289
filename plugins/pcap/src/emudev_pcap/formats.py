"""The two formats of capture files: numbers, what tells a file, what begins and ends one.

All multi-byte numbers are in the byte order of whoever wrote the file, pcapng's of each section.

Source: draft-ietf-opsawg-pcap (pcap), draft-ietf-opsawg-pcapng (pcapng), and the registry of link
types, draft-ietf-opsawg-pcaplinktype.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

from emudev_core.errors import BackendError

__all__ = [
    "BLOCK_ENHANCED",
    "BLOCK_INTERFACE",
    "BLOCK_OBSOLETE",
    "BLOCK_SECTION",
    "BLOCK_SIMPLE",
    "BLOCK_STATISTICS",
    "BYTE_ORDER",
    "BYTE_ORDER_SWAPPED",
    "ETHERNET",
    "FILE_HEADER",
    "MAX_BLOCK",
    "MAX_CAPTURED",
    "OPTION_FCS",
    "OPTION_OFFSET",
    "OPTION_RESOLUTION",
    "PCAP",
    "PCAPNG",
    "CaptureError",
    "Layout",
    "pcap_header",
    "pcapng_header",
    "pcapng_statistics",
    "recognise",
]

PCAP: Final = 1
PCAPNG: Final = 2

#: The only link type that a port of an Ethernet world can replay.
ETHERNET: Final = 1
#: Bytes of a packet that a capture holds at most: what tcpdump and Wireshark write, and take.
MAX_CAPTURED: Final = 262_144
#: Bytes of a pcapng block at most, as libpcap has it.
MAX_BLOCK: Final = 16 << 20

# pcap
FILE_HEADER: Final = 24  #: bytes of the header of a pcap file
_MICROSECONDS: Final = 0xA1B2C3D4
_NANOSECONDS: Final = 0xA1B23C4D
_VERSION: Final = (2, 4)
_FCS_KNOWN: Final = 1 << 26

# pcapng
BLOCK_SECTION: Final = 0x0A0D0D0A
BLOCK_INTERFACE: Final = 1
BLOCK_OBSOLETE: Final = 2  #: "Packet Block"
BLOCK_SIMPLE: Final = 3
BLOCK_STATISTICS: Final = 5
BLOCK_ENHANCED: Final = 6
BYTE_ORDER: Final = 0x1A2B3C4D
BYTE_ORDER_SWAPPED: Final = 0x4D3C2B1A
OPTION_END: Final = 0
OPTION_NAME: Final = 2
OPTION_RESOLUTION: Final = 9
OPTION_FCS: Final = 13
OPTION_OFFSET: Final = 14
_RECEIVED: Final = 4  #: isb_ifrecv
_DROPPED: Final = 5  #: isb_ifdrop
_APPLICATION: Final = 4  #: shb_userappl

#: What other files begin with, for messages.
_OTHERS: Final = (
    (b"\x1f\x8b", "is compressed (gzip); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed (xz); unpack it first"),
    (b"\x04\x22\x4d\x18", "is compressed (lz4); unpack it first"),
    (b"BZh", "is compressed (bzip2); unpack it first"),
    (b"\xa1\xb2\xcd\x34", "is a pcap file of the patched kind of 1999; convert it with editcap"),
    (b"\x34\xcd\xb2\xa1", "is a pcap file of the patched kind of 1999; convert it with editcap"),
    (b"snoop\x00\x00\x00", "is a snoop capture; convert it with editcap"),
)


class CaptureError(BackendError):
    """A capture file that can't be used.

    Args:
        path: The file.
        message: What is wrong with it.
        offset: Where, bytes from its start; None: all of it, or not there at all.
    """

    def __init__(self, path: str, message: str, offset: int | None = None) -> None:
        where = "" if offset is None else f", at offset {offset}"
        super().__init__(f"{path}{where}: {message}")
        self.path = path
        self.offset = offset


@attrs.frozen
class Layout:
    """What the start of a file says about the rest.

    Attributes:
        format: `PCAP` or `PCAPNG`.
        start: Offset of the first record or block.
        big: pcap: its numbers are big endian.
        tick: pcap: nanoseconds of a unit of the fractional part of timestamps.
        fcs: pcap: bytes of frame check sequence at the end of each packet.
    """

    format: int
    start: int
    big: bool = False
    tick: int = 1
    fcs: int = 0


def recognise(path: str, head: bytes, size: int) -> Layout:
    """Tell a file by its first bytes.

    Args:
        path: For messages.
        head: Its first `FILE_HEADER` bytes, fewer if there are fewer.
        size: Its length, bytes.

    Raises:
        CaptureError: It is no capture of Ethernet packets.
    """
    if size == 0:
        raise CaptureError(path, "is empty: no pcap or pcapng file")
    if head[:4] == BLOCK_SECTION.to_bytes(4, "big"):
        return Layout(PCAPNG, 0)
    for big in (False, True):
        magic = int.from_bytes(head[:4], "big" if big else "little")
        if len(head) >= 4 and magic in (_MICROSECONDS, _NANOSECONDS):
            return _pcap_layout(path, head, big, 1 if magic == _NANOSECONDS else 1000)
    for start, kind in _OTHERS:
        if head.startswith(start):
            raise CaptureError(path, kind)
    raise CaptureError(path, f"is no pcap or pcapng file: it begins with {head[:8].hex(' ')}", 0)


def _pcap_layout(path: str, head: bytes, big: bool, tick: int) -> Layout:
    if len(head) < FILE_HEADER:
        raise CaptureError(
            path, f"cut short: the file header has {FILE_HEADER} bytes, the file {len(head)}", 0
        )
    order = ">" if big else "<"
    major, minor, _, _, _, link = struct.unpack_from(f"{order}HHIIII", head, 4)
    if (major, minor) != _VERSION:
        raise CaptureError(path, f"expected pcap version 2.4, it has {major}.{minor}", 4)
    if link & 0xFFFF != ETHERNET:
        raise CaptureError(path, not_ethernet(link & 0xFFFF), 20)
    # The length of the check sequence is in words of 16 bits.
    fcs = 2 * (link >> 28) if link & _FCS_KNOWN else 0
    return Layout(PCAP, FILE_HEADER, big, tick, fcs)


def not_ethernet(link: int) -> str:
    """What to say of a link type that is not `ETHERNET`."""
    return f"expected packets of link type {ETHERNET} (Ethernet), it has link type {link}"


# -- what is written: little endian, nanoseconds


def pcap_header(snaplen: int) -> bytes:
    """The header of a pcap file of Ethernet packets."""
    return struct.pack("<IHHIIII", _NANOSECONDS, *_VERSION, 0, 0, snaplen, ETHERNET)


def pcapng_header(application: str, interface: str, snaplen: int) -> bytes:
    """The blocks that begin a pcapng file with one interface, number 0, of Ethernet packets."""
    section = struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1)  # of a length that is not known
    section += _options((_APPLICATION, application.encode()))
    described = struct.pack("<HHI", ETHERNET, 0, snaplen)
    described += _options((OPTION_NAME, interface.encode()), (OPTION_RESOLUTION, b"\x09"))
    return _block(BLOCK_SECTION, section) + _block(BLOCK_INTERFACE, described)


def pcapng_statistics(time: int, received: int, dropped: int) -> bytes:
    """A block of statistics of interface 0.

    Args:
        time: Now, ns since 1970.
        received: Packets that came to be written.
        dropped: Of these, packets that were not written.
    """
    body = struct.pack("<III", 0, time >> 32, time & 0xFFFF_FFFF)
    counters = ((_RECEIVED, received), (_DROPPED, dropped))
    body += _options(*((code, struct.pack("<Q", count)) for code, count in counters))
    return _block(BLOCK_STATISTICS, body)


def _options(*options: tuple[int, bytes]) -> bytes:
    found = b""
    for code, value in (*options, (OPTION_END, b"")):
        found += struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
    return found


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)
