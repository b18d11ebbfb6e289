"""What the plugin offers.

The entry point names this module, so importing it has to cost nothing: only the core and the
plugin's own configuration; builders import the rest when they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from emudev_core import (
    BackendSpec,
    ProviderSpec,
    TransportSpec,
    hookimpl,
)
from emudev_core.specs import BackendContext, ConnectContext, ProviderContext, TransportContext

from .config import EchoConfig, InprocConfig, NullBackendConfig, NullConfig, NullPortConfig

if TYPE_CHECKING:
    from emudev_core.listing import RegisterListing
    from emudev_core.testing.loopback import LoopbackClient, LoopbackTransport

    from .device import NullDevice
    from .echo import EchoBackend
    from .port import NullPort
    from .sink import NullBackend

__all__ = ["emudev_backends", "emudev_providers", "emudev_transports"]


def build_device(config: NullConfig, context: ProviderContext) -> NullDevice:
    """The device."""
    from .device import NullDevice

    return NullDevice(config, context)


def registers() -> Sequence[RegisterListing]:
    """Its register maps, for ``emudev regs``."""
    from .registers import MAP

    return [MAP]


def serve(config: InprocConfig, context: TransportContext) -> LoopbackTransport:
    """The device's end of the transport."""
    from emudev_core.testing.loopback import LoopbackTransport

    return LoopbackTransport(context.device, "inproc")


def connect(config: InprocConfig, context: ConnectContext) -> LoopbackClient:
    """The guest's end of the transport."""
    from emudev_core.testing import loopback

    return loopback.connect(config, context)


def build_null(config: NullBackendConfig, context: BackendContext) -> NullBackend:
    """The backend that drops everything."""
    from .sink import NullBackend

    return NullBackend(context)


def build_echo(config: EchoConfig, context: BackendContext) -> EchoBackend:
    """The backend that answers."""
    from .echo import EchoBackend

    return EchoBackend(config, context)


def build_port(config: NullPortConfig, context: BackendContext) -> NullPort:
    """The port without a device."""
    from .port import NullPort

    return NullPort(config, context)


@hookimpl
def emudev_providers() -> Iterable[ProviderSpec]:
    """The device."""
    yield ProviderSpec(
        name="emu_null",
        summary="A small PCI device to copy: registers, a doorbell, DMA and interrupts",
        config=NullConfig,
        build=build_device,
        registers=registers,
    )


@hookimpl
def emudev_transports() -> Iterable[TransportSpec]:
    """The transport."""
    yield TransportSpec(
        name="inproc",
        summary="No wire: the guest's end calls the device in the same process",
        config=InprocConfig,
        serve=serve,
        connect=connect,
    )


@hookimpl
def emudev_backends() -> Iterable[BackendSpec]:
    """The backends."""
    yield BackendSpec(
        name="null",
        summary="Takes and drops every frame, and counts them",
        config=NullBackendConfig,
        build=build_null,
    )
    yield BackendSpec(
        name="echo",
        summary="Answers ARP and ping, and sends everything else back",
        config=EchoConfig,
        build=build_echo,
    )
    yield BackendSpec(
        name="net_null",
        summary="A port that receives packets without end and drops what is sent",
        config=NullPortConfig,
        build=build_port,
        devices=(),
    )
