"""Interrupt groups: which vector signals which eventfd, and SET_IRQS in all its shapes.

The table owns every descriptor that is bound. A provider is told of a change first, and a former
descriptor is closed after that, so that it never signals one that is closed.

Eventfds are set non-blocking (the flag is shared with the client): a client could otherwise stop
this process with a counter that is full.

Source: vfio-user specification, "VFIO_USER_DEVICE_SET_IRQS"; Linux, include/uapi/linux/vfio.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from emudev_core.errors import PeerError
from emudev_core.loop import READ, Loop, Watch
from emudev_core.regions import IrqGroup

from .messages import IrqFlags, IrqInfo, SetIrqs, SetIrqsFlags
from .protocol import close_fds
from .served import ServedDevice

__all__ = ["IrqTable", "MIN_GROUPS", "TRIGGER_ONLY"]

#: INTx, MSI, MSI-X, ERR and REQ of a PCI device always have an index; absent ones have 0 vectors.
MIN_GROUPS: Final = 5

#: Groups for errors and requests, which have one vector and nothing to mask. Source: vfio.h.
TRIGGER_ONLY: Final = (3, 4)

_F = SetIrqsFlags
_DATA: Final = int(_F.DATA_NONE | _F.DATA_BOOL | _F.DATA_EVENTFD)
_ACTION: Final = int(_F.MASK | _F.UNMASK | _F.TRIGGER)


class IrqTable:
    """The vectors of one device and the descriptors that a client gave for them.

    Args:
        device: Told of changes.
        loop: Looks at the descriptors that mask and unmask.
        groups: What the device has.
    """

    def __init__(self, device: ServedDevice, loop: Loop, groups: Sequence[IrqGroup]) -> None:
        self._device = device
        self._loop = loop
        self.groups = {group.index: group for group in groups}
        self._fds: dict[tuple[int, int], int] = {}
        #: by group, vector and what it does (True masks): a descriptor that the client signals
        self._controls: dict[tuple[int, int, bool], Watch] = {}

    @property
    def count(self) -> int:
        """Number of groups, indices without a gap."""
        return max(MIN_GROUPS, max(self.groups, default=-1) + 1)

    def info(self, request: IrqInfo) -> IrqInfo:
        """Answer GET_IRQ_INFO.

        Raises:
            PeerError: EINVAL for a small argsz or an unknown group.
        """
        if request.argsz < IrqInfo.SIZE:
            raise PeerError(f"GET_IRQ_INFO: argsz {request.argsz} is below {IrqInfo.SIZE}")
        if request.index >= self.count:
            raise PeerError(f"GET_IRQ_INFO: group {request.index}, there are {self.count}")
        group = self.groups.get(request.index, IrqGroup(request.index, 0))
        flags = IrqFlags.EVENTFD
        if group.maskable:
            flags |= IrqFlags.MASKABLE
        if group.automasked:
            flags |= IrqFlags.AUTOMASKED
        return IrqInfo(IrqInfo.SIZE, int(flags), request.index, group.count)

    def set(self, request: SetIrqs, data: bytes, fds: list[int]) -> None:
        """Do what SET_IRQS asks for; descriptors that are not bound are closed.

        Raises:
            PeerError: EINVAL; nothing has changed.
        """
        try:
            self._check(request, data, fds)
        except PeerError:
            close_fds(fds)
            raise
        group, first = request.index, request.start
        action, kind = request.flags & _ACTION, request.flags & _DATA
        if kind == _F.DATA_NONE and request.count == 0:
            self._disable(group)
            return
        vectors = range(first, first + request.count)
        if kind != _F.DATA_EVENTFD:
            bools = data if kind == _F.DATA_BOOL else bytes([1]) * request.count
            for vector in (v for v, chosen in zip(vectors, bools, strict=True) if chosen == 1):
                if action == _F.TRIGGER:
                    self._device.irq_trigger(group, vector)
                else:
                    self._device.irq_masked(group, vector, action == _F.MASK)
            return
        given: list[int | None] = [*fds] if fds else [None] * request.count
        for vector in vectors:
            fd = given.pop(0)
            try:
                if action == _F.TRIGGER:
                    self.bind(group, vector, fd)
                else:
                    self._control(group, vector, action == _F.MASK, fd)
            except BaseException:
                close_fds(rest for rest in given if rest is not None)
                raise

    def bind(self, group: int, vector: int, fd: int | None) -> None:
        """Bind a vector to an eventfd, which the table owns from now on, or unbind it (None)."""
        former = self._fds.pop((group, vector), None)
        if fd is None and former is None:
            return
        if fd is not None:
            self._fds[group, vector] = fd
        try:
            self._device.irq_bound(group, vector, fd)
        finally:
            if former is not None:
                os.close(former)

    def bound(self) -> dict[tuple[int, int], int]:
        """The eventfds by group and vector."""
        return dict(self._fds)

    def clear(self) -> None:
        """Unbind and close everything."""
        for group, vector in list(self._fds):
            self.bind(group, vector, None)
        for key in list(self._controls):
            self._drop_control(key)

    def _disable(self, group: int) -> None:
        for bound_group, vector in list(self._fds):
            if bound_group == group:
                self.bind(group, vector, None)
        for key in list(self._controls):
            if key[0] == group:
                self._drop_control(key)

    def _control(self, group: int, vector: int, masks: bool, fd: int | None) -> None:
        key = (group, vector, masks)
        self._drop_control(key)
        if fd is not None:
            try:
                self._controls[key] = self._loop.watch(fd, partial(self._signalled, key), READ)
            except BaseException:  # the kernel's limit of watches
                os.close(fd)
                raise

    def _drop_control(self, key: tuple[int, int, bool]) -> None:
        watch = self._controls.pop(key, None)
        if watch is not None:
            watch.close()
            os.close(watch.fd)

    def _signalled(self, key: tuple[int, int, bool], events: int) -> None:
        watch = self._controls.get(key)
        if watch is None:
            return
        try:
            os.eventfd_read(watch.fd)
        except BlockingIOError:
            return
        self._device.irq_masked(*key)

    def _check(self, request: SetIrqs, data: bytes, fds: list[int]) -> None:
        flags, index, start, count = request.flags, request.index, request.start, request.count
        where = f"SET_IRQS {flags:#x} group {index} vectors {start}+{count}"
        action, kind = flags & _ACTION, flags & _DATA
        if request.argsz < SetIrqs.SIZE:
            raise PeerError(f"{where}: argsz {request.argsz} is below {SetIrqs.SIZE}")
        if index >= self.count:
            raise PeerError(f"{where}: there are {self.count} groups")
        if action.bit_count() != 1 or kind.bit_count() != 1 or flags & ~(_ACTION | _DATA):
            raise PeerError(f"{where}: expected one action and one kind of data")
        group = self.groups.get(index, IrqGroup(index, 0))
        if count == 0:
            if start or action != _F.TRIGGER or kind != _F.DATA_NONE:
                raise PeerError(f"{where}: a count of 0 only disables the whole group")
        elif start >= group.count or count > group.count - start:
            raise PeerError(f"{where}: the group has {group.count} vectors")
        if index in TRIGGER_ONLY and (action != _F.TRIGGER or count > 1):
            raise PeerError(f"{where}: this group has one vector that can only be triggered")
        expected = count if kind == _F.DATA_BOOL else 0
        if kind == _F.DATA_BOOL and len(data) != expected:
            raise PeerError(f"{where}: {len(data)} bytes of data, expected {expected}")
        if fds and kind != _F.DATA_EVENTFD:
            raise PeerError(f"{where}: {len(fds)} descriptors came, this kind of data takes none")
        if fds and len(fds) != count:
            raise PeerError(f"{where}: {len(fds)} descriptors came, expected 0 or {count}")
        for fd in fds:
            check_eventfd(where, fd)


def check_eventfd(where: str, fd: int) -> None:
    """Refuse a descriptor that is no eventfd, and make one that is non-blocking.

    Raises:
        PeerError: EINVAL.
    """
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # without /proc: taken on trust
        kind = "anon_inode:[eventfd]"
    if kind != "anon_inode:[eventfd]":
        raise PeerError(f"{where}: expected an eventfd, {kind} came", errno=errno.EINVAL)
    os.set_blocking(fd, False)
