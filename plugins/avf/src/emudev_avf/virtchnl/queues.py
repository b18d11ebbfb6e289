"""Queues: their rings, vectors, enabling and number. Source: avf.md section 4.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..descriptors import RXDID_LEGACY, RXDIDS
from ..queues import MAX_RING
from ..vf import QueueSetup
from .base import check_queue, check_vsi
from .handlers import OK, Answer, check, elements, handler
from .messages import (
    IrqMapHead,
    QueueSelect,
    RequestQueues,
    Rxdids,
    RxQueueInfo,
    TxQueueInfo,
    VectorMap,
    VsiQueuesHead,
)
from .opcodes import Cap, Op

if TYPE_CHECKING:
    from ..vf import Vf

__all__ = ["enable_sets"]

PAIR: Final = TxQueueInfo.SIZE + RxQueueInfo.SIZE
RING_ALIGNMENT: Final = 128
#: Guest addresses are at most 52 bits wide on any machine; the data plane calculates in int64.
ADDRESS_LIMIT: Final = 1 << 62
#: Linux 6.12 asks for 640 bytes with an MTU of 576: some PFs refuse what is below 1024.
MIN_BUFFER: Final = 128
MAX_BUFFER: Final = 16256
BUFFER_UNIT: Final = 128
MIN_PACKET: Final = 64
MAX_PACKET: Final = 16382
RX_TIMESTAMPS: Final = 0x01
#: Without RX_FLEX_DESC. Linux sends 0, which means 1 (avf.md 8, quirk 8), DPDK 1.
LEGACY_RXDIDS: Final = frozenset({RXDID_LEGACY})


def check_ring(info: TxQueueInfo | RxQueueInfo, unit: int) -> None:
    """Refuse a ring of another length or alignment than hardware takes."""
    check(
        0 < info.ring_len <= MAX_RING and info.ring_len % unit == 0,
        "ring of %d descriptors, expected a multiple of %d up to %d",
        info.ring_len,
        unit,
        MAX_RING,
    )
    check(
        0 < info.dma_ring_addr < ADDRESS_LIMIT and info.dma_ring_addr % RING_ALIGNMENT == 0,
        "ring at %#x, expected a multiple of %d",
        info.dma_ring_addr,
        RING_ALIGNMENT,
    )


def check_idle(vf: Vf, info: TxQueueInfo | RxQueueInfo, enabled: int, kind: str) -> None:
    """Refuse to configure a queue that there is not, or that is enabled."""
    check_vsi(info.vsi_id)
    check_queue(vf, info.queue_id, kind)
    check(not enabled >> info.queue_id & 1, "%s %d is enabled", kind, info.queue_id)


def is_absent(info: TxQueueInfo | RxQueueInfo) -> bool:
    """Whether this half of a pair is left unconfigured, as by DPDK with fewer queues one way."""
    return info.ring_len == 0 and info.dma_ring_addr == 0


def tx_setup(vf: Vf, info: TxQueueInfo) -> QueueSetup | None:
    """Check a transmit queue; None to leave it unconfigured."""
    check_idle(vf, info, vf.state.tx_enabled, "TX queue")
    if is_absent(info):
        return None
    check_ring(info, 8)
    return QueueSetup(base=info.dma_ring_addr, length=info.ring_len)


def rx_setup(vf: Vf, info: RxQueueInfo) -> QueueSetup | None:
    """Check a receive queue; None to leave it unconfigured."""
    check_idle(vf, info, vf.state.rx_enabled, "RX queue")
    if is_absent(info):
        return None
    check_ring(info, 32)
    check(
        MIN_BUFFER <= info.databuffer_size <= MAX_BUFFER
        and info.databuffer_size % BUFFER_UNIT == 0,
        "buffers of %d bytes",
        info.databuffer_size,
    )
    check(MIN_PACKET <= info.max_pkt_size <= MAX_PACKET, "packets of %d bytes", info.max_pkt_size)
    rxdids = RXDIDS if Cap.RX_FLEX_DESC in vf.caps else LEGACY_RXDIDS
    check(info.rxdid == 0 or info.rxdid in rxdids, "descriptor format %d", info.rxdid)
    check(not info.splithdr_enabled, "header split")
    check(not info.crc_disable or Cap.CRC in vf.caps, "crc_disable without CRC granted")
    return QueueSetup(
        base=info.dma_ring_addr,
        length=info.ring_len,
        buffer_size=info.databuffer_size,
        max_packet=info.max_pkt_size,
        crc_disable=bool(info.crc_disable),
        rxdid=info.rxdid,
        # Hardware's PF does not refuse the flag where it means nothing.
        timestamps=bool(info.flags & RX_TIMESTAMPS)
        and Cap.PTP in vf.caps
        and Cap.RX_FLEX_DESC in vf.caps,
    )


@handler(Op.GET_SUPPORTED_RXDIDS, gate=Cap.RX_FLEX_DESC)
def get_supported_rxdids(vf: Vf, payload: bytes) -> Answer:
    """The legacy format is among them: drivers go back to it."""
    return Answer(Rxdids(supported=sum(1 << rxdid for rxdid in RXDIDS)).pack())


@handler(Op.CONFIG_VSI_QUEUES)
def config_vsi_queues(vf: Vf, payload: bytes) -> Answer:
    """Pairs that the message does not list keep what they have."""
    head = VsiQueuesHead.unpack(payload)
    check_vsi(head.vsi_id)
    check(0 < head.num_queue_pairs <= vf.queue_pairs, "%d pairs", head.num_queue_pairs)
    pairs = []
    for i in range(head.num_queue_pairs):
        offset = VsiQueuesHead.SIZE + i * PAIR
        tx = TxQueueInfo.unpack(payload, offset)
        rx = RxQueueInfo.unpack(payload, offset + TxQueueInfo.SIZE)
        pairs.append((tx.queue_id, tx_setup(vf, tx), rx.queue_id, rx_setup(vf, rx)))
    for tx_id, tx_ring, rx_id, rx_ring in pairs:
        vf.set_tx(tx_id, tx_ring)
        vf.set_rx(rx_id, rx_ring)
    return OK


@handler(Op.CONFIG_TX_QUEUE)
def config_tx_queue(vf: Vf, payload: bytes) -> Answer:
    """One transmit queue."""
    info = TxQueueInfo.unpack(payload)
    vf.set_tx(info.queue_id, tx_setup(vf, info))
    return OK


@handler(Op.CONFIG_RX_QUEUE)
def config_rx_queue(vf: Vf, payload: bytes) -> Answer:
    """One receive queue."""
    info = RxQueueInfo.unpack(payload)
    vf.set_rx(info.queue_id, rx_setup(vf, info))
    return OK


@handler(Op.CONFIG_IRQ_MAP)
def config_irq_map(vf: Vf, payload: bytes) -> Answer:
    """Comes before queues are configured and is not repeated; vector 0 and empty maps are fine."""
    head = IrqMapHead.unpack(payload)
    entries = elements(VectorMap, payload, head.num_vectors, IrqMapHead.SIZE)
    for entry in entries:
        check_vsi(entry.vsi_id)
        check(entry.vector_id < vf.max_vectors, "vector %d", entry.vector_id)
        check_queues(vf, entry.rxq_map, entry.txq_map)
    for entry in entries:
        for queue in range(vf.queue_pairs):
            if entry.rxq_map >> queue & 1:
                vf.map_vector(True, queue, entry.vector_id, entry.rxitr_idx)
            if entry.txq_map >> queue & 1:
                vf.map_vector(False, queue, entry.vector_id, entry.txitr_idx)
    return OK


def check_queues(vf: Vf, rx: int, tx: int) -> None:
    """Refuse bit sets with queues that there are not."""
    check((rx | tx) >> vf.queue_pairs == 0, "queues %#x and %#x", rx, tx)


def read_sets(vf: Vf, payload: bytes) -> tuple[int, int]:
    """The queues that ENABLE_QUEUES or DISABLE_QUEUES names: bit sets, of RX and of TX queues."""
    select = QueueSelect.unpack(payload)
    check_vsi(select.vsi_id)
    check_queues(vf, select.rx_queues, select.tx_queues)
    check(select.rx_queues or select.tx_queues, "no queue")
    return select.rx_queues, select.tx_queues


def enable_sets(vf: Vf, rx: int, tx: int) -> Answer:
    """Enable bit sets of queues.

    The link event follows the reply, each time: without it there is no carrier.

    Raises:
        Refused: One of them is not configured; none is enabled then.
    """
    for queue in range(vf.queue_pairs):
        ready = not rx >> queue & 1 or queue in vf.state.rx
        check(ready, "RX queue %d is not configured", queue)
        ready = not tx >> queue & 1 or queue in vf.state.tx
        check(ready, "TX queue %d is not configured", queue)
    vf.enable(rx, tx)
    return Answer(then=vf.send_link_if_up)


@handler(Op.ENABLE_QUEUES)
def enable_queues(vf: Vf, payload: bytes) -> Answer:
    """All of them or none."""
    rx, tx = read_sets(vf, payload)
    return enable_sets(vf, rx, tx)


@handler(Op.DISABLE_QUEUES)
def disable_queues(vf: Vf, payload: bytes) -> Answer:
    """With the reply the driver frees the memory; disabling a disabled queue succeeds."""
    rx, tx = read_sets(vf, payload)
    vf.disable(rx, tx)
    return OK


@handler(Op.REQUEST_QUEUES, gate=Cap.REQ_QUEUES)
def request_queues(vf: Vf, payload: bytes) -> Answer:
    """Another number of queue pairs: granted by a reset without a reply, else told the most."""
    wanted = RequestQueues.unpack(payload).num_queue_pairs
    check(wanted > 0, "0 queue pairs")
    if wanted > vf.most_pairs:
        return Answer(RequestQueues(num_queue_pairs=vf.most_pairs).pack())
    return Answer(silent=True, then=lambda: vf.want_queue_pairs(wanted))
