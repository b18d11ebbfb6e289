"""Who is told of packets and room while nobody polls. Source: memif.md 4, "Interrupts"."""

import ctypes
import os
import select
import time

import pytest

from emudev_core.loop import Loop
from emudev_core.queues import Doorbell
from emudev_memif.plain_peer import Joined
from emudev_memif.rings import Role
from emudev_memif.wakeups import SLOWEST, Wakeups

FRAME = bytes(range(64))


class Bed:
    """A server's rings, a plain client behind them, and what looks after queues that sleep."""

    def __init__(self):
        self.loop = Loop(spin=0)
        self.joined = Joined(Role.SERVER)
        self._words = (ctypes.c_uint32 * 2)()
        at = ctypes.addressof(self._words)
        self.bells = [Doorbell(queue, at + 4 * queue) for queue in range(2)]
        self.rung = [0, 0]
        for queue, bell in enumerate(self.bells):
            bell.subscribe(lambda queue=queue: self._count(queue))
        self.wakeups = Wakeups(self.loop, self.joined.rings, self.bells)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def _count(self, queue):
        self.rung[queue] += 1

    def turn(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.loop.turn(left)

    def signalled(self, seconds=0):
        return bool(select.select([self.bells[1].signal_fd], [], [], seconds)[0])

    def close(self):
        self.wakeups.close()
        os.close(self.fd)
        self.joined.close()
        self.loop.close()


@pytest.fixture
def bed():
    bed = Bed()
    yield bed
    bed.close()


def test_the_peer_s_eventfd_rings_the_doorbell(bed):
    bed.wakeups.attach({1: bed.fd})
    before = list(bed.rung)
    os.eventfd_write(bed.fd, 1)
    bed.loop.turn(1)
    assert bed.rung[1] == before[1] + 1


def test_a_thread_beside_the_loop_can_wait_for_the_peer_too(bed):
    bed.wakeups.attach({1: bed.fd})
    waited = bed.bells[1].signal_fd
    assert bed.bells[0].signal_fd == -1  # no signal says that there is room
    assert not bed.signalled()
    os.eventfd_write(bed.fd, 1)
    assert bed.signalled()
    bed.loop.turn(1)  # the loop takes notice
    assert not bed.signalled()
    bed.wakeups.detach()
    os.eventfd_write(bed.fd, 1)
    assert not bed.signalled()
    # The next peer has an eventfd of its own; who waits need not know.
    other = os.eventfd(0, os.EFD_NONBLOCK)
    bed.wakeups.attach({1: other})
    assert bed.bells[1].signal_fd == waited
    os.eventfd_write(other, 1)
    assert bed.signalled()
    bed.wakeups.close()
    assert bed.bells[1].signal_fd == -1
    os.close(other)


def test_a_packet_whose_sender_did_not_signal_is_found(bed):
    bed.wakeups.attach({1: bed.fd})
    before = bed.rung[1]
    bed.joined.peer.send(0, [FRAME])  # and no write to the eventfd
    bed.turn(0.05)
    assert bed.rung[1] > before


def test_looks_become_rare_while_nothing_moves_and_come_back_at_once(bed):
    bed.wakeups.attach({1: bed.fd})
    bed.turn(0.3)
    before = bed.rung[1]
    times = []
    call_later = bed.loop.call_later

    def noted(delay, callback):
        times.append(delay)
        return call_later(delay, callback)

    bed.loop.call_later = noted
    bed.turn(0.3)
    assert len(times) <= 3
    assert all(0.1 < delay <= SLOWEST for delay in times)
    assert bed.rung[1] == before
    os.eventfd_write(bed.fd, 1)
    bed.loop.turn(1)
    assert times[-1] == pytest.approx(0.002)
