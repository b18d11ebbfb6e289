"""What emudev-avf offers: the provider ``emu_iavf``. Loading it imports no device code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from emudev_core import CommandSpec, ProviderSpec, hookimpl

from .config import AvfConfig

if TYPE_CHECKING:
    import argparse

    from emudev_core.plugins import Plugins
    from emudev_core.specs import ProviderContext

    from .device import AvfDevice

__all__ = ["build", "emudev_commands", "emudev_providers"]


def build(config: AvfConfig, context: ProviderContext) -> AvfDevice:
    """Make the device."""
    from .device import AvfDevice

    return AvfDevice(config, context)


def registers() -> Any:
    """The register map, for `emudev regs`."""
    from .registers import MAP

    return [MAP]


@hookimpl
def emudev_providers() -> Iterable[ProviderSpec]:
    """The Intel Adaptive Virtual Function."""
    yield ProviderSpec(
        name="emu_iavf",
        device="avf",
        summary="Intel Adaptive Virtual Function NIC (8086:1889), driven by iavf",
        config=AvfConfig,
        build=build,
        transport="vfio_user",
        registers=registers,
    )


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `emudev demo`."""
    from .demo import add_arguments

    add_arguments(parser)


def demo(arguments: argparse.Namespace, plugins: Plugins) -> int:
    """Run `emudev demo`."""
    from .demo import run

    return run(arguments, plugins)


@hookimpl
def emudev_commands() -> Iterable[CommandSpec]:
    """The demonstration of the device by its reference driver."""
    yield CommandSpec(
        name="demo",
        summary="Serve an AVF device and drive it with the reference driver",
        run=demo,
        arguments=demo_arguments,
    )
