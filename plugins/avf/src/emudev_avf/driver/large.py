"""More than 16 queue pairs, from the driver's side: what DPDK does in place of bit sets.

Source: avf.md section 4.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ..virtchnl import messages as m
from ..virtchnl.opcodes import Op, QueueType

if TYPE_CHECKING:
    from .adminq import AdminQueue

__all__ = ["BIT_SET", "PAIRS_PER_MESSAGE", "batches", "map_vectors", "switch_queues"]

#: Queue pairs that the bit sets of CONFIG_IRQ_MAP and ENABLE_QUEUES are used for.
BIT_SET: Final = 16
#: Queue pairs in one CONFIG_VSI_QUEUES.
PAIRS_PER_MESSAGE: Final = 32
#: Elements in one MAP_QUEUE_VECTOR.
MAPS_PER_MESSAGE: Final = 128


def batches(count: int, most: int) -> Iterator[range]:
    """Ranges of at most `most` numbers that make up `range(count)`."""
    for first in range(0, count, most):
        yield range(first, min(first + most, count))


def map_vectors(admin: AdminQueue, vsi: int, vectors: Mapping[int, int]) -> None:
    """Map both queues of each pair to a vector (MAP_QUEUE_VECTOR)."""
    maps = [
        m.QueueVector(queue_id=pair, vector_id=vector, itr_idx=int(kind is QueueType.TX),
                      queue_type=kind)
        for kind in (QueueType.RX, QueueType.TX)
        for pair, vector in vectors.items()
    ]  # fmt: skip
    for batch in batches(len(maps), MAPS_PER_MESSAGE):
        body = m.QueueVectorsHead(vport_id=vsi, num_qv_maps=len(batch)).pack()
        admin.request(Op.MAP_QUEUE_VECTOR, body + b"".join(maps[i].pack() for i in batch))


def switch_queues(admin: AdminQueue, vsi: int, pairs: int, on: bool) -> None:
    """Enable or disable all queues of the first pairs (ENABLE_QUEUES_V2, DISABLE_QUEUES_V2)."""
    body = m.QueueChunksHead(vport_id=vsi, num_chunks=2).pack()
    for kind in (QueueType.TX, QueueType.RX):
        body += m.QueueChunk(type=kind, start_queue_id=0, num_queues=pairs).pack()
    admin.request(Op.ENABLE_QUEUES_V2 if on else Op.DISABLE_QUEUES_V2, body)
