"""The records that registration hooks return, and what their builders are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from .config import (
    BackendConfig,
    ObserverConfig,
    ProviderConfig,
    TransportConfig,
)

if TYPE_CHECKING:
    import argparse

    from .client import DeviceClient
    from .device import Device
    from .loop import Loop
    from .plugins import Plugins
    from .registry import Registry

__all__ = [
    "BackendContext",
    "BackendSpec",
    "CommandSpec",
    "ConnectContext",
    "ObserverContext",
    "ObserverSpec",
    "ProviderContext",
    "ProviderSpec",
    "Spec",
    "TransportContext",
    "TransportSpec",
]


@attrs.frozen(eq=False)
class ProviderContext:
    """What a provider's builder is given.

    Attributes:
        device: The device that was allocated for it.
        loop: The process' loop.
        registry: Allocates, releases and finds devices (RFC v1's provider-facing calls).
    """

    device: Device
    loop: Loop
    registry: Registry


@attrs.frozen(eq=False)
class TransportContext:
    """What a transport's `serve` builder is given.

    Attributes:
        device: The device to serve.
        loop: The process' loop.
    """

    device: Device
    loop: Loop


@attrs.frozen(eq=False)
class ConnectContext:
    """What a transport's `connect` builder is given.

    Attributes:
        device: The device, if it lives in this process; None for a client of another process.
        loop: The loop that serves `device`, or None.
    """

    device: Device | None = None
    loop: Loop | None = None


@attrs.frozen(eq=False)
class BackendContext:
    """What a backend's builder is given.

    Attributes:
        name: The backend's own name, such as ``tap_backend_0``.
        devices: Its devices by the key that named them (`BackendSpec.devices`).
        loop: The process' loop.
    """

    name: str
    devices: Mapping[str, Device]
    loop: Loop


@attrs.frozen(eq=False)
class ObserverContext:
    """What an observer's builder is given.

    Attributes:
        device: The device to observe.
        loop: The process' loop.
    """

    device: Device
    loop: Loop


@attrs.frozen
class Spec:
    """What all records have.

    Attributes:
        name: What a user types; lower case letters, digits and underscores.
        summary: One line for `emudev plugins`.
        origin: Distribution and version that offer it, such as ``emudev-avf 0.1.0``; filled in by
            the core.
    """

    name: str
    summary: str
    origin: str = attrs.field(default="", kw_only=True, eq=False)


@attrs.frozen(kw_only=True)
class ProviderSpec(Spec):
    """A device model.

    Attributes:
        config: Class of its configuration.
        build: Makes the provider: an object with hook implementations and state. Opens nothing.
        device: Stem of its devices' names (``avf`` gives ``avf_emudev_0``); empty: the name less
            ``emu_``.
        transport: Name of the transport used unless ``transport=`` names another.
        registers: Returns its register map, or several, for `emudev regs`; see
            `emudev_core.listing`. None: those that `build` tells by a `register_maps` of its own,
            as the classes of the PCI kit do.
    """

    config: type[ProviderConfig]
    build: Callable[[Any, ProviderContext], object]
    device: str = ""
    transport: str = "vfio_user"
    registers: Callable[[], Any] | None = None

    @property
    def stem(self) -> str:
        """Stem of its devices' names."""
        return self.device or self.name.removeprefix("emu_")

    def register_maps(self) -> Any:
        """Its register map, several, or None; imports the device."""
        tell = self.registers or getattr(self.build, "register_maps", None)
        return None if tell is None else tell()


@attrs.frozen(kw_only=True)
class TransportSpec(Spec):
    """A way for clients to reach a device.

    Attributes:
        config: Class of its configuration.
        serve: Makes the device's end: an object with the hooks of `hooks.transport`. Opens nothing.
        connect: Makes a client's end; None if there is none.
    """

    config: type[TransportConfig]
    serve: Callable[[Any, TransportContext], object]
    connect: Callable[[Any, ConnectContext], DeviceClient] | None = None


@attrs.frozen(kw_only=True)
class BackendSpec(Spec):
    """A data path.

    Attributes:
        config: Class of its configuration.
        build: Makes the backend: an object with the hooks of `hooks.backend`. Opens nothing.
        devices: Keys of its vdev string that name devices: ``("emu",)`` for most, ``("a", "b")``
            for a wire, ``()`` for one of its own.
    """

    config: type[BackendConfig]
    build: Callable[[Any, BackendContext], object]
    devices: tuple[str, ...] = ("emu",)


@attrs.frozen(kw_only=True)
class CommandSpec(Spec):
    """A subcommand of ``emudev``.

    Attributes:
        run: Does it and returns the exit status: 0, 1 failed, 2 usage. `EmudevError` is turned into
            one line on stderr.
        arguments: Adds its arguments to its parser.
    """

    run: Callable[[argparse.Namespace, Plugins], int]
    arguments: Callable[[argparse.ArgumentParser], None] | None = None


@attrs.frozen(kw_only=True)
class ObserverSpec(Spec):
    """An observer of a device.

    Attributes:
        config: Class of its configuration.
        build: Makes the observer: an object whose hook implementations are wrappers.
    """

    config: type[ObserverConfig]
    build: Callable[[Any, ObserverContext], object]
