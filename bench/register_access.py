"""Register accesses over a vfio-user socket, against a blocking C server on a socket of that kind.

A C client makes a row of 4-byte reads, one at a time, and then a row of posted 4-byte writes with
one read behind them; then reads again with some work between two of them, as a guest has. It does
so by turns with the C server (two blocking receives and a send a message: the floor) and with a
device of this project in a process of its own: a provider in Python, served by the vfio_user
transport in the core's loop as `emudev run` does, the writes to a declared doorbell. Medians of all
runs. A C server that never sleeps shows what is left to gain.

The C client and the floor wake each other each time, so the floor depends on how long a sleeping
core takes to wake: the more others use the machine, the less its cores sleep, and the more a server
that looks on instead of sleeping is in the way. The note says how busy it was.

python bench/register_access.py [--rounds N]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from table import Row, print_rows

HERE = Path(__file__).resolve().parent
READS, WRITES = 5_000, 50_000
RUNS = 4  # a round: short ones, by turns, so that both servers see the same machine
PAUSE = 15_000  # between two accesses of a guest, nanoseconds
DOORBELL = 0x1000

Figures = tuple[int, int, int, int]


def serve(path: str) -> None:
    """Serve a small device until the process is terminated."""
    from emudev_core.device import Device
    from emudev_core.hooks import hookimpl
    from emudev_core.loop import Loop
    from emudev_core.queues import Doorbell
    from emudev_core.regions import DoorbellWindow, RegionFlag, RegionInfo
    from emudev_vfio_user.config import VfioUserConfig
    from emudev_vfio_user.server import Server

    class Registers:
        def __init__(self, loop: Loop) -> None:
            self.word = ctypes.c_uint32()
            self.values = {0: 0x1234}
            bell = Doorbell(0, ctypes.addressof(self.word))
            bell.subscribe(loop.task(lambda: None).mark)
            self.windows = (DoorbellWindow(DOORBELL, 4, (bell,)),)

        @hookimpl
        def emudev_get_regions(self) -> list[RegionInfo]:
            flags = RegionFlag.READ | RegionFlag.WRITE
            return [RegionInfo(0, 0x10000, flags, doorbells=self.windows)]

        @hookimpl
        def emudev_region_read(self, region: int, offset: int, size: int) -> int:
            return self.values.get(offset, 0)

        @hookimpl
        def emudev_region_write(self, region: int, offset: int, size: int, value: int) -> bool:
            self.values[offset] = value
            return True

    loop = Loop()
    device = Device("bench_emudev_0", 0, "bench", loop)
    device.register(Registers(loop), "provider")
    device.register(Server(VfioUserConfig(path=path), device, loop), "vfio_user")
    device.configure()
    device.start()
    loop.run()


def build(folder: Path) -> Path:
    """Compile the C program."""
    program = folder / "register_access"
    source = str(HERE / "register_access.c")
    subprocess.run(["cc", "-O2", "-Wall", "-o", str(program), source], check=True)
    return program


@contextmanager
def running(command: list[str], path: Path) -> Iterator[None]:
    """A server process, from when its socket is there."""
    path.unlink(missing_ok=True)
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 10
            while not path.is_socket():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {command}")
                time.sleep(0.01)
            time.sleep(0.05)
            yield
        finally:
            process.kill()


def once(program: Path, path: Path, pause: int, writes: int) -> Figures:
    """One run of the client: read minimum, median and 99 %, mean posted write; nanoseconds."""
    numbers = map(str, (READS, pause, writes))
    client = [str(program), "client", str(path), "0", hex(DOORBELL), *numbers]
    out = subprocess.run(client, check=True, capture_output=True, text=True, timeout=120).stdout
    low, middle, high, write = map(int, out.split())
    return low, middle, high, write


def medians(figures: list[Figures]) -> Figures:
    """Column by column."""
    a, b, c, d = (int(statistics.median(column)) for column in zip(*figures, strict=True))
    return a, b, c, d


def in_use(seconds: float = 1.0) -> float:
    """Cores that others use."""

    def idle() -> float:
        fields = Path("/proc/stat").read_text().split(maxsplit=9)
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")

    before = idle()
    time.sleep(seconds)
    return max(0.0, (os.cpu_count() or 1) - (idle() - before) / seconds)


def compare(rounds: int) -> tuple[dict[str, Figures], float]:
    """Medians by server (and "pausing": with pauses), and the cores that others used around it."""
    found: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder)
        floor, ours, sleepless = folder / "floor", folder / "ours", folder / "sleepless"
        script = str(HERE / "register_access.py")
        busy = in_use()
        with (
            running([str(program), "server", str(floor)], floor),
            running([sys.executable, script, "--serve", str(ours)], ours),
            running([str(program), "sleepless", str(sleepless)], sleepless),
        ):
            for _ in range(rounds * RUNS):
                for path in (floor, ours, sleepless):
                    row = once(program, path, 0, WRITES)
                    found.setdefault(path.name, []).append(row)
                    row = once(program, path, PAUSE, 1)
                    found.setdefault(f"{path.name} pausing", []).append(row)
        busy = max(busy, in_use())
    return {who: medians(figures) for who, figures in found.items()}, busy


def measure(rounds: int) -> list[Row]:
    """The rows of the table."""
    found, busy = compare(rounds)
    floor, ours = found["floor"], found["ours"]
    note = f"others used {busy:.1f} of {os.cpu_count()} cores"

    def against(mine: int, peer: int) -> str:
        ratio = mine / peer
        return f"{mine / 1000:.1f} µs, {ratio:.2f} x a blocking C server ({peer / 1000:.1f})"

    # Where a C server that never sleeps can't do it either, the time is the kernel's socket's.
    best = found["sleepless"][1] / floor[1]
    bound = f"a C server that never sleeps takes {best:.2f} x: what is left is the kernel's socket"
    mine, peer = found["ours pausing"], found["floor pausing"]
    return [
        Row(
            "a row of 4-byte register reads, median",
            against(ours[1], floor[1]),
            "at most 0.6 x",
            ours[1] <= 0.6 * floor[1],
            f"{note}; {bound}" if ours[1] > 0.6 * floor[1] else note,
        ),
        Row("the same, fastest", against(ours[0], floor[0]), "-", True),
        Row("the same, 99 %", against(ours[2], floor[2]), "-", True),
        Row(
            f"the same, {PAUSE / 1000:.0f} µs of work between two, median",
            against(mine[1], peer[1]),
            "-",
            True,
        ),
        Row(
            "the same by a C server that never sleeps, median",
            against(found["sleepless"][1], floor[1]),
            "-",
            True,
        ),
        Row(
            "a posted doorbell write",
            f"{ours[3] / 1000:.2f} µs (C: {floor[3] / 1000:.2f} µs)",
            "at most 3 µs, aim 1.5",
            ours[3] <= 3000,
            note,
        ),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", metavar="PATH", help="be the server")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    print_rows(measure(arguments.rounds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
