"""Application device queues: traffic classes with queues of their own, and filters that choose one.

A class is a row of queue pairs; what its transmit queues send together may be limited. A received
frame goes to the class of the filter that matches it, and without one to class 0. Linux makes the
classes of `tc qdisc ... mqprio ... hw 1 mode channel` and the filters of `tc filter ... flower ...
hw_tc`.

Both requests about classes are answered with a reset, as the driver expects: it stops its queues
and lets the reset start them. So the classes outlive resets; a driver that begins anew, with
VERSION, has none.

Source: avf.md sections 4.3 and 4.9 (virtchnl.h, struct virtchnl_tc_info and virtchnl_filter).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from emudev_core.wire import Wire, raw, s32, u8, u16, u32, u64, wire

from ..flow_rules import MAX_RULES, Action, Anchor, Fact, Fate, Match, MatchBuilder, RuleKind
from ..shaper import MAX_RATE
from ..vf import Channel
from .flows import ActionType, FlowFault, delete_rule, insert_rule
from .handlers import OK, Answer, Refused, check, elements, handler
from .opcodes import Cap, Op, Status

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

#: Most classes.
MAX_CLASSES: Final = 4
#: Priority number of cloud filters: behind all others.
PRIORITY: Final = 0x200
KBIT_IN_MBIT: Final = 1000


class FlowType(enum.IntEnum):
    """What a cloud filter's addresses and ports are of."""

    TCP_V4 = 0
    TCP_V6 = 1
    UDP_V4 = 2
    UDP_V6 = 3


@wire(size=8)
class _ClassesHead(Wire):
    num_tc: int = u32("number of classes that follow")
    pad1: int = u32("zero", default=0)


@wire(size=16)
class _Class(Wire):
    count: int = u16("queue pairs")
    offset: int = u16("the first one")
    pad1: int = u32("zero", default=0)
    max_tx_rate: int = u64("Mbit/s of all together; 0 for no limit", default=0)


@wire(size=128)
class _Frame(Wire):
    src_mac: bytes = raw(6, "source address")
    dst_mac: bytes = raw(6, "destination address")
    vlan: bytes = raw(2, "VLAN id, network order")
    pad1: bytes = raw(2, "zero")
    src_ip: bytes = raw(16, "source address; of IPv4 in the first 4 bytes")
    dst_ip: bytes = raw(16, "destination address")
    src_port: bytes = raw(2, "source port, network order")
    dst_port: bytes = raw(2, "destination port, network order")
    reserved: bytes = raw(76, "zero")


@wire(size=16)
class _FilterTail(Wire):
    flow_type: int = s32("a FlowType")
    action: int = s32("an ActionType: TC_REDIRECT")
    action_meta: int = u32("the class")
    field_flags: int = u8("what hardware would match by; the masks say it, too", default=0)
    pad1: bytes = raw(3, "zero", default=bytes(3))


def known_channels(vf: Vf) -> Sequence[Channel]:
    """The classes; none is refused."""
    check(vf.lasting.channels, "there are no classes")
    return vf.lasting.channels


@handler(Op.ENABLE_CHANNELS, gate=Cap.ADQ)
def enable_channels(vf: Vf, payload: bytes) -> Answer:
    """Classes take effect with the reset that answers."""
    head = _ClassesHead.unpack(payload)
    check(1 <= head.num_tc <= MAX_CLASSES, "%d classes, up to %d go", head.num_tc, MAX_CLASSES)
    classes = elements(_Class, payload, head.num_tc, _ClassesHead.SIZE)
    first = 0
    for c in classes:
        check(c.offset == first and c.count > 0, "%d queues from %d on", c.count, c.offset)
        first += c.count
        rate = c.max_tx_rate
        check(
            rate <= min(vf.speed, MAX_RATE // KBIT_IN_MBIT), "%d Mbit/s, more than the link", rate
        )
    check(first <= vf.queue_pairs, "%d queues, there are %d", first, vf.queue_pairs)
    channels = [Channel(c.offset, c.count, c.max_tx_rate * KBIT_IN_MBIT) for c in classes]
    return Answer(silent=True, then=lambda: vf.want_channels(channels))


@handler(Op.DISABLE_CHANNELS, gate=Cap.ADQ)
def disable_channels(vf: Vf, payload: bytes) -> Answer:
    """No classes, with the reset that answers."""
    known_channels(vf)
    return Answer(silent=True, then=lambda: vf.want_channels([]))


@handler(Op.ADD_CLOUD_FILTER, gate=Cap.ADQ)
def add_cloud_filter(vf: Vf, payload: bytes) -> Answer:
    """Frames of a filter go to the queues of its class."""
    match, tail = _filter(payload)
    channels = known_channels(vf)
    check(tail.action == ActionType.TC_REDIRECT, "action %d", tail.action)
    check(tail.action_meta < len(channels), "class %d of %d", tail.action_meta, len(channels))
    channel = channels[tail.action_meta]
    action = Action(Fate.SPREAD, channel.offset, channel.count)
    try:
        insert_rule(vf, RuleKind.CLOUD, PRIORITY, match, action)
    except FlowFault as fault:
        full = len(vf.state.rules) >= MAX_RULES
        status = Status.ERR_NO_MEMORY if full else Status.ERR_PARAM
        raise Refused(status, str(fault)) from fault
    return OK


@handler(Op.DEL_CLOUD_FILTER, gate=Cap.ADQ)
def del_cloud_filter(vf: Vf, payload: bytes) -> Answer:
    """A filter is named by what it matches."""
    match, _ = _filter(payload)
    for rule in vf.state.rules:
        if rule.kind == RuleKind.CLOUD and rule.match == match:
            delete_rule(vf, RuleKind.CLOUD, rule.id)
            return OK
    raise Refused(Status.ERR_PARAM, "there is no such filter")


def _filter(payload: bytes) -> tuple[Match, _FilterTail]:
    """What a filter matches, and what comes behind it."""
    spec, mask = _Frame.unpack(payload), _Frame.unpack(payload, _Frame.SIZE)
    tail = _FilterTail.unpack(payload, 2 * _Frame.SIZE)
    check(tail.flow_type in list(FlowType), "flow type %d", tail.flow_type)
    v6 = tail.flow_type in (FlowType.TCP_V6, FlowType.UDP_V6)
    builder = MatchBuilder()
    builder.octets(Anchor.FRAME, 0, spec.dst_mac, mask.dst_mac)
    builder.octets(Anchor.FRAME, 6, spec.src_mac, mask.src_mac)
    vlan = int.from_bytes(mask.vlan, "big") & 0xFFF
    if vlan:
        builder.tag(False, int.from_bytes(spec.vlan, "big"), vlan)
    addresses = mask.src_ip + mask.dst_ip
    ports = mask.src_port + mask.dst_port
    if any(addresses) or any(ports):
        builder.fact(Fact.IP_VERSION, 6 if v6 else 4)
    size, source, target = (16, 8, 24) if v6 else (4, 12, 16)
    builder.octets(Anchor.L3, source, spec.src_ip[:size], mask.src_ip[:size])
    builder.octets(Anchor.L3, target, spec.dst_ip[:size], mask.dst_ip[:size])
    if any(ports):
        tcp = tail.flow_type in (FlowType.TCP_V4, FlowType.TCP_V6)
        builder.fact(Fact.PROTOCOL, 6 if tcp else 17)
        builder.fact(Fact.FRAGMENT, 0)
        builder.fact(Fact.HAS_L4, 1)
        builder.octets(Anchor.L4, 0, spec.src_port + spec.dst_port, ports)
    return builder.build(), tail
