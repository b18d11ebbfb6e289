"""Transmit tails in memory that a client maps, so that a doorbell costs it one store.

The first page of BAR 0 holds the transmit tails and nothing else. With `doorbells=mapped` it is
memory of its own, which a VMM maps into its guest: a store arrives without leaving the guest, and
without a word to this process. Whoever polls the queue sees it at once. For who does not, a timer
looks for tails that have moved: every 2 ms while they do, up to every 32 ms while none does.

The memory can't be truncated (seals), and each client gets fresh memory, so that one that has left
rings nobody's doorbells any more. Source: avf.md 2.1; vfio-user specification, "Region info";
memfd_create(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

import attrs

from emudev_core.errors import ConfigError
from emudev_core.loop import Loop, Timer
from emudev_core.memory import Mapping
from emudev_core.queues import Doorbell
from emudev_core.regions import MapArea, RegionFlag, RegionInfo

__all__ = ["FASTEST", "SLOWEST", "MappedTails", "TailWatch"]

PAGE: Final = 4096
FASTEST: Final = 0.002  #: between two looks while tails move, seconds
SLOWEST: Final = 0.032  #: while none does

_FIXED: Final = 0x10  # MAP_FIXED

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


class MappedTails:
    """See the module.

    Attributes:
        address: Where the page lies in this process, the same for ever.

    Raises:
        ConfigError: Pages are not of 4 KiB here.
        OSError: The system has no memory or descriptor for it.
    """

    def __init__(self) -> None:
        if mmap.PAGESIZE != PAGE:
            raise ConfigError(
                f"doorbells can be mapped where pages have 4096 bytes, not {mmap.PAGESIZE}",
                hint="doorbells=messages",
            )
        self._fd = _page()
        self._mapping = Mapping(self._fd, 0, PAGE)  # never taken back: words stay readable
        self.address = self._mapping.address

    def tail(self, index: int) -> int:
        """Address of the tail of a transmit queue."""
        return self.address + 4 * index

    def region(self, bar: RegionInfo) -> RegionInfo:
        """What a transport shows of BAR 0; the descriptor stays this object's, and the same."""
        return attrs.evolve(
            bar, flags=bar.flags | RegionFlag.MMAP, fd=self._fd, areas=(MapArea(0, PAGE),)
        )

    def renew(self, paused: AbstractContextManager[None]) -> None:
        """Take fresh memory, all tails 0: the client that mapped the last one has gone.

        Args:
            paused: A context in which no kernel runs.
        """
        fd = _page()
        try:
            with paused:
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                at = _libc.mmap(self.address, PAGE, protection, mmap.MAP_SHARED | _FIXED, fd, 0)
                if at != self.address:
                    number = ctypes.get_errno()
                    raise OSError(number, f"doorbells can't be mapped: {os.strerror(number)}")
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Show it to nobody any more; the words stay readable. A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _page() -> int:
    """A page of shared memory that keeps its size."""
    fd = os.memfd_create("emudev-avf-tails", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


class TailWatch:
    """The timer for queues that nobody polls. On the loop's thread.

    Args:
        loop: The process' loop.
        doorbells: Whose words clients store to.
    """

    def __init__(self, loop: Loop, doorbells: Sequence[Doorbell]) -> None:
        self._loop = loop
        self._doorbells = doorbells
        self._seen = [bell.value for bell in doorbells]
        self._timer: Timer | None = None
        self._period = FASTEST
        self._wanted = False

    def set_wanted(self, wanted: bool) -> None:
        """Whether there is a client that may have mapped them."""
        self._wanted = wanted
        self.update()

    def update(self) -> None:
        """Somebody began to poll, or no longer does."""
        needed = self._wanted and not all(bell.polled for bell in self._doorbells)
        if needed and self._timer is None:
            self._period = FASTEST
            self._timer = self._loop.call_later(0, self._look)
        elif not needed and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        moved = False
        for i, bell in enumerate(self._doorbells):
            value = bell.value
            if value != self._seen[i] and not bell.polled:
                self._seen[i] = value
                moved = True
                bell.ring()
        self._period = FASTEST if moved else min(2 * self._period, SLOWEST)
        self._timer = self._loop.call_later(self._period, self._look)
