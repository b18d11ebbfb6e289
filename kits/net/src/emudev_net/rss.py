"""Receive side scaling: the Toeplitz hash, by table.

For each half byte of the input there is a table of 16 results under the key; a hash is their
exclusive or. The longest input is 36 bytes: two IPv6 addresses and two ports. All tables of a key
take 4.5 KiB, so that they stay in the first cache.

Source: avf.md section 7 (Microsoft's verification vectors are in the tests).
"""

from __future__ import annotations

import ctypes
from typing import Final

from .jit import inline
from .parse import (
    OUT_KIND,
    OUT_L3,
    OUT_L4,
    WHAT_SCTP,
    WHAT_TCP,
    WHAT_UDP,
)
from .primitives import Words, load8, load32, load64

__all__ = ["INPUT", "ToeplitzTable", "hash_frame", "toeplitz"]

#: Longest input, bytes.
INPUT: Final = 36
#: Bytes of the tables of one byte of input: for its high half, then for its low half.
_BYTE: Final = 128


class ToeplitzTable:
    """The tables of a key.

    Args:
        key: At least 40 bytes: input plus four.

    Attributes:
        address: For `toeplitz` and `hash_frame`; good while this object lives.

    Raises:
        ValueError: The key is too short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < INPUT + 4:
            raise ValueError(f"a key has at least {INPUT + 4} bytes, not {len(key)}")
        bits = int.from_bytes(key, "big")
        size = 8 * len(key)
        self._words = Words(INPUT * _BYTE // 8)
        self.address = self._words.address
        table = (ctypes.c_uint32 * (INPUT * _BYTE // 4)).from_address(self.address)
        for half in range(2 * INPUT):
            windows = [bits >> (size - 32 - 4 * half - bit) & 0xFFFF_FFFF for bit in range(4)]
            for value in range(16):
                result = 0
                for bit in range(4):
                    if value & 8 >> bit:
                        result ^= windows[bit]
                table[16 * half + value] = result


@inline
def toeplitz(table: int, place: int, address: int, size: int) -> int:
    """Part of a hash: `size` bytes that stand at byte `place` of the input.

    The hash of an input in several parts is the exclusive or of theirs.
    """
    value = 0
    at = table + _BYTE * place
    for i in range(size):
        byte = load8(address + i)
        value ^= load32(at + 4 * (byte >> 4)) ^ load32(at + 64 + 4 * (byte & 15))
        at += _BYTE
    return value


@inline
def hash_frame(table: int, frame: int, parsed: int, ports: int) -> int:
    """The hash of a frame's addresses, and ports where it has some.

    Args:
        table: `ToeplitzTable.address`.
        frame: Address of the frame's headers, those that `parse` looked at.
        parsed: Address of the result of `parse`.
        ports: 1 to include the ports of TCP, UDP and SCTP; fragments never do.

    Returns:
        32 bits, or -1 if it is not IP.
    """
    kind = load64(parsed + 8 * OUT_KIND)
    l3 = load64(parsed + 8 * OUT_L3)
    if l3 == 0:
        return -1
    if load8(frame + l3) >> 4 == 6:
        size = 32
        value = toeplitz(table, 0, frame + l3 + 8, 32)
    else:
        size = 8
        value = toeplitz(table, 0, frame + l3 + 12, 8)
    what = kind & 15
    l4 = load64(parsed + 8 * OUT_L4)
    if ports and l4 != 0 and what in (WHAT_TCP, WHAT_UDP, WHAT_SCTP):
        value ^= toeplitz(table, size, frame + l4, 4)
    return value
