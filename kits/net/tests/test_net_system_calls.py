"""System calls do the same compiled and as plain Python."""

import ctypes
import errno as numbers
import mmap
import os
import select
import signal
import struct
import time

from emudev_net import system_calls as s
from emudev_net.jit import queue_kernel
from emudev_net.primitives import Words


def test_system_calls_move_bytes_and_tell_their_error(call):
    words = Words(16)
    words[0] = int.from_bytes(b"packet 1", "little")
    words[1] = int.from_bytes(b"packet 2", "little")
    at = words.address
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        assert call(s.write, writer, at, 8) == 8
        assert call(s.read, reader, at + 16, 64) == 8
        assert words[2] == words[0]
        words[8], words[9], words[10], words[11] = at + 8, 4, at, 3
        assert call(s.writev, writer, at + 64, 2) == 7
        words[8], words[9], words[10], words[11] = at + 24, 2, at + 32, 100
        assert call(s.readv, reader, at + 64, 2) == 7
        assert bytes(words.view[3:5]) == b"pa\0\0\0\0\0\0" + b"ckpac\0\0\0"
        assert call(s.read, reader, at, 8) == -1
        assert call(s.write, -1, at, 8) == -1
    finally:
        os.close(reader)
        os.close(writer)


def test_errno_is_that_of_the_call_before(jit, compiled_or_plain):
    @queue_kernel
    def failing(state: int, burst: int, rows: int) -> int:
        if s.write(rows, state, 1) != -1:
            return 0
        return s.errno()

    compiled_or_plain(failing)
    words = Words(1)
    assert failing(words.address, 0, -1) == numbers.EBADF
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        assert failing(words.address, 0, reader) == numbers.EBADF
        fd = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            assert failing(words.address, 0, fd) == numbers.EINVAL
        finally:
            os.close(fd)
    finally:
        os.close(reader)
        os.close(writer)


def test_an_eventfd_is_signalled(call):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert call(s.signal_eventfd, fd) == 8
        assert call(s.signal_eventfd, fd) == 8
        assert os.eventfd_read(fd) == 2
    finally:
        os.close(fd)
    assert call(s.signal_eventfd, -1) == -1


def test_a_timer_is_set_to_a_time_of_the_monotonic_clock(call):
    libc = ctypes.CDLL(None)
    fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
    try:
        assert call(s.set_timer, fd, time.monotonic_ns() + 3_600_000_000_000) == 0
        assert select.select([fd], [], [], 0)[0] == []
        assert call(s.set_timer, fd, 1_000_000_001) == 0  # long ago: at once, and once
        assert int.from_bytes(os.read(fd, 8), "little") == 1
        assert select.select([fd], [], [], 0)[0] == []
    finally:
        os.close(fd)
    assert call(s.set_timer, fd, 1) == -1


def test_poll_tells_which_descriptors_are_ready(call):
    ready, idle = (os.eventfd(n, os.EFD_NONBLOCK) for n in (1, 0))
    records = Words(3)
    try:
        # i32 descriptor, i16 events, i16 result; POLLIN is 1, POLLOUT 4
        packed = struct.pack("<ihhihhihh", ready, 1, 0, idle, 1, 0, -1, 1, 0)
        ctypes.memmove(records.address, packed, len(packed))
        assert call(s.poll, records.address, 3, -1) == 1
        results = struct.unpack("<ihhihhihh", ctypes.string_at(records.address, 24))[2::3]
        assert results == (1, 0, 0)
        assert call(s.poll, records.address + 8, 2, 0) == 0
    finally:
        os.close(ready)
        os.close(idle)
    assert call(s.poll, 1, 1, 0) == -1  # no such address


def test_memory_is_mapped_over_what_was_there(call):
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 2 * page) as area:
        area[:] = b"x" * 2 * page
        held = ctypes.c_char.from_buffer(area)
        at = ctypes.addressof(held)
        # PROT_READ | PROT_WRITE; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        assert call(s.mmap, at + page, page, 3, 0x32, -1, 0) == at + page
        assert area[page - 1 : page + 1] == b"x\0"
        assert call(s.mmap, at + 1, page, 3, 0x32, -1, 0) == -1
        del held


def test_the_action_of_a_signal_is_read_and_set_and_the_signal_raised(call):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        old = Words(20)
        assert call(s.sigaction, signal.SIGUSR1, 0, old.address) == 0
        assert old[0] == 1  # SIG_IGN
        assert call(s.raise_signal, signal.SIGUSR1) == 0
        new = Words(20)  # SIG_DFL
        assert call(s.sigaction, signal.SIGUSR1, new.address, old.address) == 0
        assert call(s.sigaction, signal.SIGUSR1, 0, old.address) == 0
        assert old[0] == 0
        assert call(s.sigaction, 1000, 0, 0) == -1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_errno_can_be_put_back(compiled_or_plain):
    @queue_kernel
    def keep(state: int, burst: int, rows: int) -> int:
        s.set_errno(rows)
        s.write(-1, state, 1)
        if s.errno() != burst:
            return -1
        s.set_errno(rows)
        return s.errno()

    compiled_or_plain(keep)
    assert keep(Words(1).address, numbers.EBADF, 77) == 77
