"""Event channels and doorbells."""

import ctypes
import select

import pytest

from emudev_core.events import Event, EventChannel, EventKind
from emudev_core.queues import (
    Doorbell,
    DoorbellFlag,
    QueueKernels,
    Shortcut,
    rx_queue,
    tx_queue,
)

LINK_UP = Event(EventKind.LINK, value=1)


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_events_come_out_in_order_once():
    channel = EventChannel()
    events = [Event(EventKind.QUEUE_STATE, queue=i) for i in range(5)]
    for event in events:
        channel.post(event)
    assert list(channel.drain()) == events
    assert list(channel.drain()) == []


def test_the_descriptor_is_readable_while_events_wait():
    channel = EventChannel()
    channel.post(LINK_UP)
    fd = channel.fileno()
    assert readable(fd)
    list(channel.drain())
    assert not readable(fd)
    channel.post(LINK_UP)
    assert readable(fd)
    channel.close()
    channel.close()


def test_a_reader_is_woken_when_the_first_event_arrives():
    woken = []
    channel = EventChannel(lambda: woken.append(1))
    channel.post(LINK_UP)
    channel.post(LINK_UP)
    assert woken == [1]
    list(channel.drain())
    channel.post(LINK_UP)
    assert woken == [1, 1]


def test_events_posted_while_draining_are_taken_too():
    channel = EventChannel()
    channel.post(LINK_UP)
    seen = []
    for event in channel.drain():
        seen.append(event)
        if len(seen) < 3:
            channel.post(event)
    assert len(seen) == 3


def test_a_full_channel_counts_what_it_loses_and_says_so_last():
    channel = EventChannel(capacity=4)
    for i in range(10):
        channel.post(Event(EventKind.QUEUE_STATE, queue=i))
    events = list(channel.drain())
    assert [e.queue for e in events[:3]] == [0, 1, 2]
    assert [e.kind for e in events[3:]] == [EventKind.OVERFLOW]
    assert channel.lost == 7
    with pytest.raises(ValueError, match="at least 2"):
        EventChannel(capacity=1)


@pytest.fixture
def word():
    return (ctypes.c_uint32 * 1)()


def test_a_doorbell_stores_before_it_rings(word):
    bell = Doorbell(3, ctypes.addressof(word))
    seen = []
    bell.subscribe(lambda: seen.append((word[0], bell.value)))
    bell.write(0xFFFF_FFFE)
    assert seen == [(0xFFFF_FFFE, 0xFFFF_FFFE)]


def test_a_word_stored_by_the_transport_is_seen_when_it_rings(word):
    bell = Doorbell(0, ctypes.addressof(word))
    seen = []
    bell.subscribe(lambda: seen.append(bell.value))
    word[0] = 9
    assert seen == []
    bell.ring()
    assert seen == [9]


def test_who_unsubscribed_is_not_called(word):
    bell = Doorbell(0, ctypes.addressof(word))
    calls = []
    first, second = (lambda: calls.append(1)), (lambda: calls.append(2))
    bell.subscribe(first)
    bell.subscribe(second)
    bell.unsubscribe(first)
    bell.unsubscribe(print)
    bell.ring()
    assert calls == [2]


def chain(bell):
    """The words that waits outside of the interpreter read."""
    words = (ctypes.c_int64 * 17).from_address(bell.chain)
    return [words[0], *words[1 : 1 + 2 * max(0, words[0])]]


def test_a_doorbell_shows_native_code_its_subscribers_as_long_as_all_have_a_shortcut(word):
    bell = Doorbell(0, ctypes.addressof(word))
    first, second = (lambda: None), (lambda: None)
    assert chain(bell) == [0]
    bell.subscribe(first, Shortcut(0x1000, 0x10))
    bell.subscribe(second, Shortcut(0x2000, 0x20))
    assert chain(bell) == [2, 0x1000, 0x10, 0x2000, 0x20]
    bell.subscribe(print)
    assert chain(bell) == [-1]
    bell.unsubscribe(print)
    bell.unsubscribe(first)
    assert chain(bell) == [1, 0x2000, 0x20]
    bell.subscribe(first, Shortcut(0, 0x10))  # not compiled
    assert chain(bell) == [-1]
    bell.close()
    assert chain(bell) == [0]


def test_a_doorbell_tells_by_descriptor_once_it_was_asked_for_one(word):
    bell = Doorbell(0, ctypes.addressof(word))
    assert bell.flags == DoorbellFlag.MEMORY
    fd = bell.fileno()
    assert bell.flags == DoorbellFlag.MEMORY | DoorbellFlag.FD
    assert not readable(fd)
    bell.ring()
    assert readable(fd)
    bell.close()
    bell.ring()
    assert bell.flags == DoorbellFlag.MEMORY


def test_who_polls_tells_the_provider_once(word):
    told = []
    bell = Doorbell(0, ctypes.addressof(word), on_polled=told.append)
    assert bell.polled is False
    bell.polled = True
    bell.polled = True
    assert (bell.polled, told) == (True, [True])
    bell.polled = False
    assert told == [True, False]
    Doorbell(1, ctypes.addressof(word)).polled = True  # nobody wants to know


def test_queue_numbers_say_pair_and_direction():
    assert [(rx_queue(p), tx_queue(p)) for p in range(3)] == [(0, 1), (2, 3), (4, 5)]


class Kernel:
    def __init__(self, address):
        self.address = address

    def __call__(self, state, burst, rows):
        return 0


def test_kernels_are_compiled_if_each_of_them_is():
    compiled, plain = Kernel(0x1000), Kernel(0)
    assert QueueKernels(0, compiled, None, compiled, compiled).compiled
    assert not QueueKernels(0, compiled, None, plain, compiled).compiled
