"""``emudev ctl``: looks at a running process and changes what it does, over its control socket."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, EmudevError, TransportError
from ..names import hint
from ..plugins import Plugins
from ..specs import CommandSpec
from .table import columns

if TYPE_CHECKING:
    from ..control.client import Client
    from ..control.protocol import AttributeRecord, Done, SectionRecord

__all__ = ["COMMAND", "section_text"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    for one in (parser, common):
        # Behind the action as well as before it: a default of the second would hide the first.
        one.add_argument(
            "--control",
            metavar="PATH",
            default=argparse.SUPPRESS,
            help="socket of the process (default: the only one of this user, or the one that has"
            " the device)",
        )
        one.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="for programs"
        )
    parser.epilog = (
        "Exit status: 0 done, 1 no such process, or it or the device refused, 2 a name or value "
        "that can't be."
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the protocol as JSON Schema, and no more"
    )
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", parser_class=type(parser)
    )

    def add(name: str, summary: str, run: Callable[..., None]) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = actions.add_parser(
            name, help=summary, description=summary, parents=[common]
        )
        found.set_defaults(do=run)
        return found

    add("list", "the devices", _list)
    one = add("show", "registers, queues, filters and whatever else a device shows", _show)
    one.add_argument("device")
    one.add_argument("sections", nargs="*", metavar="SECTION", help="only these")
    one = add("stats", "what the queues have counted", _stats)
    one.add_argument("device", nargs="?", default="", help="only of this device")
    one = add("set-link", "change the link that the guest sees", _set_link)
    one.add_argument("device")
    one.add_argument("state", choices=("up", "down", "auto", "speed"))
    one.add_argument("speed", nargs="?", metavar="MBITS", help="after speed: Mbit/s")
    one = add("reset", "reset the guest's function, as a PF does", _reset)
    one.add_argument("device")
    one.add_argument("--silent", action="store_true", help="do not announce it")
    one = add("set", "change MAC address or MTU, and reset the guest so that it learns it", _set)
    one.add_argument("device")
    one.add_argument("name", choices=("mac", "mtu"))
    one.add_argument("value")
    one.add_argument("--no-reset", action="store_true", help="wait for the next reset")
    one = add("attr", "read an attribute or all, or set one", _attr)
    one.add_argument("device")
    one.add_argument("name", nargs="?")
    one.add_argument("value", nargs="?")
    one = add("events", "follow what happens", _events)
    one.add_argument("device", nargs="?", default="", help="only at this device")
    one.add_argument("--count", type=int, metavar="N", help="end after N events")


def _run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    if arguments.schema:
        from ..control.protocol import schema

        print(json.dumps(schema(), indent=2))
        return 0
    if arguments.action is None:
        raise ConfigError("expected an action", where="emudev ctl", hint="see emudev ctl --help")
    from ..control.client import ControlError

    arguments.json = getattr(arguments, "json", False)
    try:
        with _connect(arguments) as client:
            arguments.do(client, arguments)
    except ControlError as exc:
        if exc.error.kind in ("request", "unknown"):
            raise ConfigError(str(exc)) from exc
        raise
    except KeyboardInterrupt:
        if arguments.action != "events":
            raise
    return 0


def _connect(arguments: argparse.Namespace) -> Client:
    from ..control.client import Client
    from ..control.places import found_sockets, runtime_folder

    path = getattr(arguments, "control", None)
    if path is not None:
        return Client.connect(path)
    found = found_sockets()
    if not found:
        raise TransportError(
            f"no process with a control socket in {runtime_folder()}: is `emudev run` running, by"
            " this user?"
        )
    if len(found) == 1:
        return Client.connect(found[0])
    # Several: the one that has the device, if only one has it.
    wanted = getattr(arguments, "device", "")
    having, lines = [], []
    for place in found:
        try:
            with Client.connect(place) as client:
                names = [device.name for device in client.devices()]
        except EmudevError as exc:
            lines.append(f"{place} ({exc})")
            continue
        lines.append(f"{place} ({', '.join(names) or 'no devices'})")
        if wanted in names:
            having.append(place)
    if len(having) == 1:
        return Client.connect(having[0])
    raise ConfigError(
        f"{len(found)} processes have control sockets: {'; '.join(lines)}",
        hint="choose with --control PATH",
    )


# -- actions


def _builtins(records: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(records)


def _print_json(records: Any) -> None:
    print(json.dumps(_builtins(records), indent=2))


def _list(client: Client, arguments: argparse.Namespace) -> None:
    devices = client.devices()
    if arguments.json:
        _print_json({"process": client.hello, "devices": devices})
        return
    if not devices:
        print("no devices")
        return
    rows = [
        (d.name, d.provider, d.state, " ".join(d.backends) or "-", d.error or d.address or "-")
        for d in devices
    ]
    print(columns(("DEVICE", "PROVIDER", "STATE", "BACKENDS", "ADDRESS"), rows))


def _show(client: Client, arguments: argparse.Namespace) -> None:
    sections = client.show(arguments.device, *arguments.sections)
    if arguments.json:
        _print_json({"device": arguments.device, "sections": sections})
    else:
        print("\n\n".join(section_text(section) for section in sections))


def section_text(section: SectionRecord) -> str:
    """A section for people: a table; one row of many columns, or of long ones, as a list."""
    head = f"{section.name} ({section.member}){f': {section.doc}' if section.doc else ''}"
    if section.error:
        return f"{head}\n  can't be read: {section.error}"
    if not section.rows:
        return f"{head}\n  none"
    rows = [_cells(row, section.hex) for row in section.rows]
    names = list(section.rows[0])
    if len(rows) == 1 and len(names) > 3:
        width = max(len(name) for name in names)
        lines = [f"{name.ljust(width)}  {cell}" for name, cell in zip(names, rows[0], strict=True)]
    else:
        lines = columns([name.upper() for name in names], rows).splitlines()
    if section.cut:
        lines.append("... and more")
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _cells(row: dict[str, Any], hexadecimal: Iterable[str]) -> list[str]:
    def text(name: str, value: Any) -> str:
        if value is None or value == "":
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int) and name in hexadecimal:
            return f"{value:#x}"
        return str(value)

    return [text(name, value) for name, value in row.items()]


def _stats(client: Client, arguments: argparse.Namespace) -> None:
    rows = client.stats(arguments.device)
    if arguments.json:
        _print_json(rows)
    elif not rows:
        print("no queues")
    else:
        print(columns([name.upper() for name in rows[0]], [_cells(row, ()) for row in rows]))


def _say(done: Done, arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print_json(done)
    elif done.text:
        print(f"{done.device}: {done.text}")


def _set_link(client: Client, arguments: argparse.Namespace) -> None:
    from ..control.protocol import SPEEDS

    if arguments.state != "speed":
        if arguments.speed is not None:
            raise ConfigError(f"{arguments.speed!r} is one argument too many", where="set-link")
        _say(client.set_link(arguments.device, state=arguments.state), arguments)
        return
    speed = _number("set-link speed", arguments.speed or "", "Mbit/s", SPEEDS)
    _say(client.set_link(arguments.device, speed=speed), arguments)


def _number(where: str, text: str, unit: str, bounds: tuple[int, int] | None = None) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise ConfigError(f"expected a number of {unit}, came {text!r}", where=where) from None
    if bounds is not None and not bounds[0] <= number <= bounds[1]:
        raise ConfigError(f"expected {bounds[0]} to {bounds[1]} {unit}, came {text}", where=where)
    return number


def _reset(client: Client, arguments: argparse.Namespace) -> None:
    _say(client.reset(arguments.device, silent=arguments.silent), arguments)


def _set(client: Client, arguments: argparse.Namespace) -> None:
    from ..control.protocol import MTUS

    reset = not arguments.no_reset
    if arguments.name == "mac":
        done = client.update(arguments.device, mac=arguments.value, reset=reset)
    else:
        mtu = _number("set mtu", arguments.value, "bytes", MTUS)
        done = client.update(arguments.device, mtu=mtu, reset=reset)
    _say(done, arguments)


def _attr(client: Client, arguments: argparse.Namespace) -> None:
    if arguments.name == "":
        raise ConfigError("expected the name of an attribute, came ''", where="attr")
    found = client.attributes(arguments.device, arguments.name or "")
    if arguments.value is not None:
        value = _value(found[0], arguments.value)
        _say(client.set_attribute(arguments.device, arguments.name, value), arguments)
    elif arguments.json:
        _print_json(found)
    elif arguments.name:
        print(_cells({"value": found[0].value}, ())[0])
    elif not found:
        print("no attributes")
    else:
        rows = [
            (a.name, _cells({"value": a.value}, ())[0], "rw" if a.writable else "ro", a.doc)
            for a in found
        ]
        print(columns(("NAME", "VALUE", "ACCESS", "MEANING"), rows))


_YES = {"yes": True, "on": True, "true": True, "up": True, "1": True}
_NO = {"no": False, "off": False, "false": False, "down": False, "0": False}


def _value(info: AttributeRecord, text: str) -> bool | int | str:
    """What was typed, as the attribute's type."""
    if info.type == "int":
        return _number(f"attr {info.name}", text, "the attribute's unit")
    if info.type == "str":
        return text
    known = _YES | _NO
    if text.lower() not in known:
        where = f"attr {info.name}"
        raise ConfigError(f"no {text!r}", where=where, hint=hint(text, ("yes", "no")))
    return known[text.lower()]


def _events(client: Client, arguments: argparse.Namespace) -> None:
    if arguments.count is not None and arguments.count < 1:
        raise ConfigError(f"expected 1 or more, came {arguments.count}", where="--count")
    left = arguments.count
    for event in client.follow(arguments.device):
        if arguments.json:
            print(json.dumps(_builtins(event)), flush=True)
        else:
            print(_event_text(event), flush=True)
        if left is not None:
            left -= 1
            if left == 0:
                return
    if left:
        raise TransportError(f"the process has ended, {left} events before the last one asked for")


def _event_text(event: Any) -> str:
    from datetime import datetime

    clock = datetime.fromtimestamp(event.time).strftime("%H:%M:%S.%f")
    parts: Sequence[str] = [clock, event.device, event.kind]
    if event.queue >= 0:
        parts = [*parts, f"queue {event.queue}"]
    return " ".join([*parts, str(event.value), event.text]).rstrip()


COMMAND = CommandSpec(
    name="ctl",
    summary="Look at a running process and change what it does",
    run=_run,
    arguments=_arguments,
)
