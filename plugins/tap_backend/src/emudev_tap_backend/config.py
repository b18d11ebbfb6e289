"""What a user may say about a TAP backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta

from emudev_core.config import BackendConfig, Claim

__all__ = ["MAX_NAME", "TapConfig"]

#: Longest name of an interface, characters. Source: linux/if.h, IFNAMSIZ.
MAX_NAME = 15

Choice = Literal["auto", "yes", "no"]
Switch = Literal["auto", "on", "off"]


class TapConfig(BackendConfig):
    """Configuration of ``tap_backend``; the device is named by ``emu=`` or ``avf_emu_id=``."""

    iface: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_NAME,
            description="name of the TAP interface",
        ),
    ]
    create: Annotated[
        Choice,
        Meta(
            description="auto: use the interface if it is there, else create it; yes: create it, it"
            " must not exist; no: it must exist"
        ),
    ] = "auto"
    mtu: Annotated[
        Annotated[int, Meta(ge=68, le=65521)] | None,
        Meta(
            description="MTU given to the interface; unset: the interface's own",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = None
    queues: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        Meta(
            description="queues of the interface to attach; unset: as many as the device has queue"
            " pairs if the interface is (or is created) multi-queue, else 1"
        ),
    ] = None
    up: Annotated[
        bool, Meta(description="bring an interface up that was created; one that exists is left")
    ] = True
    vnet_hdr: Annotated[
        Switch,
        Meta(
            description="checksum and segmentation requests pass the interface as they are"
            " (IFF_VNET_HDR); auto: whenever it can; on: or fail; off: never"
        ),
    ] = "auto"
    sndbuf: Annotated[
        Annotated[int, Meta(ge=2048, le=2**31 - 1)] | None,
        Meta(
            description="what may wait behind the interface before the guest has to; unset: no"
            " limit",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = None
    workers: Annotated[
        int,
        Meta(
            ge=0,
            le=16,
            description="threads that move the frames, at most one for each queue of the interface;"
            " 0: the thread that serves the device does, the fastest on few cores",
        ),
    ] = 0
    polling: Annotated[
        bool, Meta(description="workers never sleep: each takes a core for itself")
    ] = False

    def __post_init__(self) -> None:
        """Refuse what the kernel would refuse as a name, or expand, and polling without workers.

        Raises:
            ValueError: With the character that can't be.
        """
        if self.polling and self.workers == 0:
            raise ValueError("polling: there are no workers to poll; add workers=1")
        for character in self.iface:
            if character in "/:%" or not "!" <= character <= "~":
                raise ValueError(
                    f"iface: {self.iface!r} can't be the name of an interface: {character!r} is not"
                    " allowed in it"
                )
        if self.iface in (".", ".."):
            raise ValueError(f"iface: {self.iface!r} can't be the name of an interface")

    def claims(self) -> Iterable[Claim]:
        """The interface, its queues too: the kernel would spread its frames over both."""
        return (Claim(f"the interface {self.iface}", "iface"),)
