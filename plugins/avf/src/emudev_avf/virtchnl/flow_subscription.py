"""Flow subscription: frames that the guest receives whatever their addresses are.

DPDK makes these rules of rte_flow. They come after those of the flow director, by priority.
Source: avf.md sections 4.3 and 4.9 (virtchnl.h, struct virtchnl_flow_sub).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ..flow_rules import RuleKind
from .base import check_vsi
from .flows import ActionType, FlowFault, FlowRequest, Outcome, add_rule, delete_rule
from .handlers import Answer, handler
from .messages import FlowDelete
from .opcodes import Cap, Op

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

log = logging.getLogger(__name__)

#: enum virtchnl_fsub_prgm_status; it has none for a conflict.
STATUS: Final = {
    Outcome.OK: 0,
    Outcome.NO_RESOURCE: 1,
    Outcome.EXISTS: 2,
    Outcome.CONFLICT: 2,
    Outcome.NONEXISTENT: 3,
    Outcome.INVALID: 4,
}
PLACES: Final = (ActionType.QUEUE, ActionType.QUEUE_REGION)
#: DPDK leaves the number of a drop, 0, where it means "to this port".
IMPLIED: Final = (ActionType.DROP, ActionType.PASSTHRU)
#: Priority number of the first of them.
FIRST: Final = 0x100


@handler(Op.FLOW_SUBSCRIBE, gate=Cap.FSUB_PF)
def flow_subscribe(vf: Vf, payload: bytes) -> Answer:
    """Add a rule, or find out whether it could be."""
    request = FlowRequest.unpack(payload)
    check_vsi(request.vsi)
    try_only = bool(request.options & 0xFF)
    try:
        headers = request.headers()
        action = request.action(vf.queue_pairs, PLACES, implied=IMPLIED)
        priority = FIRST + (request.options >> 8)
        number = add_rule(vf, RuleKind.SUBSCRIPTION, priority, headers, action, try_only=try_only)
    except FlowFault as fault:
        log.debug("flow subscription not added: %s", fault)
        return Answer(request.reply(0, STATUS[fault.outcome]))
    return Answer(request.reply(0 if try_only else number, STATUS[Outcome.OK]))


@handler(Op.FLOW_UNSUBSCRIBE, gate=Cap.FSUB_PF)
def flow_unsubscribe(vf: Vf, payload: bytes) -> Answer:
    """Delete a rule by its flow id."""
    request = FlowDelete.unpack(payload)
    check_vsi(request.vsi_id)
    try:
        delete_rule(vf, RuleKind.SUBSCRIPTION, request.flow_id)
    except FlowFault as fault:
        return Answer(request.replace(status=STATUS[fault.outcome]).pack())
    return Answer(request.replace(status=STATUS[Outcome.OK]).pack())
