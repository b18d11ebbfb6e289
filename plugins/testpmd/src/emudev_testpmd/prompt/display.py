"""Prompt commands that show something, or let it count anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .. import layout
from .grammar import Command, PromptError

if TYPE_CHECKING:
    from ..application import Application

__all__ = ["COMMANDS"]


def _show_port(application: Application, what: str, which: int | str) -> None:
    numbers = application.chosen(which)
    if what == "stats":
        application.show_statistics(numbers)
        return
    ports = [application.ports[number] for number in numbers]
    if what == "summary":
        application.output.summary(ports, len(application.ports))
        return
    for port in ports:
        if what == "info":
            application.output.info(port)
        else:
            application.output.xstats(port)


def _show_macs(application: Application, number: int) -> None:
    application.chosen(number)
    address = layout.mac(application.ports[number].mac)
    application.output.text(f"Number of MAC address added: 1\n  {address}\n")


def _clear_port(application: Application, what: str, which: int | str) -> None:
    for number in application.chosen(which):
        application.engine.clear_port_stats(number)
        if what == "stats":
            application.output.text(f"\n  NIC statistics for port {number} cleared\n")


def _show_config(application: Application, what: str) -> None:
    if what == "fwd":
        application.show_forwarding()
    elif what == "rxtx":
        application.show_queues()
    elif what == "cores":
        application.output.text(layout.cores(application.engine.layout()))
    else:
        application.output.text(layout.txpkts(application.engine.options.txpkts))


def _show_forward_stats(application: Application) -> None:
    totals = application.engine.totals()
    if totals is None:
        raise PromptError("Packet forwarding not started")
    application.output.totals(totals)


def _clear_forward_stats(application: Application) -> None:
    application.engine.clear_forward_stats()


COMMANDS: Final = (
    Command(
        "show port (info|summary|stats|xstats) PORTS",
        "Show what a port is, a line about it, what it counts, or all that it counts.",
        "display",
        _show_port,
    ),
    Command("show port PORT macs", "Show the addresses of a port.", "display", _show_macs),
    Command("clear port (stats|xstats) PORTS", "Let ports count anew.", "display", _clear_port),
    Command(
        "show config (fwd|rxtx|cores|txpkts)",
        "Show which queue forwards to which, how queues are set up, the threads, or the segments "
        "of packets that are made.",
        "display",
        _show_config,
    ),
    Command(
        "show fwd stats all",
        "Show what was forwarded since the start.",
        "display",
        _show_forward_stats,
    ),
    Command(
        "clear fwd stats all",
        "Count what is forwarded anew.",
        "display",
        _clear_forward_stats,
    ),
)
