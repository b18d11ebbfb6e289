"""Attributes: named, typed values of a device that a backend or a user reads and changes.

`AttributeTable` keeps those of a device: their getters and setters, with their types checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from .errors import DeviceError
from .names import hint

__all__ = [
    "LINK",
    "SPEED",
    "MAC",
    "MTU",
    "PROMISCUOUS",
    "ADMIN_LINK",
    "ADMIN_MTU",
    "PF_RESET",
    "AttributeInfo",
    "AttributeTable",
    "AttributeValue",
]

AttributeValue = bool | int | str

#: bool, writable: the backend's end of the link is up.
LINK: Final = "link"
#: int, writable: speed that the guest is told, Mbit/s.
SPEED: Final = "speed"
#: str, the device's MAC address, ``52:54:00:12:34:56``.
MAC: Final = "mac"
#: int: the largest MTU that the guest may set, bytes.
MTU: Final = "mtu"
#: bool, read-only: the guest wants all frames.
PROMISCUOUS: Final = "promiscuous"
#: str, writable: ``auto`` (the link follows the backend), ``up`` or ``down``.
ADMIN_LINK: Final = "admin_link"
#: int, writable: what the user wants `MTU` to be, which backends leave alone; bytes.
ADMIN_MTU: Final = "admin_mtu"
#: str, writable: set to ``announced`` or ``silent`` to reset the guest's function from outside.
PF_RESET: Final = "pf_reset"


@attrs.frozen
class AttributeInfo:
    """One attribute (RFC v1, attribute info).

    Attributes:
        name: Unique within the device.
        type: ``bool``, ``int`` or ``str``.
        doc: Meaning, unit and range.
        writable: `set_attr` takes it.
    """

    name: str
    type: type[bool] | type[int] | type[str]
    doc: str
    writable: bool = False


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
