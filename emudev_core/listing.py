"""Register maps as `emudev regs` shows them: what a provider's `registers` returns.

The PCI kit's `RegisterMap` fits these Protocols; a provider that uses no kit may return its own
objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["BitsRow", "RegisterListing", "RegisterRow", "bits_text", "maps_of", "register_dict"]


class BitsRow(Protocol):
    """A field of a register.

    Attributes:
        name: Its name, as in the datasheet.
        first: Number of its lowest bit.
        width: Bits.
        access: Its access rule if it is not the register's; None otherwise.
        values: Meaning by value, or None.
        doc: What it means.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def first(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def width(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def access(self) -> Any: ...  # noqa: D102 - see Attributes

    @property
    def values(self) -> Mapping[int, str] | None: ...  # noqa: D102 - see Attributes

    @property
    def doc(self) -> str: ...  # noqa: D102 - see Attributes


class RegisterRow(Protocol):
    """A register, or a row of equal ones.

    Attributes:
        name: Its name, as in the datasheet.
        offset: Of the first one in the map, bytes.
        size: Bytes.
        count: How many there are.
        stride: From one to the next, bytes; None for `size`.
        reset: Value after a reset.
        access: Access rule: ``RO``, ``RW``, ``WO``, ``W1C`` or ``RC``, as text or an enum's name.
        doc: What it means.
        source: Document that it comes from.
        bits: Its fields.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def offset(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def size(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def count(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def stride(self) -> int | None: ...  # noqa: D102 - see Attributes

    @property
    def reset(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def access(self) -> Any: ...  # noqa: D102 - see Attributes

    @property
    def doc(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def source(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def bits(self) -> Sequence[BitsRow]: ...  # noqa: D102 - see Attributes


class RegisterListing(Protocol):
    """A register map.

    Attributes:
        name: Such as ``avf.bar0``.
        size: Bytes.
        doc: What it is.
        regs: Its rows.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def size(self) -> int: ...  # noqa: D102 - see Attributes

    @property
    def doc(self) -> str: ...  # noqa: D102 - see Attributes

    @property
    def regs(self) -> Sequence[RegisterRow]: ...  # noqa: D102 - see Attributes


def maps_of(registers: Any) -> list[RegisterListing]:
    """The maps that a provider's `registers` returned: one, several, or None."""
    if registers is None:
        return []
    return [registers] if hasattr(registers, "regs") else list(registers)


def _access(access: Any) -> str:
    return str(getattr(access, "name", access))


def bits_text(bits: BitsRow) -> str:
    """A field in one line: ``3:0 NAME: what it means (0 off, 1 on)``."""
    last = bits.first + bits.width - 1
    place = str(bits.first) if bits.width == 1 else f"{last}:{bits.first}"
    access = f" {_access(bits.access)}" if bits.access is not None else ""
    doc = f": {bits.doc}" if bits.doc else ""
    values = ", ".join(f"{value} {text}" for value, text in (bits.values or {}).items())
    return f"{place} {bits.name}{access}{doc}{f' ({values})' if values else ''}"


def register_dict(row: RegisterRow) -> dict[str, Any]:
    """A row as plain values, for JSON."""
    return {
        "name": row.name,
        "offset": row.offset,
        "size": row.size,
        "count": row.count,
        "stride": row.stride or row.size,
        "reset": row.reset,
        "access": _access(row.access),
        "doc": row.doc,
        "source": row.source,
        "bits": [
            {
                "name": bits.name,
                "first": bits.first,
                "width": bits.width,
                "access": _access(row.access if bits.access is None else bits.access),
                "values": {str(value): text for value, text in (bits.values or {}).items()},
                "doc": bits.doc,
            }
            for bits in row.bits
        ],
    }
