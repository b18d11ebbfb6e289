"""Declared wire structs: one declaration gives packing, unpacking, checks and documentation.

    @wire(size=16)
    class Header(Wire):
        '''Start of every message. Source: vfio-user specification, "Header".'''

        msg_id: int = u16("chosen by the sender, echoed in the reply")
        command: int = u16("a Command; unknown values are kept")
        msg_size: int = u32("header and payload, in bytes")
        flags: int = u32("a Flags set")
        error: int = u32("errno of an error reply, else 0", default=0)

    Header.unpack(data).msg_size
    Header(msg_id=1, command=2, msg_size=16, flags=0).pack()

Instances are frozen and slotted. Little endian without padding unless ``order=">"``; holes are
declared with `pad`. Bytes behind the struct are not looked at: a message with a variable tail
unpacks its head with `unpack` and then walks the tail with `unpack_many`, which compares the count
with what is there before it reads anything.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform

import attrs

from .errors import DecodeError

__all__ = ["Wire", "WireField", "wire", "u8", "u16", "u32", "u64", "s32", "be16", "raw", "pad"]

_META = "emudev_wire"


@attrs.frozen
class WireField:
    """One field of a wire struct.

    Attributes:
        name: Attribute name; padding has a generated one.
        offset: From the start of the struct, bytes.
        size: Bytes.
        format: `struct` format character (or ``Ns`` for raw bytes), without byte order.
        doc: What it means, with unit and range.
        swapped: Whether the field's byte order is the other one than the struct's (`be16`).
        padding: Whether it is a hole: written as zeroes, ignored when read.
    """

    name: str
    offset: int
    size: int
    format: str
    doc: str
    swapped: bool = False
    padding: bool = False


@attrs.frozen
class _Spec:
    format: str
    doc: str
    swapped: bool = False
    padding: bool = False


def _field(spec: _Spec, default: Any) -> Any:
    return attrs.field(default=default, metadata={_META: spec})


def u8(doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """An unsigned byte."""
    return _field(_Spec("B", doc), default)


def u16(doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """An unsigned 16-bit number."""
    return _field(_Spec("H", doc), default)


def u32(doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """An unsigned 32-bit number."""
    return _field(_Spec("I", doc), default)


def u64(doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """An unsigned 64-bit number."""
    return _field(_Spec("Q", doc), default)


def s32(doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """A signed 32-bit number."""
    return _field(_Spec("i", doc), default)


def be16(doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """An unsigned 16-bit number in network order, inside a little-endian struct."""
    return _field(_Spec("H", doc, swapped=True), default)


def raw(size: int, doc: str, *, default: Any = attrs.NOTHING) -> Any:
    """`size` bytes as they are."""
    return _field(_Spec(f"{size}s", doc), default)


def pad(size: int, *, init: Literal[False] = False) -> Any:
    """`size` bytes of no meaning: written as zeroes, ignored when read, no constructor argument."""
    spec = _Spec(f"{size}x", "padding", padding=True)
    return attrs.field(default=bytes(size), init=init, repr=False, metadata={_META: spec})


class Wire:
    """Base of the declared structs; see the module."""

    __slots__ = ()

    SIZE: ClassVar[int]
    FIELDS: ClassVar[tuple[WireField, ...]]
    _struct: ClassVar[struct.Struct]
    _names: ClassVar[tuple[str, ...]]
    _swaps: ClassVar[tuple[int, ...]]

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> Self:
        """Decode the struct at `offset`.

        Raises:
            DecodeError: Fewer than `SIZE` bytes are there.
        """
        if offset < 0 or len(data) - offset < cls.SIZE:
            have = max(0, len(data) - offset)
            raise DecodeError(f"{cls.__name__} needs {cls.SIZE} bytes, {have} came")
        values = list(cls._struct.unpack_from(data, offset))
        for i in cls._swaps:
            values[i] = (values[i] >> 8) | (values[i] & 0xFF) << 8
        return cls(*values)

    @classmethod
    def unpack_many(
        cls, data: bytes | bytearray | memoryview, count: int, offset: int = 0
    ) -> list[Self]:
        """Decode `count` structs in a row from `offset`.

        Raises:
            DecodeError: They are not all there; nothing is allocated by `count` before that check.
        """
        have = max(0, len(data) - offset)
        if count < 0 or count * cls.SIZE > have:
            raise DecodeError(
                f"{count} x {cls.__name__} need {count * cls.SIZE} bytes, {have} came"
            )
        return [cls.unpack(data, offset + i * cls.SIZE) for i in range(count)]

    def pack(self) -> bytes:
        """Encode the struct, `SIZE` bytes."""
        return self._struct.pack(*self._values())

    def pack_into(self, buffer: bytearray | memoryview, offset: int = 0) -> None:
        """Encode the struct into a writable buffer."""
        self._struct.pack_into(buffer, offset, *self._values())

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        values = {name: getattr(self, name) for name in self._names}
        return type(self)(**{**values, **changes})

    def _values(self) -> list[Any]:
        values = [getattr(self, name) for name in self._names]
        for i in self._swaps:
            if not 0 <= values[i] <= 0xFFFF:
                raise struct.error(f"{self._names[i]}: 0 to 0xffff expected, not {values[i]:#x}")
            values[i] = values[i] >> 8 | (values[i] & 0xFF) << 8
        return values


_T = TypeVar("_T", bound=type[Wire])


@dataclass_transform(frozen_default=True, field_specifiers=(u8, u16, u32, u64, s32, be16, raw, pad))
def wire(*, size: int, order: str = "<") -> Any:
    """Make a `Wire` subclass of a class with declared fields.

    Args:
        size: What the fields must add up to, bytes.
        order: ``<`` or ``>``.

    Raises:
        TypeError: At import, if the fields do not add up to `size`.
    """

    def decorate(cls: _T) -> _T:
        made = attrs.frozen(slots=True)(cls)
        fields: list[WireField] = []
        offset = 0
        for attribute in attrs.fields(cast(Any, made)):
            spec: _Spec = attribute.metadata[_META]
            length = struct.calcsize("<" + spec.format)
            fields.append(
                WireField(
                    attribute.name,
                    offset,
                    length,
                    spec.format,
                    spec.doc,
                    spec.swapped,
                    spec.padding,
                )
            )
            offset += length
        if offset != size:
            raise TypeError(f"{cls.__name__}: fields add up to {offset} bytes, declared are {size}")
        made.SIZE = size
        made.FIELDS = tuple(fields)
        made._struct = struct.Struct(order + "".join(f.format for f in fields))
        shown = [f for f in fields if not f.padding]
        made._names = tuple(f.name for f in shown)
        made._swaps = tuple(i for i, f in enumerate(shown) if f.swapped)
        return made

    return decorate
