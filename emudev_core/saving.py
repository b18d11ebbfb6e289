"""A saved device: its provider's state in an envelope that says what kind of device it is of.

MessagePack of a map: ``format`` is 1, ``stem`` is the device's, ``state`` is the map that
``emudev_save`` returned. Imported when a device is saved or restored.

Source: MessagePack specification.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .errors import DecodeError

__all__ = ["decode_device", "encode_device"]

_FORMAT: Final = 1


def encode_device(stem: str, state: dict[str, Any]) -> bytes:
    """A saved device.

    Args:
        stem: The device's.
        state: What its provider remembers; of types that MessagePack has.
    """
    return msgspec.msgpack.encode({"format": _FORMAT, "stem": stem, "state": state})


def decode_device(name: str, stem: str, data: bytes) -> dict[str, Any]:
    """The state in a saved device.

    Args:
        name: The device's that is to take it, for messages.
        stem: The kind that it has to be of.
        data: From anywhere.

    Raises:
        DecodeError: Not what `encode_device` makes, or of another format or kind.
    """
    try:
        record = msgspec.msgpack.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise DecodeError(f"{name}: not a saved device: {exc}") from exc
    if record.get("format") != _FORMAT or record.get("stem") != stem:
        raise DecodeError(
            f"{name}: expected format {_FORMAT} of {stem!r}, came format "
            f"{record.get('format')!r} of {record.get('stem')!r}"
        )
    state = record.get("state")
    if not isinstance(state, dict):
        raise DecodeError(f"{name}: the saved device has no state")
    return state
