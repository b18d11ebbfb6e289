"""What tests of workers are made of: flows, queues of a descriptor, and patience."""

import time

import pytest

from emudev_core.loop import Loop
from emudev_core.queues import QueueKernels
from emudev_net import flow as flows
from emudev_net import memory_queues, worker_kernels
from emudev_net.burst import ADDRESS, FIRST, FLAGS, LAST, LENGTH, Burst
from emudev_net.flow import Flow
from emudev_net.jit import jit_wanted, queue_kernel
from emudev_net.memory_queues import MemorySource
from emudev_net.primitives import Words, load64, store64
from emudev_net.system_calls import read, write

needs_compiler = pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only")


# A queue of a descriptor, one frame at a time: word 0 the descriptor, 1 a buffer, 2 bytes in it.


@queue_kernel
def fd_peek(state, burst, capacity):
    """Read a frame unless one is there."""
    if load64(state + 16) <= 0:
        store64(state + 16, read(load64(state), load64(state + 8), 2048))
    if load64(state + 16) <= 0:
        return 0
    store64(burst + ADDRESS, load64(state + 8))
    store64(burst + LENGTH, load64(state + 16))
    store64(burst + FLAGS, FIRST | LAST)
    return 1


@queue_kernel
def fd_release(state, burst, rows):
    """Forget the frame."""
    store64(state + 16, 0)
    return 0


@queue_kernel
def fd_push(state, burst, rows):
    """Write frames of one row each."""
    done = 0
    while done < rows:
        row = burst + 64 * done
        if write(load64(state), load64(row + ADDRESS), load64(row + LENGTH)) < 0:
            break
        done += 1
    return done


KERNELS = (
    *flows.KERNELS,
    *worker_kernels.KERNELS,
    *memory_queues.KERNELS,
    fd_peek,
    fd_release,
    fd_push,
)


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.0002)


def frames(count, size=64):
    return [n.to_bytes(4, "big") * (size // 4) for n in range(count)]


def sleeping(worker):
    return worker._words[worker_kernels.SLEEPING // 8]


class Joined(Flow):
    """A flow that keeps what it joins."""

    def __init__(self, source, sink):
        self.loop = Loop()
        super().__init__(self.loop, source.kernels, sink.kernels)
        self.ends = (source, sink)
        self.loop.close()


class FdQueue:
    """Either end of a descriptor."""

    def __init__(self, fd):
        self._words, self._buffer = Words(8), Words(256)
        self._words[0], self._words[1] = fd, self._buffer.address
        self.kernels = QueueKernels(self._words.address, fd_peek, fd_push, fd_release, None)


def endless(sink):
    """A flow that is never done, of 60 packets again and again."""
    return Joined(MemorySource(Burst.of(frames(60)), again=1 << 60), sink)
