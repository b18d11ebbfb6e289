"""Calls of the system that kernels make: bytes, events, memory, signals.

Each is a plain Python function that calls libc; compiled code calls libc itself (see
`instructions`). Values are int64, addresses are addresses of this process and are not checked. An
answer of -1 is an error, whose number `errno` tells right after the call.

Source: the manual pages in section 2.
"""

from __future__ import annotations

import ctypes
import errno as errno_numbers
import os
from typing import Final

__all__ = [
    "epoll_wait",
    "errno",
    "mmap",
    "poll",
    "raise_signal",
    "read",
    "readv",
    "receive",
    "set_errno",
    "set_timer",
    "sigaction",
    "signal_eventfd",
    "write",
    "writev",
]

_libc: Final = ctypes.CDLL(None, use_errno=True)
for _name, _count in (("read", ctypes.c_size_t), ("write", ctypes.c_size_t)):
    _function = getattr(_libc, _name)
    _function.argtypes = (ctypes.c_int, ctypes.c_void_p, _count)
    _function.restype = ctypes.c_ssize_t
for _name in ("readv", "writev"):
    _function = getattr(_libc, _name)
    _function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    _function.restype = ctypes.c_ssize_t

_libc.recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.recv.restype = ctypes.c_ssize_t
_libc.epoll_wait.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
_libc.epoll_wait.restype = ctypes.c_int
_libc.poll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)
_libc.poll.restype = ctypes.c_int
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.mmap.restype = ctypes.c_ssize_t
_libc.sigaction.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.sigaction.restype = ctypes.c_int
_libc.timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.timerfd_settime.restype = ctypes.c_int

_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME


def errno() -> int:
    """The error of the last system call made here that failed."""
    return ctypes.get_errno()


def set_errno(number: int) -> None:
    """Make that the error which `errno` tells: a signal handler leaves it as it was."""
    ctypes.set_errno(number)


def read(fd: int, address: int, size: int) -> int:
    """The system call, into memory at `address`; returns bytes, or -1."""
    return int(_libc.read(fd, address, size))


def write(fd: int, address: int, size: int) -> int:
    """The system call, from memory at `address`; returns bytes, or -1."""
    return int(_libc.write(fd, address, size))


def readv(fd: int, vectors: int, count: int) -> int:
    """The system call, with `count` pairs of address and size (8 bytes each) at `vectors`."""
    return int(_libc.readv(fd, vectors, count))


def writev(fd: int, vectors: int, count: int) -> int:
    """The system call, with `count` pairs of address and size (8 bytes each) at `vectors`."""
    return int(_libc.writev(fd, vectors, count))


def receive(fd: int, address: int, size: int, flags: int) -> int:
    """recv(2), into memory at `address`; returns bytes, or -1."""
    return int(_libc.recv(fd, address, size, flags))


def epoll_wait(epoll: int, events: int, count: int, timeout: int) -> int:
    """The system call, with room for `count` records of ``struct epoll_event`` at `events`.

    Args:
        epoll: Descriptor of an epoll instance.
        events: Address: u32 events, and u64 data behind them (without a gap on x86 alone).
        count: Records, at least 1.
        timeout: Milliseconds; negative waits for ever.

    Returns:
        Records that were stored, 0 after the timeout, or -1.
    """
    return int(_libc.epoll_wait(epoll, events, count, timeout))


def poll(descriptors: int, count: int, timeout: int) -> int:
    """The system call, with `count` records of ``struct pollfd`` (8 bytes each) at `descriptors`.

    Args:
        descriptors: Address: i32 descriptor (negative: not looked at), i16 events, i16 result.
        count: Records.
        timeout: Milliseconds; negative waits for ever.

    Returns:
        Descriptors that are ready, 0 after the timeout, or -1.
    """
    return int(_libc.poll(descriptors, count, timeout))


def mmap(address: int, size: int, protection: int, flags: int, fd: int, offset: int) -> int:
    """The system call; returns the address of the mapping, or -1."""
    return int(_libc.mmap(address, size, protection, flags, fd, offset))


def sigaction(signal: int, action: int, former: int) -> int:
    """The call, with addresses of ``struct sigaction`` or 0; returns 0, or -1."""
    return int(_libc.sigaction(signal, action or None, former or None))


def raise_signal(signal: int) -> int:
    """Send a signal to this thread; returns 0, or else an error."""
    return int(getattr(_libc, "raise")(signal))


def signal_eventfd(fd: int) -> int:
    """Add one to an eventfd; returns 8, or -1 if it can't be written."""
    try:
        os.eventfd_write(fd, 1)
    except OSError as error:
        ctypes.set_errno(error.errno or 0)
        return -1
    except ValueError:  # a negative one
        ctypes.set_errno(errno_numbers.EBADF)
        return -1
    return 8


def set_timer(fd: int, when: int) -> int:
    """Make a timerfd readable once, when the monotonic clock (`now_ns`) shows `when` ns, above 0.

    Returns:
        0, or -1.
    """
    wanted = (ctypes.c_int64 * 4)(0, 0, when // 1_000_000_000, when % 1_000_000_000)
    return int(_libc.timerfd_settime(fd, _ABSOLUTE, ctypes.addressof(wanted), None))
