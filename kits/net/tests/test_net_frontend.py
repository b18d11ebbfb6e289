"""Compiled kernels do what Python does, construct by construct."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emudev_net.graph import KernelError
from emudev_net.jit import inline, jit_wanted, queue_kernel
from emudev_net.primitives import Words, load64, store64
from emudev_net.testing import Probe
from emudev_net.testing import probes as compile_probes

pytestmark = pytest.mark.skipif(not jit_wanted(), reason="kernels are not compiled here")

BIG = 0x7FFF_FFFF_FFFF_FFFF
LOW = -(1 << 63)
MASK = (1 << 64) - 1
SEVEN = 7


def wrap(value):
    return ((value + (1 << 63)) & MASK) - (1 << 63)


@inline
def add(a: int, b: int) -> int:
    return a + b


@inline
def sub(a: int, b: int) -> int:
    return a - b


@inline
def mul(a: int, b: int) -> int:
    return a * b


@inline
def div(a: int, b: int) -> int:
    return a // b


@inline
def mod(a: int, b: int) -> int:
    return a % b


@inline
def left(a: int, b: int) -> int:
    return a << b


@inline
def right(a: int, b: int) -> int:
    return a >> b


@inline
def bits(a: int, b: int) -> int:
    return (a & b) ^ (a | ~b) ^ -a


@inline
def by_seven(a: int) -> int:
    return (a // 7) * 1000 + a % 7 + (a // -7) % SEVEN


@inline
def by_eight(a: int) -> int:
    return (a // 8) * 1000 + a % 8


@inline
def comparisons(a: int, b: int) -> int:
    value = 0
    if a < b:
        value |= 1
    if a <= b:
        value |= 2
    if a > b:
        value |= 4
    if a >= b:
        value |= 8
    if a == b:
        value |= 16
    if a != b:
        value |= 32
    return value


@inline
def chained(a: int, b: int, c: int) -> int:
    value = int(a < b < c)
    if a <= b <= c and not a == b == c:
        value += 2
    return value + 4 * (a in (b, c, 5)) + 8 * (a not in (b, 6))


@inline
def choose(a: int, b: int) -> int:
    x = a or b
    y = a and b
    z = a if a > b else b
    flag = a > 0 and b > 0
    other = not flag
    return x * 1000 + y * 100 + z * 10 + flag + 2 * other


@inline
def extremes(a: int, b: int, c: int) -> int:
    return min(a, b, c) * 3 + max(a, b, c) + abs(b) + bool(c)


@inline
def loops(a: int, b: int) -> int:
    total = 0
    for i in range(a):
        if i == 3:
            continue
        for j in range(i, b, 2):
            if j > 10:
                break
            total += i * j
        total += 1
    for k in range(b, a, -3):
        total += 7 * k
    i = 0
    while True:
        i += 1
        if i > a:
            break
        if i & 1:
            continue
        total += i
    while i > 0 and total < 100000:
        i -= 2
        total += 1
    return total


@inline
def last_of_range(a: int) -> int:
    i = 99
    for i in range(a):  # noqa: B007
        pass
    return i


@inline
def swap(a: int, b: int) -> int:
    a, b = b, a
    x = y = a
    x += b
    x <<= 2
    x //= 3
    return x * 10 + y


@inline
def early(a: int) -> int:
    if a < 0:
        return -1
    elif a == 0:
        return 0
    else:
        for i in range(100):
            if i * i >= a:
                return i
    return 100


@inline
def set_word(address: int, value: int) -> None:
    if value == 0:
        return
    store64(address, value)


@inline
def calls(a: int, b: int) -> int:
    return add(mul(a, 3), early(b)) + comparisons(a, b)


@inline
def constants(a: int) -> int:
    return a + BIG - BIG + LOW - LOW + (1 << 40) - (-3 // 2) + True


FUNCTIONS = (
    add,
    sub,
    mul,
    div,
    mod,
    left,
    right,
    bits,
    by_seven,
    by_eight,
    comparisons,
    chained,
    choose,
    extremes,
    loops,
    last_of_range,
    swap,
    early,
    calls,
    constants,
    set_word,
)


@pytest.fixture(scope="module")
def native():
    made = compile_probes(*FUNCTIONS)
    assert all(probe.kernel.address for probe in made)
    return dict(zip(FUNCTIONS, made, strict=True))


word = st.one_of(
    st.integers(-20, 20),
    st.integers(LOW, BIG),
    st.sampled_from([LOW, LOW + 1, BIG, BIG - 1, 0, -1, 1, 1 << 32, -(1 << 32)]),
)
small = st.integers(-30, 30)


@given(a=word, b=word)
@example(a=LOW, b=-1)
@example(a=LOW, b=1)
@example(a=-7, b=2)
@example(a=7, b=-2)
def test_arithmetic_is_that_of_python_modulo_64_bits(native, a, b):
    assert native[add](a, b) == wrap(a + b)
    assert native[sub](a, b) == wrap(a - b)
    assert native[mul](a, b) == wrap(a * b)
    assert native[bits](a, b) == wrap((a & b) ^ (a | ~b) ^ -a)
    assert native[by_eight](a) == wrap(by_eight(a))
    assert native[by_seven](a) == wrap(by_seven(a))
    assert native[div](a, b) == (wrap(a // b) if b else 0)
    assert native[mod](a, b) == (a % b if b else 0)


@given(a=word, count=st.integers(0, 200))
def test_shifts_are_those_of_python_and_defined_beyond_63(native, a, count):
    assert native[left](a, count) == wrap(a << count)
    assert native[right](a, count) == a >> count


@given(a=word, b=word, c=word)
def test_comparisons_and_choices_are_those_of_python(native, a, b, c):
    assert native[comparisons](a, b) == comparisons(a, b)
    assert native[chained](a, b, c) == chained(a, b, c)
    assert native[chained](a, a, b) == chained(a, a, b)
    assert native[choose](a, b) == wrap(choose(a, b))
    assert native[extremes](a, b, c) == wrap(extremes(a, b, c))


@given(a=small, b=small)
@settings(max_examples=60)
def test_loops_are_those_of_python(native, a, b):
    assert native[loops](a, b) == loops(a, b)
    assert native[last_of_range](a) == last_of_range(a)
    assert native[swap](a, b) == swap(a, b)
    assert native[early](a * 13) == early(a * 13)
    assert native[calls](a, b) == calls(a, b)
    assert native[constants](a) == constants(a)


def test_a_helper_without_a_result_can_be_called(native):
    words = Words(1)
    assert native[set_word](words.address, 5) == 0
    assert words[0] == 5
    native[set_word](words.address, 0)
    assert words[0] == 5


def test_a_negative_constant_of_the_whole_range_is_kept(native):
    assert native[add](LOW, 0) == LOW


def refused(function):
    with pytest.raises(KernelError) as caught:
        queue_kernel(function).compile()
    return str(caught.value)


TABLE = [1, 2]
TOO_LARGE = 1 << 63
FRACTION = 0.5


def not_inline(a):
    return a


@inline
def recursive(a: int) -> int:
    return recursive(a - 1) if a else 0


@queue_kernel
def another(state: int, burst: int, rows: int) -> int:
    return 0


def uses_list(state, burst, rows):
    return TABLE[0]


def uses_float(state, burst, rows):
    return rows * FRACTION


def divides(state, burst, rows):
    return rows / 2


def too_large(state, burst, rows):
    return rows & TOO_LARGE


def calls_plain(state, burst, rows):
    return not_inline(rows)


def calls_kernel(state, burst, rows):
    return another(state, burst, rows)


def recurses(state, burst, rows):
    return recursive(rows)


def makes_tuple(state, burst, rows):
    pair = (rows, burst)
    return pair[0]


def loops_over_list(state, burst, rows):
    for i in [1, 2]:
        rows += i
    return rows


def raises(state, burst, rows):
    raise ValueError


def tries(state, burst, rows):
    try:
        return rows
    finally:
        rows += 1


def formats(state, burst, rows):
    return f"{rows}"


def wrong_count(state, burst, rows):
    return load64(state, burst)


def names_argument(state, burst, rows):
    return load64(address=state)


def step_zero(state, burst, rows):
    for _ in range(0, rows, 0):
        rows += 1
    return rows


def loop_else(state, burst, rows):
    while rows > 0:
        rows -= 1
    else:
        rows = 5
    return rows


def unknown_name(state, burst, rows):
    return rows + nowhere_defined  # noqa: F821


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (uses_list, "TABLE, a list"),
        (uses_float, "FRACTION, a float"),
        (divides, "Div"),
        (too_large, "0x8000000000000000 does not fit"),
        (calls_plain, "not_inline, a function"),
        (calls_kernel, "queue kernel another"),
        (recurses, "calls itself"),
        (makes_tuple, "assignment"),
        (loops_over_list, "range"),
        (raises, "Raise"),
        (tries, "Try"),
        (formats, "JoinedStr"),
        (wrong_count, "takes 1 arguments, not 2"),
        (names_argument, "by position"),
        (step_zero, "step of range"),
        (loop_else, "no else"),
        (unknown_name, "nowhere_defined is not defined"),
    ],
)
def test_what_kernels_cannot_do_is_refused_with_name_and_reason(function, said):
    message = refused(function)
    assert said in message
    assert function.__name__ in message or function in (recurses,)


def test_a_refusal_names_file_and_line():
    message = refused(divides)
    line = divides.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}:" in message


def test_a_local_constant_of_an_outer_function_is_taken():
    offset = 11

    @inline
    def shifted(a: int) -> int:
        return a + offset

    (probe,) = compile_probes(shifted)
    assert probe.kernel.address
    assert probe(5) == 16
    assert Probe(shifted)(5) == 16
