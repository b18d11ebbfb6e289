"""Prompt commands that start, stop and close ports, and set their links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emudev_core.errors import EmudevError

from .grammar import Command, PromptError

if TYPE_CHECKING:
    from ..application import Application

__all__ = ["COMMANDS"]


def _port(application: Application, what: str, which: int | str) -> None:
    numbers = application.chosen(which)
    if what == "start":
        application.start_ports(numbers)
    elif what == "stop":
        application.stop_ports(numbers)
    elif what == "close":
        application.close_ports(numbers)
    else:
        application.reset_ports(numbers)


def _link_up(application: Application, number: int) -> None:
    _link(application, number, up=True)


def _link_down(application: Application, number: int) -> None:
    _link(application, number, up=False)


def _link(application: Application, number: int, *, up: bool) -> None:
    way = "up" if up else "down"
    if number not in application.ports:
        raise PromptError(f"Invalid port_id={number}\nSet link {way} fail.")
    try:
        application.engine.set_link(number, up)
    except EmudevError as error:
        raise PromptError(f"\nSet link {way} fail. ({error})") from error


COMMANDS: Final = (
    Command(
        "port (start|stop|close|reset) PORTS",
        "Start or stop ports, close them for good, or configure stopped ones anew.",
        "ports",
        _port,
    ),
    Command("set link-up port PORT", "Set the link of a port up.", "ports", _link_up),
    Command("set link-down port PORT", "Set the link of a port down.", "ports", _link_down),
)
