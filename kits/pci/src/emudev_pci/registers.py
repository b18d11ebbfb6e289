"""Register maps: the one place where a device's registers are written down.

    MAP = RegisterMap("dice.bar0", size=0x1000, regs=[
        Reg("SIDES", 0x04, reset=6, doc="Number of sides, 2 to 1000."),
        Reg("CONTROL", 0x08, count=4, bits=[Bits("ENABLE", 0), Bits("EVENT", 1, access=W1C)]),
    ])

Building a map checks it. Behaviour is tied to rows by name (`RegisterMap.on_read`, `on_write`);
`register_file` holds the values. Names in traces, `emudev regs` and the documentation pages come
from the same rows: a map is what `ProviderSpec.registers` returns.
"""

from __future__ import annotations

import enum
import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs

from emudev_core.names import hint

__all__ = [
    "RC",
    "RO",
    "RW",
    "W1C",
    "WO",
    "Access",
    "Bits",
    "Handler",
    "Reg",
    "RegisterMap",
    "RegisterMapError",
]

#: Where a decorated method keeps which registers it serves.
HANDLERS: Final = "__emudev_registers__"

_NAME = re.compile(r"[A-Z][A-Za-z0-9_]*")
_F = TypeVar("_F", bound=Callable[..., Any])


class RegisterMapError(ValueError):
    """A register map, or a handler for it, that can't be right; found when it is built."""


class Access(enum.Enum):
    """What a guest's access does to a bit."""

    RO = "RO"  #: reads the value; writes are ignored
    RW = "RW"  #: reads the value; writes store
    WO = "WO"  #: reads 0; writes store for the device
    W1C = "W1C"  #: reads the value; writing 1 clears, writing 0 keeps
    RC = "RC"  #: reads the value and clears it; writes are ignored


RO: Final = Access.RO
RW: Final = Access.RW
WO: Final = Access.WO
W1C: Final = Access.W1C
RC: Final = Access.RC


@attrs.frozen
class Bits:
    """A field of a register.

    Attributes:
        name: Unique within the register.
        first: Number of its lowest bit.
        width: Bits.
        access: Its own rule; None takes the register's.
        values: What its values mean, for people.
        doc: Meaning, with unit and range.
    """

    name: str
    first: int
    width: int = 1
    access: Access | None = None
    values: Mapping[int, str] | None = None
    doc: str = ""

    @property
    def mask(self) -> int:
        """The field's bits in the register."""
        return ((1 << self.width) - 1) << self.first


def _fields(bits: Iterable[Bits]) -> tuple[Bits, ...]:
    """A tuple; typed, since checkers do not see through `tuple` as a converter."""
    return tuple(bits)


@attrs.frozen
class Reg:
    """A register, or a row of equal ones.

    Attributes:
        name: As in the device's manual; starts with a capital letter.
        offset: Of the first one in the region, bytes; a multiple of `size`.
        size: Bytes: 1, 2, 4 or 8.
        count: How many there are.
        stride: From one to the next, bytes; None is `size`.
        reset: Value after a reset.
        access: Rule of all bits that no field has another one for. In a register with fields, bits
            of no field are reserved: they keep their reset value.
        doc: Meaning, with unit and range.
        source: Where this is written: document and section.
        bits: Fields.
    """

    name: str
    offset: int
    size: int = attrs.field(default=4, kw_only=True)
    count: int = attrs.field(default=1, kw_only=True)
    stride: int | None = attrs.field(default=None, kw_only=True)
    reset: int = attrs.field(default=0, kw_only=True)
    access: Access = attrs.field(default=Access.RW, kw_only=True)
    doc: str = attrs.field(default="", kw_only=True)
    source: str = attrs.field(default="", kw_only=True)
    bits: tuple[Bits, ...] = attrs.field(default=(), kw_only=True, converter=_fields)

    @property
    def step(self) -> int:
        """From one to the next, bytes."""
        return self.size if self.stride is None else self.stride

    @property
    def mask(self) -> int:
        """All bits of the register."""
        return (1 << 8 * self.size) - 1

    def mask_of(self, access: Access) -> int:
        """The bits that follow an access rule; reserved ones follow none."""
        if not self.bits:
            return self.mask if self.access is access else 0
        return sum(b.mask for b in self.bits if (b.access or self.access) is access)

    def field(self, name: str) -> Bits:
        """The field of that name.

        Raises:
            KeyError: There is none; the message has the nearest known name.
        """
        for bits in self.bits:
            if bits.name == name:
                return bits
        near = hint(name, [b.name for b in self.bits])
        raise KeyError(f"{self.name} has no field {name} ({near})")

    def spelled(self, index: int) -> str:
        """The name of one of the row: ``NAME`` or ``NAME[3]``."""
        return self.name if self.count == 1 else f"{self.name}[{index}]"


@attrs.frozen
class Handler:
    """A method that serves a register.

    Attributes:
        map: Of which map.
        register: Name of the register.
        write: Serves writes; else reads.
        deferred: Runs after the guest's access was answered.
    """

    map: RegisterMap
    register: str
    write: bool
    deferred: bool = False


class RegisterMap:
    """The registers of one region; immutable.

    Args:
        name: Such as ``avf.bar0``.
        size: Of the region, bytes.
        regs: The rows, in any order.
        doc: What the region is.

    Raises:
        RegisterMapError: Overlaps, bad alignment, an offset out of the region, fields or reset
            values that do not fit; the message shows both parties.
    """

    def __init__(self, name: str, size: int, regs: Sequence[Reg], doc: str = "") -> None:
        self.name = name
        self.size = size
        self.doc = doc
        self.regs = tuple(sorted(regs, key=lambda reg: reg.offset))
        self._by_name: dict[str, Reg] = {}
        self._first_slot: dict[str, int] = {}
        if size < 1:
            raise RegisterMapError(f"{name}: expected a size above 0, came {size}")
        slots = 0
        for reg in self.regs:
            self._check(reg)
            self._by_name[reg.name] = reg
            self._first_slot[reg.name] = slots
            slots += reg.count
        #: each register by its slot, a number below `slots`
        self.instances: tuple[tuple[Reg, int], ...] = tuple(
            (reg, index) for reg in self.regs for index in range(reg.count)
        )
        placed = sorted(
            (reg.offset + index * reg.step, slot)
            for slot, (reg, index) in enumerate(self.instances)
        )
        self._starts = [start for start, _ in placed]
        self._order = [slot for _, slot in placed]
        self._check_overlaps()

    def __repr__(self) -> str:
        return f"<RegisterMap {self.name} {len(self.regs)} rows>"

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Reg:
        """The row of that name.

        Raises:
            KeyError: There is none; the message has the nearest known name.
        """
        reg = self._by_name.get(name)
        if reg is None:
            raise KeyError(f"{self.name} has no register {name} ({hint(name, self._by_name)})")
        return reg

    # -- addresses and names

    def slot(self, name: str, index: int = 0) -> int:
        """The number of a register in `instances`.

        Raises:
            KeyError: No such name.
            IndexError: No such index.
        """
        reg = self[name]
        if not 0 <= index < reg.count:
            raise IndexError(f"{self.name}: {name}[{index}], there are {reg.count}")
        return self._first_slot[name] + index

    def offset(self, name: str, index: int = 0) -> int:
        """Where a register is in the region, bytes; raises as `slot` does."""
        self.slot(name, index)
        reg = self._by_name[name]
        return reg.offset + index * reg.step

    def find(self, offset: int, size: int = 1) -> list[tuple[int, int]]:
        """The registers that ``offset``..``offset + size`` touches: (slot, offset), ascending."""
        i = max(0, bisect_right(self._starts, offset) - 1)
        found = []
        while i < len(self._starts) and self._starts[i] < offset + size:
            start, slot = self._starts[i], self._order[i]
            if start + self.instances[slot][0].size > offset:
                found.append((slot, start))
            i += 1
        return found

    def label(self, offset: int) -> str:
        """What is at an offset: ``NAME``, ``NAME[3]``, ``NAME+2`` inside it, or ``0x40``."""
        for slot, start in self.find(offset):
            reg, index = self.instances[slot]
            inside = offset - start
            return reg.spelled(index) + (f"+{inside}" if inside else "")
        return f"{offset:#x}"

    # -- behaviour

    def on_read(self, name: str) -> Callable[[_F], _F]:
        """Let a method answer reads of a register: ``(self) -> int``.

        In a row it is ``(self, index) -> int``. It is called once an access, whatever part of the
        register is read; bits of rule RC are cleared afterwards.

        Raises:
            RegisterMapError: At import: no such register, or one that can't be read.
        """
        reg = self._known(name)
        if reg.mask_of(Access.WO) == reg.mask:
            raise RegisterMapError(f"{self.name}: {name} is WO, a handler would never be asked")
        return self._tag(Handler(self, name, write=False))

    def on_write(self, name: str, *, deferred: bool = False) -> Callable[[_F], _F]:
        """Let a method follow writes to a register: ``(self, value)``.

        In a row it is ``(self, index, value)``. The value has been stored by the access rules
        before; the handler gets what was written. Bytes that a smaller access left out are those
        stored in RW bits and 0 in others.

        Args:
            name: The register.
            deferred: Call it after the guest's access was answered, in order. It may then read and
                write guest memory of any kind.

        Raises:
            RegisterMapError: At import: no such register, or one that can't be written.
        """
        reg = self._known(name)
        if not any(reg.mask_of(access) for access in (Access.RW, Access.WO, Access.W1C)):
            raise RegisterMapError(f"{self.name}: {name} can't be written, a handler has no use")
        return self._tag(Handler(self, name, write=True, deferred=deferred))

    def _known(self, name: str) -> Reg:
        try:
            return self[name]
        except KeyError as exc:
            raise RegisterMapError(exc.args[0]) from None

    def _tag(self, handler: Handler) -> Callable[[_F], _F]:
        def tag(method: _F) -> _F:
            setattr(method, HANDLERS, (*getattr(method, HANDLERS, ()), handler))
            return method

        return tag

    # -- checks

    def _check(self, reg: Reg) -> None:
        where = f"{self.name}: {reg.name} at {reg.offset:#x}"
        if not _NAME.fullmatch(reg.name):
            raise RegisterMapError(
                f"{where}: a name starts with a capital letter, then A-Z a-z 0-9 _"
            )
        if reg.name in self._by_name:
            other = self._by_name[reg.name].offset
            raise RegisterMapError(f"{where}: the same name is at {other:#x} already")
        if reg.size not in (1, 2, 4, 8):
            raise RegisterMapError(
                f"{where}: expected a size of 1, 2, 4 or 8 bytes, not {reg.size}"
            )
        if reg.offset < 0 or reg.offset % reg.size:
            raise RegisterMapError(f"{where}: expected a multiple of its size of {reg.size} bytes")
        if reg.count < 1:
            raise RegisterMapError(f"{where}: expected a count of at least 1, not {reg.count}")
        if reg.step < reg.size or reg.step % reg.size:
            raise RegisterMapError(
                f"{where}: expected a stride that is a multiple of {reg.size} bytes, not {reg.step}"
            )
        end = reg.offset + (reg.count - 1) * reg.step + reg.size
        if end > self.size:
            raise RegisterMapError(
                f"{where}: it ends at {end:#x}, behind the region's end at {self.size:#x}"
            )
        if not 0 <= reg.reset <= reg.mask:
            raise RegisterMapError(f"{where}: reset {reg.reset:#x} does not fit {reg.size} bytes")
        self._check_fields(reg, where)

    def _check_fields(self, reg: Reg, where: str) -> None:
        names: set[str] = set()
        fields = sorted(reg.bits, key=lambda b: b.first)
        for b in fields:
            if b.name in names:
                raise RegisterMapError(f"{where}: two fields are called {b.name}")
            names.add(b.name)
            if b.first < 0 or b.width < 1 or b.first + b.width > 8 * reg.size:
                raise RegisterMapError(
                    f"{where}: field {b.name}, bits {b.first}+{b.width}, does not fit "
                    f"{8 * reg.size} bits"
                )
            for value in b.values or ():
                if not 0 <= value < 1 << b.width:
                    raise RegisterMapError(
                        f"{where}: value {value} of field {b.name} does not fit {b.width} bits"
                    )
        for a, b in itertools.pairwise(fields):
            if a.first + a.width > b.first:
                raise RegisterMapError(
                    f"{where}: field {a.name} (bits {a.first}+{a.width}) overlaps "
                    f"{b.name} (bits {b.first}+{b.width})"
                )

    def _check_overlaps(self) -> None:
        end, before = 0, 0
        for start, slot in zip(self._starts, self._order, strict=True):
            if start < end:
                a, i = self.instances[before]
                b, j = self.instances[slot]
                raise RegisterMapError(
                    f"{self.name}: {a.spelled(i)} at {a.offset + i * a.step:#x}+{a.size} overlaps "
                    f"{b.spelled(j)} at {start:#x}+{b.size}"
                )
            end, before = start + self.instances[slot][0].size, slot
