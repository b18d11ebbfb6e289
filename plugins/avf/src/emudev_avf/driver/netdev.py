"""The reference driver: brings the function up, keeps it up through resets, moves frames.

It takes the steps of the Linux driver in their order (avf.md 5.1 and 5.2), so that what the device
does under it is what it does under Linux.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from ..mailbox import AqOpcode
from ..registers import MAP
from ..virtchnl import messages as m
from ..virtchnl.opcodes import AddressType, Cap, EventCode, Op
from .adminq import AdminQueue, DriverError
from .large import BIT_SET, PAIRS_PER_MESSAGE, batches, map_vectors, switch_queues
from .rings import Headers, Received, RxRing, TxRing

if TYPE_CHECKING:
    from emudev_pci.guest import GuestFunction

__all__ = ["AvfDriver", "DriverError", "Resources"]

#: What Linux 6.12 asks for; avf.md 4.4.
LINUX_CAPS: Final = 0x1ABD8CF9
#: INTENA with no ITR update.
INT_ENABLE: Final = 0x19
#: Cause enable of the mailbox, ICR0_ENA1.
ADMINQ_CAUSE: Final = 1 << 30
VF_ACTIVE: Final = 2
RESET_TIMEOUT: Final = 20.0
#: Kernels that are not cached are compiled before the link comes up.
LINK_TIMEOUT: Final = 30.0


@attrs.frozen
class Resources:
    """What GET_VF_RESOURCES granted.

    Attributes:
        queue_pairs: Number of queue pairs.
        vectors: Interrupt vectors, the mailbox' included.
        max_mtu: Largest MTU; 0 for no limit.
        caps: Granted capability flags.
        vsi: Id that requests carry.
        mac: MAC address, 6 bytes.
        lut: Entries of the lookup table of the hash.
    """

    queue_pairs: int
    vectors: int
    max_mtu: int
    caps: Cap
    vsi: int
    mac: bytes
    lut: int


class AvfDriver:
    """Drives one function.

    Args:
        function: The guest's view of it.
        queues: Queue pairs to use, at most what is granted; more than 16 are asked for.
        ring: Descriptors of each ring.
        buffer: Bytes of each receive buffer.
        caps: Capability flags to ask for.
        rxdid: Format of the receive descriptors; more than 1 needs RX_FLEX_DESC.
        timestamps: Ask for the times of received frames; needs PTP, and a format with room.
        tell: Called with a line for people at each step.
    """

    def __init__(
        self,
        function: GuestFunction,
        *,
        queues: int = 1,
        ring: int = 512,
        buffer: int = 2048,
        caps: int = LINUX_CAPS,
        rxdid: int = 0,
        timestamps: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.function = function
        self.link = False
        self.speed = 0
        self.reset_announced = False
        self.mtu = 1500
        self.tx: list[TxRing] = []
        self.rx: list[RxRing] = []
        self._bar = function.bar[0]
        self._queues = queues
        self._ring = ring
        self._buffer = buffer
        self._caps = caps
        self._rxdid = rxdid
        self._timestamps = timestamps
        self._tell = tell
        self._admin: AdminQueue | None = None
        self._resources: Resources | None = None

    @property
    def admin(self) -> AdminQueue:
        """The mailbox, once probed."""
        if self._admin is None:
            raise DriverError("the function was not probed")
        return self._admin

    @property
    def resources(self) -> Resources:
        """What was granted, once probed."""
        if self._resources is None:
            raise DriverError("the function was not probed")
        return self._resources

    # -- bring-up, avf.md 5.1

    def probe(self) -> Resources:
        """Enable the function, start the mailbox, agree on version and resources.

        Raises:
            DriverError: A step failed.
        """
        function = self.function
        function.enable()
        self._wait_active(VF_ACTIVE, 1)
        self._admin = AdminQueue(function, self._event)
        self._admin.start()
        self._tell("mailbox: both rings of 32 descriptors are programmed")
        version = m.Version.unpack(
            self._admin.request(Op.VERSION, m.Version(major=1, minor=1).pack())
        )
        if (version.major, version.minor) != (1, 1):
            raise DriverError(f"virtchnl version {version.major}.{version.minor}, not 1.1")
        self._tell(f"virtchnl {version.major}.{version.minor}")
        self._get_resources()
        self._enable_vector(0)
        if (
            self._queues > self.resources.queue_pairs
            and Cap.LARGE_NUM_QPAIRS in self.resources.caps
        ):
            self._ask_for_pairs()
        return self.resources

    def _ask_for_pairs(self) -> None:
        """As many queue pairs as wanted, or as there are, which takes a reset."""
        body = m.RequestQueues(num_queue_pairs=self._queues).pack()
        self.reset_announced = False
        self.admin.send(Op.REQUEST_QUEUES, body)
        self._rejoin()
        self._tell(f"{self.resources.queue_pairs} queue pairs, {self.resources.vectors} vectors")

    def _get_resources(self) -> None:
        request = m.GetVfResources(caps=self._caps)
        data = self.admin.request(Op.GET_VF_RESOURCES, request.pack())
        head = m.VfResources.unpack(data)
        vsi = m.VsiResource.unpack(data, m.VfResources.SIZE)
        self._resources = Resources(
            queue_pairs=head.num_queue_pairs,
            vectors=head.max_vectors,
            max_mtu=head.max_mtu - 26 if head.max_mtu else 0,
            caps=Cap(head.vf_cap_flags),
            vsi=vsi.vsi_id,
            mac=bytes(vsi.default_mac_addr),
            lut=head.rss_lut_size,
        )
        if Cap.VLAN_V2 in self._resources.caps:
            self.admin.request(Op.GET_OFFLOAD_VLAN_V2_CAPS)

    def _enable_vector(self, vector: int) -> None:
        self.function.vectors[vector].enable()
        if vector == 0:
            self._write("VFINT_DYN_CTL01", INT_ENABLE)
            self._write("VFINT_ICR0_ENA1", ADMINQ_CAUSE)
        else:
            self._write("VFINT_DYN_CTLN1", INT_ENABLE, vector - 1)

    def open(self, *, wait: bool = True) -> None:
        """Set the queues up, enable them, and wait for the link.

        Args:
            wait: False leaves the link to `service`, for a link that needs something else first.

        Raises:
            DriverError: A request was refused, or no link within `LINK_TIMEOUT`.
        """
        self._set_up()
        if not wait:
            return
        deadline = time.monotonic() + LINK_TIMEOUT
        while not self.link:
            if time.monotonic() > deadline:
                raise DriverError(f"no link within {LINK_TIMEOUT} s of enabling the queues")
            self.function.vectors[0].wait(0.01)
            self._interrupt()
        self._tell(f"link is up at {self.speed} Mbit/s")

    def _set_up(self) -> None:
        """Everything between the resources and the link, as Linux orders it."""
        res, admin = self.resources, self.admin
        pairs = min(self._queues, res.queue_pairs)
        vectors = range(1, res.vectors)
        if not self.tx:
            self.tx = [TxRing(self.function, self._ring) for _ in range(pairs)]
            self.rx = [
                RxRing(self.function, self._ring, self._buffer, self._rxdid, self._timestamps)
                for _ in range(pairs)
            ]
        vector_of = {i: vectors[i % len(vectors)] for i in range(pairs)}
        if pairs > BIT_SET:
            map_vectors(admin, res.vsi, vector_of)
        else:
            self._map_vectors(vector_of)
        if Cap.RSS_PF in res.caps:
            key = os.urandom(52)
            head = m.RssKeyHead(vsi_id=res.vsi, key_len=len(key)).pack()
            admin.request(Op.CONFIG_RSS_KEY, head + key)
            lut = bytes(i % pairs for i in range(res.lut))
            head = m.RssLutHead(vsi_id=res.vsi, lut_entries=len(lut)).pack()
            admin.request(Op.CONFIG_RSS_LUT, head + lut)
        for i, (tx, rx) in enumerate(zip(self.tx, self.rx, strict=True)):
            tx.reset()
            rx.reset()
            self._write("QRX_TAIL1", rx.tail, i)
        for v in sorted(set(vector_of.values())):
            self._enable_vector(v)
        entries = [
            (res.mac, AddressType.PRIMARY),
            (b"\x33\x33\x00\x00\x00\x01", AddressType.EXTRA),
            (b"\x01\x00\x5e\x00\x00\x01", AddressType.EXTRA),
        ]
        body = m.EthAddrHead(vsi_id=res.vsi, num_elements=len(entries)).pack()
        body += b"".join(m.EthAddr(addr=mac, type=kind).pack() for mac, kind in entries)
        admin.request(Op.ADD_ETH_ADDR, body)
        frame = (res.max_mtu or 9702) + 26
        for batch in batches(pairs, PAIRS_PER_MESSAGE):
            body = m.VsiQueuesHead(vsi_id=res.vsi, num_queue_pairs=len(batch)).pack()
            for i in batch:
                tx, rx = self.tx[i], self.rx[i]
                body += m.TxQueueInfo(
                    vsi_id=res.vsi, queue_id=i, ring_len=tx.length, dma_ring_addr=tx.address
                ).pack()
                body += m.RxQueueInfo(
                    vsi_id=res.vsi,
                    queue_id=i,
                    ring_len=rx.length,
                    databuffer_size=rx.buffer,
                    max_pkt_size=frame,
                    rxdid=rx.rxdid,
                    flags=int(rx.timestamps),
                    dma_ring_addr=rx.address,
                ).pack()
            admin.request(Op.CONFIG_VSI_QUEUES, body)
        self._switch_queues(True)

    def _switch_queues(self, on: bool) -> None:
        """Enable or disable all queues."""
        vsi, pairs = self.resources.vsi, len(self.tx)
        if pairs > BIT_SET:
            switch_queues(self.admin, vsi, pairs, on)
            return
        mask = (1 << pairs) - 1
        select = m.QueueSelect(vsi_id=vsi, rx_queues=mask, tx_queues=mask)
        self.admin.request(Op.ENABLE_QUEUES if on else Op.DISABLE_QUEUES, select.pack())

    def _map_vectors(self, vector_of: dict[int, int]) -> None:
        """Map both queues of each pair to a vector (CONFIG_IRQ_MAP)."""
        res = self.resources
        maps = [
            m.VectorMap(
                vsi_id=res.vsi,
                vector_id=v,
                rxq_map=sum(1 << i for i in vector_of if vector_of[i] == v),
                txq_map=sum(1 << i for i in vector_of if vector_of[i] == v),
                rxitr_idx=0,
                txitr_idx=1,
            )
            for v in sorted(set(vector_of.values()))
        ]
        maps.append(
            m.VectorMap(vsi_id=res.vsi, vector_id=0, rxq_map=0, txq_map=0, rxitr_idx=0, txitr_idx=0)
        )
        body = m.IrqMapHead(num_vectors=len(maps)).pack() + b"".join(x.pack() for x in maps)
        self.admin.request(Op.CONFIG_IRQ_MAP, body)

    # -- events and interrupts

    def _interrupt(self) -> None:
        """The handler of vector 0: read the cause, serve the mailbox, enable again."""
        self._read("VFINT_ICR01")
        self.admin.poll()
        self._write("VFINT_DYN_CTL01", INT_ENABLE)

    def _event(self, data: bytes) -> None:
        event = m.PfEvent.unpack(data)
        if event.event == EventCode.LINK_CHANGE:
            self.speed, self.link = event.link_speed, bool(event.link_status)
        elif event.event == EventCode.RESET_IMPENDING:
            self.reset_announced = True

    def service(self) -> None:
        """Serve the mailbox if its vector has fired."""
        if self.function.vectors[0].wait(0):
            self._interrupt()

    # -- frames

    def send(
        self,
        frame: bytes,
        *,
        queue: int = 0,
        headers: Headers | None = None,
        mss: int = 0,
        vlan: int | None = None,
        vlan2: int | None = None,
    ) -> None:
        """Send one frame; see `TxRing.send`."""
        tail = self.tx[queue].send(frame, headers=headers, mss=mss, vlan=vlan, vlan2=vlan2)
        self._write("QTX_TAIL1", tail, queue)

    def receive(self, timeout: float = 1.0, *, queue: int = 0) -> list[Received]:
        """Wait for frames on a queue's vector and take them; empty if none came in time."""
        deadline = time.monotonic() + timeout
        vector = 1 + queue % (self.resources.vectors - 1)
        while True:
            frames = self.rx[queue].receive()
            if frames:
                self._write("QRX_TAIL1", self.rx[queue].tail, queue)
                return frames
            self._write("VFINT_DYN_CTLN1", INT_ENABLE, vector - 1)
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            self.function.vectors[vector].wait(left)

    def statistics(self) -> m.EthStats:
        """The device's counters (GET_STATS)."""
        select = m.QueueSelect(vsi_id=self.resources.vsi, rx_queues=0, tx_queues=0)
        return m.EthStats.unpack(self.admin.request(Op.GET_STATS, select.pack()))

    # -- resets, avf.md 5.2

    def reset(self) -> None:
        """Reset as at a change of MTU or rings: from the mailbox to the link again.

        Raises:
            DriverError: The reset was never seen, never ended, or the link did not come back.
        """
        self._write("VFINT_DYN_CTL01", 0)
        self.admin.send(0, aq=AqOpcode.QUEUE_SHUTDOWN)
        self.admin.stop()
        self.admin.start()
        self.admin.send(Op.RESET_VF)
        self._recover()

    def function_level_reset(self) -> None:
        """A reset of the PCI function, noticed by the cleared mailbox as Linux' watchdog does."""
        self.function.flr()
        self.function.enable()
        self._recover()

    def _recover(self) -> None:
        self._rejoin()
        self.open()

    def _rejoin(self) -> None:
        """From a reset to the resources."""
        self.link = False
        deadline = time.monotonic() + RESET_TIMEOUT
        while self._read("VF_ARQLEN1") >> 31:
            if time.monotonic() > deadline:
                raise DriverError("never saw the reset: VF_ARQLEN1 is still enabled")
            self.function.pause(0.005)
        self._wait_active(VF_ACTIVE)
        self.admin.start()
        self._get_resources()
        self._enable_vector(0)

    def _wait_active(self, *states: int) -> None:
        deadline = time.monotonic() + RESET_TIMEOUT
        while (state := self._read("VFGEN_RSTAT") & 3) not in states:
            if time.monotonic() > deadline:
                raise DriverError(f"VFGEN_RSTAT is {state} after {RESET_TIMEOUT} s, not {states}")
            self.function.pause(0.01)

    # -- going down

    def close(self) -> None:
        """Disable the queues; `open` brings them back."""
        pairs = len(self.tx)
        for i in range(pairs):
            self._write("VFINT_DYN_CTLN1", 0, i % (self.resources.vectors - 1))
        self._switch_queues(False)
        self.link = False

    def remove(self) -> None:
        """Leave as the Linux driver does: reset, zero the rings, give memory back."""
        if self._admin is not None:
            self._admin.send(Op.RESET_VF)
            self.function.pause(0.02)
            self._admin.stop()
            self._admin.close()
            self._admin = None
        for tx, rx in zip(self.tx, self.rx, strict=True):
            tx.close()
            rx.close()
        self.tx, self.rx = [], []

    def _read(self, name: str, index: int = 0) -> int:
        return self._bar.read32(MAP.offset(name, index))

    def _write(self, name: str, value: int, index: int = 0) -> None:
        self._bar.write32(MAP.offset(name, index), value)
