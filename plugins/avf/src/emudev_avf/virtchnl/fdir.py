"""Flow director: rules that steer, drop and mark received frames. Source: avf.md section 4.9.

Linux makes them of `ethtool -N` and `tc u32`, DPDK of rte_flow.
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

#: enum virtchnl_fdir_prgm_status.
STATUS: Final = {
    Outcome.OK: 0,
    Outcome.NO_RESOURCE: 1,
    Outcome.EXISTS: 2,
    Outcome.CONFLICT: 3,
    Outcome.NONEXISTENT: 4,
    Outcome.INVALID: 5,
}
PLACES: Final = (
    ActionType.DROP,
    ActionType.PASSTHRU,
    ActionType.QUEUE,
    ActionType.QUEUE_REGION,
)
#: Flow director rules come before all others.
PRIORITY: Final = 0


@handler(Op.ADD_FDIR_FILTER, gate=Cap.FDIR_PF)
def add_fdir_filter(vf: Vf, payload: bytes) -> Answer:
    """Add a rule, or find out whether it could be."""
    request = FlowRequest.unpack(payload)
    check_vsi(request.vsi)
    try:
        headers = request.headers()
        action = request.action(vf.queue_pairs, PLACES)
        number = add_rule(
            vf, RuleKind.FDIR, PRIORITY, headers, action, try_only=bool(request.options)
        )
    except FlowFault as fault:
        log.debug("flow director rule not added: %s", fault)
        return Answer(request.reply(0, STATUS[fault.outcome]))
    return Answer(request.reply(0 if request.options else number, STATUS[Outcome.OK]))


@handler(Op.DEL_FDIR_FILTER, gate=Cap.FDIR_PF)
def del_fdir_filter(vf: Vf, payload: bytes) -> Answer:
    """Delete a rule by its flow id."""
    request = FlowDelete.unpack(payload)
    check_vsi(request.vsi_id)
    try:
        delete_rule(vf, RuleKind.FDIR, request.flow_id)
    except FlowFault as fault:
        return Answer(request.replace(status=STATUS[fault.outcome]).pack())
    return Answer(request.replace(status=STATUS[Outcome.OK]).pack())
