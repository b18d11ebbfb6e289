"""Subscribers: who is called, and what native code reads instead of calling."""

import ctypes

import pytest

from emudev_core.subscribers import Shortcut, Subscribers

FIRST, SECOND, THIRD = (Shortcut(0x1000 * n, 0x10 * n) for n in (1, 2, 3))


def chain(subscribers):
    """The words that waits outside of the interpreter read."""
    words = (ctypes.c_int64 * 17).from_address(subscribers.chain)
    return [words[0], *words[1 : 1 + 2 * max(0, words[0])]]


@pytest.fixture
def calls():
    return []


@pytest.fixture
def callback(calls):
    """Makes callbacks that say their number."""
    return lambda number: lambda: calls.append(number)


def test_all_are_called_in_their_order(calls, callback):
    some = Subscribers()
    assert len(some) == 0
    for number in (3, 1, 2):
        some.add(callback(number))
    some.call()
    assert calls == [3, 1, 2]
    assert len(some) == 3


def test_one_of_two_equal_callbacks_is_undone_and_both_are_removed(calls, callback):
    some = Subscribers()
    one = callback(1)
    undo = some.add(one, FIRST)
    some.add(one, SECOND)
    undo()
    undo()
    assert chain(some) == [1, 0x2000, 0x20]
    some.call()
    assert calls == [1]
    some.add(one, FIRST)
    some.remove(print)
    assert len(some) == 2
    some.remove(one)
    assert chain(some) == [0]


def test_who_goes_while_all_are_called_is_called_once_more(calls, callback):
    some = Subscribers()
    some.add(lambda: undo())
    undo = some.add(callback(1))
    some.call()
    some.call()
    assert calls == [1]


def test_a_chain_has_room_for_eight(callback):
    some = Subscribers()
    undo = [some.add(callback(n), Shortcut(0x1000, n)) for n in range(8)]
    assert chain(some) == [8, *(word for n in range(8) for word in (0x1000, n))]
    undo.append(some.add(callback(8), Shortcut(0x1000, 8)))
    assert chain(some) == [-1]
    undo[0]()
    assert chain(some) == [8, *(word for n in range(1, 9) for word in (0x1000, n))]


def test_subscribers_that_are_called_by_others_are_in_their_chain_as_they_come_and_go(callback):
    inner, outer = Subscribers(), Subscribers()
    outer.add(callback(0), FIRST)
    outer.add(inner.call, inner)
    outer.add(callback(1), THIRD)
    assert chain(outer) == [2, 0x1000, 0x10, 0x3000, 0x30]
    undo = inner.add(callback(2), SECOND)
    assert chain(outer) == [3, 0x1000, 0x10, 0x2000, 0x20, 0x3000, 0x30]
    undo()
    inner.add(callback(3))  # can only be called
    assert chain(outer) == [-1]
    inner.clear()
    assert chain(outer) == [2, 0x1000, 0x10, 0x3000, 0x30]


def test_a_change_reaches_all_chains_above_and_those_that_let_go_no_more(callback):
    low, middle = Subscribers(), Subscribers()
    tops = [Subscribers() for _ in range(3)]
    middle.add(low.call, low)
    undo = [top.add(middle.call, middle) for top in tops]
    undo[2]()
    low.add(callback(1), FIRST)
    assert [chain(top) for top in tops] == [[1, 0x1000, 0x10]] * 2 + [[0]]
    tops[1].remove(middle.call)
    low.add(callback(2), SECOND)
    assert chain(tops[0]) == [2, 0x1000, 0x10, 0x2000, 0x20]
    assert [chain(top) for top in tops[1:]] == [[0], [0]]


def test_more_below_than_a_chain_has_room_for_are_called(calls, callback):
    inner, outer = Subscribers(), Subscribers()
    outer.add(callback(0), FIRST)
    outer.add(inner.call, inner)
    undo = [inner.add(callback(n), SECOND) for n in range(1, 9)]
    assert chain(inner)[0] == 8
    assert chain(outer) == [-1]
    outer.call()
    assert calls == list(range(9))
    undo[0]()
    assert chain(outer)[0] == 8
