"""Receive side scaling: the Toeplitz hash, by table.

For each byte of the input there is a table of 256 results under the key; a hash is their exclusive or, one
load a byte. The longest input is 36 bytes: two IPv6 addresses and two ports.

Source: avf.md section 7 (Microsoft's verification vectors are in the tests).
"""

from __future__ import annotations

from typing import Final

from .jit import inline
from .primitives import Words, load8, load64

__all__ = ["INPUT", "ToeplitzTable", "toeplitz"]

#: Longest input, bytes.
INPUT: Final = 36


class ToeplitzTable:
    """The tables of a key.

    Args:
        key: At least 40 bytes: input plus four.

    Attributes:
        address: For `toeplitz`; good while this object lives.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < INPUT + 4:
            raise ValueError(f"a key has at least {INPUT + 4} bytes, not {len(key)}")
        bits = int.from_bytes(key, "big")
        length = 8 * len(key)
        self.words = Words(INPUT * 256)
        for place in range(INPUT):
            windows = [bits >> (length - 32 - 8 * place - bit) & 0xFFFF_FFFF for bit in range(8)]
            for byte in range(256):
                value = 0
                for bit in range(8):
                    if byte & 0x80 >> bit:
                        value ^= windows[bit]
                self.words[place * 256 + byte] = value
        self.address = self.words.address


@inline
def toeplitz(table: int, place: int, address: int, size: int) -> int:
    """Part of a hash: `size` bytes that stand at `place` of the input.

    The hash of an input in several parts is the exclusive or of theirs.
    """
    value = 0
    at = table + 2048 * place
    for i in range(size):
        value ^= load64(at + 8 * load8(address + i))
        at += 2048
    return value
