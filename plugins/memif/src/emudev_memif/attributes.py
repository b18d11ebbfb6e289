"""The attributes of a memif interface: what backends and users may ask and set."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emudev_core.attributes import LINK, MAC, MTU, AttributeTable
from emudev_net.addresses import mac_text, parse_station

if TYPE_CHECKING:
    from .device import MemifDevice

__all__ = ["make_attributes"]


def make_attributes(device: MemifDevice) -> AttributeTable:
    """The table of a device."""
    table = AttributeTable(device.name)

    def set_mac(text: str) -> None:
        device.mac = parse_station(text)

    def total(side: int, what: str) -> int:
        return sum(
            int(getattr(device.rings.stats(queue), what))
            for queue in range(side, 2 * device.pairs, 2)
        )

    def dropped(side: int) -> int:
        return sum(
            sum(device.rings.stats(queue).dropped.values())
            for queue in range(side, 2 * device.pairs, 2)
        )

    table.add(
        LINK, bool, "the backend's end of the link is up", lambda: device.link, device.set_link
    )
    table.add("carrier", bool, "a peer is connected", lambda: device.up)
    table.add(MAC, str, "MAC address; the peer is not told", lambda: mac_text(device.mac), set_mac)
    table.add(MTU, int, "largest MTU, bytes", lambda: device.config.mtu)
    table.add("role", str, "server or client", lambda: device.role.value)
    table.add("peer", str, "name of the peer's program, as it says", lambda: device.peer.program)
    table.add(
        "peer_interface",
        str,
        "name of the peer's interface, as it says",
        lambda: device.peer.interface,
    )
    table.add("peer_process", str, "what the kernel says of the peer", lambda: device.peer.process)
    table.add("status", str, "why there is no peer; empty while there is", lambda: device.status)
    table.add("connects", int, "peers that were connected", lambda: device.connects)
    table.add("refusals", int, "connections that ended before that", lambda: device.refusals)
    table.add("breaches", int, "peers that broke their rings", lambda: device.breaches)
    for name, side, doc in (("rx", 0, "towards the peer"), ("tx", 1, "from the peer")):
        table.add(f"{name}_packets", int, f"packets {doc}", partial(total, side, "packets"))
        table.add(f"{name}_bytes", int, f"their bytes, {doc}", partial(total, side, "bytes"))
        table.add(f"{name}_dropped", int, f"packets {doc} that were lost", partial(dropped, side))
    return table
