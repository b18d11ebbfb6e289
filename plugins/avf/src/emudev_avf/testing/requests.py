"""A VF and its dispatcher without a mailbox, and messages packed of numbers.

Layouts are those of the reference (avf.md sections 4.2 to 4.7), not of `virtchnl.messages`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from emudev_core.events import Event

from ..config import AvfConfig
from ..rings import TPID, TPID_SERVICE, Port, TagPlace
from ..vf import Vf
from ..virtchnl.dispatch import Dispatcher

__all__ = [
    "LINUX_CAPS",
    "MAC",
    "OFFER",
    "VSI",
    "Guest",
    "configure",
    "link",
    "macs",
    "pair",
    "queues",
    "select",
    "setting",
    "vlan_v2",
]

MAC: Final = bytes.fromhex("525400770002")
#: What Linux 6 asks for, and what is offered by default.
LINUX_CAPS: Final = 0x1ABD8CF9
OFFER: Final = 0xBE88CEE1
VSI: Final = 1


class WatchedPort(Port):
    """The data plane, which remembers what it was told."""

    macs: set[bytes]
    promiscuous: tuple[bool, bool]
    vids: set[int] | None
    strip: TagPlace
    rss: tuple[bytes, bytes, int]
    rss_rules: tuple[dict[int, int], int]

    def set_macs(self, unicast: Iterable[bytes], multicast: Iterable[bytes]) -> None:
        """Kept as `macs`."""
        self.macs = {*unicast, *multicast}
        super().set_macs(unicast, multicast)

    def set_promiscuous(self, unicast: bool, multicast: bool) -> None:
        """Kept as `promiscuous`."""
        self.promiscuous = (unicast, multicast)
        super().set_promiscuous(unicast, multicast)

    def set_vlan_filter(
        self,
        vids: Iterable[int] | None,
        service: Iterable[int] | None = None,
        other: Iterable[int] | None = None,
        inner: Iterable[int] | None = None,
    ) -> None:
        """The ids are kept as `vids`."""
        self.vids = None if vids is None else set(vids)
        super().set_vlan_filter(vids, service, other, inner)

    def set_vlan_offload(
        self,
        strip: TagPlace = TagPlace.NONE,
        inner: TagPlace = TagPlace.NONE,
        *,
        strip_tpid: int = TPID,
        insert_tpids: tuple[int, int, int] = (TPID, TPID, TPID_SERVICE),
    ) -> None:
        """The place of outer tags is kept as `strip`."""
        self.strip = strip
        super().set_vlan_offload(strip, inner, strip_tpid=strip_tpid, insert_tpids=insert_tpids)

    def set_rss(
        self,
        key: bytes,
        lut: bytes,
        hena: int,
        rules: Mapping[int, int] | None = None,
        function: int = 0,
    ) -> None:
        """Kept as `rss` and `rss_rules`."""
        self.rss = (key, lut, hena)
        self.rss_rules = (dict(rules or {}), function)
        super().set_rss(key, lut, hena, rules, function)


class Outside:
    """The device around the VF: it keeps what the VF does.

    Attributes:
        sent: Messages to the guest: opcode, status and payload.
        events: For the subscribers.
        resets: ``now`` for each that the guest asked for, ``announced`` for others.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, bytes]] = []
        self.events: list[Event] = []
        self.resets: list[str] = []

    def send(self, opcode: int, status: int, payload: bytes) -> None:
        """See `vf.Outside`."""
        self.sent.append((opcode, status, payload))

    def begin_reset(self) -> None:
        """See `vf.Outside`."""
        self.resets.append("now")

    def announce_reset(self) -> None:
        """See `vf.Outside`."""
        self.resets.append("announced")

    def post(self, event: Event) -> None:
        """See `vf.Outside`."""
        self.events.append(event)


class Guest:
    """A VF and its dispatcher, as a driver sees them.

    Args:
        keys: Of the configuration; 4 queue pairs are the default.

    Attributes:
        outside: What the VF did.
        port: What the data plane was told.
        vf: The VF.
        dispatcher: Its dispatcher.
    """

    def __init__(self, **keys: Any) -> None:
        config = AvfConfig(**{"queues": 4, **keys})
        self.outside = Outside()
        self.port = WatchedPort(config.queues, config.queues + 1)
        self.vf = Vf(config, MAC, self.port, self.outside)
        self.dispatcher = Dispatcher(self.vf)

    def send(self, opcode: int, payload: bytes = b"") -> list[tuple[int, int, bytes]]:
        """Everything that the device sent in answer."""
        self.outside.sent.clear()
        self.dispatcher.receive(opcode, payload)
        return list(self.outside.sent)

    def ask(self, opcode: int, payload: bytes = b"") -> tuple[int, bytes]:
        """Status and payload of the only reply."""
        sent = self.send(opcode, payload)
        assert [s[0] for s in sent] == [opcode], sent
        return sent[0][1], sent[0][2]

    def status(self, opcode: int, payload: bytes = b"") -> int:
        """Status of the only reply."""
        status, data = self.ask(opcode, payload)
        assert status == 0 or data == b""
        return status

    def negotiate(self, caps: int = LINUX_CAPS) -> tuple[int, bytes]:
        """VERSION 1.1 and GET_VF_RESOURCES; answers what comes back of the latter."""
        assert self.ask(1, struct.pack("<II", 1, 1)) == (0, struct.pack("<II", 1, 1))
        return self.ask(3, struct.pack("<I", caps))


def pair(
    queue: int = 0,
    *,
    tx: tuple[int, int] = (512, 0x1000_0000),
    rx: tuple[int, int] = (512, 0x2000_0000),
    buffer: int = 1536,
    frame: int = 9728,
    crc: int = 0,
    rxdid: int = 0,
    split: int = 0,
    flags: int = 0,
    vsi: int = VSI,
) -> bytes:
    """A queue pair of CONFIG_VSI_QUEUES; rings are (descriptors, address)."""
    return struct.pack(
        "<HHHHQQ HHIHHIIBBBBQiI",
        vsi, queue, tx[0], 0, tx[1], 0,
        vsi, queue, rx[0], 0, split, buffer, frame, crc, rxdid, flags, 0, rx[1], 0, 0,
    )  # fmt: skip


def queues(*pairs: bytes, vsi: int = VSI, count: int | None = None) -> bytes:
    """CONFIG_VSI_QUEUES; pack has no padding between the halves: 24 + 40 bytes."""
    return struct.pack("<HHI", vsi, len(pairs) if count is None else count, 0) + b"".join(pairs)


def select(rx: int, tx: int, vsi: int = VSI) -> bytes:
    """ENABLE_QUEUES and others: bit sets of queues."""
    return struct.pack("<HHII", vsi, 0, rx, tx)


def configure(guest: Guest, *numbers: int) -> None:
    """Configure queue pairs, each with rings of its own."""
    pairs = [
        pair(n, tx=(512, 0x1000_0000 + (n << 16)), rx=(512, 0x2000_0000 + (n << 16)))
        for n in numbers
    ]
    assert guest.status(6, queues(*pairs)) == 0


def link(speed: int, up: int) -> tuple[int, int, bytes]:
    """The link event of a driver with advanced speeds; speed in Mbit/s."""
    return (17, 0, struct.pack("<iIBxxxi", 1, speed, up, 0))


def macs(*addresses: tuple[bytes, int], vsi: int = VSI) -> bytes:
    """ADD_ETH_ADDR or DEL_ETH_ADDR: addresses with their types."""
    return struct.pack("<HH", vsi, len(addresses)) + b"".join(
        address + struct.pack("<BB", kind, 0) for address, kind in addresses
    )


def vlan_v2(*vids: int, tpid: int = 0x8100, inner: int = 0, mask: int = 0) -> bytes:
    """ADD_VLAN_V2 or DEL_VLAN_V2."""
    return struct.pack("<HHI", VSI, len(vids), 0) + b"".join(
        struct.pack("<HHHHHHHH16x", inner, 0, 0, 0, vid, mask, tpid, 0) for vid in vids
    )


def setting(outer: int = 1, inner: int = 0) -> bytes:
    """ENABLE_VLAN_STRIPPING_V2 and the like: bit sets of ethertypes."""
    return struct.pack("<IIH6x", outer, inner, VSI)
