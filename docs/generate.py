"""Writes the generated pages of this folder; `--check` only says which are stale.

    python docs/generate.py [--check]

`hooks.md` comes from the hook specifications, `lifecycle.md` from the transition table,
`avf-registers.md` from the AVF device's register map if emudev-avf is installed,
`testpmd-commands.md` from the tables of emudev-testpmd if that is.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

#: The modules of `emudev_core.hooks`, in the order in which a device meets them.
GROUPS = ("registration", "lifecycle", "provider", "device", "transport", "backend")


def specifications(group: str) -> list[Any]:
    """The hook specifications of a module, in the order of its source."""
    module = importlib.import_module(f"emudev_core.hooks.{group}")
    found = [f for name, f in vars(module).items() if name.startswith("emudev_")]
    return sorted(found, key=lambda f: f.__code__.co_firstlineno)


def sections(function: Any) -> dict[str, str]:
    """The parts of a specification's docstring by title; the text before the first is ``""``."""
    parts = {"": ""}
    title = ""
    for line in inspect.getdoc(function).splitlines():
        match = re.fullmatch(r"(Args|Returns|Raises|Example):", line)
        if match:
            title = match[1]
            parts[title] = ""
        else:
            parts[title] += line + "\n"
    return {name: textwrap.dedent(text).strip() for name, text in parts.items()}


def example(function: Any) -> str:
    """The example of a specification, as source."""
    return sections(function)["Example"] + "\n"


def _markdown(text: str) -> str:
    """Docstring text as Markdown, where one backquote is enough for code."""
    return text.replace("``", "`")


def hooks_page() -> str:
    """The hook reference."""
    out = [
        "# Hooks",
        "",
        "Generated from the hook specifications in `emudev_core/hooks/`; do not edit. What a",
        "plugin implements, it marks with `emudev_core.hookimpl`. An implementation may take fewer",
        "arguments than the specification has; a wrapper (`hookimpl(wrapper=True)`) is an",
        "observer's.",
        "",
        "*One answer*: the first implementation that returns something else than `None` answers.",
        "*Announced*: every implementation is called, each guarded from the others' errors.",
        "",
    ]
    for group in GROUPS:
        module = importlib.import_module(f"emudev_core.hooks.{group}")
        head, _, rest = inspect.getdoc(module).partition("\n")
        out += [f"## {group.capitalize()}: {_markdown(head).rstrip('.')}", ""]
        out += [_markdown(rest.strip()), ""]
        for function in specifications(group):
            parts = sections(function)
            kind = "One answer" if function.emudev_spec["firstresult"] else "Announced"
            # Annotations are kept as text; the quotes around them are noise here.
            signature = str(inspect.signature(function)).replace("'", "")
            out += [f"### {function.__name__}", "", f"*{kind}.* {_markdown(parts[''])}", ""]
            out += ["```python", f"def {function.__name__}{signature}", "```", ""]
            for title in ("Args", "Returns", "Raises"):
                if title in parts:
                    out += [f"**{title}.** {_paragraph(parts[title], title)}", ""]
            out += ["```python", parts["Example"], "```", ""]
    return "\n".join(out).rstrip() + "\n"


def _paragraph(text: str, title: str) -> str:
    if title == "Args":
        items = re.split(r"\n(?=\w+: )", text)
        joined = [" ".join(item.split()) for item in items]
        return "\n\n" + "\n".join(
            "- `{}`: {}".format(*map(str.strip, item.split(":", 1))) for item in joined
        )
    return _markdown(" ".join(text.split()))


def lifecycle_page() -> str:
    """The states of a device."""
    from emudev_core.lifecycle import State, allowed, mermaid

    module = importlib.import_module("emudev_core.lifecycle")
    text = inspect.getdoc(module)
    rows = [
        f"| {state.value} | {', '.join(event.value for event in allowed(state)) or 'nothing'} |"
        for state in State
    ]
    sequence = inspect.getdoc(importlib.import_module("emudev_core.sequence"))
    return "\n".join(
        [
            "# The life of a device",
            "",
            "Generated from `emudev_core/lifecycle.py`; do not edit.",
            "",
            _markdown(text),
            "",
            "```mermaid",
            mermaid(),
            "```",
            "",
            "| state | takes |",
            "|---|---|",
            *rows,
            "",
            "## Starting and stopping",
            "",
            _markdown(sequence),
            "",
        ]
    )


def avf_registers_page() -> str | None:
    """The register map of the AVF device; None if emudev-avf is not installed."""
    from emudev_core.cli.regs import as_markdown
    from emudev_core.listing import maps_of
    from emudev_core.plugins import load_plugins

    spec = load_plugins().providers.get("emu_iavf")
    if spec is None or spec.registers is None:
        return None
    head = "# Registers of the AVF device\n\nGenerated by `emudev regs emu_iavf --markdown`; "
    return f"{head}do not edit.\n\n{as_markdown(maps_of(spec.registers()))}\n"


def testpmd_commands_page() -> str | None:
    """Arguments and prompt of ``emudev testpmd``; None if emudev-testpmd is not installed."""
    if importlib.util.find_spec("emudev_testpmd") is None:
        return None
    arguments = importlib.import_module("emudev_testpmd.arguments")
    table = importlib.import_module("emudev_testpmd.prompt.table")
    return "\n".join(
        [
            "# Arguments and prompt of `emudev testpmd`",
            "",
            "Generated from the tables in `plugins/testpmd/src/emudev_testpmd/` (`arguments.py`,",
            "`prompt/`); do not edit. [Forwarding packets](testpmd.md) shows how they are used.",
            "",
            "## Arguments",
            "",
            "Behind `--`:",
            "",
            arguments.as_markdown(),
            "",
            "## Prompt",
            "",
            "Words in capitals stand for values: `PORT` is a number, `PORTS` a number or `all`; of",
            "`(on|off)` one is typed.",
            "",
            table.as_markdown(),
            "",
        ]
    )


PAGES: dict[str, Callable[[], str | None]] = {
    "hooks.md": hooks_page,
    "lifecycle.md": lifecycle_page,
    "avf-registers.md": avf_registers_page,
    "testpmd-commands.md": testpmd_commands_page,
}


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages; 1 if a check finds a stale one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    stale = []
    for name, render in PAGES.items():
        text = render()
        path = HERE / name
        if text is None or (path.exists() and path.read_text(encoding="utf-8") == text):
            continue
        stale.append(name)
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        sys.stderr.write(f"docs/{name} {'is stale' if arguments.check else 'written'}\n")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
