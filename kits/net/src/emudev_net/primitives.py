"""What kernels are made of: loads, stores, atomics, copies, system calls, all over int64.

Each is a plain Python function that works anywhere, and compiled code in kernels (`_intrinsics`). Loads
zero-extend, except that a 64-bit one has its sign; stores truncate. Addresses are of this process; whoever
made them keeps the memory alive. Atomics and ordering hold in compiled code; the plain bodies are for one
thread.

Integers are int64 everywhere. Mask by hand what is to wrap; compare guest addresses, which use all 64
bits, with `unsigned_below`.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator

from .jit import COMPILED, inline

__all__ = [
    "Words",
    "atomic_add64",
    "atomic_or64",
    "call3",
    "compare_exchange64",
    "copy",
    "errno",
    "exchange64",
    "fence",
    "fill",
    "load16",
    "load16_acquire",
    "load16_be",
    "load32",
    "load32_acquire",
    "load32_be",
    "load64",
    "load64_acquire",
    "load64_be",
    "load8",
    "pause",
    "read",
    "readv",
    "shift_right",
    "signal_eventfd",
    "store16",
    "store16_be",
    "store16_release",
    "store32",
    "store32_be",
    "store32_release",
    "store64",
    "store64_be",
    "store64_release",
    "store8",
    "unsigned_below",
    "write",
    "writev",
]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.read.restype = _libc.write.restype = ctypes.c_ssize_t
_libc.readv.restype = _libc.writev.restype = ctypes.c_ssize_t
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The int64 with these 64 bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


class Words:
    """A row of int64 words on cache lines of their own, zero at first.

    Args:
        count: Number of words.

    Attributes:
        address: Of the first word, a multiple of 64; good while this object lives.
    """

    __slots__ = ("_array", "_memory", "address")

    def __init__(self, count: int) -> None:
        self._memory = ctypes.create_string_buffer(count * 8 + 64)
        self.address = (ctypes.addressof(self._memory) + 63) & ~63
        self._array = (ctypes.c_int64 * count).from_address(self.address)

    def __len__(self) -> int:
        """Number of words."""
        return len(self._array)

    def __getitem__(self, index: int) -> int:
        """The word at `index`."""
        return self._array[index]

    def __setitem__(self, index: int, value: int) -> None:
        """Store a word; takes any 64 bits."""
        self._array[index] = _signed(value)

    def __iter__(self) -> Iterator[int]:
        """The words in order."""
        return iter(self._array)

    def at(self, index: int) -> int:
        """Address of the word at `index`."""
        return self.address + 8 * index


# -- loads and stores


def load8(address: int) -> int:
    """The byte at an address."""
    return ctypes.c_uint8.from_address(address).value


def load16(address: int) -> int:
    """The unsigned 16-bit number at an address, any alignment."""
    return ctypes.c_uint16.from_address(address).value


def load32(address: int) -> int:
    """The unsigned 32-bit number at an address, any alignment."""
    return ctypes.c_uint32.from_address(address).value


def load64(address: int) -> int:
    """The int64 at an address, any alignment."""
    return ctypes.c_int64.from_address(address).value


def load16_be(address: int) -> int:
    """The unsigned 16-bit number in network order at an address."""
    return int.from_bytes(ctypes.string_at(address, 2), "big")


def load32_be(address: int) -> int:
    """The unsigned 32-bit number in network order at an address."""
    return int.from_bytes(ctypes.string_at(address, 4), "big")


def load64_be(address: int) -> int:
    """The 64 bits in network order at an address, as an int64."""
    return int.from_bytes(ctypes.string_at(address, 8), "big", signed=True)


def load16_acquire(address: int) -> int:
    """`load16`, aligned; what was stored before its release is seen after it."""
    return load16(address)


def load32_acquire(address: int) -> int:
    """`load32`, aligned, with acquire order."""
    return load32(address)


def load64_acquire(address: int) -> int:
    """`load64`, aligned, with acquire order."""
    return load64(address)


def store8(address: int, value: int) -> int:
    """Store the low 8 bits; returns 0."""
    ctypes.c_uint8.from_address(address).value = value & 0xFF
    return 0


def store16(address: int, value: int) -> int:
    """Store the low 16 bits; returns 0."""
    ctypes.c_uint16.from_address(address).value = value & 0xFFFF
    return 0


def store32(address: int, value: int) -> int:
    """Store the low 32 bits; returns 0."""
    ctypes.c_uint32.from_address(address).value = value & 0xFFFF_FFFF
    return 0


def store64(address: int, value: int) -> int:
    """Store 64 bits; returns 0."""
    ctypes.c_uint64.from_address(address).value = value & _MASK
    return 0


def store16_be(address: int, value: int) -> int:
    """Store the low 16 bits in network order; returns 0."""
    ctypes.memmove(address, (value & 0xFFFF).to_bytes(2, "big"), 2)
    return 0


def store32_be(address: int, value: int) -> int:
    """Store the low 32 bits in network order; returns 0."""
    ctypes.memmove(address, (value & 0xFFFF_FFFF).to_bytes(4, "big"), 4)
    return 0


def store64_be(address: int, value: int) -> int:
    """Store 64 bits in network order; returns 0."""
    ctypes.memmove(address, (value & _MASK).to_bytes(8, "big"), 8)
    return 0


def store16_release(address: int, value: int) -> int:
    """`store16`, aligned; everything stored before is seen by who loads it with acquire order."""
    return store16(address, value)


def store32_release(address: int, value: int) -> int:
    """`store32`, aligned, with release order."""
    return store32(address, value)


def store64_release(address: int, value: int) -> int:
    """`store64`, aligned, with release order."""
    return store64(address, value)


# -- atomics, order


def exchange64(address: int, value: int) -> int:
    """Store a word and return what was there, in one step."""
    old = load64(address)
    store64(address, value)
    return old


def compare_exchange64(address: int, old: int, new: int) -> int:
    """Store `new` if the word is `old`, in one step; returns what was there."""
    seen = load64(address)
    if seen == old:
        store64(address, new)
    return seen


def atomic_add64(address: int, value: int) -> int:
    """Add to a word in one step; returns what was there."""
    old = load64(address)
    store64(address, old + value)
    return old


def atomic_or64(address: int, value: int) -> int:
    """Set bits of a word in one step; returns what was there."""
    old = load64(address)
    store64(address, old | value)
    return old


def fence() -> int:
    """Order a store before a load that follows it; returns 0."""
    return 0


def pause() -> int:
    """Tell the processor that this is a waiting loop; returns 0."""
    return 0


# -- memory, numbers


def copy(target: int, source: int, size: int) -> int:
    """Copy bytes that do not overlap; returns 0."""
    ctypes.memmove(target, source, size)
    return 0


def fill(target: int, value: int, size: int) -> int:
    """Set `size` bytes to the low 8 bits of a value; returns 0."""
    ctypes.memset(target, value & 0xFF, size)
    return 0


def unsigned_below(a: int, b: int) -> bool:
    """Whether a < b as unsigned 64-bit numbers."""
    return a & _MASK < b & _MASK


def shift_right(value: int, count: int) -> int:
    """Shift the 64 bits right, zeroes from the left; 0 <= count <= 63."""
    return _signed((value & _MASK) >> count)


# -- system calls


def write(fd: int, at: int, size: int) -> int:
    """write(2): bytes written, or -1 and `errno`."""
    return int(_libc.write(fd, ctypes.c_void_p(at), ctypes.c_size_t(size)))


def read(fd: int, at: int, size: int) -> int:
    """read(2): bytes read, or -1 and `errno`."""
    return int(_libc.read(fd, ctypes.c_void_p(at), ctypes.c_size_t(size)))


def writev(fd: int, at: int, n: int) -> int:
    """writev(2): `at` is the address of `n` pairs of address and length (64 bits each)."""
    return int(_libc.writev(fd, ctypes.c_void_p(at), n))


def readv(fd: int, at: int, n: int) -> int:
    """readv(2): as `writev`."""
    return int(_libc.readv(fd, ctypes.c_void_p(at), n))


def errno() -> int:
    """The errno of the system call just before."""
    return ctypes.get_errno()


_ONE = ctypes.c_uint64(1)


def _call3(address: int, a: int, b: int, c: int) -> int:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    return int(kind(address)(a, b, c))


def signal_eventfd(fd: int) -> int:
    """Add 1 to an eventfd; 8 if it took it, -1 and `errno` if not."""
    try:
        return os.write(fd, bytes(_ONE))
    except OSError as error:
        ctypes.set_errno(error.errno or 0)
        return -1


def now_ns() -> int:
    """Monotonic time, ns."""
    return time.monotonic_ns()


if COMPILED:
    from . import _intrinsics  # noqa: F401  # registers the compiled bodies

    @inline
    def call3(address: int, a: int, b: int, c: int) -> int:
        """Call a kernel by its native address; 0 as address does nothing."""
        if address == 0:
            return 0
        return _call3(address, a, b, c)

else:

    def call3(address: int, a: int, b: int, c: int) -> int:
        """Call a kernel by its native address; 0 as address does nothing."""
        return _call3(address, a, b, c) if address else 0
