"""The attributes of an AVF device: what backends and users may ask and set."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emudev_core.attributes import (
    ADMIN_LINK,
    ADMIN_MTU,
    LINK,
    MAC,
    MTU,
    PF_RESET,
    PROMISCUOUS,
    SPEED,
)
from emudev_net.addresses import mac_text, parse_station

from .filters import PROMISCUOUS_UNICAST
from .resets import ResetState
from .rings import Stats

if TYPE_CHECKING:
    from .config import AvfConfig
    from .device import AvfDevice

__all__ = [
    "AUTO",
    "DOWN",
    "UP",
    "add_attributes",
    "check_admin_link",
    "check_mtu",
    "check_speed",
]

#: Values of the attribute `admin_link`.
AUTO = "auto"
UP = "up"
DOWN = "down"

#: Values of the attribute `pf_reset`.
ANNOUNCED = "announced"
SILENT = "silent"


def check_speed(speed: int) -> None:
    """Refuse a speed, Mbit/s, that no link has.

    Raises:
        ValueError: What was expected.
    """
    if not 1 <= speed <= 400_000:
        raise ValueError("expected 1 to 400000 Mbit/s")


def check_mtu(mtu: int, config: AvfConfig) -> None:
    """Refuse an MTU, bytes, that the rings and buffers of a device are not made for.

    Raises:
        ValueError: What was expected.
    """
    if not 68 <= mtu <= config.mtu:
        raise ValueError(f"expected 68 to {config.mtu} bytes, the mtu of its configuration")


def check_admin_link(how: str) -> None:
    """Refuse what is no value of `admin_link`.

    Raises:
        ValueError: What was expected.
    """
    if how not in (AUTO, UP, DOWN):
        raise ValueError(f"expected {AUTO}, {UP} or {DOWN}")


def add_attributes(device: AvfDevice) -> None:
    """Add them to a device's table."""
    table, vf, config = device.attributes, device.vf, device.config

    def set_link(up: bool) -> None:
        device.backend_link = up
        device.update_link()

    def set_speed(speed: int) -> None:
        check_speed(speed)
        vf.set_link(vf.link, speed)

    def set_mac(text: str) -> None:
        vf.set_mac(parse_station(text))

    def set_mtu(mtu: int) -> None:
        check_mtu(mtu, config)
        vf.mtu = mtu

    def set_admin_link(how: str) -> None:
        check_admin_link(how)
        device.admin_link = how
        device.update_link()

    def set_pf_reset(how: str) -> None:
        if how not in (ANNOUNCED, SILENT):
            raise ValueError(f"expected {ANNOUNCED} or {SILENT}")
        if device.resets.state is not ResetState.ACTIVE:
            raise ValueError(f"a reset is {device.resets.state.value} already")
        if how == ANNOUNCED:
            device.announce_reset()
        else:
            device.silent_reset()

    def statistic(index: int) -> int:
        return int(device.port.stats()[index])

    table.add(
        LINK, bool, "the backend's end of the link is up", lambda: device.backend_link, set_link
    )
    table.add("carrier", bool, "the link that the guest sees is up", lambda: vf.link)
    table.add(SPEED, int, "speed that the guest is told, Mbit/s", lambda: vf.speed, set_speed)
    table.add(
        MAC,
        str,
        "MAC address: that of the guest's primary filter once it set one; a new one is told to the"
        " guest at its next reset",
        lambda: mac_text(vf.lasting.mac),
        set_mac,
    )
    # Not the same: backends set a writable `mtu` to that of their interface.
    table.add(MTU, int, "largest MTU that the guest may set, bytes", lambda: vf.mtu)
    table.add(
        ADMIN_MTU,
        int,
        "sets mtu, up to that of the configuration; told to the guest at its next reset",
        lambda: vf.mtu,
        set_mtu,
    )
    table.add(
        ADMIN_LINK,
        str,
        f"{AUTO}: the link that the guest sees follows the backend; else it is {UP} or {DOWN}",
        lambda: device.admin_link,
        set_admin_link,
    )
    table.add(
        PROMISCUOUS,
        bool,
        "the guest wants all frames",
        lambda: bool(vf.state.promiscuous & PROMISCUOUS_UNICAST),
    )
    table.add("caps", int, "virtchnl capability flags that were granted", lambda: vf.state.caps)
    table.add("reset", str, "where a reset of the VF is", lambda: device.resets.state.value)
    table.add(
        PF_RESET,
        str,
        f"set to {ANNOUNCED} or {SILENT} to reset the guest from the PF side; reads the last state",
        lambda: device.resets.state.value,
        set_pf_reset,
    )
    for index, name in enumerate(Stats._fields):
        table.add(name, int, "counter of GET_STATS", partial(statistic, index))
    counters = {
        "flow_rules": ("flow rules of the guest's", lambda: len(vf.state.rules)),
        "rule_drops": ("frames dropped by flow rules", lambda: device.port.rule_drops),
        "mailbox_requests": ("requests taken from the mailbox", lambda: device.mailbox.requests),
        "mailbox_refused": (
            "requests that got a negative status, and commands with an error",
            lambda: device.mailbox.refused + device.dispatcher.refused,
        ),
        "mailbox_dropped": (
            "messages to the guest that were dropped or cut",
            lambda: device.mailbox.dropped,
        ),
    }
    for name, (doc, get) in counters.items():
        table.add(name, int, doc, get)
