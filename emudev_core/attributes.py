"""Attributes: named, typed values of a device that a backend or a user reads and changes."""

from __future__ import annotations

from typing import Final

import attrs

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
