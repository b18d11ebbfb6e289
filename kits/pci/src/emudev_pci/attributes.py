"""Attributes of a device: a table of getters and setters with their types checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emudev_core.attributes import AttributeInfo, AttributeValue
from emudev_core.errors import DeviceError
from emudev_core.names import hint

__all__ = ["AttributeTable"]


class AttributeTable:
    """The attributes of one device.

    Args:
        owner: Name of the device, for messages.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._rows: dict[
            str, tuple[AttributeInfo, Callable[[], AttributeValue], Callable[[Any], None] | None]
        ] = {}

    def add(
        self,
        name: str,
        type: type[bool] | type[int] | type[str],
        doc: str,
        get: Callable[[], AttributeValue],
        set: Callable[[Any], None] | None = None,
    ) -> None:
        """Add an attribute, or replace one.

        Args:
            name: Unique within the device.
            type: Of its values.
            doc: Meaning, unit and range.
            get: Returns it.
            set: Changes it, and raises `ValueError` for one out of range; None: read-only.
        """
        self._rows[name] = (AttributeInfo(name, type, doc, writable=set is not None), get, set)

    def infos(self) -> Sequence[AttributeInfo]:
        """All of them, in the order in which they were added."""
        return [info for info, _, _ in self._rows.values()]

    def get(self, name: str) -> AttributeValue:
        """The value of one.

        Raises:
            DeviceError: There is none; the message has the nearest known name.
        """
        return self._row(name)[1]()

    def set(self, name: str, value: AttributeValue) -> None:
        """Change one.

        Raises:
            DeviceError: Unknown, read-only, of another type or out of range.
        """
        info, _, change = self._row(name)
        where = f"{self._owner}: attribute {name}"
        if change is None:
            raise DeviceError(f"{where} is read-only")
        if type(value) is not info.type:
            raise DeviceError(f"{where} takes {info.type.__name__}, came {value!r}")
        try:
            change(value)
        except ValueError as exc:
            raise DeviceError(f"{where} can't be {value!r}: {exc}") from exc

    def _row(
        self, name: str
    ) -> tuple[AttributeInfo, Callable[[], AttributeValue], Callable[[Any], None] | None]:
        row = self._rows.get(name)
        if row is None:
            near = hint(name, self._rows) or "it has none"
            raise DeviceError(f"{self._owner} has no attribute {name} ({near})")
        return row
