"""What a user can tell an AVF device: the keys of its vdev string or TOML table."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from emudev_core.config import ProviderConfig
from emudev_net.addresses import parse_station

from .virtchnl.opcodes import ALLOWED_CAPS, DEFAULT_CAPS

__all__ = ["AvfConfig"]

MAX_QUEUES: Final = 256
#: Interrupt vectors, the mailbox' included: 64 queue vectors have registers (avf.md 2.1), and the
#: data plane keeps the vectors that are due in the lower 63 bits of a word.
MAX_VECTORS: Final = 63
#: Ethernet header and two tags, bytes: what a frame of a backend has beside its payload.
HEADERS: Final = 22
#: What the guest's largest MTU and the longest frame differ by: those and the FCS.
FRAME_OVERHEAD: Final = HEADERS + 4


class AvfConfig(ProviderConfig):
    """Configuration of an Intel Adaptive Virtual Function."""

    queues: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_QUEUES,
            description="queue pairs; a guest sees 16 unless its driver asks for more (DPDK)",
        ),
    ] = 1
    mac: Annotated[
        str,
        Meta(
            description="MAC address; empty: a stable local one made of the device's name",
            examples=["52:54:00:12:34:56"],
        ),
    ] = ""
    mtu: Annotated[
        int,
        Meta(
            ge=68,
            le=16356,
            description="largest MTU that the guest may set",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = 9702
    link_speed: Annotated[
        int,
        Meta(
            ge=1,
            le=400_000,
            description="speed of the link that the guest is told",
            extra_json_schema={"unit": "Mbit/s"},
        ),
    ] = 25_000
    caps: Annotated[
        int,
        Meta(
            ge=0,
            le=0xFFFF_FFFF,
            description="virtchnl capability flags that are offered",
            extra_json_schema={"format": "hex"},
        ),
    ] = int(DEFAULT_CAPS)

    doorbells: Annotated[
        Literal["messages", "mapped"],
        Meta(
            description="how a guest's transmit doorbells come: by messages, or by memory that the "
            "VMM maps, which costs a guest nothing, for backends that poll; those that do not look "
            "for them by a timer"
        ),
    ] = "messages"

    rx_usecs_high: Annotated[
        int,
        Meta(
            ge=0,
            le=8160,
            description="least time between two interrupts while the guest receives datagrams and "
            "sends nothing; 0: what its driver sets",
            extra_json_schema={"unit": "us"},
        ),
    ] = 250

    vlan: Annotated[
        Literal["802.1q", "802.1ad", "qinq", "inner"],
        Meta(
            description="what a guest may do with VLAN tags (version 2 of the requests): one tag "
            "0x8100; one tag 0x8100 or 0x88A8; two tags; or one tag that requests call the inner "
            "one"
        ),
    ] = "802.1q"

    @property
    def vectors(self) -> int:
        """Interrupt vectors: one a queue pair as far as they go, and the mailbox'."""
        return min(self.queues + 1, MAX_VECTORS)

    def __post_init__(self) -> None:
        if self.mac:
            try:
                parse_station(self.mac)
            except ValueError as exc:
                raise ValueError(f"mac: {exc}") from None
        unknown = self.caps & ~int(ALLOWED_CAPS)
        if unknown:
            raise ValueError(
                f"caps: {self.caps:#010x} offers {unknown:#010x}, which is not implemented;"
                f" allowed are the bits of {int(ALLOWED_CAPS):#010x}"
            )
