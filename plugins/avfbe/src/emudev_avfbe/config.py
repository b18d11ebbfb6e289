"""What a user may say about a port over an emudev."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from emudev_core.config import BackendConfig

__all__ = ["AvfbeConfig"]


class AvfbeConfig(BackendConfig):
    """Configuration of ``net_avfbe``; the device is named by ``emu=`` or ``avf_emu_id=``."""

    mac: Annotated[
        Annotated[
            str,
            Meta(pattern="^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$", examples=["52:54:00:12:34:56"]),
        ]
        | None,
        Meta(
            description="an address of the port's own; unset: the port has the device's, and"
            " setting one sets the device's"
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what no station may have.

        Raises:
            ValueError: A group's address, or all zero.
        """
        if self.mac is not None:
            mac = bytes.fromhex(self.mac.replace(":", ""))
            if mac[0] & 1 or not any(mac):
                raise ValueError(f"mac: {self.mac} is not the address of one station")
