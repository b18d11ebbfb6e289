"""The virtual function as its PF side sees it: what requests set up, and what a reset clears.

`Vf` holds the state that virtchnl requests change and brings it to the data plane (`rings.Port`).
It knows no PCI and no mailbox. State lives in the two records at the top: one is gone after any
reset, the other outlives the resets of the VF. Source: avf.md sections 2.4, 4.5 to 4.7.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from emudev_core.events import Event, EventKind
from emudev_core.queues import rx_queue, tx_queue

from .config import FRAME_OVERHEAD, AvfConfig
from .filters import PROMISCUOUS_MULTICAST, PROMISCUOUS_UNICAST
from .flow_rules import FlowRule
from .rings import Port
from .virtchnl.limits import DEFAULT_PAIRS, HENA_CAPS, LARGE_LUT_SIZE, RSS_LUT_SIZE
from .virtchnl.messages import PfEvent
from .virtchnl.opcodes import Cap, EventCode, Op, legacy_speed
from .vlans import OFFERS, VlanOffer, VlanState, show_vlans

__all__ = ["Channel", "Lasting", "Outside", "QueueSetup", "Vf", "VfState", "bits", "host_time"]

SEVERITY_RESET: Final = 255


def host_time() -> int:
    """The host's CLOCK_REALTIME, ns since 1970: what a guest reads as the clock of its NIC.

    UTC like the KVM clock, and not TAI, for a host's CLOCK_TAI only differs from UTC once a time
    daemon has told its kernel by how much. Corrections of the host's clock show, steps too.
    """
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


@attrs.frozen
class QueueSetup:
    """The ring of a queue as the guest configured it.

    Attributes:
        base: Guest address.
        length: Descriptors.
        buffer_size: Bytes of each receive buffer; 0 for a transmit queue.
        max_packet: Longest received frame, bytes; 0 for a transmit queue.
        crc_disable: Received frames keep their FCS.
        rxdid: Format of receive descriptors; 0 or 1: the legacy one.
        timestamps: They say when frames came, if the format has room for that.
    """

    base: int
    length: int
    buffer_size: int = 0
    max_packet: int = 0
    crc_disable: bool = False
    rxdid: int = 0
    timestamps: bool = False


@attrs.define
class VfState:
    """What every reset clears.

    Attributes:
        caps: Granted capability flags.
        rx, tx: Configured queues by number.
        rx_enabled, tx_enabled: Bit sets of the enabled queues.
        rx_vectors, tx_vectors: Interrupt vector by queue.
        rx_throttles, tx_throttles: Which throttle the queues of a vector use, by vector.
        addresses: Accepted MAC addresses.
        promiscuous: Bit 0 unicast, bit 1 multicast.
        vlan: Filters and offloads of VLANs.
        rss_key: 52 bytes, or empty.
        rss_lut: 64 or 512 queues, or empty.
        rss_hena: Hashed packet types.
        rss_rules: What is hashed of some packet types instead; see `rss_inputs`.
        rss_function: A `RssFunction`.
        queue_rates: Limits of transmit queues, kbit/s by number.
        rules: Flow rules, oldest first.
    """

    caps: int = 0
    rx: dict[int, QueueSetup] = attrs.field(factory=dict)
    tx: dict[int, QueueSetup] = attrs.field(factory=dict)
    rx_enabled: int = 0
    tx_enabled: int = 0
    rx_vectors: dict[int, int] = attrs.field(factory=dict)
    tx_vectors: dict[int, int] = attrs.field(factory=dict)
    rx_throttles: dict[int, int] = attrs.field(factory=dict)
    tx_throttles: dict[int, int] = attrs.field(factory=dict)
    addresses: set[bytes] = attrs.field(factory=set)
    promiscuous: int = 0
    vlan: VlanState = attrs.field(factory=VlanState)
    rss_key: bytes = b""
    rss_lut: bytes = b""
    rss_hena: int = HENA_CAPS
    rss_rules: dict[int, int] = attrs.field(factory=dict)
    rss_function: int = 0
    queue_rates: dict[int, int] = attrs.field(factory=dict)
    rules: list[FlowRule] = attrs.field(factory=list)


@attrs.frozen
class Channel:
    """A traffic class: queue pairs of its own (avf.md 4.9, ENABLE_CHANNELS).

    Attributes:
        offset: The first of them.
        count: How many.
        rate: What their transmit queues may send together, kbit/s; 0: no limit.
    """

    offset: int
    count: int
    rate: int


@attrs.define
class Lasting:
    """What outlives a reset of the VF, but not one of the whole device.

    Attributes:
        mac: What `default_mac_addr` reports: the configured address, or the primary one that the
            guest has set since (avf.md 4.5, "The MAC rule").
        queue_pairs: Number of queue pairs that are reported.
        major, minor: Version of virtchnl; Linux does not repeat it after a reset.
        channels: Traffic classes, of queues from 0 on; none: all queues are alike.
    """

    mac: bytes
    queue_pairs: int
    major: int = 1
    minor: int = 1
    channels: list[Channel] = attrs.field(factory=list)


class Outside(Protocol):
    """What a `Vf` asks of the device around it."""

    def send(self, opcode: int, status: int, payload: bytes) -> None:
        """Send a message to the guest."""

    def begin_reset(self) -> None:
        """The guest asked for a reset: do it now."""

    def announce_reset(self) -> None:
        """Tell the guest that it will be reset, and reset it."""

    def post(self, event: Event) -> None:
        """Tell the subscribers of the device."""


class Vf:
    """See the module. For the loop's thread.

    Args:
        config: The device's configuration.
        mac: Its configured MAC address.
        port: Its data plane.
        outside: The device.
        clock: What a guest reads as the clock of its NIC, ns since 1970.

    Attributes:
        state: What every reset clears.
        lasting: What outlives a reset of the VF.
        link: Whether the link is up.
        speed: Speed of the link, Mbit/s.
        config_mac: The configured MAC address.
        mac: That, or the one that the user has set since; see `set_mac`.
        wanted_mac: `mac` from when the user sets it until the guest is reset, else empty.
        mtu: Largest MTU that the guest is told, bytes; at most that of the configuration.
    """

    def __init__(
        self,
        config: AvfConfig,
        mac: bytes,
        port: Port,
        outside: Outside,
        *,
        clock: Callable[[], int] = host_time,
    ) -> None:
        self.config = config
        self.config_mac = self.mac = mac
        self.mtu = config.mtu
        self.port = port
        self.outside = outside
        self.clock = clock
        self.link = False
        self.speed = config.link_speed
        self.state = VfState()
        self.lasting = Lasting(mac=mac, queue_pairs=min(config.queues, DEFAULT_PAIRS))
        self.wanted_pairs = 0
        self.wanted_channels: list[Channel] | None = None
        self.wanted_mac = b""
        self.show_all()

    # -- numbers that requests are checked against and answered with

    @property
    def caps(self) -> Cap:
        """What was granted."""
        return Cap(self.state.caps)

    @property
    def queue_pairs(self) -> int:
        """Queue pairs that the guest may use."""
        return min(self.lasting.queue_pairs, self.most_pairs)

    @property
    def most_pairs(self) -> int:
        """Queue pairs that the guest may ask for."""
        large = Cap.LARGE_NUM_QPAIRS in self.caps
        return self.config.queues if large else min(self.config.queues, DEFAULT_PAIRS)

    @property
    def lut_size(self) -> int:
        """Entries of the lookup table of the hash."""
        return RSS_LUT_SIZE if self.queue_pairs <= RSS_LUT_SIZE else LARGE_LUT_SIZE

    @property
    def max_vectors(self) -> int:
        """Interrupt vectors, the mailbox' included."""
        return self.config.vectors

    @property
    def max_frame(self) -> int:
        """Longest frame, as reported, bytes."""
        return self.mtu + FRAME_OVERHEAD

    # -- capabilities

    def grant(self, wanted: int) -> int:
        """Grant what is wanted and offered; of the two kinds of VLAN offload only the second."""
        caps = Cap(self.config.caps & wanted)
        if Cap.VLAN_V2 in caps:
            caps &= ~Cap.VLAN
        self.state.caps = int(caps)
        self.show_vlans()
        return int(caps)

    # -- queues

    def set_rx(self, queue: int, setup: QueueSetup | None) -> None:
        """Configure a receive queue, or forget it."""
        ring = self.port.rx[queue]
        if setup is None:
            self.state.rx.pop(queue, None)
            ring.configure(0, 0, 0, 0)
            return
        self.state.rx[queue] = setup
        ring.configure(
            setup.base,
            setup.length,
            setup.buffer_size,
            setup.max_packet,
            setup.crc_disable,
            setup.rxdid,
            setup.timestamps,
        )

    def set_tx(self, queue: int, setup: QueueSetup | None) -> None:
        """Configure a transmit queue, or forget it."""
        if setup is None:
            self.state.tx.pop(queue, None)
            self.port.tx[queue].configure(0, 0)
            return
        self.state.tx[queue] = setup
        self.port.tx[queue].configure(setup.base, setup.length)

    def map_vector(self, rx: bool, queue: int, vector: int, throttle: int) -> None:
        """Let a queue's interrupts go to a vector, by one of its throttles; kept until a reset."""
        throttle &= 3
        (self.state.rx_vectors if rx else self.state.tx_vectors)[queue] = vector
        (self.state.rx_throttles if rx else self.state.tx_throttles)[vector] = throttle
        self.port.map_queue(rx, queue, vector, throttle)

    def enable(self, rx: int, tx: int) -> None:
        """Enable the queues of two bit sets; those that are enabled already go on."""
        for queue in bits(rx & ~self.state.rx_enabled):
            self.state.rx_enabled |= 1 << queue
            self.port.rx[queue].enable()
            self.outside.post(Event(EventKind.QUEUE_STATE, queue=rx_queue(queue), value=1))
        for queue in bits(tx & ~self.state.tx_enabled):
            self.state.tx_enabled |= 1 << queue
            self.port.tx[queue].enable()
            self.outside.post(Event(EventKind.QUEUE_STATE, queue=tx_queue(queue), value=1))

    def disable(self, rx: int, tx: int) -> None:
        """Disable the queues of two bit sets: no kernel touches their memory when this returns."""
        for queue in bits(rx & self.state.rx_enabled):
            self.state.rx_enabled &= ~(1 << queue)
            self.port.rx[queue].disable()
            self.outside.post(Event(EventKind.QUEUE_STATE, queue=rx_queue(queue), value=0))
        for queue in bits(tx & self.state.tx_enabled):
            self.state.tx_enabled &= ~(1 << queue)
            self.port.tx[queue].disable()
            self.outside.post(Event(EventKind.QUEUE_STATE, queue=tx_queue(queue), value=0))

    def limit_queue(self, queue: int, rate: int) -> None:
        """Limit what a transmit queue sends to so many kbit/s; 0: do not."""
        if rate:
            self.state.queue_rates[queue] = rate
        else:
            self.state.queue_rates.pop(queue, None)
        self.port.limits.limit_queue(queue, rate)

    @property
    def running(self) -> bool:
        """Whether the guest has enabled any queue."""
        return bool(self.state.rx_enabled | self.state.tx_enabled)

    # -- filters and hash, brought to the data plane

    def filters_changed(self) -> None:
        """Tell the subscribers that other frames are received than before."""
        self.outside.post(Event(EventKind.FILTER))

    def show_addresses(self) -> None:
        """Bring addresses and promiscuous modes to the data plane."""
        addresses = self.state.addresses
        self.port.set_macs(
            {a for a in addresses if not a[0] & 1}, {a for a in addresses if a[0] & 1}
        )
        self.port.set_promiscuous(
            bool(self.state.promiscuous & PROMISCUOUS_UNICAST),
            bool(self.state.promiscuous & PROMISCUOUS_MULTICAST),
        )

    def show_vlans(self) -> None:
        """Bring VLAN filter and offload to the data plane.

        A guest that was granted no way to name its VLANs gets all of them.
        """
        filtering = bool(self.caps & (Cap.VLAN | Cap.VLAN_V2))
        show_vlans(self.port, self.state.vlan, self.vlan_offer, filtering=filtering)

    @property
    def vlan_offer(self) -> VlanOffer:
        """What the driver may do with VLANs: in version 1 there is no choice."""
        return OFFERS[self.config.vlan if Cap.VLAN_V2 in self.caps else "802.1q"]

    def show_rules(self) -> None:
        """Bring the flow rules to the data plane."""
        self.port.set_rules(self.state.rules)

    def show_rss(self) -> None:
        """Bring key, table and hashed types to the data plane."""
        state = self.state
        self.port.set_rss(
            state.rss_key, state.rss_lut, state.rss_hena, state.rss_rules, state.rss_function
        )

    def set_rss_registers(self, hena: list[int], key: list[int], lut: list[int]) -> None:
        """Take the hash of a guest without RSS_PF, from its registers.

        Args:
            hena: VFQF_HENA, 2 words.
            key: VFQF_HKEY, 13 words.
            lut: VFQF_HLUT, 16 words of 4 entries.
        """
        if Cap.RSS_PF in self.caps:
            return
        state = self.state
        state.rss_hena = (hena[1] << 32 | hena[0]) & HENA_CAPS
        state.rss_key = b"".join(w.to_bytes(4, "little") for w in key)
        entries = b"".join(w.to_bytes(4, "little") for w in lut)
        state.rss_lut = bytes(e if e < self.queue_pairs else 0 for e in entries)
        self.show_rss()

    # -- events

    def set_link(self, up: bool, speed: int) -> None:
        """The link changed: tell the guest, once it has queues, and the subscribers.

        A link that is down has no speed: another one is told when it comes up.
        """
        changed = up != self.link or (up and speed != self.speed)
        self.link, self.speed = up, speed
        if not changed:
            return
        text = f"{speed} Mbit/s" if up else ""
        self.outside.post(Event(EventKind.LINK, value=int(up), text=text))
        if self.running:
            self.send_link()

    def send_link(self) -> None:
        """Send a LINK_CHANGE event, in the format that was granted."""
        advanced = Cap.ADV_LINK_SPEED in self.caps
        speed = self.speed if advanced else legacy_speed(self.speed)
        event = PfEvent(
            event=EventCode.LINK_CHANGE, link_speed=speed if self.link else 0, link_status=self.link
        )
        self.outside.send(Op.EVENT, 0, event.pack())

    def send_link_if_up(self) -> None:
        """After queues were enabled: without this event there is no carrier (avf.md 0, fact 8)."""
        if self.link:
            self.send_link()

    def send_reset_impending(self) -> None:
        """Tell the guest that it will be reset."""
        event = PfEvent(event=EventCode.RESET_IMPENDING, severity=SEVERITY_RESET)
        self.outside.send(Op.EVENT, 0, event.pack())

    # -- resets

    def set_mac(self, mac: bytes) -> None:
        """Report another MAC address, also if the guest sets its old one again before its reset."""
        self.mac = self.lasting.mac = self.wanted_mac = mac

    def want_queue_pairs(self, pairs: int) -> None:
        """Report another number of queue pairs after the reset that this announces."""
        self.wanted_pairs = pairs
        self.outside.announce_reset()

    def want_channels(self, channels: list[Channel]) -> None:
        """Have other traffic classes after the reset that this announces."""
        self.wanted_channels = channels
        self.outside.announce_reset()

    def forget_channels(self) -> None:
        """A driver begins anew: it knows of no traffic classes."""
        for name in self._class_names():
            self.port.limits.limit_class(name, [], 0)
        self.lasting.channels = []
        self.port.set_classes(0)

    def _class_names(self) -> list[str]:
        return [f"class {number}" for number in range(len(self.lasting.channels))]

    def show_channels(self) -> None:
        """Bring the traffic classes to the data plane, which has none."""
        channels = self.lasting.channels
        self.port.set_classes(channels[0].count if channels else 0)
        for name, channel in zip(self._class_names(), channels, strict=True):
            queues = range(channel.offset, channel.offset + channel.count)
            self.port.limits.limit_class(name, queues, channel.rate)

    def reset(self, *, power: bool = False) -> None:
        """Forget what a reset clears; the data plane has stopped when this returns.

        Args:
            power: A reset of the whole device: version, queue count and MAC address go, too.
        """
        was_running = self.running
        self.port.reset()
        self.state = VfState()
        if power:
            pairs = min(self.config.queues, DEFAULT_PAIRS)
            self.lasting = Lasting(mac=self.mac, queue_pairs=pairs)
            self.wanted_pairs = 0
        elif self.wanted_pairs:
            self.lasting.queue_pairs = self.wanted_pairs
            self.wanted_pairs = 0
            self.lasting.channels = []
        elif self.wanted_channels is not None:
            self.lasting.channels = self.wanted_channels
        self.wanted_channels = None
        if self.wanted_mac:
            self.lasting.mac, self.wanted_mac = self.wanted_mac, b""
        self.show_all()
        self.outside.post(Event(EventKind.RESET, value=int(was_running)))

    def show_all(self) -> None:
        """Bring everything but the queues to the data plane."""
        self.show_addresses()
        self.show_vlans()
        self.show_rss()
        self.show_rules()
        self.show_channels()

    def restore(
        self, state: VfState, lasting: Lasting, rx_heads: list[int], tx_heads: list[int]
    ) -> None:
        """Take saved records, and set the data plane up as they say; tails have been restored.

        Args:
            state: What every reset clears.
            lasting: What outlives a reset of the VF.
            rx_heads: Next descriptor of the device, by receive queue.
            tx_heads: The same by transmit queue.
        """
        tails = [ring.doorbell.value for ring in (*self.port.rx, *self.port.tx)]
        self.port.reset()
        self.state, self.lasting = state, lasting
        for queue, setup in state.rx.items():
            self.set_rx(queue, setup)
        for queue, setup in state.tx.items():
            self.set_tx(queue, setup)
        for ring, tail in zip((*self.port.rx, *self.port.tx), tails, strict=True):
            ring.doorbell.write(tail)
        for queue, vector in state.rx_vectors.items():
            self.port.map_queue(True, queue, vector, state.rx_throttles.get(vector))
        for queue, vector in state.tx_vectors.items():
            self.port.map_queue(False, queue, vector, state.tx_throttles.get(vector))
        self.show_all()
        for queue, rate in state.queue_rates.items():
            self.port.limits.limit_queue(queue, rate)
        for queue in bits(state.rx_enabled):
            self.port.rx[queue].enable(rx_heads[queue])
            self.outside.post(Event(EventKind.QUEUE_STATE, queue=rx_queue(queue), value=1))
        for queue in bits(state.tx_enabled):
            self.port.tx[queue].enable(tx_heads[queue])
            self.outside.post(Event(EventKind.QUEUE_STATE, queue=tx_queue(queue), value=1))


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
