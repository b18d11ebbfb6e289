"""All commands of the prompt, in the order of help."""

from __future__ import annotations

from typing import Final

from . import control, display, port_commands, settings
from .grammar import TOPICS, Command

__all__ = ["COMMANDS", "as_markdown"]

COMMANDS: Final[tuple[Command, ...]] = (
    *control.COMMANDS,
    *display.COMMANDS,
    *settings.COMMANDS,
    *port_commands.COMMANDS,
)


def as_markdown() -> str:
    """A table of them for the documentation, a section a topic."""
    parts = []
    for topic, title in TOPICS.items():
        rows = [
            f"| `{command.text.replace('|', chr(92) + '|')}` | {command.help} |"
            for command in COMMANDS
            if command.topic == topic
        ]
        parts.append("\n".join([f"### {title}", "", "| command | |", "|---|---|", *rows]))
    return "\n\n".join(parts)
