"""Interrupts: vectors that latch, the MSI-X table, and the level of INTx.

A vector's event goes out by the eventfd that the transport has bound, or waits as *pending* while
there is none or something masks the vector. The transport owns the descriptors.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from emudev_core.errors import DecodeError

from .bars import power_of_two

__all__ = ["IntxLine", "IrqIndex", "Msi", "Msix", "MsixTable", "Vector", "signal"]

log = logging.getLogger(__name__)

ENTRY: Final = 16  #: bytes of an entry of the MSI-X table
ENTRY_CONTROL: Final = 12  #: offset of its control word, bit 0 masks


class IrqIndex(enum.IntEnum):
    """Groups of interrupts. Source: Linux, include/uapi/linux/vfio.h."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3  #: signalling it makes QEMU stop the virtual machine for good: never do
    REQ = 4


@attrs.frozen
class Msix:
    """That a function has MSI-X.

    Attributes:
        vectors: 1 to 2048.
        bar: BAR with the table and the pending bits; made if the function declares no such BAR.
        table: Offset of the table in it, bytes.
        pending: Offset of the pending bits in it; None: behind the table.
        at: Place of the capability in configuration space; None: the next free one.
    """

    vectors: int
    bar: int
    table: int = attrs.field(default=0, kw_only=True)
    pending: int | None = attrs.field(default=None, kw_only=True)
    at: int | None = attrs.field(default=None, kw_only=True)

    @property
    def table_size(self) -> int:
        """Bytes of the table."""
        return ENTRY * self.vectors

    @property
    def pending_offset(self) -> int:
        """Offset of the pending bits."""
        if self.pending is not None:
            return self.pending
        return self.table + max(0x800, power_of_two(self.table_size))

    @property
    def pending_size(self) -> int:
        """Bytes of the pending bits: whole 64-bit words."""
        return (self.vectors + 63) // 64 * 8

    @property
    def end(self) -> int:
        """Offset behind both."""
        return max(self.table + self.table_size, self.pending_offset + self.pending_size)


@attrs.frozen
class Msi:
    """That a function has MSI.

    Attributes:
        vectors: 1, 2, 4, 8, 16 or 32.
        maskable: The guest can mask each one.
        at: Place of the capability in configuration space; None: the next free one.
    """

    vectors: int = 1
    maskable: bool = attrs.field(default=True, kw_only=True)
    at: int | None = attrs.field(default=None, kw_only=True)


def signal(fd: int) -> None:
    """Add one to an eventfd; one whose counter is full or that is broken is let be."""
    try:
        os.eventfd_write(fd, 1)
    except OSError as exc:  # a full counter has been signalled already
        log.debug("eventfd %d: %s", fd, exc)


class Vector:
    """One interrupt vector. For the loop's thread.

    Args:
        number: Its number.
        changed: Called with the number and the descriptor to signal, whenever that changes.

    Attributes:
        number: As given.
        fd: Descriptor to signal now; None while none is bound or something masks the vector.
        pending: An event waits.
        signalled: Events that went out.
        alias: Delivers in its place, where the guest has enabled fewer MSI vectors; or None.
    """

    __slots__ = ("_bound", "_changed", "_masks", "alias", "fd", "number", "pending", "signalled")

    def __init__(
        self, number: int, changed: Callable[[int, int | None], None] = lambda number, fd: None
    ) -> None:
        self.number = number
        self.fd: int | None = None
        self.pending = False
        self.signalled = 0
        self.alias: Vector | None = None
        self._bound: dict[int, int] = {}
        self._masks: frozenset[str] = frozenset()
        self._changed = changed

    @property
    def masked(self) -> bool:
        """Whether anything masks it."""
        return bool(self._masks)

    def trigger(self) -> None:
        """Raise an event: signalled now, or kept until the vector is bound and unmasked."""
        if self.alias is not None:
            self.alias.trigger()
        elif self.fd is None:
            self.pending = True
        else:
            self.signalled += 1
            signal(self.fd)

    def bind(self, fd: int | None, group: int = IrqIndex.MSIX) -> None:
        """Take the descriptor of a group, or lose it (None)."""
        if fd is None:
            self._bound.pop(group, None)
        else:
            self._bound[group] = fd
        self._evaluate()

    def mask(self, masked: bool, cause: str = "client") -> None:
        """Mask or unmask for a cause; the vector is masked while any cause does."""
        self._masks = self._masks | {cause} if masked else self._masks - {cause}
        self._evaluate()

    def reset(self) -> None:
        """Forget what waits, and every mask; descriptors stay."""
        self.pending = False
        self.alias = None
        self._masks = frozenset()
        self._evaluate()

    def _evaluate(self) -> None:
        bound = self._bound.get(IrqIndex.MSIX, self._bound.get(IrqIndex.MSI))
        fd = None if self._masks else bound
        if fd != self.fd:
            self.fd = fd
            self._changed(self.number, fd)
        if self.pending and (fd is not None or self.alias is not None):
            self.pending = False
            self.trigger()


class MsixTable:
    """Table and pending bits of MSI-X, for clients that keep them in the device.

    QEMU keeps the table itself, so that it never comes here: an entry masks its vector only once
    its control word was written.

    Args:
        msix: Where they are.
        vectors: What the entries control; more than the table has are left alone.
    """

    def __init__(self, msix: Msix, vectors: Sequence[Vector]) -> None:
        self._msix = msix
        self._vectors = vectors[: msix.vectors]
        self._data = bytearray(msix.table_size)
        self.reset()

    def covers(self, offset: int, size: int) -> bool:
        """Whether an access touches the table or the pending bits."""
        msix = self._msix
        table = offset < msix.table + msix.table_size and msix.table < offset + size
        first = msix.pending_offset
        return table or (offset < first + msix.pending_size and first < offset + size)

    def read(self, offset: int, size: int) -> bytes:
        """Read from the BAR; what is neither table nor pending bits is 0."""
        found = bytearray(size)
        for start, data in (
            (self._msix.table, self._data),
            (self._msix.pending_offset, self.pending()),
        ):
            first, last = max(start, offset), min(start + len(data), offset + size)
            if first < last:
                found[first - offset : last - offset] = data[first - start : last - start]
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the BAR; pending bits are read-only."""
        start = self._msix.table
        first = max(start, offset)
        last = min(start + len(self._data), offset + len(data))
        if first >= last:
            return
        self._data[first - start : last - start] = data[first - offset : last - offset]
        for number in range((first - start) // ENTRY, (last - start - 1) // ENTRY + 1):
            control = number * ENTRY + ENTRY_CONTROL
            self._data[control : control + 4] = bytes([self._data[control] & 1, 0, 0, 0])
            if control < last - start and first - start < control + 4:
                self._vectors[number].mask(bool(self._data[control] & 1), "table")

    def pending(self) -> bytes:
        """The pending bits."""
        bits = sum(1 << v.number for v in self._vectors if v.pending)
        return bits.to_bytes(self._msix.pending_size, "little")

    def reset(self) -> None:
        """Every entry masked and zero; vectors are not touched."""
        entry = bytes(ENTRY_CONTROL) + b"\x01\0\0\0"
        self._data[:] = entry * self._msix.vectors

    def save(self) -> bytes:
        """The entries."""
        return bytes(self._data)

    def restore(self, saved: bytes) -> None:
        """Take back what `save` gave; masks are not applied, since the client keeps them.

        Raises:
            DecodeError: Another length; nothing has changed.
        """
        if not isinstance(saved, bytes) or len(saved) != len(self._data):
            raise DecodeError(f"MSI-X table: expected {len(self._data)} bytes")
        self._data[:] = saved


class IntxLine:
    """The level of INTA: signalled once, then silent until the client asks again.

    Attributes:
        asserted: The device's level.
        masked: Silent until the client unmasks: by its own signal, or by the client.
        disabled: The guest disables INTx (command register, bit 10).
        fd: Descriptor to signal, or None.
    """

    def __init__(self) -> None:
        self.asserted = False
        self.masked = False
        self.disabled = False
        self.fd: int | None = None

    def set(self, asserted: bool) -> None:
        """Set the device's level; lowering it needs no message."""
        self.asserted = asserted
        self._evaluate()

    def bind(self, fd: int | None) -> None:
        """Take the client's descriptor, or lose it (None)."""
        self.fd = fd
        self.masked = False
        self._evaluate()

    def mask(self, masked: bool) -> None:
        """Mask, or unmask and look at the level again."""
        self.masked = masked
        self._evaluate()

    def disable(self, disabled: bool) -> None:
        """What the guest's command register says."""
        self.disabled = disabled
        self._evaluate()

    def trigger(self) -> None:
        """Signal once, whatever the level is: a client's loopback test."""
        if self.fd is not None:
            signal(self.fd)

    def reset(self) -> None:
        """Level and masks as after power-on; the descriptor stays."""
        self.asserted = self.masked = self.disabled = False

    def _evaluate(self) -> None:
        if self.asserted and not self.masked and not self.disabled and self.fd is not None:
            self.masked = True
            signal(self.fd)
