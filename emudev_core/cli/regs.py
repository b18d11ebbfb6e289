"""``emudev regs``: the register map of a device, as text, JSON or Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..errors import ConfigError
from ..listing import RegisterListing, bits_text, maps_of, register_dict
from ..names import hint
from ..plugins import Plugins
from ..specs import CommandSpec
from .table import columns, markdown

__all__ = ["COMMAND", "as_markdown"]

_HEAD = ("OFFSET", "NAME", "SIZE", "ACCESS", "RESET", "MEANING")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("provider", help="a device model, such as emu_iavf")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--markdown", action="store_true", help="for documentation")


def _run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    name = arguments.provider
    spec = plugins.providers.get(name) or plugins.providers.get(f"emu_{name}")
    if spec is None:
        near = hint(name, plugins.providers) or "no plugin offers any device model"
        raise ConfigError(f"unknown device model {name!r}", hint=near)
    maps = maps_of(spec.register_maps())
    if arguments.json:
        import json

        shown = [
            {
                "name": one.name,
                "size": one.size,
                "doc": one.doc,
                "registers": [register_dict(row) for row in one.regs],
            }
            for one in maps
        ]
        print(json.dumps({"provider": spec.name, "maps": shown}, indent=2))
    elif arguments.markdown:
        print(as_markdown(maps))
    elif not maps:
        print(f"{spec.name} declares no registers")
    else:
        print("\n\n".join(_as_text(one) for one in maps))
    return 0


def _rows(one: RegisterListing) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for row in sorted(one.regs, key=lambda row: row.offset):
        shown = register_dict(row)
        name, offset = row.name, f"{row.offset:#07x}"
        if row.count > 1:
            name += f"[{row.count}]"
            offset += f"+{shown['stride']:#x}*i"
        size = str(8 * row.size)
        found.append((offset, name, size, shown["access"], f"{row.reset:#x}", row.doc))
    return found


def _as_text(one: RegisterListing) -> str:
    head = f"{one.name}: {one.size:#x} bytes{f'. {one.doc}' if one.doc else ''}"
    lines = columns(_HEAD, _rows(one)).splitlines()
    out = [head, lines[0]]
    for line, row in zip(lines[1:], sorted(one.regs, key=lambda row: row.offset), strict=True):
        out.append(line)
        out += [f"        {bits_text(bits)}" for bits in row.bits]
    return "\n".join(out)


def as_markdown(maps: Sequence[RegisterListing]) -> str:
    """The maps as Markdown, one section each."""
    sections = []
    for one in maps:
        rows = []
        ordered = sorted(one.regs, key=lambda row: row.offset)
        for row, cells in zip(ordered, _rows(one), strict=True):
            fields = "<br>".join(bits_text(bits) for bits in row.bits)
            meaning = "<br>".join(text for text in (cells[-1], fields) if text)
            rows.append((f"`{cells[0]}`", f"`{cells[1]}`", *cells[2:-1], meaning, row.source))
        head = ("Offset", "Name", "Bits", "Access", "Reset", "Meaning", "Source")
        intro = f"{one.size:#x} bytes. {one.doc}".strip()
        sections.append(f"## {one.name}\n\n{intro}\n\n{markdown(head, rows)}")
    return "\n\n".join(sections)


COMMAND = CommandSpec(
    name="regs",
    summary="Print the register map of a device model",
    run=_run,
    arguments=_arguments,
)
