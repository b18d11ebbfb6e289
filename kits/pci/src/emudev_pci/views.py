"""Regions as a driver sees them: numbers at offsets, and registers by name."""

from __future__ import annotations

import struct
from typing import Any, Final

from emudev_core.client import DeviceClient

from .registers import RegisterMap

__all__ = ["BarView", "RowView", "View"]

_U8: Final = struct.Struct("<B")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_BY_SIZE: Final = {s.size: s for s in (_U8, _U16, _U32, _U64)}


class View:
    """A region: little-endian numbers and bytes at offsets.

    Args:
        client: Of the device.
        region: Number of the region.
        posted: Writes do not wait for an answer, as a CPU's to memory space.
    """

    __slots__ = ("_client", "_posted", "_region")

    def __init__(self, client: DeviceClient, region: int, *, posted: bool = False) -> None:
        # Not by `self.x = ...`: a subclass gives attributes another meaning.
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_region", int(region))
        object.__setattr__(self, "_posted", posted)

    _client: DeviceClient
    _region: int
    _posted: bool

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes."""
        return self._client.region_read(self._region, offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes."""
        self._client.region_write(self._region, offset, data, posted=self._posted)

    def read8(self, offset: int) -> int:
        """Read one byte."""
        return self.read(offset, 1)[0]

    def read16(self, offset: int) -> int:
        """Read 2 bytes."""
        return int(_U16.unpack(self.read(offset, 2))[0])

    def read32(self, offset: int) -> int:
        """Read 4 bytes."""
        return int(_U32.unpack(self.read(offset, 4))[0])

    def read64(self, offset: int) -> int:
        """Read 8 bytes."""
        return int(_U64.unpack(self.read(offset, 8))[0])

    def write8(self, offset: int, value: int) -> None:
        """Write one byte."""
        self.write(offset, _U8.pack(value))

    def write16(self, offset: int, value: int) -> None:
        """Write 2 bytes."""
        self.write(offset, _U16.pack(value))

    def write32(self, offset: int, value: int) -> None:
        """Write 4 bytes."""
        self.write(offset, _U32.pack(value))

    def write64(self, offset: int, value: int) -> None:
        """Write 8 bytes."""
        self.write(offset, _U64.pack(value))


class BarView(View):
    """A BAR: offsets as in `View`, and its registers by name: ``bar.SIDES = 6``.

    ``bar.ROW[2]`` and ``bar["ROW", 2]`` are one of a row. An access has the register's size.

    Args:
        client: Of the device.
        number: Of the BAR.
        size: Of the region, bytes.
        map: Its registers; without them there are only offsets.
        posted: See `View`.
    """

    __slots__ = ("_map", "_size")

    _map: RegisterMap | None
    _size: int

    def __init__(
        self,
        client: DeviceClient,
        number: int,
        size: int,
        map: RegisterMap | None = None,
        *,
        posted: bool = True,
    ) -> None:
        super().__init__(client, number, posted=posted)
        object.__setattr__(self, "_map", map)
        object.__setattr__(self, "_size", size)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: str | tuple[str, int]) -> int:
        name, index = (key, 0) if isinstance(key, str) else key
        map = self._known(name)
        return int(_BY_SIZE[map[name].size].unpack(self.read(*self._place(name, index)))[0])

    def __setitem__(self, key: str | tuple[str, int], value: int) -> None:
        name, index = (key, 0) if isinstance(key, str) else key
        map = self._known(name)
        offset, size = self._place(name, index)
        self.write(offset, (value & map[name].mask).to_bytes(size, "little"))

    def __getattr__(self, name: str) -> Any:
        try:
            row = self._known(name)[name]
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None
        return self[name] if row.count == 1 else RowView(self, name)

    def __setattr__(self, name: str, value: int) -> None:
        try:
            self[name] = value
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from None

    def _place(self, name: str, index: int) -> tuple[int, int]:
        map = self._known(name)
        return map.offset(name, index), map[name].size

    def _known(self, name: str) -> RegisterMap:
        if self._map is None:
            raise KeyError(f"BAR {self._region} was given no register map, so no {name}")
        return self._map


class RowView:
    """A row of registers: ``bar.ROW[2] = 1``."""

    __slots__ = ("_bar", "_name")

    def __init__(self, bar: BarView, name: str) -> None:
        self._bar = bar
        self._name = name

    def __getitem__(self, index: int) -> int:
        return self._bar[self._name, index]

    def __setitem__(self, index: int, value: int) -> None:
        self._bar[self._name, index] = value
