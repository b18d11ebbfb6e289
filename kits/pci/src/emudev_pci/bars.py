"""Base address registers: what a function's regions are, and their bits in configuration space.

Sizing needs no code of its own: the bits below a BAR's size can't be written, so all ones read back
as its size. Source: PCI Local Bus Specification 3.0, section 6.2.5.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .registers import RegisterMap

__all__ = ["BarError", "IoBar", "MemoryBar", "bar_registers", "power_of_two"]


class BarError(ValueError):
    """Base address registers that can't be right; found when the function is made."""


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(0, size - 1).bit_length()


def _map_size(bar: MemoryBar | IoBar) -> int:
    return bar.map.size if bar.map is not None else 0


@attrs.frozen
class MemoryBar:
    """A region in memory space.

    Attributes:
        map: Its registers; None for a region that the function serves itself (`bar_read`,
            `bar_write`), or that has nothing but the MSI-X table.
        size: Bytes, a power of two of at least 16; 0: what `map` needs.
        wide: A 64-bit address, which takes the next BAR, too.
        prefetchable: Reads have no side effects.
    """

    map: RegisterMap | None = None
    size: int = attrs.field(default=0, kw_only=True)
    wide: bool = attrs.field(default=False, kw_only=True)
    prefetchable: bool = attrs.field(default=False, kw_only=True)

    @property
    def bytes(self) -> int:
        """Size of the region, a power of two."""
        return self.size or max(16, power_of_two(_map_size(self)))

    @property
    def type_bits(self) -> int:
        """The low bits of the BAR, which can't be written."""
        return (4 if self.wide else 0) | (8 if self.prefetchable else 0)


@attrs.frozen
class IoBar:
    """A region in I/O space.

    Attributes:
        map: Its registers, or None.
        size: Bytes, a power of two from 4 to 256; 0: what `map` needs.
    """

    map: RegisterMap | None = None
    size: int = attrs.field(default=0, kw_only=True)

    @property
    def bytes(self) -> int:
        """Size of the region, a power of two."""
        return self.size or max(4, power_of_two(_map_size(self)))

    @property
    def type_bits(self) -> int:
        """The low bits of the BAR, which can't be written."""
        return 1


def bar_registers(bars: Mapping[int, MemoryBar | IoBar]) -> tuple[bytes, bytes]:
    """The six registers: their values after a reset, and the bits that can be written.

    Raises:
        BarError: A number above 5, a size that is no power of two, a 64-bit BAR without a free
            neighbour, a map that does not fit.
    """
    image, writable = bytearray(24), bytearray(24)
    for number, bar in bars.items():
        where = f"BAR {number}"
        if not 0 <= number <= 5:
            raise BarError(f"{where}: expected a number from 0 to 5")
        size = bar.bytes
        wide = isinstance(bar, MemoryBar) and bar.wide
        least, most = (4, 256) if isinstance(bar, IoBar) else (16, 1 << (63 if wide else 31))
        if size != power_of_two(size) or not least <= size <= most:
            raise BarError(
                f"{where}: expected a power of two from {least} to {most:#x} bytes, came {size:#x}"
            )
        if _map_size(bar) > size:
            assert bar.map is not None
            raise BarError(f"{where} has {size:#x} bytes, {bar.map.name} needs {bar.map.size:#x}")
        length = 8 if wide else 4
        if wide and (number == 5 or number + 1 in bars):
            raise BarError(f"{where} is 64 bits wide: BAR {number + 1} has to be free")
        at = slice(4 * number, 4 * number + length)
        image[at] = bar.type_bits.to_bytes(length, "little")
        writable[at] = ((1 << 8 * length) - size).to_bytes(length, "little")
    return bytes(image), bytes(writable)
