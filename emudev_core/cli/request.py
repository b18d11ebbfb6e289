"""The options with which a user asks for devices, shared by `emudev run` and `emudev check`."""

from __future__ import annotations

import argparse

from ..errors import ConfigError
from ..plan import Plan, Planner
from ..plugins import Plugins
from ..vdev import Entry, parse_toml, parse_vdev

__all__ = ["add_options", "read_entries", "read_plan"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--vdev``, ``--observe`` and ``--config``."""
    parser.add_argument(
        "--vdev",
        action="append",
        default=[],
        metavar="DRIVER,KEY=VALUE,...",
        help="a device (emu_iavf,path=/run/avf0.sock,id=0) or a backend "
        "(tap_backend,iface=tap0,avf_emu_id=0); may be repeated",
    )
    parser.add_argument(
        "--observe",
        action="append",
        default=[],
        metavar="NAME,emu=DEVICE,...",
        help="an observer of a device; may be repeated",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="a TOML file with [[vdev]] and [[observe]] tables; may be repeated",
    )


def read_entries(arguments: argparse.Namespace) -> tuple[list[Entry], list[Entry]]:
    """What the options ask for, as it was written: devices and backends, observers.

    Raises:
        ConfigError: The first mistake in the writing, or nothing was asked for.
    """
    vdevs: list[Entry] = []
    observers: list[Entry] = []
    for path in arguments.config:
        more_vdevs, more_observers = parse_toml(path)
        vdevs += more_vdevs
        observers += more_observers
    vdevs += [parse_vdev(text) for text in arguments.vdev]
    observers += [parse_vdev(text, "--observe") for text in arguments.observe]
    if not vdevs:
        raise ConfigError(
            "nothing to do", hint="expected --vdev DRIVER,KEY=VALUE,... or --config FILE"
        )
    return vdevs, observers


def read_plan(arguments: argparse.Namespace, plugins: Plugins) -> Plan:
    """Resolve what the options ask for.

    Raises:
        ConfigError: The first mistake, or nothing was asked for.
    """
    return Planner(plugins).plan(*read_entries(arguments))
