"""Primitives do the same compiled and as plain Python."""

import struct

import pytest

from emudev_net import primitives as p
from emudev_net.jit import jit_wanted, queue_kernel
from emudev_net.primitives import Words


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


def test_the_time_of_day_is_nanoseconds_of_utc(call):
    import time

    before = time.clock_gettime_ns(time.CLOCK_REALTIME)
    assert before <= call(p.realtime_ns) <= time.clock_gettime_ns(time.CLOCK_REALTIME)


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


def test_static_words_begin_with_zero_and_last(compiled_or_plain):
    @queue_kernel
    def count(state: int, burst: int, rows: int) -> int:
        at = p.static_words() + 56
        p.store64(at, p.load64(at) + rows)
        return p.load64(at)

    compiled_or_plain(count)
    assert [count(0, 0, n) for n in (5, 2, -7)] == [5, 7, 0]
