"""The devices of a process, by name (RFC v1's provider-facing calls and its table of devices).

The host keeps one registry and hands it to every provider's builder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .device import Device
from .errors import DeviceError, LifecycleError
from .lifecycle import State
from .names import hint

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["Registry", "device_name"]

_NAME = re.compile(r"([a-z0-9_]+)_emudev_(0|[1-9][0-9]*)")


def device_name(stem: str, id: int) -> str:
    """The name of a device: ``avf`` and 0 give ``avf_emudev_0``."""
    return f"{stem}_emudev_{id}"


class Registry:
    """See the module. Iterates over the devices in the order of allocation.

    Args:
        loop: Handed to each device; None only where nothing runs, as in tests.
    """

    def __init__(self, loop: Loop | None = None) -> None:
        self._loop = loop
        self._devices: dict[str, Device] = {}
        self._owners: dict[str, str] = {}

    def allocate(self, name: str, owner: str = "") -> Device:
        """Make a device.

        Args:
            name: ``STEM_emudev_ID``, such as ``avf_emudev_0``.
            owner: Who asks, for the message when the name is wanted twice.

        Raises:
            DeviceError: The name is taken (by whom is said) or is no such name.
        """
        taken = self._devices.get(name)
        if taken is not None:
            by = self._owners[name] or "an unnamed owner"
            raise DeviceError(f"device {name} exists already, allocated by {by}")
        match = _NAME.fullmatch(name)
        if match is None:
            raise DeviceError(f"expected a device name like avf_emudev_0, came {name!r}")
        device = Device(name, int(match[2]), match[1], self._loop)
        self._devices[name] = device
        self._owners[name] = owner
        return device

    def release(self, device: Device) -> None:
        """Forget a device that was closed or never configured; its name is free again.

        Raises:
            DeviceError: It is not one of this registry, or was released before.
            LifecycleError: It has to be closed first.
        """
        if self._devices.get(device.name) is not device:
            raise DeviceError(f"device {device.name} is not allocated here")
        if device.state not in (State.ALLOCATED, State.CLOSED):
            raise LifecycleError(f"{device.name} is {device.state.value}: close it first")
        del self._devices[device.name]
        del self._owners[device.name]

    def find(self, name: str) -> Device | None:
        """The device of that name, or None."""
        return self._devices.get(name)

    def get(self, name: str) -> Device:
        """The device of that name.

        Raises:
            DeviceError: There is none; the message has the nearest known name.
        """
        device = self._devices.get(name)
        if device is None:
            near = hint(name, self._devices) or "there are no devices"
            raise DeviceError(f"no device {name} ({near})")
        return device

    def owner(self, device: Device) -> str:
        """Who allocated it; empty if nobody said."""
        return self._owners.get(device.name, "")

    def __iter__(self) -> Iterator[Device]:
        return iter(tuple(self._devices.values()))

    def __len__(self) -> int:
        return len(self._devices)

    def __contains__(self, name: object) -> bool:
        return name in self._devices
