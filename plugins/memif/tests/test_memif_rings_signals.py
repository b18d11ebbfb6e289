"""Interrupts of rings: who asks for a signal when, and who gets one."""

import os
import select

from emudev_memif.plain_peer import PlainClient
from emudev_memif.rings import KERNELS, RingSet, Role
from emudev_memif.testing.steps import frames


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_a_receiver_that_finds_nothing_asks_for_a_signal_and_no_more_once_it_found_something(join):
    joined = join()
    assert joined.take() == []
    assert joined.source.flags & 1 == 0
    joined.peer.send(0, frames(1))
    joined.take()
    assert joined.source.flags & 1 == 1
    joined.take()
    assert joined.source.flags & 1 == 0


def test_a_receiver_that_dropped_all_it_found_asks_for_a_signal(join):
    joined = join()
    joined.take()
    joined.peer.send(0, [b"too short"])
    assert joined.take() == []
    assert joined.drops(1) == {"length": 1}
    assert joined.source.flags & 1 == 0
    assert not readable(joined.source_fd)
    joined.rings.set_polled(1, True)
    joined.peer.send(0, [b"too short"])
    assert joined.take() == []
    assert joined.source.flags & 1 == 1


def test_a_receiver_that_has_just_come_up_is_armed(compiled_or_plain):
    compiled_or_plain(*KERNELS)
    rings = RingSet(Role.SERVER, 1)
    peer = PlainClient(1)
    peer.c2s[0].flags = 1
    peer.join(rings)
    assert peer.c2s[0].flags == 0
    rings.close()
    peer.close()


def test_a_polled_receiver_never_asks_for_signals(join):
    joined = join()
    joined.take()
    joined.rings.set_polled(1, True)
    joined.take()
    assert joined.source.flags & 1 == 1
    joined.peer.send(0, frames(1))
    joined.take()
    joined.take()
    assert joined.source.flags & 1 == 1
    joined.rings.detach()
    joined.join()
    assert joined.source.flags & 1 == 1
    joined.rings.set_polled(1, False)
    joined.take()
    assert joined.source.flags & 1 == 0


def test_a_peer_that_wants_a_signal_gets_one_for_each_batch(join):
    joined = join()
    joined.sink.flags = 0
    joined.push(frames(3))
    assert not readable(joined.sink_fd)
    joined.notify()
    assert os.eventfd_read(joined.sink_fd) == 1
    joined.notify()
    assert not readable(joined.sink_fd)


def test_a_peer_that_polls_costs_no_system_call(join):
    joined = join()
    joined.sink.flags = 1
    joined.push(frames(3))
    joined.notify()
    assert not readable(joined.sink_fd)


def test_a_push_that_sent_nothing_signals_nothing(join):
    joined = join()
    joined.sink.flags = 0
    joined.push([b""])
    joined.notify()
    assert not readable(joined.sink_fd)


def test_a_full_eventfd_is_harmless(join):
    joined = join()
    joined.sink.flags = 0
    os.eventfd_write(joined.sink_fd, 0xFFFF_FFFF_FFFF_FFFE)
    joined.push(frames(1))
    assert joined.notify() == 0
    joined.rings.wake(0)
    assert os.eventfd_read(joined.sink_fd) == 0xFFFF_FFFF_FFFF_FFFE


def test_wake_writes_the_eventfd_of_a_ring(join):
    joined = join()
    joined.rings.wake(1)
    assert os.eventfd_read(joined.source_fd) == 1
    joined.rings.detach()
    joined.rings.wake(1)
    assert not readable(joined.source_fd)


def test_pending_says_whether_a_look_is_worth_it(join):
    joined = join()
    assert not joined.rings.pending(1)
    joined.peer.send(0, frames(1))
    assert joined.rings.pending(1)
    joined.take()
    assert not joined.rings.pending(1)
