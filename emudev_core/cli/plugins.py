"""``emudev plugins``: what is installed, from which distribution, at which version."""

from __future__ import annotations

import argparse

from ..plugins import Plugins
from ..specs import CommandSpec
from .table import columns

__all__ = ["COMMAND"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    rows = []
    for kind, spec in plugins.table():
        distribution, _, version = spec.origin.rpartition(" ")
        rows.append((kind, spec.name, distribution, version, spec.summary))
    if arguments.json:
        import json

        names = ("kind", "name", "distribution", "version", "summary")
        failed = [
            {"plugin": error.plugin, "step": error.hook, "reason": str(error)}
            for error in plugins.failures
        ]
        offered = [dict(zip(names, row, strict=True)) for row in rows]
        print(json.dumps({"plugins": offered, "failed": failed}, indent=2))
        return 0
    print(columns(("KIND", "NAME", "DISTRIBUTION", "VERSION", "SUMMARY"), rows))
    for error in plugins.failures:
        print(f"failed: {error}")
    return 0


COMMAND = CommandSpec(
    name="plugins",
    summary="List what is installed: providers, transports, backends, commands, observers",
    run=_run,
    arguments=_arguments,
)
