"""The data path against DPDK's: `emudev testpmd` and `dpdk-testpmd` on the same work, by turns.

    python bench/forwarding.py [--quick] [--rows NAME] [--rounds 3] [--list]

Each row names a device under test (DUT), which polls with one thread on core 1, and peers that run
on core 0; every sample starts both anew, joins them over their sockets, settles for a second and
counts at the peer for 0.6 s. The programs take turns within each round; a sample is thrown away
when the DUT's busiest thread waited for its core for more than 12 % of the time, and taken again.
The medians of the rounds are compared. Bursts are 32 packets, the default of both; rings have 1024
descriptors, buffers 2048 bytes.

- *null* peers write descriptors and counters only (`memif_peers`), *dirty* ones touch payload. They
  are clients of real memif sockets, the same for both programs.
- *testpmd* peers are DPDK's testpmd with memif clients, for both programs.
- A *null guest* is one that sends by the AVF device (`avf_guest`), or for DPDK by virtio-net to
  `net_vhost` (`virtio_guest`); what it sends is forwarded to a null memif peer in the same loop.

Needs two cores and Debian's dpdk-dev. Source of the method: datapath.md section 1.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from avf_guest import AvfGuest, avf_to_memif
from duts import PEER_CORE, Dpdk, Emudev, Program, memif_ports, missing, start_dut
from memif_peers import RECEIVED, Ends, MemifClient, PeerThread, memif_to_memif
from samples import SECONDS, SETTLE, Busiest, Series
from table import Row, print_rows
from virtio_guest import VirtioGuest, virtio_to_memif

from emudev_net.jit import compile_now

PROGRAMS: Final = ("dpdk", "emudev")
FRAME: Final = bytes.fromhex("020000000001 020000000002 0800")
TRIES: Final = 4

#: A DUT that runs with its peers, and what tells how many packets a peer has counted in a time.
Rate: TypeAlias = Callable[[float], float]


def from_words(ends: Ends) -> Rate:
    """Packets a second that arrive at null peers."""

    def rate(seconds: float) -> float:
        before, start = ends.get(RECEIVED), time.perf_counter()
        time.sleep(seconds)
        return (ends.get(RECEIVED) - before) / (time.perf_counter() - start)

    return rate


def from_testpmd(peer: Dpdk, direction: str) -> Rate:
    """Packets a second that DPDK's testpmd counts; by its own clock."""

    def rate(seconds: float) -> float:
        peer.rates(direction)
        time.sleep(seconds)
        return peer.rates(direction)

    return rate


# -- the kinds of work: each starts a program with its peers


@contextlib.contextmanager
def between_null_peers(
    program: str, folder: Path, size: int, *, dirty: bool = False
) -> Iterator[tuple[Program, Rate]]:
    """From one memif interface to another."""
    with (
        start_dut(program, folder, 2, "io", size) as dut,
        contextlib.closing(MemifClient(folder / "m0.sock", 0)) as one,
        contextlib.closing(MemifClient(folder / "m1.sock", 1)) as two,
    ):
        ends = Ends(size, dirty, one, two)
        with PeerThread(memif_to_memif, ends.words, PEER_CORE):
            yield dut, from_words(ends)


@contextlib.contextmanager
def against_testpmd(
    program: str, folder: Path, size: int, *, mode: str, peer: str, direction: str, ports: int = 1
) -> Iterator[tuple[Program, Rate]]:
    """One or two memif interfaces; the peer is DPDK's testpmd."""
    vdevs = [
        f"net_memif{n},id={n},role=client,socket={folder}/m{n}.sock,socket-abstract=no"
        for n in range(ports)
    ]
    with start_dut(program, folder, ports, mode, size) as dut:
        if program == "emudev":  # it lets clients in once its kernels are there
            for n in range(ports):
                MemifClient(folder / f"m{n}.sock", n).close()
        with Dpdk(vdevs, peer, core=PEER_CORE, size=size) as far:
            yield dut, from_testpmd(far, direction)


@contextlib.contextmanager
def from_guest(program: str, folder: Path, size: int) -> Iterator[tuple[Program, Rate]]:
    """From a null guest's network device to memif."""
    frame = FRAME.ljust(size, b"\0")
    (memif,), (name,) = memif_ports(program, folder, 1)
    socket = folder / "guest.sock"
    dut: Program
    if program == "emudev":
        dut = Emudev(
            [f"emu_iavf,id=1,path={socket},doorbells=mapped", memif], ["avf_emudev_1", name], "io"
        )
    else:
        dut = Dpdk([f"net_vhost0,iface={socket},queues=1", memif], "io")
    with dut, contextlib.closing(MemifClient(folder / "m0.sock", 0)) as receiver:
        guest = AvfGuest(socket, frame) if program == "emudev" else VirtioGuest(socket, frame)
        kernel = avf_to_memif if program == "emudev" else virtio_to_memif
        with contextlib.closing(guest):
            ends = Ends(size, False, None, receiver)
            guest.fill(ends)
            with PeerThread(kernel, ends.words, PEER_CORE):
                yield dut, from_words(ends)


# -- the rows


@dataclass(frozen=True)
class Work:
    """A row of the table.

    Attributes:
        name: For `--rows`.
        what: For people.
        bound: The ratio to DPDK that is asked for; 0: none.
        run: Starts a program with its peers in a folder.
        note: What is to be said of it in any case.
    """

    name: str
    what: str
    bound: float
    run: Callable[[str, Path], contextlib.AbstractContextManager[tuple[Program, Rate]]]
    note: str = ""


def _forward(size: int, dirty: bool, bound: float) -> Work:
    kind = "dirty" if dirty else "null"
    return Work(
        f"forward-{kind}-{size}",
        f"memif to memif, {size} bytes, {kind} peers",
        bound,
        lambda program, folder: between_null_peers(program, folder, size, dirty=dirty),
    )


def _one_way(size: int, mode: str, peer: str, direction: str) -> Work:
    word = "receive" if mode == "rxonly" else "send"
    return Work(
        f"{word}-{size}",
        f"{word}, {size} bytes, testpmd `{peer}`",
        0.95,
        lambda program, folder: against_testpmd(
            program, folder, size, mode=mode, peer=peer, direction=direction
        ),
    )


def _both_ways(size: int) -> Work:
    return Work(
        f"flowgen-{size}",
        f"both ways, {size} bytes, testpmd `flowgen`",
        0.95,
        lambda program, folder: against_testpmd(
            program, folder, size, mode="io", peer="flowgen", direction="Rx", ports=2
        ),
    )


def _guest(size: int, bound: float) -> Work:
    return Work(
        f"guest-{size}",
        f"AVF to memif, {size} bytes, null guest",
        bound,
        lambda program, folder: from_guest(program, folder, size),
        "DPDK: net_vhost to net_memif, null virtio-net guest",
    )


WORK: Final = (
    _forward(64, False, 2.2),
    _forward(64, True, 2.5),
    _forward(1500, False, 1.15),
    _forward(1500, True, 0),
    *(_one_way(size, "rxonly", "txonly", "Tx") for size in (64, 1500)),
    *(_one_way(size, "txonly", "rxonly", "Rx") for size in (64, 1500)),
    _both_ways(64),
    _both_ways(1500),
    _guest(64, 1.5),
    _guest(1500, 1.1),
)


# -- measuring


@dataclass(frozen=True)
class Timing:
    """How long everything takes.

    Attributes:
        rounds: Samples of each program and row.
        seconds: Of a sample.
        settle: Before it, seconds.
    """

    rounds: int = 3
    seconds: float = SECONDS
    settle: float = SETTLE


def sample(work: Work, program: str, timing: Timing) -> tuple[float, float]:
    """Millions of packets a second, and the share of the time that the DUT's thread waited."""
    with (
        tempfile.TemporaryDirectory(prefix="emudev-bench-") as name,
        work.run(program, Path(name)) as (dut, rate),
    ):
        time.sleep(timing.settle)
        busiest = Busiest(dut.pid)
        found = rate(timing.seconds)
        return found / 1e6, busiest.wait()


def compare(work: Work, timing: Timing) -> dict[str, Series]:
    """Samples of both programs, by turns."""
    found = {program: Series() for program in PROGRAMS}
    for _ in range(timing.rounds):
        for program, series in found.items():
            series.take(partial(sample, work, program, timing), TRIES)
    return found


def row(work: Work, found: dict[str, Series]) -> Row:
    """The row of a work; its ratio is that of the medians."""
    ours, theirs = found["emudev"], found["dpdk"]
    ratio = ours.median / theirs.median if theirs.median else 0.0
    notes = [work.note] if work.note else []
    if lost := sum(len(series.disturbed) for series in found.values()):
        notes.append(f"{lost} samples were disturbed by other load")
    if not (ours.kept and theirs.kept):
        notes.append("none was undisturbed: not a measurement")
    spread = " ".join(
        f"{who} {min(s):.1f} to {max(s):.1f}"
        for who, series in found.items()
        if len(s := series.kept) > 1
    )
    if spread:
        notes.append(f"samples: {spread}")
    return Row(
        work.what,
        f"{ours.median:.1f} Mpps, {ratio:.2f} x DPDK ({theirs.median:.1f})",
        f"at least {work.bound:.2f} x" if work.bound else "-",
        not work.bound or ratio >= work.bound,
        "; ".join(notes),
        ratio=ratio,
        target=work.bound,
    )


def measure(timing: Timing, names: str = "") -> list[Row]:
    """The rows of the table.

    Args:
        timing: How long.
        names: Only rows whose name holds this.

    Raises:
        RuntimeError: It can't be done here; the message says why.
    """
    if reason := missing():
        raise RuntimeError(reason)
    if not compile_now([memif_to_memif, avf_to_memif, virtio_to_memif]):
        raise RuntimeError("kernels are not compiled: llvmlite is missing, or EMUDEV_JIT=0")
    return [row(work, compare(work, timing)) for work in WORK if names in work.name]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short sample of each")
    parser.add_argument("--rows", default="", metavar="NAME", help="only rows with this in a name")
    parser.add_argument("--list", action="store_true", help="names of rows")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{work.name:20} {work.what}" for work in WORK))
        return 0
    timing = Timing(1, 0.3, 0.4) if options.quick else Timing(options.rounds)
    try:
        print_rows(measure(timing, options.rows))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
