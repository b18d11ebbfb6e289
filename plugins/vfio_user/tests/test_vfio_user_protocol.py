"""Framing: any split of a stream, ownership of descriptors, lost framing, phases."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.errors import LifecycleError
from emudev_vfio_user.protocol import (
    NEXT,
    FrameError,
    Phase,
    PhaseEvent,
    Receiver,
    error_reply,
    step,
)


def _message(msg_id: int, command: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("<HHIII", msg_id, command, 16 + len(payload), flags, 0) + payload


def _events(receiver: Receiver) -> list[tuple[int, int, int, int, bytes]]:
    return [
        (i, c, f, e, bytes(receiver.buffer[at:end])) for i, c, f, e, at, end in receiver.messages()
    ]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


_messages = st.lists(
    st.tuples(
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.binary(max_size=200),
        st.sampled_from([0, 1, 0x10, 0x21]),
    ),
    max_size=20,
)


@given(messages=_messages, cuts=st.lists(st.integers(1, 300), min_size=1))
@settings(max_examples=200, deadline=None)
def test_any_split_of_a_stream_gives_the_same_messages(
    messages: list[tuple[int, int, bytes, int]], cuts: list[int]
) -> None:
    stream = b"".join(_message(*m) for m in messages)
    receiver = Receiver(limit=1024)
    found = []
    at = i = 0
    while at < len(stream):
        size = min(cuts[i % len(cuts)], len(receiver.room()))
        receiver.feed(stream[at : at + size])
        found += _events(receiver)
        at += size
        i += 1
    assert found == [(i, c, f, 0, p) for i, c, p, f in messages]
    assert receiver.waiting == 0


def test_a_message_of_the_longest_size_arrives_in_pieces() -> None:
    receiver = Receiver()
    payload = os.urandom(32 + (1 << 20) - 16)
    stream = _message(1, 9, b"") * 100 + _message(2, 10, payload) + _message(3, 9, b"")
    found = []
    at = 0
    while at < len(stream):
        size = len(receiver.room())
        receiver.feed(stream[at : at + size])
        found += _events(receiver)
        at += size
    assert [e[0] for e in found] == [1] * 100 + [2, 3]
    assert found[100][4] == payload


@pytest.mark.parametrize(
    ("size", "flags", "text"),
    [
        (15, 0, "message size 15 is not within 16"),
        (0, 0, "message size 0"),
        ((1 << 20) + 33, 0, "message size 1048609"),
        (0xFFFF_FFFF, 0, "message size 4294967295"),
        (16, 2, "type 2 is neither"),
        (16, 0xF, "type 15 is neither"),
    ],
)
def test_a_header_that_cannot_be_believed_ends_the_stream(size: int, flags: int, text: str) -> None:
    receiver = Receiver()
    receiver.feed(struct.pack("<HHIII", 7, 9, size, flags, 0))
    with pytest.raises(FrameError, match=text) as caught:
        list(receiver.messages())
    assert (caught.value.msg_id, caught.value.command, caught.value.answer) == (7, 9, True)
    assert caught.value.fatal


def test_a_posted_command_with_a_bad_header_gets_no_answer() -> None:
    receiver = Receiver()
    receiver.feed(struct.pack("<HHIII", 7, 10, 3, 0x10, 0))
    with pytest.raises(FrameError) as caught:
        list(receiver.messages())
    assert not caught.value.answer


def test_descriptors_belong_to_the_message_with_the_last_byte_they_came_with(
    eventfds: Callable[[int], list[int]],
) -> None:
    fds = [os.dup(fd) for fd in eventfds(2)]
    receiver = Receiver()
    # The kernel puts what came before in front of bytes with descriptors, never anything behind
    # them.
    receiver.feed(_message(1, 2, b"a") + _message(2, 2, b"b") + _message(3, 2, b"c")[:5], fds)
    owners = {}
    for _ in range(2):
        for m in receiver.messages():
            owners[m[0]] = receiver.take_fds()
        if 3 not in owners:
            receiver.feed(_message(3, 2, b"c")[5:] + _message(4, 2, b""))
    assert owners == {1: [], 2: [], 3: fds, 4: []}
    for fd in fds:
        os.close(fd)


def test_descriptors_that_nobody_took_are_closed_with_the_next_message(
    eventfds: Callable[[int], list[int]],
) -> None:
    fds = [os.dup(fd) for fd in eventfds(3)]
    receiver = Receiver()
    receiver.feed(_message(1, 9, b""), fds[:2])
    messages = receiver.messages()
    next(messages)
    assert all(_is_open(fd) for fd in fds)
    assert next(messages, None) is None
    assert [_is_open(fd) for fd in fds] == [False, False, True]
    receiver.feed(_message(2, 9, b"")[:7], fds[2:])
    receiver.close()
    assert not _is_open(fds[2])


def test_descriptors_stay_with_their_message_while_the_buffer_moves(
    eventfds: Callable[[int], list[int]],
) -> None:
    fd = os.dup(eventfds(1)[0])
    receiver = Receiver(limit=200_000)
    filler = _message(1, 9, bytes(50_000))
    last = _message(2, 2, bytes(100_000))
    stream = filler * 3 + last
    at = 0
    found: list[tuple[int, list[int]]] = []
    while at < len(stream):
        size = min(len(receiver.room()), len(stream) - at)
        receiver.feed(stream[at : at + size], [fd] if at <= 3 * len(filler) < at + size else [])
        found += [(m[0], receiver.take_fds()) for m in receiver.messages()]
        at += size
    assert found == [(1, []), (1, []), (1, []), (2, [fd])]
    os.close(fd)


def test_a_message_is_handed_out_once_when_iterators_are_nested() -> None:
    receiver = Receiver()
    receiver.feed(b"".join(_message(i, 9, b"") for i in range(5)))
    outer = receiver.messages()
    first = [next(outer)[0], next(outer)[0]]
    assert first == [0, 1]
    assert [m[0] for m in receiver.messages()] == [2, 3, 4]
    assert next(outer, None) is None


def test_an_error_reply_is_a_header_with_type_and_error_bits() -> None:
    assert error_reply(0xF5, 9, 22).hex() == "f5000900100000002100000016000000"


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(PhaseEvent))
def test_every_phase_takes_only_the_events_of_the_table(phase: Phase, event: PhaseEvent) -> None:
    if (phase, event) in NEXT:
        assert step(phase, event) is NEXT[phase, event]
        return
    with pytest.raises(LifecycleError, match=f"connection is {phase.value}"):
        step(phase, event)


def test_every_phase_ends_gone_when_the_client_leaves() -> None:
    for phase in (Phase.GREETING, Phase.SERVING, Phase.PARKED):
        left = step(phase, PhaseEvent.LEAVE)
        assert step(left, PhaseEvent.CLEARED) is Phase.GONE


def test_lost_descriptors_are_told_with_their_message(eventfds: Any) -> None:
    receiver = Receiver()
    receiver.room()[:16] = _message(1, 2, b"")
    receiver.received(16, [], True)
    seen = [(m[0], receiver.fds_lost) for m in receiver.messages()]
    receiver.feed(_message(2, 2, b""))
    seen += [(m[0], receiver.fds_lost) for m in receiver.messages()]
    assert seen == [(1, True), (2, False)]
