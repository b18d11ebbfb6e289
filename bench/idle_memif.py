"""Interrupt mode: what two memif interfaces cost while nothing moves, and the first packet then.

    python bench/idle_memif.py [--seconds 5] [--packets 40]

`emudev testpmd --interrupt` joins two memif servers. Their clients are connected and silent: the
processor time of the whole process is taken. Then a client sends one packet after each 200 ms of
silence, writing the eventfd as the ring's flags ask for, and sleeps until the other one is told of
it. DPDK's memif driver knows polling only.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import statistics
import tempfile
import time
from pathlib import Path

from duts import PEER_CORE, start_dut
from memif_peers import (
    COUNT,
    DONE,
    GAP,
    KICK,
    POLLS,
    TIMES,
    WAKE,
    Ends,
    MemifClient,
    PeerThread,
    first_packets,
)
from samples import cpu_seconds
from table import Row, print_rows

from emudev_net.primitives import Words

SILENCE = 0.2


def measure(seconds: float = 5.0, packets: int = 40) -> list[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory(prefix="emudev-bench-") as name:
        folder = Path(name)
        with (
            start_dut("emudev", folder, 2, "io", 64, own=["--interrupt"]) as dut,
            contextlib.closing(MemifClient(folder / "m0.sock", 0)) as one,
            contextlib.closing(MemifClient(folder / "m1.sock", 1)) as two,
        ):
            ends = Ends(64, False, one, two)
            time.sleep(2)
            before, start = cpu_seconds(dut.pid), time.perf_counter()
            time.sleep(seconds)
            share = 100 * (cpu_seconds(dut.pid) - before) / (time.perf_counter() - start)
            times = Words(packets)
            ends.set(GAP, int(SILENCE * 1e9))
            ends.set(TIMES, times.address)
            ends.set(COUNT, packets)
            ends.set(KICK, one.rings.c2s_fds[0])
            wake = two.rings.s2c_fds[0]
            sleepers = Words(2)
            sleepers[0] = wake | select.POLLIN << 32  # struct pollfd: fd, events, revents
            ends.set(WAKE, wake)
            ends.set(POLLS, sleepers.address)
            with PeerThread(first_packets, ends.words, PEER_CORE):
                while ends.get(DONE) < packets:
                    time.sleep(0.05)
            took = sorted(times[i] / 1000 for i in range(packets))
    middle, late = statistics.median(took), took[int(0.9 * (packets - 1))]
    return [
        Row(
            "two idle memif interfaces, interrupt mode",
            f"{share:.2f} % of a core",
            "below 0.5 %",
            share < 0.5,
            "the whole process; DPDK's driver polls: 100 %",
        ),
        Row(
            "first packet after 200 ms of silence, median",
            f"{middle:.0f} µs",
            "below 200 µs",
            middle < 200,
            f"90 %: {late:.0f} µs, longest of {packets}: {took[-1]:.0f} µs",
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--packets", type=int, default=40)
    arguments = parser.parse_args()
    print_rows(measure(arguments.seconds, arguments.packets))
