"""Configuration space: one byte array with a mask of what can be written.

Any offset, width and alignment gives the same bytes; writes to read-only bits are ignored, as by
hardware, and never an error. Fields and capabilities bring their image and masks (`define`); who
needs to know of a write watches its bytes (`watch`); bytes that follow the device's state are
computed when they are read (`live`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from emudev_core.errors import DecodeError
from emudev_core.wire import Wire, pad, raw, u8, u16, u32, wire

__all__ = [
    "COMMAND",
    "COMMAND_BUS_MASTER",
    "COMMAND_INTX_DISABLE",
    "COMMAND_MEMORY",
    "STATUS",
    "ConfigHeader",
    "ConfigSpace",
    "PciIds",
]

CONVENTIONAL: Final = 256  #: size without PCI Express, bytes
EXPRESS: Final = 4096  #: size with PCI Express, bytes

COMMAND_IO: Final = 1 << 0
COMMAND_MEMORY: Final = 1 << 1
COMMAND_BUS_MASTER: Final = 1 << 2
COMMAND_INTX_DISABLE: Final = 1 << 10
#: I/O, memory, bus master, parity response, SERR, INTx disable; the others read 0.
COMMAND_WRITABLE: Final = 0x0547
STATUS_INTERRUPT: Final = 1 << 3
STATUS_CAPABILITIES: Final = 1 << 4
#: A request of the device was answered with an error: memory that is not there.
STATUS_RECEIVED_MASTER_ABORT: Final = 1 << 13
#: Parity and abort bits: writing 1 clears.
STATUS_W1C: Final = 0xF900


@wire(size=64)
class ConfigHeader(Wire):
    """Header of type 0. Source: PCI Local Bus Specification 3.0, section 6.1."""

    vendor: int = u16("vendor id", default=0)
    device: int = u16("device id", default=0)
    command: int = u16("what the function may do", default=0)
    status: int = u16("capability list, interrupt and errors", default=0)
    revision: int = u8("revision id", default=0)
    class_code: bytes = raw(3, "interface, subclass, class", default=bytes(3))
    cache_line: int = u8("cache line size, 4 bytes", default=0)
    latency: int = u8("latency timer, 0 with PCI Express", default=0)
    header_type: int = u8("0, bit 7: more functions", default=0)
    bist: int = u8("self test, not there", default=0)
    bars: bytes = raw(24, "base address registers", default=bytes(24))
    cis: int = u32("CardBus pointer, 0", default=0)
    subsystem_vendor: int = u16("subsystem vendor id", default=0)
    subsystem: int = u16("subsystem id", default=0)
    rom: int = u32("expansion ROM base address, 0: none", default=0)
    capabilities: int = u8("offset of the first capability", default=0)
    _reserved: bytes = pad(7)
    line: int = u8("interrupt line, for software", default=0)
    pin: int = u8("interrupt pin, 0 none, 1 INTA", default=0)
    min_gnt: int = u8("0 with PCI Express", default=0)
    max_lat: int = u8("0 with PCI Express", default=0)


OFFSETS: Final = {field.name: field.offset for field in ConfigHeader.FIELDS}
COMMAND: Final = OFFSETS["command"]
STATUS: Final = OFFSETS["status"]
BARS: Final = OFFSETS["bars"]
ROM: Final = OFFSETS["rom"]
CAPABILITIES: Final = OFFSETS["capabilities"]


@attrs.frozen
class PciIds:
    """Who a function is.

    Attributes:
        vendor: Vendor id, 16 bits.
        device: Device id, 16 bits.
        class_code: Class, subclass, interface: ``0x020000`` is an Ethernet controller.
        revision: 8 bits.
        subsystem_vendor: 16 bits; None: the vendor's.
        subsystem: 16 bits.
    """

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int | None = None
    subsystem: int = 0


class ConfigSpace:
    """See the module. For the loop's thread.

    Args:
        size: Bytes, 256 or 4096.
    """

    def __init__(self, size: int = EXPRESS) -> None:
        self.size = size
        self._data = bytearray(size)
        self._image = bytearray(size)
        self._writable = bytearray(size)
        self._w1c = bytearray(size)
        self._watches: list[tuple[int, int, Callable[[int, int], None]]] = []
        self._live: list[tuple[int, int, Callable[[int], int]]] = []

    # -- building

    def define(self, offset: int, image: bytes, writable: bytes = b"", w1c: bytes = b"") -> None:
        """Set what bytes are after a reset, and which of their bits a guest can change.

        Args:
            offset: Of the first byte.
            image: Values.
            writable: Bits that writes store; shorter than `image`: the rest is read-only.
            w1c: Bits that writing 1 clears.
        """
        end = offset + len(image)
        self._image[offset:end] = self._data[offset:end] = image
        self._writable[offset:end] = writable.ljust(len(image), b"\0")
        self._w1c[offset:end] = w1c.ljust(len(image), b"\0")

    def amend(self, offset: int, image: bytes) -> None:
        """Change what bytes are after a reset, and now; masks stay."""
        self._image[offset : offset + len(image)] = image
        self._data[offset : offset + len(image)] = image

    def watch(self, offset: int, size: int, callback: Callable[[int, int], None]) -> None:
        """Call ``callback(old, written)`` after writes that touch a field.

        `old` is the field before the write; `written` is what came, also for bits that can't be
        written, with `old` in the bytes that the write left out.
        """
        self._watches.append((offset, size, callback))

    def live(self, offset: int, size: int, function: Callable[[int], int]) -> None:
        """Let ``function(stored)`` say what a field reads."""
        self._live.append((offset, size, function))

    # -- the device's view

    def get(self, offset: int, size: int) -> int:
        """The stored value of a field."""
        return int.from_bytes(self._data[offset : offset + size], "little")

    def put(self, offset: int, size: int, value: int) -> None:
        """Store a field, whatever its masks; nobody is called."""
        self._data[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self) -> None:
        """Everything as after power-on; nobody is called."""
        self._data[:] = self._image

    # -- the guest's view

    def read(self, offset: int, size: int) -> int:
        """Read any number of bytes as a little-endian number."""
        return int.from_bytes(self.read_bytes(offset, size), "little")

    def read_bytes(self, offset: int, size: int) -> bytes:
        """Read any number of bytes; behind the end they are 0."""
        data = self._data[offset : offset + size].ljust(size, b"\0")
        for start, length, function in self._live:
            if start < offset + size and offset < start + length:
                value = function(self.get(start, length)).to_bytes(length, "little")
                first, last = max(start, offset), min(start + length, offset + size)
                data[first - offset : last - offset] = value[first - start : last - start]
        return bytes(data)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a little-endian number of `size` bytes."""
        self.write_bytes(offset, value.to_bytes(size, "little"))

    def write_bytes(self, offset: int, data: bytes) -> None:
        """Write any number of bytes; behind the end they are ignored."""
        data = data[: max(0, self.size - offset)]
        end = offset + len(data)
        touched = []
        for start, length, callback in self._watches:
            if start < end and offset < start + length:
                old = self._data[start : start + length]
                written = bytearray(old)
                first, last = max(start, offset), min(start + length, end)
                written[first - start : last - start] = data[first - offset : last - offset]
                touched.append((callback, old, written))
        for i, byte in enumerate(data, offset):
            mask = self._writable[i]
            kept = (self._data[i] & ~mask | byte & mask) & ~(byte & self._w1c[i])
            self._data[i] = kept
        for callback, old, written in touched:
            callback(int.from_bytes(old, "little"), int.from_bytes(written, "little"))

    # -- saving

    def save(self) -> bytes:
        """The stored bytes."""
        return bytes(self._data)

    def restore(self, saved: bytes) -> None:
        """Take back what `save` gave; read-only bits must be those of this space.

        Raises:
            DecodeError: Another size, or of another function; nothing has changed.
        """
        if not isinstance(saved, bytes) or len(saved) != self.size:
            raise DecodeError(f"configuration space: expected {self.size} bytes")
        for i, byte in enumerate(saved):
            fixed = 0xFF & ~self._writable[i] & ~self._w1c[i]
            if (byte ^ self._image[i]) & fixed:
                raise DecodeError(
                    f"configuration space at {i:#x}: {byte:#04x} of another function, "
                    f"here it is {self._image[i]:#04x}"
                )
        self._data[:] = saved
