"""The values of a register map, and what a guest's access does to them.

    regs = RegisterFile(MAP, owner)
    regs.SIDES            # the device's view: values as they are stored, no access rules
    regs["CONTROL", 2] = 1
    regs.read(0x04, 4)    # the guest's: access rules and handlers

A guest's access of any size and alignment is made of the registers that it touches, lowest first,
each accessed once with the bytes of the access that fall into it. Where nothing is declared it
reads 0 and writes are ignored; such accesses are counted in `undeclared` (`suggestions`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from emudev_core.errors import DecodeError
from emudev_core.queues import Doorbell
from emudev_core.regions import DoorbellWindow

from .handlers import handlers_of
from .registers import Access, Reg, RegisterMap, RegisterMapError

__all__ = ["RegisterFile", "Row"]

#: Different undeclared accesses that are remembered; a guest can't make it more.
MAX_UNDECLARED: Final = 1024


class _Cell:
    """One register: its rules and who serves it."""

    __slots__ = ("bell", "deferred", "mask", "on_read", "on_write", "rc", "readable", "rw", "size",
                 "stored", "w1c")  # fmt: skip

    def __init__(self, reg: Reg) -> None:
        self.size = reg.size
        self.mask = reg.mask
        self.rw = reg.mask_of(Access.RW)
        self.stored = self.rw | reg.mask_of(Access.WO)
        self.w1c = reg.mask_of(Access.W1C)
        self.rc = reg.mask_of(Access.RC)
        self.readable = reg.mask & ~reg.mask_of(Access.WO)
        self.on_read: Callable[[], int] | None = None
        self.on_write: Callable[[int], object] | None = None
        self.deferred = False
        self.bell: Doorbell | None = None


class Row:
    """The values of a row of registers, the device's view: ``regs.CONTROL[2] = 1``."""

    __slots__ = ("_file", "_name")

    def __init__(self, file: RegisterFile, name: str) -> None:
        self._file = file
        self._name = name

    def __getitem__(self, index: int) -> int:
        return self._file[self._name, index]

    def __setitem__(self, index: int, value: int) -> None:
        self._file[self._name, index] = value

    def __len__(self) -> int:
        return self._file.map[self._name].count

    def __iter__(self) -> Iterator[int]:
        return (self[i] for i in range(len(self)))


class RegisterFile:
    """See the module. For the loop's thread.

    Args:
        map: The registers.
        owner: Has the methods that were tied to registers of `map`; None for plain values.
        defer: Is given each deferred call; without it they run at once.

    Attributes:
        map: As given.
        values: By slot of the map; see `plain_reads`.
        plain_reads: Slots by ``offset << 4 | size`` where a read is nothing but the value; for
            callers that save themselves a call.
        plain_writes: The same where a write is nothing but storing it.
        undeclared: How often what was accessed that no row declares: by (offset, size, write).

    Raises:
        RegisterMapError: See `handlers_of`.
    """

    map: RegisterMap
    values: list[int]
    plain_reads: dict[int, int]
    plain_writes: dict[int, int]
    undeclared: dict[tuple[int, int, bool], int]
    _defer: Callable[[Callable[[], object]], None] | None
    _cells: list[_Cell]
    _exact: dict[int, int]
    _singles: dict[str, int]
    _windows: list[DoorbellWindow]

    def __init__(
        self,
        map: RegisterMap,
        owner: object | None = None,
        defer: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        # Not by `self.x = ...`: names of attributes are names of registers.
        put = partial(object.__setattr__, self)
        put("map", map)
        put("undeclared", {})
        put("_defer", defer)
        put("values", [reg.reset for reg, _ in map.instances])
        put("_cells", [_Cell(reg) for reg, _ in map.instances])
        put("_exact", {})
        put("_singles", {r.name: map.slot(r.name) for r in map.regs if r.count == 1})
        put("plain_reads", {})
        put("plain_writes", {})
        put("_windows", [])
        found = handlers_of(type(owner), map) if owner is not None else {}
        for (name, write), (method, handler) in found.items():
            for index in range(map[name].count):
                cell = self._cells[map.slot(name, index)]
                call = getattr(owner, method)
                call = partial(call, index) if map[name].count > 1 else call
                if write:
                    cell.on_write, cell.deferred = call, handler.deferred
                else:
                    cell.on_read = call
        for slot in range(len(self._cells)):
            self._index(slot)

    def _index(self, slot: int) -> None:
        reg, index = self.map.instances[slot]
        cell = self._cells[slot]
        key = (reg.offset + index * reg.step) << 4 | reg.size
        self._exact[key] = slot
        self.plain_reads.pop(key, None)
        self.plain_writes.pop(key, None)
        if (
            cell.on_read is None
            and cell.bell is None
            and not cell.rc
            and cell.readable == cell.mask
        ):
            self.plain_reads[key] = slot
        if cell.on_write is None and cell.bell is None and cell.stored == cell.mask:
            self.plain_writes[key] = slot

    # -- the device's view

    def __getitem__(self, key: str | tuple[str, int]) -> int:
        """A stored value: ``regs["NAME"]`` or ``regs["NAME", index]``."""
        slot = self.map.slot(key) if isinstance(key, str) else self.map.slot(*key)
        bell = self._cells[slot].bell
        return int(self.values[slot]) if bell is None else bell.value

    def __setitem__(self, key: str | tuple[str, int], value: int) -> None:
        """Store a value, whatever its access rule; bits above the register's size are cut off."""
        slot = self.map.slot(key) if isinstance(key, str) else self.map.slot(*key)
        cell = self._cells[slot]
        if cell.bell is None:
            self.values[slot] = value & cell.mask
        else:
            _store(cell.bell, value & cell.mask)

    def __getattr__(self, name: str) -> Any:
        """``regs.NAME``: the stored value, or the `Row` of a row."""
        slot = self._singles.get(name)
        if slot is not None:
            return self.values[slot]
        try:
            row = self.map[name]
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None
        return self[name] if row.count == 1 else Row(self, name)

    def __setattr__(self, name: str, value: int) -> None:
        slot = self._singles.get(name)
        if slot is not None:
            self.values[slot] = value & self._cells[slot].mask
            return
        try:
            self[name] = value
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None

    def field(self, name: str, field: str, index: int = 0) -> int:
        """The value of a field."""
        bits = self.map[name].field(field)
        return (self[name, index] & bits.mask) >> bits.first

    def set_field(self, name: str, field: str, value: int, index: int = 0) -> None:
        """Store the value of a field; bits above its width are cut off."""
        bits = self.map[name].field(field)
        self[name, index] = self[name, index] & ~bits.mask | value << bits.first & bits.mask

    def reset(self) -> None:
        """Every register back to its reset value; no handler is called, no doorbell rings."""
        values: list[int] = self.values
        for slot, (reg, _) in enumerate(self.map.instances):
            values[slot] = reg.reset
            bell = self._cells[slot].bell
            if bell is not None:
                _store(bell, reg.reset)

    # -- doorbells

    def bind_doorbells(self, name: str, doorbells: Sequence[Doorbell]) -> None:
        """Let a row of registers be doorbells: a write stores the word and rings, a read shows it.

        Args:
            name: A row of 4-byte registers without handlers.
            doorbells: For the first ones of the row, kept by the caller; the rest stay as they are.

        Raises:
            RegisterMapError: More doorbells than registers, another size, or there are handlers.
        """
        reg = self.map[name]
        where = f"{self.map.name}: {name}"
        if reg.size != 4 or not 0 < len(doorbells) <= reg.count:
            raise RegisterMapError(
                f"{where}: expected 1 to {reg.count} doorbells of 4 bytes, came "
                f"{len(doorbells)} for registers of {reg.size}"
            )
        for index, bell in enumerate(doorbells):
            slot = self.map.slot(name, index)
            cell = self._cells[slot]
            if cell.on_read is not None or cell.on_write is not None:
                raise RegisterMapError(f"{where}: has handlers, it can't be a doorbell")
            cell.bell = bell
            self._index(slot)
            self._singles.pop(name, None)
        self._windows.append(DoorbellWindow(reg.offset, reg.step, tuple(doorbells)))

    @property
    def doorbell_windows(self) -> tuple[DoorbellWindow, ...]:
        """The rows that are doorbells, for `RegionInfo.doorbells`."""
        return tuple(self._windows)

    # -- the guest's view

    def read(self, offset: int, size: int) -> int:
        """A guest's read of `size` bytes, little endian."""
        key = offset << 4 | size
        slot = self.plain_reads.get(key)
        if slot is not None:
            value: int = self.values[slot]
            return value
        slot = self._exact.get(key)
        if slot is not None:
            return self._read_cell(slot, self._cells[slot].mask)
        return int.from_bytes(self.read_bytes(offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A guest's write of `size` bytes, little endian; 0 <= value < 2**(8 * size)."""
        key = offset << 4 | size
        slot = self.plain_writes.get(key)
        if slot is not None:
            self.values[slot] = value
            return
        slot = self._exact.get(key)
        if slot is not None:
            self._write_cell(slot, value, self._cells[slot].mask)
        else:
            self.write_bytes(offset, value.to_bytes(size, "little"))

    def read_bytes(self, offset: int, size: int) -> bytes:
        """A guest's read of any length, all registers in it once, lowest first."""
        data = bytearray(size)
        touched = self.map.find(offset, size)
        for slot, start in touched:
            first, last, lanes = self._lanes(slot, start, offset, size)
            value = self._read_cell(slot, lanes)
            length = self._cells[slot].size
            data[first - offset : last - offset] = value.to_bytes(length, "little")[
                first - start : last - start
            ]
        if not touched:
            self._count(offset, size, write=False)
        return bytes(data)

    def write_bytes(self, offset: int, data: bytes) -> None:
        """A guest's write of any length, all registers in it once, lowest first."""
        size = len(data)
        touched = self.map.find(offset, size)
        for slot, start in touched:
            first, last, lanes = self._lanes(slot, start, offset, size)
            piece = int.from_bytes(data[first - offset : last - offset], "little")
            self._write_cell(slot, piece << 8 * (first - start), lanes)
        if not touched:
            self._count(offset, size, write=True)

    def _lanes(self, slot: int, start: int, offset: int, size: int) -> tuple[int, int, int]:
        """Which bytes of a register an access touches: first, last + 1, and their bits."""
        first = max(start, offset)
        last = min(start + self._cells[slot].size, offset + size)
        return first, last, ((1 << 8 * (last - first)) - 1) << 8 * (first - start)

    def _read_cell(self, slot: int, lanes: int) -> int:
        cell = self._cells[slot]
        if cell.bell is not None:
            return int(cell.bell.value)
        stored: int = self.values[slot]
        value = stored if cell.on_read is None else cell.on_read()
        if cell.rc:
            self.values[slot] &= ~(cell.rc & lanes)
        return value & cell.readable

    def _write_cell(self, slot: int, value: int, lanes: int) -> None:
        cell = self._cells[slot]
        if cell.bell is not None:
            if lanes != cell.mask:
                value = value & lanes | cell.bell.value & ~lanes & cell.mask
            cell.bell.write(value)
            return
        old: int = self.values[slot]
        stored = cell.stored & lanes
        self.values[slot] = (old & ~stored | value & stored) & ~(value & cell.w1c & lanes)
        if cell.on_write is not None:
            written = value & lanes | old & cell.rw & ~lanes
            if cell.deferred and self._defer is not None:
                self._defer(partial(cell.on_write, written))
            else:
                cell.on_write(written)

    # -- what nobody declared

    def _count(self, offset: int, size: int, *, write: bool) -> None:
        key = (offset, size, write)
        if key in self.undeclared or len(self.undeclared) < MAX_UNDECLARED:
            self.undeclared[key] = self.undeclared.get(key, 0) + 1

    def suggestions(self) -> list[str]:
        """A row for each place that was accessed and that nobody declared, to be pasted."""
        places: dict[int, list[tuple[int, bool, int]]] = {}
        for (offset, size, write), times in self.undeclared.items():
            places.setdefault(offset, []).append((size, write, times))
        rows = []
        for offset, seen in sorted(places.items()):
            size = max(s for s, _, _ in seen)
            reads = sum(n for _, write, n in seen if not write)
            writes = sum(n for _, write, n in seen if write)
            access = "RO" if not writes else "RW" if reads else "WO"
            fits = size in (1, 2, 4, 8) and offset % size == 0
            width = "" if size == 4 or not fits else f", size={size}"
            note = "" if fits else f" in {size} bytes"
            rows.append(
                f'Reg("REG_{offset:X}", {offset:#x}{width}, access={access}),'
                f"  # {self.map.name}: read {reads}, written {writes} times{note}"
            )
        return rows

    # -- saving

    def save(self) -> dict[str, list[int]]:
        """The values that differ from a reset, all of a row where one does."""
        found = {}
        for reg in self.map.regs:
            values = [self[reg.name, i] for i in range(reg.count)]
            if any(value != reg.reset for value in values):
                found[reg.name] = values
        return found

    def restore(self, saved: Mapping[str, Sequence[int]]) -> None:
        """Take back what `save` gave; registers that it does not name are reset.

        Raises:
            DecodeError: No mapping, an unknown name, another number of values, a value that does
                not fit; nothing has changed.
        """
        if not isinstance(saved, Mapping):
            raise DecodeError(f"{self.map.name}: expected values by name, came {saved!r}")
        for name, values in saved.items():
            if name not in self.map:
                raise DecodeError(f"{self.map.name} has no register {name}")
            reg = self.map[name]
            if not isinstance(values, Sequence) or len(values) != reg.count:
                raise DecodeError(f"{self.map.name}: {name} needs a list of {reg.count} values")
            for value in values:
                if not isinstance(value, int) or not 0 <= value <= reg.mask:
                    raise DecodeError(f"{self.map.name}: {name} can't be {value!r}")
        self.reset()
        for name, values in saved.items():
            for index, value in enumerate(values):
                self[name, index] = value


def _store(bell: Doorbell, value: int) -> None:
    """Change a doorbell's word without ringing."""
    ctypes.c_uint32.from_address(bell.address).value = value
