"""More than 16 queue pairs: queues by ranges, vectors by queue, the hash's region.

A driver asks for them by REQUEST_QUEUES, which is in `queues`. One without LARGE_NUM_QPAIRS sees
`DEFAULT_PAIRS` at most. Source: avf.md section 4.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import check_queue, check_vsi
from .handlers import OK, Answer, check, elements, handler
from .limits import VSI_ID
from .messages import (
    QueueChunk,
    QueueChunksHead,
    QueueVector,
    QueueVectorsHead,
    RssRegion,
)
from .opcodes import Cap, Op, QueueType
from .queues import enable_sets

if TYPE_CHECKING:
    from ..vf import Vf

__all__ = ["queue_sets"]


def queue_sets(vf: Vf, chunks: list[QueueChunk]) -> tuple[int, int]:
    """The bit sets of the receive and of the transmit queues of ranges.

    Raises:
        Refused: An empty range, another type, or queues that there are not.
    """
    rx = tx = 0
    for chunk in chunks:
        check(chunk.type in (QueueType.TX, QueueType.RX), "queues of type %d", chunk.type)
        end = chunk.start_queue_id + chunk.num_queues
        check(
            chunk.num_queues > 0 and end <= vf.queue_pairs,
            "queues %d to %d of %d",
            chunk.start_queue_id,
            end - 1,
            vf.queue_pairs,
        )
        mask = (1 << chunk.num_queues) - 1 << chunk.start_queue_id
        if chunk.type == QueueType.RX:
            rx |= mask
        else:
            tx |= mask
    return rx, tx


def read_chunks(vf: Vf, payload: bytes) -> tuple[int, int]:
    """The queues that ENABLE_QUEUES_V2 or DISABLE_QUEUES_V2 names."""
    head = QueueChunksHead.unpack(payload)
    check_vsi(head.vport_id)
    chunks = elements(QueueChunk, payload, head.num_chunks, QueueChunksHead.SIZE)
    return queue_sets(vf, chunks)


@handler(Op.ENABLE_QUEUES_V2, gate=Cap.LARGE_NUM_QPAIRS)
def enable_queues_v2(vf: Vf, payload: bytes) -> Answer:
    """As ENABLE_QUEUES, by ranges."""
    rx, tx = read_chunks(vf, payload)
    return enable_sets(vf, rx, tx)


@handler(Op.DISABLE_QUEUES_V2, gate=Cap.LARGE_NUM_QPAIRS)
def disable_queues_v2(vf: Vf, payload: bytes) -> Answer:
    """As DISABLE_QUEUES, by ranges."""
    rx, tx = read_chunks(vf, payload)
    vf.disable(rx, tx)
    return OK


@handler(Op.MAP_QUEUE_VECTOR, gate=Cap.LARGE_NUM_QPAIRS)
def map_queue_vector(vf: Vf, payload: bytes) -> Answer:
    """As CONFIG_IRQ_MAP, queue by queue; those that are not listed keep their vector."""
    head = QueueVectorsHead.unpack(payload)
    check_vsi(head.vport_id)
    entries = elements(QueueVector, payload, head.num_qv_maps, QueueVectorsHead.SIZE)
    for entry in entries:
        check(entry.queue_type in (QueueType.TX, QueueType.RX), "type %d", entry.queue_type)
        check_queue(vf, entry.queue_id)
        check(entry.vector_id < vf.max_vectors, "vector %d", entry.vector_id)
    for entry in entries:
        receive = entry.queue_type == QueueType.RX
        vf.map_vector(receive, entry.queue_id, entry.vector_id, entry.itr_idx)
    return OK


@handler(Op.GET_MAX_RSS_QREGION, gate=Cap.LARGE_NUM_QPAIRS)
def get_max_rss_qregion(vf: Vf, payload: bytes) -> Answer:
    """How many queues the table of the hash may name, rounded up to a power of two."""
    width = (vf.queue_pairs - 1).bit_length()
    return Answer(RssRegion(vport_id=VSI_ID, qregion_width=width).pack())
