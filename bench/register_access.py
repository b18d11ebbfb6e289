"""Register accesses over a vfio-user socket, against a blocking C server on a socket of that kind.

A C client makes a row of 4-byte reads, one at a time, and then a row of posted 4-byte writes with
one read behind them. First against the C server (two blocking receives and a send a message: the
floor), then against a device of this project in a process of its own: a provider in Python, served
by the vfio_user transport in the core's loop as `emudev run` does, the writes to a declared
doorbell. Medians of all rounds.

python bench/register_access.py [--rounds N]
"""

from __future__ import annotations

import argparse
import ctypes
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
READS, WRITES = 20_000, 200_000
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


def once(program: Path, server: list[str], path: Path) -> Figures:
    """One run of the client: read minimum, median and 99 %, mean posted write; nanoseconds."""
    client = [str(program), "client", str(path), "0", hex(DOORBELL), str(READS), str(WRITES)]
    with running(server, path):
        out = subprocess.run(client, check=True, capture_output=True, text=True, timeout=120).stdout
    low, middle, high, write = map(int, out.split())
    return low, middle, high, write


def compare(rounds: int) -> tuple[Figures, Figures]:
    """Medians of the C server's and of our figures."""
    found: dict[str, list[Figures]] = {"floor": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "s"
        program = build(folder)
        servers = {
            "floor": [str(program), "server", str(path)],
            "ours": [sys.executable, str(HERE / "register_access.py"), "--serve", str(path)],
        }
        for _ in range(rounds):
            for who, server in servers.items():
                found[who].append(once(program, server, path))

    def medians(figures: list[Figures]) -> Figures:
        a, b, c, d = (int(statistics.median(column)) for column in zip(*figures, strict=True))
        return a, b, c, d

    return medians(found["floor"]), medians(found["ours"])


def measure(rounds: int) -> list[Row]:
    """The rows of the table."""
    floor, ours = compare(rounds)
    ratio = ours[1] / floor[1]
    return [
        Row(
            "a row of 4-byte register reads, median",
            f"{ours[1] / 1000:.1f} µs, {ratio:.2f} x a blocking C server ({floor[1] / 1000:.1f})",
            "at most 0.6 x",
            ratio <= 0.6,
        ),
        Row(
            "the same, fastest",
            f"{ours[0] / 1000:.1f} µs (C: {floor[0] / 1000:.1f} µs)",
            "-",
            True,
        ),
        Row(
            "the same, 99 %",
            f"{ours[2] / 1000:.1f} µs (C: {floor[2] / 1000:.1f} µs)",
            "-",
            True,
        ),
        Row(
            "a posted doorbell write",
            f"{ours[3] / 1000:.2f} µs (C: {floor[3] / 1000:.2f} µs)",
            "at most 3 µs, aim 1.5",
            ours[3] <= 3000,
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
