"""What an application sets of a port: link, address, modes, MTU."""

from __future__ import annotations

import logging
from typing import Final

from emudev_core.errors import ConfigError, LifecycleError

from .addresses import is_assignable, mac_text
from .port_listeners import PortListeners
from .port_records import LinkStatus, PortEvent, PortEventKind, PortState

__all__ = ["PortSettings"]

log = logging.getLogger(__name__)

#: How the addresses of ports begin that have none from elsewhere: administered locally.
PREFIX: Final = b"\x02emu"


class PortSettings(PortListeners):
    """The part of a port that remembers. For the loop's thread.

    Args:
        name: The backend's name, such as ``net_avfbe_0``.
        mac: Its address at first; None makes one of its number.

    Attributes:
        name: As given.
        id: The number at the end of the name: the ``id=`` of its vdev string.
        link_wanted: What `set_link` was told; up at first.
    """

    def __init__(self, name: str, mac: bytes | None) -> None:
        super().__init__()
        self.name = name
        number = name.rpartition("_")[2]
        self.id = int(number) if number.isdigit() else 0
        self.link_wanted = True
        self._mac = PREFIX + (self.id & 0xFFFF).to_bytes(2, "big") if mac is None else mac
        self._promiscuous = False
        self._all_multicast = False
        self._mtu: int | None = None
        self._compiled = False
        self._up = False

    def link(self) -> LinkStatus:
        """The link: up while started, ready, wanted, and a peer is there."""
        return LinkStatus(self._link_is_up(), self.speed)

    def _link_is_up(self) -> bool:
        return (
            self.state is PortState.STARTED and self._compiled and self.link_wanted and self.carrier
        )

    def update_link(self) -> None:
        """Look at the link anew, and post an event if it changed."""
        up = self._link_is_up()
        if up != self._up:
            self._up = up
            log.info("%s: link %s", self.name, "up" if up else "down")
            self.post(PortEvent(PortEventKind.LINK, value=int(up)))

    def set_link(self, up: bool) -> None:
        """Set the link up or down, as ``rte_eth_dev_set_link_up`` does; the peer sees it.

        Raises:
            LifecycleError: It is failed or closed.
        """
        self._check_usable()
        self.link_wanted = up
        if self.state is PortState.STARTED and self._compiled:
            self.on_link(up)
        self.update_link()

    @property
    def mac(self) -> bytes:
        """Its address, 6 bytes."""
        return self._mac

    def set_mac(self, mac: bytes) -> None:
        """Give it another address.

        Raises:
            ConfigError: Not an address that a port may have.
        """
        self._check_usable()
        if not is_assignable(mac):
            raise ConfigError(
                f"expected the 6 bytes of one station's address, came {mac_text(mac) or 'none'}",
                where=f"{self.name}: mac",
            )
        self.on_mac(bytes(mac))
        self._mac = bytes(mac)

    @property
    def promiscuous(self) -> bool:
        """Whether it is to get frames for others, too."""
        return self._promiscuous

    def set_promiscuous(self, on: bool) -> None:
        """Set the mode."""
        self._check_usable()
        self.on_promiscuous(on)
        self._promiscuous = on

    @property
    def all_multicast(self) -> bool:
        """Whether it is to get frames for all groups."""
        return self._all_multicast

    def set_all_multicast(self, on: bool) -> None:
        """Set the mode."""
        self._check_usable()
        self.on_all_multicast(on)
        self._all_multicast = on

    @property
    def mtu(self) -> int:
        """Payload of the largest frame, bytes; 1500 at first, or the largest that it can."""
        return min(1500, self.describe().max_mtu) if self._mtu is None else self._mtu

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU.

        Raises:
            ConfigError: Outside `PortInfo.min_mtu` to `PortInfo.max_mtu`.
        """
        self._check_usable()
        self._check_mtu(mtu)
        self.on_mtu(mtu)
        self._mtu = mtu

    def _check_mtu(self, mtu: int) -> None:
        info = self.describe()
        if not info.min_mtu <= mtu <= info.max_mtu:
            raise ConfigError(
                f"expected {info.min_mtu} to {info.max_mtu} bytes, came {mtu}",
                where=f"{self.name}: mtu",
            )

    def _check_usable(self) -> None:
        if self.state in (PortState.FAILED, PortState.CLOSED):
            raise LifecycleError(f"{self.name} is {self.state.value}: nothing can be set")
