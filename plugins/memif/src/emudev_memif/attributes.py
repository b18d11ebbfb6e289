"""The attributes of a memif interface: what backends and users may ask and set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from emudev_core.attributes import LINK, MAC, MTU, AttributeInfo, AttributeValue
from emudev_core.errors import DeviceError
from emudev_core.names import hint

from .config import parse_mac

if TYPE_CHECKING:
    from .device import MemifDevice

__all__ = ["AttributeTable", "mac_text", "make_attributes"]


@attrs.frozen
class _Attribute:
    info: AttributeInfo
    get: Callable[[], AttributeValue]
    set: Callable[[Any], None] | None


class AttributeTable:
    """Named values and how they are read and changed.

    Args:
        owner: Name of the device, for messages.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._rows: dict[str, _Attribute] = {}

    def add(
        self,
        name: str,
        type: type[bool] | type[int] | type[str],
        doc: str,
        get: Callable[[], AttributeValue],
        set: Callable[[Any], None] | None = None,
    ) -> None:
        """Add one; `set` may raise `ValueError` for a value that is out of range."""
        info = AttributeInfo(name, type, doc, writable=set is not None)
        self._rows[name] = _Attribute(info, get, set)

    def infos(self) -> list[AttributeInfo]:
        """What there is."""
        return [row.info for row in self._rows.values()]

    def _row(self, name: str) -> _Attribute:
        row = self._rows.get(name)
        if row is None:
            near = hint(str(name), self._rows)
            raise DeviceError(f"{self._owner} has no attribute {name} ({near})")
        return row

    def get(self, name: str) -> AttributeValue:
        """Read one.

        Raises:
            DeviceError: There is none of this name.
        """
        return self._row(name).get()

    def set(self, name: str, value: AttributeValue) -> None:
        """Change one.

        Raises:
            DeviceError: There is none of this name, or it can't have this value.
        """
        row = self._row(name)
        if row.set is None:
            raise DeviceError(f"{self._owner}: the attribute {name} is read-only")
        if type(value) is not row.info.type:
            raise DeviceError(
                f"{self._owner}: the attribute {name} is of type {row.info.type.__name__}, "
                f"came {value!r}"
            )
        try:
            row.set(value)
        except ValueError as exc:
            raise DeviceError(f"{self._owner}: attribute {name}: {exc}") from exc


def mac_text(mac: bytes) -> str:
    """An address as people write it."""
    return mac.hex(":")


def make_attributes(device: MemifDevice) -> AttributeTable:
    """The table of a device."""
    table = AttributeTable(device.name)

    def set_mac(text: str) -> None:
        device.mac = parse_mac(text)

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
