"""Forwarding from one memif server to another, between null peers: packets a second.

    python bench/memif_forwarding.py [--sizes 64,1500] [--seconds 0.5] [--rounds 3]

The peers are clients in one compiled loop on core 0, which write descriptors and counters but no
payload (*null*), or also the first 8 bytes of each packet they send and read the first 8 of each
they get (*dirty*). The forwarder runs on core 1: as one fused kernel (*fused*), or by peek, push
and release through a burst table (*burst*). A sample during which one of the two threads waited
for its core for more than 12 % of the time is thrown away. Source: datapath.md section 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from memif_peers import (
    BATCH,
    BUFFER,
    LOG2,
    RECEIVED,
    STOP,
    Ends,
    PeerThread,
    memif_to_memif,
)

from emudev_memif.rings import KERNELS, RingMemory, RingSet, Role, create, layout
from emudev_net.burst import Burst
from emudev_net.jit import compile_now, queue_kernel
from emudev_net.primitives import (
    Words,
    call3,
    load64,
    load64_relaxed,
    pause,
)

# Words of the forwarder.
F_FORWARD = 8 * 1  # address of a fused kernel, or 0
F_SOURCE = 8 * 2
F_SINK = 8 * 3
F_PEEK = 8 * 4
F_PUSH = 8 * 5
F_RELEASE = 8 * 6
F_NOTIFY = 8 * 7
F_BURST = 8 * 8
F_BATCH = 8 * 9


@queue_kernel
def forwarder(state: int, _burst: int, _rows: int) -> int:
    """Forward until told to stop; what the sink has no room for is lost."""
    fused = load64(state + F_FORWARD)
    source = load64(state + F_SOURCE)
    sink = load64(state + F_SINK)
    burst = load64(state + F_BURST)
    batch = load64(state + F_BATCH)
    while load64_relaxed(state + STOP) == 0:
        if fused != 0:
            moved = call3(fused, source, sink, batch)
        else:
            moved = call3(load64(state + F_PEEK), source, burst, batch)
            if moved > 0:
                call3(load64(state + F_PUSH), sink, burst, moved)
                call3(load64(state + F_RELEASE), source, burst, moved)
        call3(load64(state + F_NOTIFY), sink, 0, 0)
        if moved == 0:
            for _ in range(16):
                pause()
    return 0


def waited(thread: int) -> int:
    """How long a thread has waited for a core, ns."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1])


class Bench:
    """Two servers, the memory of their clients, and the two loops."""

    def __init__(self, batch: int) -> None:
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.batch = batch

    def _join(self) -> tuple[RingSet, RingMemory]:
        memory = create(layout(1, 1, LOG2, BUFFER))
        rings = RingSet(Role.SERVER, 1)
        rings.set_polled(1, True)
        place = memory.layout
        rings.attach(memory.regions, place.c2s, place.s2c, self.fds[:1], self.fds[1:])
        return rings, memory

    def sample(self, size: int, dirty: bool, fused: bool, seconds: float) -> tuple[float, float]:
        """Millions of packets a second, and the share of time that a thread waited for its core."""
        one, one_memory = self._join()
        two, two_memory = self._join()
        source, sink = one.kernels(1), two.kernels(0)
        peers = Ends(size, dirty, one_memory, two_memory)
        words, burst = Words(16), Burst(self.batch)
        named = (source.peek, sink.push, source.release, sink.notify)
        calls = [kernel.address for kernel in named if kernel is not None]
        fast = source.forward[sink.kind].address if fused else 0
        for i, value in enumerate((fast, source.state, sink.state, *calls, burst.address)):
            words[1 + i] = value
        words[F_BATCH // 8] = self.batch
        with (
            PeerThread(forwarder, words, 1) as middle,
            PeerThread(memif_to_memif, peers.words, 0) as far,
        ):
            threads = (middle.id, far.id)
            time.sleep(0.1)
            before, lags = peers.get(RECEIVED), list(map(waited, threads))
            start = time.perf_counter()
            time.sleep(seconds)
            took = time.perf_counter() - start
            moved = peers.get(RECEIVED) - before
            late = max(waited(thread) - lag for thread, lag in zip(threads, lags, strict=True))
        for rings, memory in ((one, one_memory), (two, two_memory)):
            rings.close()
            memory.close()
        return moved / took / 1e6, late / took / 1e9


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="64,1500", help="bytes, a list")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH, help="packets at one time")
    options = parser.parse_args()
    if not compile_now([*KERNELS, memif_to_memif, forwarder]):
        print("kernels are not compiled: llvmlite is missing or EMUDEV_JIT=0", file=sys.stderr)
        return 1
    bench = Bench(options.batch)
    cases = [
        (size, dirty, fused)
        for size in map(int, options.sizes.split(","))
        for dirty in (False, True)
        for fused in (True, False)
    ]
    rates: dict[tuple[int, bool, bool], list[float]] = {case: [] for case in cases}
    disturbed = 0
    for _ in range(options.rounds):
        for case in cases:
            rate, late = bench.sample(*case, options.seconds)
            if late > 0.12:
                disturbed += 1
            else:
                rates[case].append(rate)
    for (size, dirty, fused), found in rates.items():
        name = f"{size:5} bytes, {'dirty' if dirty else 'null':5}, {'fused' if fused else 'burst'}"
        best = f"{statistics.median(found):6.1f} Mpps" if found else "   -"
        print(f"{name}: {best}   {' '.join(f'{rate:.1f}' for rate in found)}")
    if disturbed:
        print(f"{disturbed} samples were disturbed by other load and left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
