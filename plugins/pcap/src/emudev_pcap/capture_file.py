"""A capture file that is read: opened, recognised, brought into memory if it is small, checked."""

from __future__ import annotations

import logging
import os
import stat
from typing import Final

import attrs

from emudev_net.primitives import Words
from emudev_net.rss import ToeplitzTable

from . import faults, records
from . import reader_kernels as k
from .formats import FILE_HEADER, PCAPNG, CaptureError, Layout, recognise
from .pages import Pages

__all__ = ["CaptureFile", "Cursor", "Summary"]

log = logging.getLogger(__name__)

#: Bytes that are read into memory at one time.
_PIECE: Final = 8 << 20
#: Records that are checked at one time.
_RECORDS: Final = 1 << 20


@attrs.frozen
class Summary:
    """What is in a capture file.

    Attributes:
        packets: Frames; records that are too short to be some are not among them.
        bytes: Their bytes, as captured.
        short: Records that are too short to be frames.
        truncated: Frames of which not all was captured.
        longest: Bytes of the longest.
        duration: Time between the first frame and the latest, ns.
        damage: What is wrong behind them; None: nothing.
    """

    packets: int
    bytes: int
    short: int
    truncated: int
    longest: int
    duration: int
    damage: CaptureError | None = None


class Cursor:
    """The words of a reader, and the memory that belongs to them.

    Attributes:
        words: See `reader_kernels`.
    """

    def __init__(self) -> None:
        self.words = Words(k.WORDS)
        self._marks = Words(k.MARK_WORDS)
        self._kept: list[Words | Pages] = []

    def get(self, word: int) -> int:
        """A word, by its name in `reader_kernels` or `records`."""
        return self.words[word // 8]

    def set(self, word: int, value: int) -> None:
        """Set one."""
        self.words[word // 8] = value

    def enter(self, file: CaptureFile) -> None:
        """Begin at the start of a file. Nobody runs kernels of this one.

        Raises:
            CaptureError: It can't be opened again.
        """
        self.leave()
        fd = -1
        if file.window is None:
            fd = file.open()
            os.lseek(fd, file.layout.start, os.SEEK_SET)
            window = Pages(k.WINDOW_ROOM)
            room = k.WINDOW_ROOM
        else:
            window = file.window
            room = file.size
        self._kept = [window]
        layout = file.layout
        if layout.format == PCAPNG:
            interfaces = Words(records.MAX_INTERFACES * records.INTERFACE // 8)
            self._kept.append(interfaces)
            self.set(records.INTERFACES, interfaces.address)
        for word, value in (
            (records.WINDOW, window.address),
            (records.ROOM, room),
            (records.FD, fd),
            (records.FORMAT, layout.format),
            (records.START, layout.start),
            (records.SIZE, file.size),
            (records.TICK, layout.tick),
            (records.FCS, layout.fcs),
            (records.BIG, int(layout.big)),
            (records.BASE, 0),
            (records.FILLED, 0 if fd >= 0 else file.size),
            (k.SHOWN, self._marks.address),
        ):
            self.set(word, value)
        k.restart(self.words.address, 0, 1)

    def leave(self) -> None:
        """Let go of the file and its memory. Nobody runs kernels of this one."""
        fd = self.get(records.FD)
        if self._kept and fd >= 0:
            os.close(fd)
        self.set(records.FD, -1)
        self.set(records.SIZE, 0)
        self.set(records.FILLED, 0)
        self._kept = []

    def fault(self, path: str) -> CaptureError | None:
        """What is wrong with the file, if something was found."""
        fault = self.get(records.FAULT)
        if fault == 0:
            return None
        at, value = self.get(records.FAULT_AT), self.get(records.FAULT_VALUE)
        return faults.explain(path, fault, at, value, self.get(records.SIZE))


class CaptureFile:
    """A file, as it was when it was opened; what is appended later is not looked at.

    Args:
        path: The file.
        memory: Bytes up to which it is kept in memory.

    Attributes:
        path: As given.
        size: Bytes that are used.
        layout: What its start says.
        identity: Device and inode.
        window: All of it; None: it is too large, each reader reads it again.

    Raises:
        CaptureError: It can't be read, or is no capture of Ethernet packets.
    """

    def __init__(self, path: str, memory: int) -> None:
        self.path = path
        self.window: Pages | None = None
        fd = self.open()
        try:
            self.size = os.fstat(fd).st_size
            head = os.pread(fd, FILE_HEADER, 0)
            self.layout: Layout = recognise(path, head, self.size)
            if self.size <= memory:
                self.window = self._load(fd)
            self.identity = _identity(os.fstat(fd))
        except OSError as exc:
            raise CaptureError(path, f"can't be read: {exc.strerror}") from exc
        finally:
            os.close(fd)

    def open(self) -> int:
        """A descriptor of it, at its start; the caller closes it.

        Raises:
            CaptureError: It can't be opened, or is no file.
        """
        try:
            # Without waiting: a pipe that nobody writes to would hold the process.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise CaptureError(self.path, f"can't be opened: {exc.strerror}") from exc
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise CaptureError(self.path, "expected a file, it is something else")
        return fd

    def _load(self, fd: int) -> Pages:
        pages = Pages(self.size)
        view = pages.bytes
        at = 0
        while at < self.size:
            try:
                got = os.preadv(fd, [view[at : min(at + _PIECE, self.size)]], at)
            except InterruptedError:
                continue
            if got == 0:
                raise faults.explain(self.path, faults.SHRANK, at, 0, self.size)
            at += got
        return pages

    def check(self, tolerant: bool) -> Summary | None:
        """Walk through all of it.

        Args:
            tolerant: Damage is no error: what is whole before it is used, `size` ends there. A file
                that is not in memory is not looked at then: the damage is found when it is reached.

        Returns:
            What is in it, if it was looked at.

        Raises:
            CaptureError: What is wrong, and at which offset.
        """
        if tolerant and self.window is None:
            return None
        cursor = Cursor()
        cursor.enter(self)
        try:
            # A large file is read ahead by the system while this one looks at it.
            if self.window is None:
                os.posix_fadvise(cursor.get(records.FD), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while k.check(cursor.words.address, 0, _RECORDS) == records.MORE:
                pass
            damage = cursor.fault(self.path)
            if damage is not None:
                fault = cursor.get(records.FAULT)
                if not tolerant or fault not in faults.DAMAGE:
                    raise damage
                self.size = cursor.get(records.FAULT_AT)
        finally:
            cursor.leave()
        return Summary(
            packets=cursor.get(k.PACKETS),
            bytes=cursor.get(k.BYTES),
            short=cursor.get(k.SHORT),
            truncated=cursor.get(k.TRUNCATED),
            longest=cursor.get(k.LONGEST),
            duration=max(0, cursor.get(k.LATEST) - cursor.get(k.ORIGIN)),
            damage=damage,
        )

    def is_file(self, path: str) -> bool:
        """Whether a path leads to this file, too."""
        try:
            return _identity(os.stat(path)) == self.identity
        except OSError:  # there is none: it will be made
            return False


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


#: Of this key the hash of a flow is the same in both directions.
_SYMMETRIC: Final = bytes.fromhex("6d5a") * 20


def symmetric_hashes() -> ToeplitzTable:
    """The table by which packets are spread over queues."""
    return ToeplitzTable(_SYMMETRIC)
