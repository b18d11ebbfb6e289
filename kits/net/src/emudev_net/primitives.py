"""What kernels do: loads, stores, atomics, copies, calls of each other; see also `system_calls`.

Each is a plain Python function with a ctypes body; in compiled code the call becomes the machine's
instruction (see `instructions`). Addresses are addresses of this process and are not checked: guest
addresses go through `emudev_net.memory` first.

Values are int64. Narrow loads are zero-extended; `load64` gives a signed number; stores keep the
low bits. Numbers are little endian unless the name ends in ``be``. Plain loads and stores need no
alignment; those with an ordering, and the atomics, do.

Ordering (datapath.md section 5): publish with a `*_release` store, take with a `*_acquire` load;
`fence` between a store and a load of what another side stores. The Python bodies have no ordering
of their own; one thread doesn't need any.

Source: datapath.md sections 5 and 6.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = [
    "Words",
    "atomic_add64",
    "atomic_and64",
    "atomic_or64",
    "call3",
    "compare_exchange64",
    "copy",
    "exchange64",
    "fence",
    "fill",
    "load8",
    "load16",
    "load16_acquire",
    "load16be",
    "load32",
    "load32_acquire",
    "load32be",
    "load64",
    "load64_acquire",
    "load64_relaxed",
    "load64be",
    "now_ns",
    "pause",
    "realtime_ns",
    "shift_right64",
    "static_words",
    "store8",
    "store16",
    "store16_release",
    "store16be",
    "store32",
    "store32_release",
    "store32be",
    "store64",
    "store64_relaxed",
    "store64_release",
    "swap16",
    "swap32",
    "trailing_zeros64",
    "unsigned_below",
]

_U8 = ctypes.c_uint8
_U16 = ctypes.c_uint16
_U32 = ctypes.c_uint32
_I64 = ctypes.c_int64

_MASK: Final = (1 << 64) - 1


def _signed(value: int) -> int:
    """`value` modulo 2**64 as a signed number."""
    return ((value + (1 << 63)) & _MASK) - (1 << 63)


# -- loads


def load8(address: int) -> int:
    """The byte at `address`."""
    return _U8.from_address(address).value


def load16(address: int) -> int:
    """The unsigned 16-bit number at `address`."""
    return _U16.from_address(address).value


def load32(address: int) -> int:
    """The unsigned 32-bit number at `address`."""
    return _U32.from_address(address).value


def load64(address: int) -> int:
    """The signed 64-bit number at `address`."""
    return _I64.from_address(address).value


def load16be(address: int) -> int:
    """The unsigned big-endian 16-bit number at `address`."""
    return int.from_bytes(ctypes.string_at(address, 2), "big")


def load32be(address: int) -> int:
    """The unsigned big-endian 32-bit number at `address`."""
    return int.from_bytes(ctypes.string_at(address, 4), "big")


def load64be(address: int) -> int:
    """The signed big-endian 64-bit number at `address`."""
    return int.from_bytes(ctypes.string_at(address, 8), "big", signed=True)


def load16_acquire(address: int) -> int:
    """`load16`; what follows is not done before it."""
    return _U16.from_address(address).value


def load32_acquire(address: int) -> int:
    """`load32`; what follows is not done before it."""
    return _U32.from_address(address).value


def load64_acquire(address: int) -> int:
    """`load64`; what follows is not done before it."""
    return _I64.from_address(address).value


def load64_relaxed(address: int) -> int:
    """`load64` that is done each time, for flags that another thread changes."""
    return _I64.from_address(address).value


# -- stores


def store8(address: int, value: int) -> None:
    """Store the low 8 bits."""
    _U8.from_address(address).value = value


def store16(address: int, value: int) -> None:
    """Store the low 16 bits."""
    _U16.from_address(address).value = value


def store32(address: int, value: int) -> None:
    """Store the low 32 bits."""
    _U32.from_address(address).value = value


def store64(address: int, value: int) -> None:
    """Store 64 bits."""
    _I64.from_address(address).value = value


def store16be(address: int, value: int) -> None:
    """Store the low 16 bits, big endian."""
    ctypes.memmove(address, (value & 0xFFFF).to_bytes(2, "big"), 2)


def store32be(address: int, value: int) -> None:
    """Store the low 32 bits, big endian."""
    ctypes.memmove(address, (value & 0xFFFF_FFFF).to_bytes(4, "big"), 4)


def store16_release(address: int, value: int) -> None:
    """`store16`, after all that comes before it."""
    _U16.from_address(address).value = value


def store32_release(address: int, value: int) -> None:
    """`store32`, after all that comes before it."""
    _U32.from_address(address).value = value


def store64_release(address: int, value: int) -> None:
    """`store64`, after all that comes before it."""
    _I64.from_address(address).value = value


def store64_relaxed(address: int, value: int) -> None:
    """`store64` that is done each time, for counters that another thread reads."""
    _I64.from_address(address).value = value


# -- atomics; sequentially consistent when compiled, not atomic between threads in plain Python


def exchange64(address: int, value: int) -> int:
    """Store, and return what was there."""
    word = _I64.from_address(address)
    old = word.value
    word.value = value
    return old


def compare_exchange64(address: int, expected: int, value: int) -> int:
    """Store `value` if `expected` is there; returns what was there."""
    word = _I64.from_address(address)
    old = word.value
    if old == _signed(expected):
        word.value = value
    return old


def atomic_add64(address: int, value: int) -> int:
    """Add; returns what was there."""
    word = _I64.from_address(address)
    old = word.value
    word.value = old + value
    return old


def atomic_or64(address: int, value: int) -> int:
    """Set bits; returns what was there."""
    word = _I64.from_address(address)
    old = word.value
    word.value = old | value
    return old


def atomic_and64(address: int, value: int) -> int:
    """Keep only these bits; returns what was there."""
    word = _I64.from_address(address)
    old = word.value
    word.value = old & value
    return old


def fence() -> None:
    """All that comes before is done before all that follows."""


# -- memory


def copy(to: int, source: int, size: int) -> None:
    """Copy `size` bytes, 0 or more, between places that don't overlap."""
    ctypes.memmove(to, source, size)


def fill(to: int, value: int, size: int) -> None:
    """Store the byte `value` into `size` bytes, 0 or more."""
    ctypes.memset(to, value, size)


# -- numbers


def shift_right64(value: int, bits: int) -> int:
    """Shift the 64 bits right and zeroes in from the left; 0 <= bits < 64."""
    return _signed((value & _MASK) >> bits)


def unsigned_below(a: int, b: int) -> int:
    """Whether a < b as unsigned 64-bit numbers: 1 or 0."""
    return int(a & _MASK < b & _MASK)


def trailing_zeros64(value: int) -> int:
    """The number of the lowest bit that is set; 64 for 0."""
    return (value & -value).bit_length() - 1 if value else 64


def swap16(value: int) -> int:
    """The low 16 bits with their two bytes swapped."""
    return (value & 0xFF) << 8 | (value >> 8 & 0xFF)


def swap32(value: int) -> int:
    """The low 32 bits with their four bytes in the other order."""
    return int.from_bytes((value & 0xFFFF_FFFF).to_bytes(4, "big"), "little")


# -- time, calls


def pause() -> None:
    """Tell the processor that this is a loop that waits; some tens of nanoseconds."""


def now_ns() -> int:
    """The monotonic clock, ns."""
    return time.monotonic_ns()


def realtime_ns() -> int:
    """The time of day, UTC, ns since 1970; it steps when somebody sets the clock."""
    return time.time_ns()


_NATIVE: Final = ctypes.CFUNCTYPE(_I64, _I64, _I64, _I64)
#: What `call3` calls in plain Python for numbers that are no addresses; see `plain_handle`.
_plain: dict[int, Callable[[int, int, int], int]] = {}


def call3(address: int, a: int, b: int, c: int) -> int:
    """Call the kernel ``int64(int64, int64, int64)`` at `address`.

    In plain Python `address` may be a number of `plain_handle`.
    """
    if address < 0:
        return _plain[address](a, b, c)
    return int(_NATIVE(address)(a, b, c))


def plain_handle(function: Callable[[int, int, int], int]) -> int:
    """A negative number for which `call3` in plain Python calls `function`.

    The caller gives it back with `drop_handle`.
    """
    handle = -1
    while handle in _plain:
        handle -= 1
    _plain[handle] = function
    return handle


def drop_handle(handle: int) -> None:
    """Forget a number of `plain_handle`; others are ignored."""
    _plain.pop(handle, None)


class Words:
    """A zeroed block of int64 words on a cache line of its own, shared between Python and kernels.

    Its pages are touched when they are used. Whoever hands `address` to a kernel keeps this alive.

    Args:
        count: Words, at least 1.

    Attributes:
        address: Where word 0 lies, a multiple of 64; good as long as this object lives.
        view: The words as a memoryview of signed numbers, for slices.
    """

    __slots__ = ("_memory", "address", "view")

    def __init__(self, count: int) -> None:
        self._memory: Any = (ctypes.c_char * (8 * count + 64))()
        start = ctypes.addressof(self._memory)
        self.address: int = (start + 63) & ~63
        skip = self.address - start
        whole = memoryview(self._memory).cast("B")
        self.view: memoryview[int] = whole[skip : skip + 8 * count].cast("q")

    def __getitem__(self, index: int) -> int:
        return self.view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.view[index] = value

    def __len__(self) -> int:
        return len(self.view)

    def __iter__(self) -> Iterator[int]:
        return iter(self.view)

    def word(self, index: int) -> int:
        """The address of a word."""
        return self.address + 8 * index


_static: Final = Words(8)


def static_words() -> int:
    """The address of 8 words, 0 at first, for a kernel that nobody can tell one: a signal handler.

    They last as long as the process. Kernels that were compiled at the same time share theirs, so
    that each word should belong to one kernel. In plain Python all share the same.
    """
    return _static.address
