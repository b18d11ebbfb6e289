"""The port ``net_pcap``: what it receives comes from a capture file, what it sends goes to one.

Each start replays the file of the receive side from its beginning. The file of the send side is
made at the first start; if the port is stopped and started again it goes on, as long as nobody
touched it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core.loop import Timer, Watch
from emudev_core.queues import QueueKernel, QueueKernels, QueueStats
from emudev_net.jit import compile_now
from emudev_net.port import Port, PortInfo
from emudev_net.port_records import ETHERNET_OVERHEAD

from . import reader_kernels as r
from . import records
from . import writer_kernels as w
from .capture_file import CaptureFile, Cursor, symmetric_hashes
from .config import PcapConfig
from .formats import PCAP, PCAPNG, CaptureError
from .writer import CaptureWriter, Ring

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

__all__ = ["PcapPort"]

log = logging.getLogger(__name__)

#: The largest frame: what IP can make, with a header and a tag.
MAX_FRAME: Final = 65535 + ETHERNET_OVERHEAD
#: How often, and how far, a file that is not in memory is brought nearer; seconds, bytes.
_AHEAD_EVERY: Final = 0.01
_AHEAD: Final = 32 << 20
#: Bytes of a file from which on its check is worth a wait for compiled kernels.
_LARGE: Final = 1 << 20


class PcapPort(Port):
    """See the module.

    Args:
        config: What the user said.
        context: Name and loop.
    """

    def __init__(self, config: PcapConfig, context: BackendContext) -> None:
        super().__init__(context.name, context.loop)
        self._config = config
        self._hashes = symmetric_hashes()
        self._cursors: dict[int, Cursor] = {}
        self._rings: dict[int, Ring] = {}
        self._file: CaptureFile | None = None
        self._writer: CaptureWriter | None = None
        self._resume: tuple[int, int, int] | None = None
        self._bell = -1
        self._watch: Watch | None = None
        self._timers: dict[int, Timer] = {}
        self._ahead: Timer | None = None
        self._finished: set[int] = set()

    # -- what it is

    def describe(self) -> PortInfo:
        """What it is."""
        return PortInfo(
            driver="net_pcap",
            max_rx_queues=self._config.queues,
            max_tx_queues=self._config.queues,
            max_frame=MAX_FRAME,
            max_mtu=MAX_FRAME - ETHERNET_OVERHEAD,
        )

    def source(self, queue: int) -> QueueKernels:
        """Packets of the file that belong to a queue."""
        cursor = self._cursors.setdefault(queue, Cursor())
        return QueueKernels(
            cursor.words.address, r.peek, None, r.release, None, stats=partial(_received, cursor)
        )

    def sink(self, queue: int) -> QueueKernels:
        """Packets for the file; without one they are let go."""
        ring = self._rings.setdefault(queue, Ring())
        return QueueKernels(
            ring.words.address, None, w.push, None, w.notify, stats=partial(_sent, ring)
        )

    def kernels(self) -> Sequence[QueueKernel]:
        """Those of its queues, and those that look after them."""
        return [*r.KERNELS, *w.KERNELS]

    def counters(self) -> Mapping[str, int]:
        """Packets of which not all was captured, and passes through the file."""
        return {
            "rx_truncated_packets": sum(c.get(r.TRUNCATED) for c in self._cursors.values()),
            "rx_passes": max((c.get(r.PASSES) for c in self._cursors.values()), default=0),
            "tx_truncated_packets": sum(g.get(w.TRUNCATED) for g in self._rings.values()),
        }

    # -- life

    def on_start(self) -> None:
        """Open and check what is to be read, and what is to be written.

        Raises:
            CaptureError: A file can't be used.
        """
        try:
            if self._config.rx_pcap is not None:
                self._start_reading(self._config.rx_pcap)
            if self._config.tx_pcap is not None:
                self._start_writing(self._config.tx_pcap)
        except BaseException:
            self.on_stop()
            raise

    def _start_reading(self, path: str) -> None:
        config = self._config
        file = self._file = CaptureFile(path, config.rx_memory << 20)
        tolerant = config.rx_damaged == "use"
        if file.size > _LARGE:  # it is not checked in plain Python
            compile_now([*r.KERNELS, *w.KERNELS], partial(log.info, "%s: %s", self.name))
        summary = file.check(tolerant)
        if summary is not None:
            if summary.damage is not None:
                log.warning("%s: the rest is left out: %s", self.name, summary.damage)
            log.info(
                "%s: %s has %d packets, %d bytes, in %.6f s",
                *(self.name, path, summary.packets, summary.bytes, summary.duration / 1e9),
            )
        bell = self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch = self.loop.watch(bell, self._rung)
        pace = r.RECORDED if config.rx_timing == "recorded" else config.rx_rate or r.FLAT_OUT
        for queue in range(self.rx_queues):
            cursor = self._cursors[queue]
            cursor.enter(file)
            for word, value in (
                (r.BELL, bell),
                (r.PACE, pace),
                (r.AGAIN, int(config.infinite_rx)),
                (r.TOLERANT, int(tolerant)),
                (r.QUEUE, queue),
                (r.QUEUES, self.rx_queues),
                (r.HASHES, self._hashes.address),
                (r.POLLED, int(self.polled)),
            ):
                cursor.set(word, value)
        if file.window is None and self.rx_queues:
            self._read_ahead()

    def _start_writing(self, path: str) -> None:
        config = self._config
        if self._file is not None and self._file.is_file(path):
            raise CaptureError(path, "it is the file of rx_pcap, which would be overwritten")
        rings = [self._rings[queue] for queue in range(self.tx_queues)]
        for ring in rings:
            ring.open(config.tx_memory << 20)
            ring.set(w.KEEP, int(config.tx_time == "packet"))
        form = PCAPNG if config.tx_format == "pcapng" else PCAP
        self._writer = CaptureWriter(
            path, form, config.snaplen, self.name, rings, self._broken, self._resume
        )
        self._writer.start()

    def on_stop(self) -> None:
        """Write what is left, and close the files."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._resume = writer.close()
        for ring in self._rings.values():
            ring.close()
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for cursor in self._cursors.values():
            cursor.leave()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
            os.close(self._bell)
            self._bell = -1
        self._finished.clear()
        self._file = None

    def on_link(self, wanted: bool) -> None:
        """Let packets pass, or none."""
        up = int(wanted)
        for queue, cursor in self._cursors.items():
            cursor.set(r.OPEN, int(up and self._file is not None and queue < self.rx_queues))
        for ring in self._rings.values():
            ring.set(w.OPEN, up)
        if up:
            for queue in range(self.rx_queues):
                self.wake_rx(queue)

    def on_polled(self, polled: bool) -> None:
        """Nobody waits for packets that are due later, or somebody does."""
        for queue, cursor in self._cursors.items():
            cursor.set(r.POLLED, int(polled))
            if not polled:
                self.wake_rx(queue)

    # -- what kernels leave to the loop

    def _rung(self, _events: int) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return
        for queue in range(self.rx_queues):
            self._look_at(queue, self._cursors[queue])

    def _look_at(self, queue: int, cursor: Cursor) -> None:
        file = self._file
        if file is None:
            return
        if cursor.get(records.FAULT):
            self._fail(str(cursor.fault(file.path)))
            return
        if cursor.get(r.REWIND):
            os.lseek(cursor.get(records.FD), file.layout.start, os.SEEK_SET)
            r.restart(cursor.words.address, 0, 0)
        elif cursor.get(r.DONE):
            if queue not in self._finished:
                self._finished.add(queue)
                log.info("%s: receive queue %d has had all of %s", self.name, queue, file.path)
            return
        due = cursor.get(r.DUE)
        delay = (due - time.monotonic_ns()) / 1e9 if due else 0.0
        if delay <= 0:
            self._wake(queue)
        else:
            if queue in self._timers:
                self._timers[queue].cancel()
            self._timers[queue] = self.loop.call_later(delay, partial(self._wake, queue))

    def _wake(self, queue: int) -> None:
        self._cursors[queue].set(r.DUE, 0)  # if it is too early, the bell rings again
        self.wake_rx(queue)

    def _read_ahead(self) -> None:
        """Have the system bring in what will be read next, so that kernels do not wait for it."""
        file = self._file
        assert file is not None
        for queue in range(self.rx_queues):
            cursor = self._cursors[queue]
            at = cursor.get(records.BASE) + cursor.get(records.FILLED)
            fd = cursor.get(records.FD)
            os.posix_fadvise(fd, at, _AHEAD, os.POSIX_FADV_WILLNEED)
        self._ahead = self.loop.call_later(_AHEAD_EVERY, self._read_ahead)

    def _broken(self, error: CaptureError) -> None:
        """On the writer's thread: the file can't be written any more."""
        self.loop.call_threadsafe(partial(self._fail, str(error)))

    def _fail(self, reason: str) -> None:
        with self.paused():
            self.fail(reason)


def _received(cursor: Cursor) -> QueueStats:
    return QueueStats(cursor.get(r.PACKETS), cursor.get(r.BYTES), {"short": cursor.get(r.SHORT)})


def _sent(ring: Ring) -> QueueStats:
    dropped = {
        "full": ring.get(w.FULL),
        "link": ring.get(w.LINK),
        "write": ring.get(w.BROKEN),
    }
    return QueueStats(ring.get(w.PACKETS), ring.get(w.BYTES), dropped)
