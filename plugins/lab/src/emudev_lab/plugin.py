"""What the distribution offers: the command ``emudev lab``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import CommandSpec, hookimpl

if TYPE_CHECKING:
    from emudev_core.plugins import Plugins


def _arguments(parser: argparse.ArgumentParser) -> None:
    from .command import add_arguments

    add_arguments(parser)


def _run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    from .command import main

    return main(arguments)


@hookimpl
def emudev_commands() -> Iterable[CommandSpec]:
    """Offer ``lab``."""
    yield CommandSpec(
        name="lab",
        summary="Prepare and boot Linux guests on devices, for tests",
        run=_run,
        arguments=_arguments,
    )
