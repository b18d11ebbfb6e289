"""Memory that its owner may truncate: a compiled handler of SIGBUS.

A peer that shrinks a file after it was mapped here turns the next access into SIGBUS, which ends
the process, whoever else it serves. Seals prevent that where the peer set them; a device that wants
its memory guarded in any case says so here:

    guarded = guard(address, size, loop, on_fault=lambda guard: device.fail("..."))
    ...
    guarded.close()  # nobody uses the memory any more; then it may be unmapped

An access to a page of a guarded range that its file no longer has puts a page of zeroes there,
private to this process, is counted, and goes on: kernel, thread and process live, and the loop's
thread is told. (After `MANY` faults the whole range becomes zeroes.) What was read and written from
then on is lost; whoever is told ends the connection. Faults outside of all guarded ranges belong to
somebody else: the handler that was there before gets them, as if there were none here.

The handler runs on whatever thread touched the memory, between any two instructions, so it is a
kernel like others: integers, system calls, nothing of the interpreter. It is installed while there
are guards. Where nothing is compiled (no llvmlite, EMUDEV_JIT=0) there is none, and `Guard.active`
is False. System calls don't fault: they answer EFAULT for such memory.

Source: datapath.md section 9; sigaction(2); mmap(2), "SIGBUS".
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap as mmap_numbers
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .jit import Compilation, compile_all, jit_wanted, queue_kernel
from .primitives import (
    Words,
    atomic_add64,
    load32,
    load64,
    load64_acquire,
    static_words,
    store64,
    store64_release,
)
from .system_calls import errno, mmap, raise_signal, set_errno, sigaction, signal_eventfd

if TYPE_CHECKING:
    from emudev_core.loop import Loop

__all__ = ["KERNELS", "Guard", "guard", "handle", "place", "prepare"]

log = logging.getLogger(__name__)

# The table of guarded ranges: a line of words, then entries.
_COUNT: Final = 8 * 0  #: entries, in use or not
_FORMER: Final = 8 * 1  #: address of the ``struct sigaction`` that was there before
_ENTRIES: Final = 64
# An entry.
_SEQUENCE: Final = 8 * 0  #: odd while it is changed
_START: Final = 8 * 1  #: first address
_END: Final = 8 * 2  #: the address behind the last one
_PAGE: Final = 8 * 3  #: bytes of a page of the mapping
_COUNTER: Final = 8 * 4  #: address of a word that counts faults
_EVENTFD: Final = 8 * 5  #: signalled at each; -1: none
_ENTRY: Final = 64
_FIELDS: Final = 5  #: words behind the sequence

# Source: siginfo_t of Linux on 64-bit machines; mmap(2).
_SI_CODE: Final = 8
_SI_ADDR: Final = 16
_READ_WRITE: Final = mmap_numbers.PROT_READ | mmap_numbers.PROT_WRITE
_ZEROES: Final = mmap_numbers.MAP_PRIVATE | mmap_numbers.MAP_ANONYMOUS | 0x10  # MAP_FIXED

#: Faults in a range after which all of it becomes zeroes: each page apart costs the kernel a
#: mapping of its own, of which a process may have 65530.
MANY: Final = 512

_USER: Final = 0  #: the highest ``si_code`` of a signal that somebody sent


@queue_kernel
def place(entry: int, fields: int, _rows: int) -> int:
    """Store the fields of an entry; a handler at the same time sees all of them, or none.

    Args:
        entry: Its address.
        fields: Address of the words from `_START` on.
        _rows: Not used.
    """
    sequence = load64(entry + _SEQUENCE)
    store64_release(entry + _SEQUENCE, sequence + 1)
    for i in range(_FIELDS):
        store64_release(entry + _START + 8 * i, load64(fields + 8 * i))
    store64_release(entry + _SEQUENCE, sequence + 2)
    return 0


@queue_kernel
def handle(number: int, info: int, _context: int) -> int:
    """The handler of SIGBUS, as sigaction(2) calls it; or with number 0: take a table.

    Args:
        number: The signal.
        info: Address of its ``siginfo_t``; of the table, if the number is 0.
        _context: Not used.

    Returns:
        1 if the access can go on, else 0.
    """
    number &= 0xFFFF_FFFF  # an int: the rest of its register is anything
    if number == 0:
        store64_release(static_words(), info)
        return 0
    table = load64_acquire(static_words())
    if table == 0:
        return 0
    kept = errno()
    fault = load64(info + _SI_ADDR)
    sent = load32(info + _SI_CODE)
    sent = 1 if sent == _USER or sent >> 31 else 0
    count = 0 if sent else load64_acquire(table + _COUNT)
    for i in range(count):
        entry = table + _ENTRIES + i * _ENTRY
        # An entry that is being changed guards nothing that can be touched now: no need to wait.
        sequence = load64_acquire(entry + _SEQUENCE)
        start = load64_acquire(entry + _START)
        end = load64_acquire(entry + _END)
        page = load64_acquire(entry + _PAGE)
        counter = load64_acquire(entry + _COUNTER)
        eventfd = load64_acquire(entry + _EVENTFD)
        if sequence & 1 or load64_acquire(entry + _SEQUENCE) != sequence:
            continue
        if start <= fault < end:
            first = fault & -page
            size = page
            if atomic_add64(counter, 1) >= MANY:
                first = start
                size = end - start
            if mmap(first, size, _READ_WRITE, _ZEROES, -1, 0) != first:
                break
            if eventfd >= 0:
                signal_eventfd(eventfd)
            set_errno(kept)
            return 1
    sigaction(number, load64(table + _FORMER), 0)
    if sent:  # else the access is tried again, and raises it
        raise_signal(number)
    set_errno(kept)
    return 0


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (place, handle)


class _Action(ctypes.Structure):
    """``struct sigaction`` of Linux' C libraries on 64-bit machines."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


# Source: <bits/sigaction.h>.
_SA_SIGINFO: Final = 4
_SA_RESTART: Final = 0x1000_0000


class _Handler:
    """The one handler of the process, and its table. Under its lock, any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0  # entries in use
        self.free: list[int] = []  # entries that were in use
        self.former = _Action()
        self.installed = False
        self.compilation: Compilation | None = None
        # A handler on another thread may be reading one that was replaced: none is ever freed.
        self.tables = [self._table(64)]
        self._fields = Words(_FIELDS)

    def _table(self, entries: int) -> Words:
        table = Words((_ENTRIES + entries * _ENTRY) // 8)
        table[_FORMER // 8] = ctypes.addressof(self.former)
        return table

    @property
    def compiled(self) -> bool:
        return all(kernel.address for kernel in KERNELS)

    def add(self, *fields: int) -> int:
        """Guard a range; returns the number of its entry."""
        table = self.tables[-1]
        index = self.free.pop() if self.free else table[_COUNT // 8]
        if _ENTRIES + (index + 1) * _ENTRY > 8 * len(table):
            table = self._grow(2 * index)
        self._place(table, index, fields)
        if index >= table[_COUNT // 8]:
            store64(table.address + _COUNT, index + 1)
        self.count += 1
        if self.count == 1 or not self.installed:
            self.install()
        return index

    def _grow(self, entries: int) -> Words:
        old = self.tables[-1]
        table = self._table(entries)
        table.view[: len(old)] = old.view
        self.tables.append(table)
        if self.installed:
            handle(0, table.address, 0)
        return table

    def _place(self, table: Words, index: int, fields: tuple[int, ...]) -> None:
        for i, value in enumerate(fields):
            self._fields[i] = value
        place(table.address + _ENTRIES + index * _ENTRY, self._fields.address, 0)

    def remove(self, index: int) -> None:
        """Guard a range no longer."""
        self._place(self.tables[-1], index, (0, 0, mmap_numbers.PAGESIZE, 0, -1))
        self.free.append(index)
        self.count -= 1
        if self.count == 0:
            self.uninstall()

    def install(self) -> None:
        """Take SIGBUS, if there is something to guard and the handler is compiled."""
        if self.installed or self.count == 0 or not self.compiled:
            return
        handle(0, self.tables[-1].address, 0)
        action = _Action(handler=handle.address, flags=_SA_SIGINFO | _SA_RESTART)
        if sigaction(signal.SIGBUS, ctypes.addressof(action), ctypes.addressof(self.former)) < 0:
            log.warning("guest memory is not guarded: sigaction: %s", os.strerror(errno()))
            return
        self.installed = True

    def uninstall(self) -> None:
        """Give SIGBUS back to whoever had it, unless somebody else has taken it since."""
        if self.installed and self.ours():
            sigaction(signal.SIGBUS, ctypes.addressof(self.former), 0)
        self.installed = False

    def ours(self) -> bool:
        """Whether a fault would come here."""
        now = _Action()
        sigaction(signal.SIGBUS, 0, ctypes.addressof(now))
        return bool(now.handler == handle.address)

    def prepare(self) -> None:
        """Compile in the background what is not, and install then."""
        if self.compilation is None and jit_wanted():
            self.compilation = compile_all(KERNELS, self._compiled)

    def _compiled(self, error: Exception | None) -> None:
        with self.lock:
            self.compilation = None
            if error is None:
                self.install()


_handler: Final = _Handler()


def prepare() -> None:
    """Compile the handler in the background, so that it is there when memory is mapped."""
    with _handler.lock:
        if _handler.compiled:
            return
    _handler.prepare()


class _Alarm:
    """Tells the guards of one loop of their faults, by one descriptor for all. Loop thread only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.guards: dict[Guard, int] = {}  # and the faults that were told
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._watch = loop.watch(self.eventfd, self._ring)
        except BaseException:
            os.close(self.eventfd)
            raise

    @classmethod
    def of(cls, loop: Loop) -> _Alarm:
        alarm = _alarms.get(loop)
        if alarm is None:
            alarm = _alarms[loop] = cls(loop)
        return alarm

    def _ring(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.eventfd)
        for guard, told in list(self.guards.items()):
            faults = guard.faults
            if faults != told and guard in self.guards:
                self.guards[guard] = faults
                guard.tell()

    def forget(self, guard: Guard) -> None:
        del self.guards[guard]
        if not self.guards:
            self._watch.close()
            os.close(self.eventfd)
            del _alarms[self._loop]


_alarms: Final[dict[Loop, _Alarm]] = {}


class Guard:
    """A range of memory that is guarded; made by `guard`, on the loop's thread.

    Attributes:
        address: Its first byte.
        size: Bytes.
    """

    def __init__(
        self,
        address: int,
        size: int,
        page_size: int,
        loop: Loop | None,
        on_fault: Callable[[Guard], None] | None,
    ) -> None:
        self.address = address
        self.size = size
        self._on_fault = on_fault
        self._faults = Words(1)
        self._alarm: _Alarm | None = None
        self._index = -1
        if not jit_wanted():
            return
        if (address | size) & (page_size - 1):
            page_size = mmap_numbers.PAGESIZE  # what lies beside the range is somebody else's
        if loop is not None and on_fault is not None:
            self._alarm = _Alarm.of(loop)
            self._alarm.guards[self] = 0
        eventfd = -1 if self._alarm is None else self._alarm.eventfd
        start, end = address & -page_size, (address + size + page_size - 1) & -page_size
        with _handler.lock:
            self._index = _handler.add(start, end, page_size, self._faults.address, eventfd)
        prepare()

    @property
    def active(self) -> bool:
        """Whether faults in the range are caught now: not before the handler is compiled."""
        with _handler.lock:
            return self._index >= 0 and _handler.installed and _handler.ours()

    @property
    def faults(self) -> int:
        """Accesses in the range that were caught."""
        return self._faults[0]

    def tell(self) -> None:
        """Call `on_fault`."""
        if self._on_fault is not None:
            self._on_fault(self)

    def close(self) -> None:
        """Guard it no longer; before it is unmapped, when nobody uses it any more.

        A second call does nothing.
        """
        if self._index >= 0:
            with _handler.lock:
                _handler.remove(self._index)
            self._index = -1
        if self._alarm is not None:
            self._alarm.forget(self)
            self._alarm = None
        self._on_fault = None  # often a method of whoever keeps this guard: no cycle may be left


def guard(
    address: int,
    size: int,
    loop: Loop | None = None,
    on_fault: Callable[[Guard], None] | None = None,
    *,
    page_size: int = mmap_numbers.PAGESIZE,
) -> Guard:
    """Guard a range of memory that maps a file of somebody else. Any thread without a loop.

    Args:
        address: Its first byte, as it was mapped here.
        size: Bytes. Whole pages are guarded; all that it touches are of the same mapping.
        loop: Whose thread is told.
        on_fault: Called there after faults, once for several that come together.
        page_size: Bytes of a page of that mapping, a power of two: huge pages can only be replaced
            whole. Only for a range of whole pages; else those of the system are taken.

    Returns:
        What the caller closes before the memory is unmapped.

    Raises:
        OSError: There are no descriptors left; a loop needs one for all its guards.
    """
    return Guard(address, size, page_size, loop, on_fault)
