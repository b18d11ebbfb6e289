"""The writer of a capture file: a thread that takes records out of rings and writes them.

A file of a disk is always ready, as far as ``poll`` can tell, and a write to one still waits
whenever the system has to bring earlier ones to the disk: up to seconds. On the loop's thread that
would stop every device, so that a capture has a thread of its own, asleep unless there is something
to write. It writes what has gathered with few large writes: after the first record it waits for
`DELAY`, unless a ring is half full before.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from emudev_core import __version__
from emudev_net.primitives import Words

from . import writer_kernels as k
from .formats import PCAP, PCAPNG, CaptureError, pcap_header, pcapng_header, pcapng_statistics
from .pages import Pages

__all__ = ["CaptureWriter", "Ring"]

log = logging.getLogger(__name__)

#: How long a record waits at most before it is written, ms.
DELAY: Final = 20
#: Bytes that are written at one time at most.
_PIECE: Final = 4 << 20
#: The signals that a thread must take itself are raised by its own instructions.
_FAULTS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT}
)


class Ring:
    """The words of one transmit queue, and its ring while there is a file.

    Attributes:
        words: See `writer_kernels`.
        memory: The ring; None: there is no file, packets are let go.
    """

    def __init__(self) -> None:
        self.words = Words(k.WORDS)
        self._scratch = Words(k.SCRATCH_BYTES // 8)
        self.memory: Pages | None = None
        self.set(k.SCRATCH, self._scratch.address)

    def get(self, word: int) -> int:
        """A word, by its name in `writer_kernels`."""
        return self.words[word // 8]

    def set(self, word: int, value: int) -> None:
        """Set one."""
        self.words[word // 8] = value

    def open(self, size: int) -> None:
        """Have a ring. Nobody runs kernels of this one.

        Args:
            size: Its bytes, a power of two.
        """
        self.memory = Pages(size)
        self.set(k.RING, self.memory.address)
        self.set(k.FAILED, 0)
        self.set(k.TAKEN, self.get(k.FILLED))
        self.set(k.SIZE, size)

    def close(self) -> None:
        """Give the ring back. Nobody runs kernels of this one."""
        self.set(k.SIZE, 0)
        self.memory = None


class CaptureWriter:
    """A capture file that is being written.

    Args:
        path: The file. It is made anew, unless `resume` says that it is one of this port.
        format: `PCAP` or `PCAPNG`.
        snaplen: Bytes of a packet that are kept at most.
        interface: Name of the port, for pcapng.
        rings: What is written to it; opened by the caller, who closes them after this.
        failed: Called once, on the writer's thread, if the file can't be written any more.
        resume: Device, inode and length of a file that is to be continued.

    Attributes:
        path: As given.

    Raises:
        CaptureError: It can't be opened or written, or somebody else writes to it.
    """

    def __init__(
        self,
        path: str,
        format: int,
        snaplen: int,
        interface: str,
        rings: Sequence[Ring],
        failed: Callable[[CaptureError], None],
        resume: tuple[int, int, int] | None = None,
    ) -> None:
        self.path = path
        self._format = format
        self._rings = rings
        self._failed = failed
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._written = 0
        self._before = self._counts()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._fd = self._open(resume)
        except BaseException:
            os.close(self._bell)
            raise
        try:
            if self._written == 0:
                if format == PCAP:
                    header = pcap_header(snaplen)
                else:
                    header = pcapng_header(f"emudev {__version__}", interface, snaplen)
                self._write([memoryview(header)])
        except OSError as exc:
            self._close_descriptors()
            raise CaptureError(path, f"can't be written: {exc.strerror}") from exc
        clock = time.time_ns() - time.monotonic_ns()
        for ring in rings:
            ring.set(k.FORMAT, format)
            ring.set(k.SNAPLEN, snaplen)
            ring.set(k.CLOCK, clock)
            ring.set(k.BELL, self._bell)

    def _open(self, resume: tuple[int, int, int] | None) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, 0o666)
        except OSError as exc:
            raise CaptureError(self.path, f"can't be opened: {exc.strerror}") from exc
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise CaptureError(self.path, "expected a file, it is something else")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CaptureError(self.path, "another port or program writes to it") from None
            if resume is not None and (found.st_dev, found.st_ino, found.st_size) == resume:
                self._written = found.st_size
            os.ftruncate(fd, self._written)
            os.lseek(fd, self._written, os.SEEK_SET)
        except OSError as exc:
            os.close(fd)
            raise CaptureError(self.path, f"can't be written: {exc.strerror}") from exc
        except BaseException:
            os.close(fd)
            raise
        return fd

    def start(self) -> None:
        """Begin to write."""
        # What was recorded reaches the file also where a process ends without `close`.
        atexit.register(self.close)
        self._thread = threading.Thread(target=self._run, name="emudev-pcap", daemon=True)
        self._thread.start()

    def close(self) -> tuple[int, int, int]:
        """Write what is left, and close the file; nobody pushes any more. Once; it waits.

        Returns:
            Device, inode and length of the file, for `resume`.
        """
        if self._thread is not None:
            self._stopping = True
            os.eventfd_write(self._bell, 1)
            self._thread.join()
            self._thread = None
            atexit.unregister(self.close)
            if self._format == PCAPNG and not self._is_broken():
                self._append_statistics()
        if self._fd < 0:
            return (0, 0, 0)
        found = os.fstat(self._fd)
        self._close_descriptors()
        return found.st_dev, found.st_ino, found.st_size

    def _close_descriptors(self) -> None:
        os.close(self._fd)
        os.close(self._bell)
        self._fd = -1

    def _counts(self) -> tuple[int, int]:
        """Packets that were taken, and those that found no room."""
        taken = sum(ring.get(k.PACKETS) for ring in self._rings)
        return taken, sum(ring.get(k.FULL) for ring in self._rings)

    def _append_statistics(self) -> None:
        now = self._counts()
        written, dropped = (a - b for a, b in zip(now, self._before, strict=True))
        block = pcapng_statistics(time.time_ns(), written + dropped, dropped)
        try:
            self._write([memoryview(block)])
        except OSError as exc:
            self._give_up(self._written, exc)

    # -- on the writer's thread

    def _run(self) -> None:
        # Those that ask the process to end have to interrupt the thread that handles them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while True:
            stopping = self._stopping
            moved = sum(self._drain(ring) for ring in self._rings)
            if stopping:
                return
            sleeps = k.DOZES if moved else k.ASLEEP
            wait = DELAY if moved else None
            left = [k.announce(ring.words.address, 0, sleeps) for ring in self._rings]
            if sleeps == k.ASLEEP and any(left):
                poll.poll(0 if self._stopping else DELAY)
            else:
                poll.poll(wait)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            for ring in self._rings:
                k.announce(ring.words.address, 0, k.AWAKE)

    def _is_broken(self) -> bool:
        return any(ring.get(k.FAILED) for ring in self._rings)

    def _drain(self, ring: Ring) -> int:
        """Write what is in a ring now; returns bytes."""
        state = ring.words.address
        left = total = k.waiting(state, 0, 0)
        if total == 0 or ring.memory is None:
            return 0
        if self._is_broken():
            k.taken(state, 0, total)
            return 0
        memory, size = ring.memory.bytes, ring.memory.size
        whole = self._written  # up to here there are whole records
        while left > 0:
            at = ring.get(k.TAKEN) & (size - 1)
            piece = min(left, _PIECE)
            first = min(piece, size - at)
            parts = [memory[at : at + first]]
            if first < piece:
                parts.append(memory[: piece - first])
            try:
                self._write(parts)
            except OSError as exc:
                self._give_up(whole, exc)
                k.taken(state, 0, left)
                return 0
            k.taken(state, 0, piece)
            left -= piece
        return total

    def _write(self, parts: list[memoryview]) -> None:
        """Write all of it.

        Raises:
            OSError: It can't be; a part may have been written.
        """
        while parts:
            done = os.writev(self._fd, parts)
            self._written += done
            while parts and done >= len(parts[0]):
                done -= len(parts.pop(0))
            if done:
                parts[0] = parts[0][done:]

    def _give_up(self, whole: int, error: OSError) -> None:
        """Leave a file of whole records, and write no more."""
        for ring in self._rings:
            ring.set(k.FAILED, 1)
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, whole)
        self._written = whole
        self._failed(
            CaptureError(self.path, f"can't be written: {error.strerror}; it ends here", whole)
        )
