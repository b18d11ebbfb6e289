"""``emudev check``: validates a configuration without making or opening anything."""

from __future__ import annotations

import argparse

from ..plugins import Plugins
from ..specs import CommandSpec

__all__ = ["COMMAND"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    from .request import add_options

    add_options(parser)


def _run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    from .request import read_plan

    plan = read_plan(arguments, plugins)
    for device in plan.devices:
        served = device.transport.name if device.transport is not None else "no transport"
        print(f"device {device.name}: {device.spec.name} over {served}")
    for backend in plan.backends:
        print(f"backend {backend.name}: {' '.join(backend.devices.values()) or 'no device'}")
    for observer in plan.observers:
        print(f"observer {observer.spec.name}: {observer.device}")
    return 0


COMMAND = CommandSpec(
    name="check",
    summary="Validate a configuration without starting anything",
    run=_run,
    arguments=_arguments,
)
