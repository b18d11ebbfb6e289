"""Lines from bytes, and readers that hand them to the loop."""

import os
import threading

import pytest

from emudev_core.loop import Loop
from emudev_testpmd.prompt.reader import LineReader, Lines, is_terminal


def taken(lines):
    found = []
    while (line := lines.next()) is not None:
        found.append(line)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_are_the_same_however_they_are_cut(size):
    data = b"start\n\nshow port stats all\r\nquit"
    lines = Lines()
    found = []
    for at in range(0, len(data), size):
        lines.feed(data[at : at + size])
        found += taken(lines)
    assert found == ["start", "", "show port stats all"]
    assert not lines.ended
    lines.feed(b"")
    assert taken(lines) == ["quit"]
    assert lines.ended


def test_bytes_that_are_no_text_are_replaced():
    lines = Lines()
    lines.feed(b"a\xff\n")
    assert taken(lines) == ["a\ufffd"]


def test_a_line_without_end_does_not_grow_without_bound():
    lines = Lines()
    lines.feed(b"x" * 70_000)
    assert len(lines.next()) == 70_000
    assert lines.next() is None


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def test_a_reader_hands_over_a_line_each_time_it_is_told_to(loop, pipe):
    found = []
    reader = LineReader(loop, found.append, pipe[0])
    reader.start()
    os.write(pipe[1], b"one\ntwo\n")
    reader.next()
    while not found:
        loop.turn(1.0)
    loop.turn(0.0)
    assert found == ["one"]
    reader.next()
    while len(found) < 2:
        loop.turn(1.0)
    assert found == ["one", "two"]
    os.close(pipe[1])
    pipe[1] = -1
    reader.next()
    while len(found) < 3:
        loop.turn(1.0)
    assert found[2] is None
    reader.close()


def test_closing_a_reader_ends_its_thread_wherever_it_is(loop, pipe):
    before = threading.active_count()
    waiting = LineReader(loop, lambda _: None, pipe[0])
    waiting.start()
    waiting.next()
    idle = LineReader(loop, lambda _: None, pipe[0])
    idle.start()
    for reader in (waiting, idle, idle):
        reader.close()
    assert threading.active_count() == before


def test_a_stream_that_is_not_there_is_no_terminal(pipe):
    assert not is_terminal(None)
    with open(pipe[0], closefd=False) as stream:
        assert not is_terminal(stream)
    assert not is_terminal(stream)
