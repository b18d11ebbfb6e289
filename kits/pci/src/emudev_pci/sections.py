"""What any PCI function shows of itself: registers by name, configuration space, vectors, faults.

Reading is looking: no handler of a register runs, nothing is cleared. A register whose value a
handler makes up is shown as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core.sections import Row

from .registers import Reg

if TYPE_CHECKING:
    from .function import PciFunction

__all__ = ["add_sections", "fields_text"]

#: Of the header: name, offset, bytes. Source: PCI Local Bus Specification 3.0, section 6.1.
_HEADER: Final = (
    ("vendor", 0x00, 2),
    ("device", 0x02, 2),
    ("command", 0x04, 2),
    ("status", 0x06, 2),
    ("revision", 0x08, 1),
    ("class", 0x09, 3),
    ("bar0", 0x10, 4),
    ("bar1", 0x14, 4),
    ("bar2", 0x18, 4),
    ("bar3", 0x1C, 4),
    ("bar4", 0x20, 4),
    ("bar5", 0x24, 4),
    ("subsystem-vendor", 0x2C, 2),
    ("subsystem", 0x2E, 2),
    ("capabilities", 0x34, 1),
    ("line", 0x3C, 1),
    ("pin", 0x3D, 1),
)


def add_sections(function: PciFunction) -> None:
    """Add them to a function's table."""

    def add(
        name: str,
        doc: str,
        read: Callable[[PciFunction], Iterator[Row]],
        hex: tuple[str, ...] = (),
    ) -> None:
        function.sections.add(name, doc, partial(read, function), hex)

    add("function", "the PCI function: what the guest lets it do, and what went wrong", _function)
    add(
        "registers",
        "registers as they are stored; those of a row only where they differ from a reset",
        _registers,
        ("offset", "value"),
    )
    add("config", "configuration space: header and capabilities", _config, ("offset", "value"))
    add("vectors", "interrupt vectors", _vectors)


def _function(function: PciFunction) -> Iterator[Row]:
    undeclared = sum(sum(file.undeclared.values()) for file in function.bar_regs.values())
    yield {
        "bus_master": function.bus_master,
        "client": function.client,
        "faults": function.faults,
        "deferred_lost": function.deferred.lost,
        "undeclared_accesses": undeclared,
    }


def fields_text(reg: Reg, value: int) -> str:
    """The fields of a register's value that are not 0, those with named values always."""
    parts = []
    for bits in reg.bits:
        field = (value & bits.mask) >> bits.first
        meaning = (bits.values or {}).get(field, "")
        if field or meaning:
            number = f"={field:#x}" if bits.width > 1 or not field else ""
            parts.append(f"{bits.name}{number}{f' ({meaning})' if meaning else ''}")
    return ", ".join(parts)


def _registers(function: PciFunction) -> Iterator[Row]:
    for bar, file in function.bar_regs.items():
        for reg in file.map.regs:
            for index in range(reg.count):
                value = file[reg.name, index]
                if reg.count == 1 or value != reg.reset:
                    yield {
                        "bar": bar,
                        "offset": reg.offset + index * reg.step,
                        "name": reg.spelled(index),
                        "value": value,
                        "fields": fields_text(reg, value),
                    }


def _config(function: PciFunction) -> Iterator[Row]:
    space = function.config_space
    for name, offset, size in _HEADER:
        yield {"name": name, "offset": offset, "value": space.get(offset, size)}
    for id, offset in sorted(function.capability_offsets.items(), key=lambda item: item[1]):
        yield {"name": f"capability {id:#x}", "offset": offset, "value": space.get(offset, 4)}


def _vectors(function: PciFunction) -> Iterator[Row]:
    for vector in function.vectors:
        yield {
            "vector": vector.number,
            "deliverable": vector.fd is not None,
            "masked": vector.masked,
            "pending": vector.pending,
            "signals": vector.signalled,
        }
