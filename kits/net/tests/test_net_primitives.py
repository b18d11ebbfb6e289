"""Primitives do the same compiled and as plain Python."""

import ctypes
import errno as numbers
import mmap
import os
import select
import signal
import struct
import time

import pytest

from emudev_net import primitives as p
from emudev_net.jit import jit_wanted, queue_kernel
from emudev_net.primitives import Words
from emudev_net.testing import Probe
from emudev_net.testing import probes as compile_probes


@pytest.fixture(scope="module")
def all_native():
    functions = sorted(p.ALL, key=lambda f: f.__name__)
    return dict(zip(functions, compile_probes(*functions), strict=True))


@pytest.fixture(params=["compiled", "plain"])
def call(request, all_native):
    """`call(primitive, ...)`, compiled or plain."""
    if request.param == "plain":
        return lambda function, *a: Probe(function)(*a)
    if not jit_wanted():
        pytest.skip("kernels are not compiled here")
    return lambda function, *a: all_native[function](*a)


@pytest.fixture
def memory():
    words = Words(8)
    words[0] = struct.unpack("<q", bytes([0xF1, 0xE2, 0xD3, 0xC4, 0xB5, 0xA6, 0x97, 0x88]))[0]
    return words


def test_loads_extend_zeroes_except_for_the_whole_word(call, memory):
    at = memory.address
    assert call(p.load8, at) == 0xF1
    assert call(p.load16, at) == 0xE2F1
    assert call(p.load32, at) == 0xC4D3E2F1
    assert call(p.load64, at) == 0x8897A6B5C4D3E2F1 - (1 << 64)
    assert call(p.load16be, at) == 0xF1E2
    assert call(p.load32be, at) == 0xF1E2D3C4
    assert call(p.load64be, at) == 0xF1E2D3C4B5A69788 - (1 << 64)
    assert call(p.load16, at + 1) == 0xD3E2
    for ordered, plain in (
        (p.load16_acquire, p.load16),
        (p.load32_acquire, p.load32),
        (p.load64_acquire, p.load64),
        (p.load64_relaxed, p.load64),
    ):
        assert call(ordered, at) == plain(at)


def test_stores_keep_the_low_bits_and_touch_nothing_else(call, memory):
    at = memory.address + 8
    cases = [
        (p.store8, 1, "little"),
        (p.store16, 2, "little"),
        (p.store32, 4, "little"),
        (p.store64, 8, "little"),
        (p.store16be, 2, "big"),
        (p.store32be, 4, "big"),
        (p.store16_release, 2, "little"),
        (p.store32_release, 4, "little"),
        (p.store64_release, 8, "little"),
        (p.store64_relaxed, 8, "little"),
    ]
    value = -0x123456789ABCDEF
    for function, size, order in cases:
        memory[1] = memory[2] = -1
        assert call(function, at, value) == 0
        expected = (value & ((1 << 8 * size) - 1)).to_bytes(size, order)
        assert bytes(memory.view[1:3]) == expected + b"\xff" * (16 - size), function


def test_atomics_return_what_was_there(call, memory):
    at = memory.address
    memory[0] = 10
    assert call(p.exchange64, at, -3) == 10
    assert call(p.compare_exchange64, at, 5, 6) == -3
    assert memory[0] == -3
    assert call(p.compare_exchange64, at, -3, 6) == -3
    assert call(p.atomic_add64, at, -8) == 6
    assert call(p.atomic_or64, at, 1 << 40) == -2
    memory[0] = 0b1100
    assert call(p.atomic_and64, at, 0b0110) == 0b1100
    assert memory[0] == 0b0100
    memory[0] = (1 << 63) - 1
    call(p.atomic_add64, at, 1)
    assert memory[0] == -(1 << 63)
    assert call(p.fence) == 0
    assert call(p.pause) == 0


def test_copy_and_fill_move_exactly_what_was_asked_for(call):
    words = Words(8)
    at = words.address
    call(p.fill, at, 0x1AB, 5)
    assert bytes(words.view[:1]) == b"\xab" * 5 + b"\0" * 3
    call(p.copy, at + 17, at + 1, 3)
    assert bytes(words.view[2:3]) == b"\0\xab\xab\xab\0\0\0\0"
    call(p.copy, at, at + 32, 0)
    call(p.fill, at, 0, 0)
    assert bytes(words.view[:1]) == b"\xab" * 5 + b"\0" * 3


def test_numbers(call):
    assert call(p.shift_right64, -1, 60) == 15
    assert call(p.shift_right64, -1, 0) == -1
    assert call(p.trailing_zeros64, 0) == 64
    assert call(p.trailing_zeros64, -(1 << 63)) == 63
    assert call(p.trailing_zeros64, 12) == 2
    assert call(p.unsigned_below, 1, -1) == 1
    assert call(p.unsigned_below, -1, 1) == 0
    assert call(p.unsigned_below, 3, 3) == 0
    assert call(p.swap16, 0x1234ABCD) == 0xCDAB
    assert call(p.swap32, -0x100000000 + 0x12345678) == 0x78563412


def test_the_clock_is_monotonic_nanoseconds(call):
    import time

    before = time.monotonic_ns()
    assert before <= call(p.now_ns) <= time.monotonic_ns()


def test_system_calls_move_bytes_and_tell_their_error(call):
    words = Words(16)
    words[0] = int.from_bytes(b"packet 1", "little")
    words[1] = int.from_bytes(b"packet 2", "little")
    at = words.address
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        assert call(p.write, writer, at, 8) == 8
        assert call(p.read, reader, at + 16, 64) == 8
        assert words[2] == words[0]
        words[8], words[9], words[10], words[11] = at + 8, 4, at, 3
        assert call(p.writev, writer, at + 64, 2) == 7
        words[8], words[9], words[10], words[11] = at + 24, 2, at + 32, 100
        assert call(p.readv, reader, at + 64, 2) == 7
        assert bytes(words.view[3:5]) == b"pa\0\0\0\0\0\0" + b"ckpac\0\0\0"
        assert call(p.read, reader, at, 8) == -1
        assert call(p.write, -1, at, 8) == -1
    finally:
        os.close(reader)
        os.close(writer)


def test_errno_is_that_of_the_call_before(jit, compiled_or_plain):
    @queue_kernel
    def failing(state: int, burst: int, rows: int) -> int:
        if p.write(rows, state, 1) != -1:
            return 0
        return p.errno()

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
        assert call(p.signal_eventfd, fd) == 8
        assert call(p.signal_eventfd, fd) == 8
        assert os.eventfd_read(fd) == 2
    finally:
        os.close(fd)
    assert call(p.signal_eventfd, -1) == -1


def test_a_timer_is_set_to_a_time_of_the_monotonic_clock(call):
    libc = ctypes.CDLL(None)
    fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
    try:
        assert call(p.set_timer, fd, time.monotonic_ns() + 3_600_000_000_000) == 0
        assert select.select([fd], [], [], 0)[0] == []
        assert call(p.set_timer, fd, 1_000_000_001) == 0  # long ago: at once, and once
        assert int.from_bytes(os.read(fd, 8), "little") == 1
        assert select.select([fd], [], [], 0)[0] == []
    finally:
        os.close(fd)
    assert call(p.set_timer, fd, 1) == -1


def test_poll_tells_which_descriptors_are_ready(call):
    ready, idle = (os.eventfd(n, os.EFD_NONBLOCK) for n in (1, 0))
    records = Words(3)
    try:
        # i32 descriptor, i16 events, i16 result; POLLIN is 1, POLLOUT 4
        packed = struct.pack("<ihhihhihh", ready, 1, 0, idle, 1, 0, -1, 1, 0)
        ctypes.memmove(records.address, packed, len(packed))
        assert call(p.poll, records.address, 3, -1) == 1
        results = struct.unpack("<ihhihhihh", ctypes.string_at(records.address, 24))[2::3]
        assert results == (1, 0, 0)
        assert call(p.poll, records.address + 8, 2, 0) == 0
    finally:
        os.close(ready)
        os.close(idle)
    assert call(p.poll, 1, 1, 0) == -1  # no such address


@pytest.mark.skipif(not jit_wanted(), reason="kernels are not compiled here")
def test_a_kernel_is_called_by_address(call, all_native):
    target = all_native[p.load8].kernel.address
    words = Words(1)
    words[0] = Words(1).address
    memory = Words(1)
    memory[0] = 77
    words[0] = memory.address
    assert call(p.call3, target, words.address, 0, 0) == 77


def test_a_plain_handle_is_called_in_plain_python():
    handle = p.plain_handle(lambda a, b, c: a + b + c)
    assert handle < 0
    assert p.call3(handle, 1, 2, 3) == 6
    p.drop_handle(handle)
    with pytest.raises(KeyError):
        p.call3(handle, 1, 2, 3)


def test_words_lie_on_a_cache_line_and_hold_signed_numbers():
    words = Words(3)
    assert words.address % 64 == 0
    assert list(words) == [0, 0, 0]
    words[1] = -5
    assert p.load64(words.word(1)) == -5
    assert len(words) == 3
    with pytest.raises(IndexError):
        words[3] = 1
    with pytest.raises(ValueError, match="value"):
        words[0] = 1 << 63


def test_memory_is_mapped_over_what_was_there(call):
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 2 * page) as area:
        area[:] = b"x" * 2 * page
        held = ctypes.c_char.from_buffer(area)
        at = ctypes.addressof(held)
        # PROT_READ | PROT_WRITE; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        assert call(p.mmap, at + page, page, 3, 0x32, -1, 0) == at + page
        assert area[page - 1 : page + 1] == b"x\0"
        assert call(p.mmap, at + 1, page, 3, 0x32, -1, 0) == -1
        del held


def test_the_action_of_a_signal_is_read_and_set_and_the_signal_raised(call):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        old = Words(20)
        assert call(p.sigaction, signal.SIGUSR1, 0, old.address) == 0
        assert old[0] == 1  # SIG_IGN
        assert call(p.raise_signal, signal.SIGUSR1) == 0
        new = Words(20)  # SIG_DFL
        assert call(p.sigaction, signal.SIGUSR1, new.address, old.address) == 0
        assert call(p.sigaction, signal.SIGUSR1, 0, old.address) == 0
        assert old[0] == 0
        assert call(p.sigaction, 1000, 0, 0) == -1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_errno_can_be_put_back(compiled_or_plain):
    @queue_kernel
    def keep(state: int, burst: int, rows: int) -> int:
        p.set_errno(rows)
        p.write(-1, state, 1)
        if p.errno() != burst:
            return -1
        p.set_errno(rows)
        return p.errno()

    compiled_or_plain(keep)
    assert keep(Words(1).address, numbers.EBADF, 77) == 77


def test_static_words_begin_with_zero_and_last(compiled_or_plain):
    @queue_kernel
    def count(state: int, burst: int, rows: int) -> int:
        at = p.static_words() + 56
        p.store64(at, p.load64(at) + rows)
        return p.load64(at)

    compiled_or_plain(count)
    assert [count(0, 0, n) for n in (5, 2, -7)] == [5, 7, 0]
