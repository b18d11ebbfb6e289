"""Flow director: rules that steer, drop and mark received frames. Source: avf.md section 4.9.

Linux makes them of `ethtool -N` and `tc u32`, DPDK of rte_flow.
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
    name="flow director rule",
    kind=RuleKind.FDIR,
    # enum virtchnl_fdir_prgm_status
    status={
        Outcome.OK: 0,
        Outcome.NO_RESOURCE: 1,
        Outcome.EXISTS: 2,
        Outcome.CONFLICT: 3,
        Outcome.NONEXISTENT: 4,
        Outcome.INVALID: 5,
    },
    places=(
        ActionType.DROP,
        ActionType.PASSTHRU,
        ActionType.QUEUE,
        ActionType.QUEUE_REGION,
    ),
)
#: Flow director rules come before all others.
PRIORITY: Final = 0


@handler(Op.ADD_FDIR_FILTER, gate=Cap.FDIR_PF)
def add_fdir_filter(vf: Vf, payload: bytes) -> Answer:
    """Add a rule, or find out whether it could be."""
    request = FlowRequest.unpack(payload)
    return RULES.add(vf, request, PRIORITY, try_only=bool(request.options))


@handler(Op.DEL_FDIR_FILTER, gate=Cap.FDIR_PF)
def del_fdir_filter(vf: Vf, payload: bytes) -> Answer:
    """Delete a rule by its flow id."""
    return RULES.delete(vf, payload)
