"""Flow subscription: frames that the guest receives whatever their addresses are.

DPDK makes these rules of rte_flow. They come after those of the flow director, by priority.
Source: avf.md sections 4.3 and 4.9 (virtchnl.h, struct virtchnl_flow_sub).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..flow_rules import RuleKind
from .flows import ActionType, FlowRequest, Outcome, RuleGroup
from .handlers import Answer, handler
from .opcodes import Cap, Op

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

RULES: Final = RuleGroup(
    name="flow subscription",
    kind=RuleKind.SUBSCRIPTION,
    # enum virtchnl_fsub_prgm_status; it has none for a conflict
    status={
        Outcome.OK: 0,
        Outcome.NO_RESOURCE: 1,
        Outcome.EXISTS: 2,
        Outcome.CONFLICT: 2,
        Outcome.NONEXISTENT: 3,
        Outcome.INVALID: 4,
    },
    places=(ActionType.QUEUE, ActionType.QUEUE_REGION),
    # DPDK leaves the number of a drop, 0, where it means "to this port".
    implied=(ActionType.DROP, ActionType.PASSTHRU),
)
#: Priority number of the first of them.
FIRST: Final = 0x100


@handler(Op.FLOW_SUBSCRIBE, gate=Cap.FSUB_PF)
def flow_subscribe(vf: Vf, payload: bytes) -> Answer:
    """Add a rule, or find out whether it could be."""
    request = FlowRequest.unpack(payload)
    priority = FIRST + (request.options >> 8)
    return RULES.add(vf, request, priority, try_only=bool(request.options & 0xFF))


@handler(Op.FLOW_UNSUBSCRIBE, gate=Cap.FSUB_PF)
def flow_unsubscribe(vf: Vf, payload: bytes) -> Answer:
    """Delete a rule by its flow id."""
    return RULES.delete(vf, payload)
