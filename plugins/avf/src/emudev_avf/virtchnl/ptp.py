"""The clock that a guest can read. Source: avf.md sections 4.5 and 4.10 (virtchnl.h).

It can be read, and received frames say when they came by it, in queues whose configuration asks for
that. No more: frames that the guest sends get no timestamps, nothing sets or steers the clock, and
no register shows it. What asks for one of these (opcodes 62 to 65) is not supported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .handlers import Answer, handler
from .messages import PhcTime, PtpCaps, PtpCapsBehindRegs
from .opcodes import Cap, Op, PtpCap

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []


def offer(vf: Vf) -> PtpCap:
    """What can be granted: only flexible descriptors have room for timestamps."""
    if Cap.RX_FLEX_DESC in vf.caps:
        return PtpCap.READ_PHC | PtpCap.RX_TIMESTAMP
    return PtpCap.READ_PHC


@handler(Op.PTP_GET_CAPS, gate=Cap.PTP)
def ptp_get_caps(vf: Vf, payload: bytes) -> Answer:
    """Grants what is wanted and offered. Must succeed: DPDK gives up if it fails.

    The message has two layouts of one size, told apart by the flags of the second. Linux sends
    zero in that place. DPDK always sets them, and leaves whatever was on its stack in the place of
    the first: that must not be looked at.
    """
    behind = PtpCapsBehindRegs.unpack(payload)
    if behind.caps:
        return Answer(PtpCapsBehindRegs(caps=behind.caps & offer(vf)).pack())
    return Answer(PtpCaps(caps=PtpCaps.unpack(payload).caps & offer(vf)).pack())


@handler(Op.PTP_GET_TIME, gate=Cap.PTP)
def ptp_get_time(vf: Vf, payload: bytes) -> Answer:
    """The clock of the VF, as late as it can be read."""
    PhcTime.unpack(payload)
    return Answer(PhcTime(time=vf.clock()).pack())
