"""Quality of service: one traffic class, and limits of what queues send.

The port has one traffic class with all priorities, so queues are served alike. A queue's peak rate
is kept (`shaper`). A committed rate is refused: a backend takes what it can, and nothing here could
keep the promise. How many bytes a queue sends in a turn (the quanta) is a hint to a scheduler of
hardware; it is checked and has no effect.

Source: avf.md section 4.10 (virtchnl.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..shaper import MAX_RATE
from .base import check_queue, check_vsi
from .handlers import OK, Answer, check, elements, handler
from .large import queue_sets
from .limits import VSI_ID
from .messages import (
    QosCap,
    QosCapsHead,
    Quanta,
    QueueBandwidth,
    QueueBandwidthHead,
    QueueChunk,
    TcMapHead,
    TcPriorities,
    TcQueues,
)
from .opcodes import Cap, Op, QueueType

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

#: The traffic class that there is.
TC: Final = 0
#: Bit set of the 8 user priorities that it has: all.
ALL_PRIORITIES: Final = 0xFF
#: Weight of a class under strict arbitration.
STRICT_WEIGHT: Final = 1
QUANTA_UNIT: Final = 64
MIN_QUANTA: Final = 256
MAX_QUANTA: Final = 4096


@handler(Op.GET_QOS_CAPS, gate=Cap.QOS)
def get_qos_caps(vf: Vf, payload: bytes) -> Answer:
    """One class of strict arbitration; the peak is the speed of the link."""
    cap = QosCap(
        tc_num=TC,
        tc_prio=ALL_PRIORITIES,
        weight=STRICT_WEIGHT,
        committed=0,
        peak=min(vf.speed * 1000, MAX_RATE),
    )
    return Answer(QosCapsHead(vsi_id=VSI_ID, num_elem=1).pack() + cap.pack())


@handler(Op.CONFIG_QUEUE_TC_MAP, gate=Cap.QOS)
def config_queue_tc_map(vf: Vf, payload: bytes) -> Answer:
    """All queues are in the one class; the reply tells its priorities."""
    head = TcMapHead.unpack(payload)
    check_vsi(head.vsi_id)
    check(head.num_tc == 1, "%d traffic classes, there is one", head.num_tc)
    (queues,) = elements(TcQueues, payload, head.num_tc, TcMapHead.SIZE)
    check(
        0 < head.num_queue_pairs <= vf.queue_pairs
        and queues.start_queue_id == 0
        and queues.queue_count == head.num_queue_pairs,
        "queues from %d on, %d of %d",
        queues.start_queue_id,
        queues.queue_count,
        head.num_queue_pairs,
    )
    reply = TcPriorities(prio_type=0, valid_prio_bitmap=ALL_PRIORITIES)
    return Answer(head.pack() + reply.pack())


@handler(Op.CONFIG_QUEUE_BW, gate=Cap.QOS)
def config_queue_bw(vf: Vf, payload: bytes) -> Answer:
    """Limits of transmit queues; queues that are not listed keep theirs, a peak of 0 is none."""
    head = QueueBandwidthHead.unpack(payload)
    check_vsi(head.vsi_id)
    limits = elements(QueueBandwidth, payload, head.num_queues, QueueBandwidthHead.SIZE)
    for limit in limits:
        check_queue(vf, limit.queue_id)
        check(limit.tc == TC, "traffic class %d", limit.tc)
        check(limit.committed == 0, "%d kbit/s committed, nothing can be promised", limit.committed)
        check(limit.peak <= MAX_RATE, "a peak of %d kbit/s", limit.peak)
    for limit in limits:
        vf.limit_queue(limit.queue_id, limit.peak)
    return OK


@handler(Op.CONFIG_QUANTA, gate=Cap.QOS)
def config_quanta(vf: Vf, payload: bytes) -> Answer:
    """Checked; see the module."""
    asked = Quanta.unpack(payload)
    check(
        MIN_QUANTA <= asked.quanta_size <= MAX_QUANTA and asked.quanta_size % QUANTA_UNIT == 0,
        "%d bytes a turn, expected a multiple of %d from %d to %d",
        asked.quanta_size,
        QUANTA_UNIT,
        MIN_QUANTA,
        MAX_QUANTA,
    )
    check(asked.type == QueueType.TX, "queues of type %d", asked.type)
    queue_sets(
        vf,
        [
            QueueChunk(
                type=asked.type,
                start_queue_id=asked.start_queue_id,
                num_queues=asked.num_queues,
            )
        ],
    )
    return OK
