"""``emudev run``: serves devices until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from ..errors import ConfigError, TransportError
from ..names import hint
from ..plugins import Plugins
from ..specs import CommandSpec
from .log import LEVELS

if TYPE_CHECKING:
    from ..host import Host

__all__ = [
    "COMMAND",
    "add_arguments",
    "control_of",
    "help_on_vdev",
    "print_suggestions",
    "ready_line",
]

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that serves devices."""
    from .request import add_options

    add_options(parser)
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="at the end, print rows for what guests accessed and nobody declared",
    )
    parser.add_argument(
        "--help-vdev",
        metavar="NAME",
        help="list the keys of a driver, transport or observer with types, units and defaults",
    )
    parser.add_argument(
        "--control",
        default="",
        metavar="PATH",
        help="socket for `emudev ctl`, or off (default: one in a folder of this user)",
    )
    parser.add_argument(
        "--log-level", choices=LEVELS, default=argparse.SUPPRESS, help="least level shown"
    )


def _run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    if arguments.help_vdev is not None:
        print(help_on_vdev(arguments.help_vdev, plugins))
        return 0
    from ..host import Host
    from .request import read_plan

    plan = read_plan(arguments, plugins)
    with Host(plugins=plugins) as host:
        host.handle_signals()
        host.build(plan)
        with control_of(host, arguments.control):
            host.start()
            print(ready_line(host), flush=True)
            host.run()
        if arguments.suggest:
            print_suggestions(host)
    return 0


def control_of(host: Host, where: str) -> AbstractContextManager[object]:
    """The control socket of a process, for as long as the context lasts.

    Args:
        host: The process' host.
        where: Of ``--control``: a path, ``off``, or empty for the usual place. There it may fail,
            with a warning: devices work without it.

    Raises:
        TransportError: The path that was named can't be.
    """
    if where == "off":
        return nullcontext()
    from ..control.server import ControlServer

    try:
        return ControlServer(host.registry, host.loop, where or None)
    except (TransportError, OSError) as exc:
        if where:
            raise
        log.warning("no control socket: %s", exc)
        return nullcontext()


def ready_line(host: Host) -> str:
    """The line that tells programs that every socket listens and every backend is up."""
    parts = []
    for device in host.registry:
        part = f"{device.name} at {device.address}" if device.address else device.name
        backends = " ".join(member.name for member in device.backends())
        parts.append(f"{part} with {backends}" if backends else part)
    return f"emudev: ready: {', '.join(parts) or 'no devices'}"


def print_suggestions(host: Host) -> None:
    """Rows for what guests accessed and nobody declared, for ``--suggest``."""
    for device in host.registry:
        rows = device.get_suggestions()
        if rows:
            print(f"# {device.name}: accessed and not declared")
            for row in rows:
                print(row)


def help_on_vdev(name: str, plugins: Plugins) -> str:
    """The keys of a driver, transport or observer, for ``--help-vdev``.

    Raises:
        ConfigError: There is none of that name.
    """
    import attrs

    from ..conversion import Key, keys

    core = {
        "id": Key("id", "int", ">= 0", "", "lowest free", False, "number in its name"),
        "emu": Key("emu", "text", "", "", "", True, "name of the device, such as avf_emudev_0"),
    }

    def section(title: str, rows: list[Key]) -> list[str]:
        lines = [f"{title}:" if rows else f"{title}: none"]
        for key in rows:
            kind = f"{key.expected} {key.unit}".strip()
            default = "required" if key.required else f"default {key.default or 'empty'}"
            lines.append(f"  {key.name}={kind}  ({default})")
            if key.description:
                lines.append(f"      {key.description}")
        return lines

    provider = plugins.providers.get(name)
    if provider is not None:
        transport = plugins.transports.get(provider.transport)
        over = Key("transport", "text", "", "", provider.transport, False, "how clients reach it")
        lines = [f"{provider.name}: {provider.summary} ({provider.origin})"]
        rows = [core["id"], over] if provider.transport else [core["id"]]
        lines += section("keys of the core", rows)
        lines += section(f"keys of {name}", keys(provider.config))
        if transport is not None:
            title = f"keys of its transport {transport.name} ({transport.origin})"
            lines += section(title, keys(transport.config))
        elif provider.transport:
            lines.append(f"its transport {provider.transport} is not installed")
        return "\n".join(lines)
    if name in plugins.transports:
        transport = plugins.transports[name]
        lines = [f"{name}: {transport.summary} ({transport.origin})"]
        lines += section(f"keys of {name}, given with those of a device", keys(transport.config))
        return "\n".join(lines)
    spec = plugins.backends.get(name) or plugins.observers.get(name)
    if spec is None:
        known = [*plugins.providers, *plugins.transports, *plugins.backends, *plugins.observers]
        raise ConfigError(f"unknown driver {name!r}", where="--help-vdev", hint=hint(name, known))
    lines = [f"{spec.name}: {spec.summary} ({spec.origin})"]
    devices = getattr(spec, "devices", ("emu",))
    rows = [attrs.evolve(core["emu"], name=key) for key in devices]
    if name in plugins.backends:
        rows.insert(0, core["id"])
    lines += section("keys of the core", rows)
    if "emu" in devices:
        lines.append("      or STEM_emu_id=N: avf_emu_id=0 is emu=avf_emudev_0")
    lines += section(f"keys of {name}", keys(spec.config))
    return "\n".join(lines)


COMMAND = CommandSpec(
    name="run",
    summary="Serve devices until SIGTERM or SIGINT",
    run=_run,
    arguments=add_arguments,
)
