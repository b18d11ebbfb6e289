"""The Internet checksum and CRC-32C, over memory and over the rows of a packet.

Sums are of 16-bit words as they lie in memory (little endian): the ones' complement sum does not
care about byte order as long as the result is stored the same way (RFC 1071, section 2B). `fold`
brings one to 16 bits. Functions over a packet take the burst's address, its first row and the
number of its rows.
"""

from __future__ import annotations

from array import array
from typing import Final

from .jit import inline
from .primitives import Words, copy, load8, load16, load32, load64

__all__ = [
    "CRC32C_TABLE",
    "checksum_rows",
    "crc32c_rows",
    "crc_more",
    "crc_rows",
    "crc_table",
    "fold",
    "gather",
    "ipv4_header_sum",
    "pseudo_header_sum",
    "sum16",
    "swapped",
]


@inline
def fold(total: int) -> int:
    """A sum of 16-bit words as 16 bits, 0 to 0xFFFF."""
    total = (total & 0xFFFFFFFF) + ((total >> 32) & 0x7FFFFFFF)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@inline
def sum16(address: int, size: int) -> int:
    """Sum of the little-endian 16-bit words of `size` bytes; an odd last byte is a low one.

    At most 2**31 bytes; not folded, below 2**49.
    """
    total = 0
    whole = size >> 2
    for i in range(whole):  # in this form LLVM makes vectors of it
        total += load32(address + 4 * i)
    address += 4 * whole
    if size & 2:
        total += load16(address)
        address += 2
    if size & 1:
        total += load8(address)
    return total


@inline
def swapped(total: int) -> int:
    """What a folded sum is when its bytes start at an odd place."""
    folded = fold(total)
    return (folded >> 8) | (folded & 0xFF) << 8


@inline
def checksum_rows(burst: int, row: int, count: int, start: int) -> int:
    """Sum, not folded, of the bytes of a packet from offset `start` to its end.

    Args:
        burst: Address of the table.
        row: First row of the packet.
        count: Its rows.
        start: Offset in the frame, bytes.
    """
    total = 0
    done = 0
    skip = start
    for i in range(row, row + count):
        address = load64(burst + i * 64)
        size = load64(burst + i * 64 + 8)
        if skip >= size:
            skip -= size
            continue
        part = sum16(address + skip, size - skip)
        total += swapped(part) if done & 1 else fold(part)
        done += size - skip
        skip = 0
    return total


@inline
def ipv4_header_sum(address: int, size: int) -> int:
    """The header checksum of an IPv4 header of `size` bytes, its own field taken as zero.

    As it is stored (little endian view of network order).
    """
    total = sum16(address, size) - load16(address + 10)
    return ~fold(total) & 0xFFFF


@inline
def pseudo_header_sum(ip: int, version: int, protocol: int, length: int) -> int:
    """Folded sum of the pseudo header.

    Args:
        ip: Address of the IP header.
        version: 4 or 6.
        protocol: Number of the transport protocol.
        length: Bytes of transport header and payload.
    """
    total = sum16(ip + 12, 8) if version == 4 else sum16(ip + 8, 32)
    # Protocol and length stand in network order: swap them into the words' order.
    total += (protocol & 0xFF) << 8
    total += ((length >> 8) & 0xFF) | (length & 0xFF) << 8
    total += ((length >> 24) & 0xFF) | ((length >> 16) & 0xFF) << 8
    return fold(total)


@inline
def gather(burst: int, row: int, count: int, offset: int, target: int, size: int) -> int:
    """Copy up to `size` bytes of a packet from `offset` on; returns how many there were."""
    done = 0
    skip = offset
    for i in range(row, row + count):
        have = load64(burst + i * 64 + 8)
        if skip >= have:
            skip -= have
            continue
        part = min(have - skip, size - done)
        copy(target + done, load64(burst + i * 64) + skip, part)
        done += part
        skip = 0
        if done >= size:
            break
    return done


def crc_table(polynomial: int) -> Words:
    """Tables for a reflected CRC of 32 bits, for `crc_more`.

    Eight of 256 words each: what a byte with 0 to 7 bytes of zero behind it makes of a CRC.
    """
    table = [0] * 256
    value, bit = 1, 256
    while bit > 1:  # a CRC is linear: bytes of one bit give all others
        bit >>= 1
        value = value >> 1 ^ (polynomial if value & 1 else 0)
        for byte in range(0, 256, 2 * bit):
            table[byte + bit] = table[byte] ^ value
    words = Words(8 * 256)
    rest = table
    for i in range(8):
        words.view[256 * i : 256 * i + 256] = memoryview(array("q", rest))
        rest = [before >> 8 ^ table[before & 0xFF] for before in rest]
    return words


#: CRC-32C (Castagnoli), RFC 9260 appendix A.
CRC32C_TABLE: Final = crc_table(0x82F63B78)


@inline
def crc_more(table: int, crc: int, address: int, size: int) -> int:
    """A reflected CRC of 32 bits, continued by `size` bytes.

    Eight bytes at a time: their tables are looked up independently of each other, where a byte at
    a time waits for the one before.

    Args:
        table: Address of a `crc_table`.
        crc: What the bytes before gave; 0xFFFFFFFF where a CRC begins. At its end it is inverted.
        address: Of the first byte.
        size: Bytes, not below 0.
    """
    for _ in range(size >> 3):
        low = load32(address) ^ crc
        high = load32(address + 4)
        crc = (
            load64(table + 8 * (0x700 + (low & 0xFF)))
            ^ load64(table + 8 * (0x600 + (low >> 8 & 0xFF)))
            ^ load64(table + 8 * (0x500 + (low >> 16 & 0xFF)))
            ^ load64(table + 8 * (0x400 + (low >> 24)))
            ^ load64(table + 8 * (0x300 + (high & 0xFF)))
            ^ load64(table + 8 * (0x200 + (high >> 8 & 0xFF)))
            ^ load64(table + 8 * (0x100 + (high >> 16 & 0xFF)))
            ^ load64(table + 8 * (high >> 24))
        )
        address += 8
    for i in range(size & 7):
        crc = crc >> 8 ^ load64(table + 8 * ((crc ^ load8(address + i)) & 0xFF))
    return crc


@inline
def crc_rows(table: int, crc: int, burst: int, row: int, start: int, size: int) -> int:
    """`crc_more` with `size` bytes of the packet at `row`, from offset `start` on; it has them."""
    while size > 0:
        at = burst + row * 64
        have = load64(at + 8)
        if start < have:
            part = min(have - start, size)
            crc = crc_more(table, crc, load64(at) + start, part)
            size -= part
            start = 0
        else:
            start -= have
        row += 1
    return crc


@inline
def crc32c_rows(table: int, burst: int, row: int, start: int, size: int) -> int:
    """CRC-32C of an SCTP packet, its own field, four bytes at 8, taken as zero.

    Args:
        table: Address of `CRC32C_TABLE`.
        burst: Address of the burst.
        row: First row of the frame.
        start: Where the SCTP header starts in the frame, bytes.
        size: Bytes of the SCTP packet, 12 at least; the frame has them.

    Returns:
        The number that the field holds, least significant byte first.
    """
    crc = crc_rows(table, 0xFFFFFFFF, burst, row, start, 8)
    for _ in range(4):
        crc = crc >> 8 ^ load64(table + 8 * (crc & 0xFF))
    return crc_rows(table, crc, burst, row, start + 12, size - 12) ^ 0xFFFFFFFF
