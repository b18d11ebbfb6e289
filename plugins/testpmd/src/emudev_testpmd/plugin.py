"""What the distribution offers: the command ``emudev testpmd``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import CommandSpec, hookimpl

if TYPE_CHECKING:
    from emudev_core.plugins import Plugins

__all__ = ["emudev_commands"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    from .command import arguments

    arguments(parser)


def _run(parsed: argparse.Namespace, plugins: Plugins) -> int:
    from .command import run

    return run(parsed, plugins)


@hookimpl
def emudev_commands() -> Iterable[CommandSpec]:
    """Offer ``testpmd``."""
    yield CommandSpec(
        name="testpmd",
        summary="Forward packets between ports, as DPDK's testpmd does",
        run=_run,
        arguments=_arguments,
    )
