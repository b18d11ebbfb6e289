"""What can be wrong with a capture file: numbers for kernels, words for people."""

from __future__ import annotations

import os
from typing import Final

from .formats import MAX_BLOCK, MAX_CAPTURED, CaptureError, not_ethernet

__all__ = ["DAMAGE", "explain"]

# For each, what its value is.
CUT: Final = 1  #: it ends inside a record; where that would end
CAPTURED: Final = 2  #: a packet longer than packets can be; its length
BLOCK: Final = 3  #: a block of impossible length; that
TRAILER: Final = 4  #: a block whose two lengths differ; the second
CONTENT: Final = 5  #: a block that is shorter than what is said to be in it; bytes needed
ORDER: Final = 6  #: a section without byte order; what stands there
VERSION: Final = 7  #: a section of another version; major << 16 | minor
LINK: Final = 8  #: an interface that is no Ethernet; its link type
UNDECLARED: Final = 9  #: a packet of an interface that was not declared; its number
INTERFACES: Final = 10  #: more interfaces than a section may have; how many
OPTION: Final = 11  #: an option of impossible length; code << 16 | length
RESOLUTION: Final = 12  #: a resolution of timestamps that can't be; the byte
SHRANK: Final = 13  #: the file became shorter while it was read; nothing
READ: Final = 14  #: it can't be read; errno

#: Faults of a file whose start is good: it was cut short, or spoiled further on.
DAMAGE: Final = frozenset({CUT, CAPTURED, BLOCK, TRAILER, CONTENT, UNDECLARED, OPTION, SHRANK})


def explain(path: str, fault: int, at: int, value: int, size: int) -> CaptureError:
    """The error for a fault.

    Args:
        path: The file.
        fault: One of the numbers above.
        at: Where it is, bytes from the start of the file.
        value: Meaning by fault.
        size: Length of the file, bytes.
    """
    return CaptureError(path, _message(fault, at, value, size), at)


def _message(fault: int, at: int, value: int, size: int) -> str:
    if fault == CUT:
        return (
            f"cut short: the record there has {value - at} bytes, the file ends after {size - at}"
        )
    if fault == CAPTURED:
        return f"expected a packet of at most {MAX_CAPTURED} bytes, it has {value}"
    if fault == BLOCK:
        return f"expected a block of 12 to {MAX_BLOCK} bytes, a multiple of 4, it has {value}"
    if fault == TRAILER:
        return f"a block ends with another length than it begins with: {value}"
    if fault == CONTENT:
        return f"a block is too short: what it says needs {value} bytes"
    if fault == ORDER:
        return f"expected the byte-order magic 0x1a2b3c4d of a section, it is {value:#010x}"
    if fault == VERSION:
        return f"expected pcapng version 1.0, it has {value >> 16}.{value & 0xFFFF}"
    if fault == LINK:
        return f"an interface is none that can be replayed: {not_ethernet(value)}"
    if fault == UNDECLARED:
        return f"a packet of interface {value}, which its section does not declare"
    if fault == INTERFACES:
        return f"a section declares {value} interfaces, too many"
    if fault == OPTION:
        return f"option {value >> 16} has an impossible length, {value & 0xFFFF}"
    if fault == RESOLUTION:
        return f"timestamps of an impossible resolution, {value:#04x}"
    if fault == SHRANK:
        return "the file became shorter while it was read"
    return f"can't be read: {os.strerror(value)}"
