"""Prompt commands that start, stop and end, and help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .grammar import ALL, TOPICS, Command

if TYPE_CHECKING:
    from ..application import Application

__all__ = ["COMMANDS"]


def _start(application: Application) -> None:
    application.start()


def _start_tx_first(application: Application, bursts: int = 1) -> None:
    application.start(bursts)


def _stop(application: Application) -> None:
    application.stop()


def _quit(application: Application) -> None:
    application.quit()


def _load(application: Application, path: str) -> None:
    application.load(path)


def _help(application: Application, topic: str = "") -> None:
    say = application.output.text
    if not topic:
        say("\nHelp is available for the following sections:\n\n")
        for name, title in (*TOPICS.items(), (ALL, "All of the above sections")):
            say(f"    help {name:<27}: {title}.\n")
        say("\n")
        return
    for name in TOPICS if topic == ALL else (topic,):
        title = f"{TOPICS[name]}:"
        say(f"\n{title}\n{'-' * len(title)}\n\n")
        for command in application.commands:
            if command.topic == name:
                say(f"{command.text}\n    {command.help}\n\n")


COMMANDS: Final = (
    Command("start", "Forward packets with the present settings.", "control", _start),
    Command(
        "start tx_first",
        "Forward packets after each stream has sent one burst.",
        "control",
        _start_tx_first,
    ),
    Command(
        "start tx_first N",
        "Forward packets after each stream has sent N bursts.",
        "control",
        _start_tx_first,
    ),
    Command("stop", "Stop forwarding, and show what was done.", "control", _stop),
    Command("load FILE", "Run the commands in a file.", "control", _load),
    Command("help", "List the topics of help.", "control", _help),
    Command("help TOPIC", "Show the commands of a topic.", "control", _help),
    Command("quit", "Stop forwarding, close the ports and end.", "control", _quit),
)
