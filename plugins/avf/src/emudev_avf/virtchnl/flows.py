"""What requests about flow rules have in common: their form, actions, what is done and replied.

ADD_FDIR_FILTER and FLOW_SUBSCRIBE have the same layout. Whatever is wrong with a rule is said in
the reply's own status, with the status of the message being success: drivers look at both.

Source: avf.md section 4.9 (virtchnl.h).
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from emudev_core.errors import DecodeError
from emudev_core.wire import Wire, raw, s32, u8, u16, u32, wire

from ..flow_patterns import build_match
from ..flow_rules import (
    MAX_RULES,
    MAX_SHAPES,
    Action,
    Fate,
    FlowRule,
    Match,
    PatternError,
    RuleKind,
    shape_of,
)
from .base import check_vsi
from .handlers import Answer
from .messages import FlowDelete
from .proto_hdrs import HEADERS_SIZE, ProtoHeaders

if TYPE_CHECKING:
    from ..vf import Vf

__all__ = [
    "ActionType",
    "FlowFault",
    "FlowRequest",
    "Outcome",
    "RuleGroup",
    "delete_rule",
    "insert_rule",
]

log = logging.getLogger(__name__)

#: Most actions of a rule.
MAX_ACTIONS: Final = 8
#: Bytes of a request to add a rule, and of its reply.
ADD_SIZE: Final = 8 + HEADERS_SIZE + 4 + 36 * MAX_ACTIONS + 4


class ActionType(enum.IntEnum):
    """What becomes of a frame."""

    DROP = 0
    TC_REDIRECT = 1
    PASSTHRU = 2
    QUEUE = 3
    QUEUE_REGION = 4
    MARK = 5
    COUNT = 6


class Outcome(enum.Enum):
    """What became of a request; each group of requests has numbers of its own for them."""

    OK = enum.auto()
    NO_RESOURCE = enum.auto()
    EXISTS = enum.auto()
    CONFLICT = enum.auto()
    NONEXISTENT = enum.auto()
    INVALID = enum.auto()


class FlowFault(Exception):
    """A rule that is not added, or not deleted; never leaves the handlers.

    Args:
        outcome: Why.
        reason: For the log.
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


@wire(size=36)
class _Action(Wire):
    type: int = s32("an ActionType")
    conf: bytes = raw(32, "a queue, a mark, or a counter")


@wire(size=4)
class _Queue(Wire):
    index: int = u16("the queue, or the first of the region")
    region: int = u8("the region has 2 to this power queues")
    pad1: int = u8("zero")


@wire(size=4)
class _Mark(Wire):
    id: int = u32("what the descriptor shows")


@attrs.frozen
class FlowRequest:
    """A request to add a rule; `FlowRequest.unpack` takes it apart as far as its size says.

    Attributes:
        vsi: The VSI.
        options: 16 bits that the two requests use differently.
        payload: All of it.
    """

    vsi: int
    options: int
    payload: bytes

    @classmethod
    def unpack(cls, payload: bytes) -> FlowRequest:
        """Take the head.

        Raises:
            DecodeError: It is too short.
        """
        if len(payload) < ADD_SIZE:
            raise DecodeError(f"a flow rule needs {ADD_SIZE} bytes, {len(payload)} came")
        vsi, options = (int.from_bytes(payload[i : i + 2], "little") for i in (0, 2))
        return cls(vsi, options, payload[:ADD_SIZE])

    def headers(self) -> ProtoHeaders:
        """The protocol headers.

        Raises:
            FlowFault: They are malformed.
        """
        try:
            return ProtoHeaders.unpack(self.payload, 8)
        except DecodeError as exc:
            raise FlowFault(Outcome.INVALID, str(exc)) from exc

    def action(
        self, queues: int, allowed: Iterable[ActionType], *, implied: Iterable[ActionType] = ()
    ) -> Action:
        """What becomes of the frames: one place to go, and at most one mark and one counter.

        Args:
            queues: Number of queues that the guest may use.
            allowed: Which places.
            implied: Actions that say no more than that the guest gets the frames, which may be said
                once beside a place, or instead of one, or not at all; none: a place has to be said.

        Raises:
            FlowFault: Anything else.
        """
        implied = set(implied)
        at = 8 + HEADERS_SIZE
        count = int.from_bytes(self.payload[at : at + 4], "little")
        if not (0 if implied else 1) <= count <= MAX_ACTIONS:
            raise FlowFault(Outcome.INVALID, f"{count} actions")
        found: dict[int, bytes] = {}
        places = []
        for action in _Action.unpack_many(self.payload, count, at + 4):
            if action.type in found:
                raise FlowFault(Outcome.INVALID, f"two actions of type {action.type}")
            found[action.type] = action.conf
            if action.type not in {ActionType.MARK, ActionType.COUNT, *implied}:
                places.append(action.type)
        if not places and implied:
            places.append(ActionType.PASSTHRU)
            found[ActionType.PASSTHRU] = b""
        if len(places) != 1 or places[0] not in {*allowed, *implied}:
            raise FlowFault(Outcome.INVALID, f"actions {sorted(found)}")
        made = _destination(ActionType(places[0]), found[places[0]], queues)
        if ActionType.MARK in found:
            made = attrs.evolve(made, mark=_Mark.unpack(found[ActionType.MARK]).id)
        return made

    def reply(self, flow_id: int, status: int) -> bytes:
        """The reply: the request, with the flow id and the status."""
        data = bytearray(self.payload)
        data[4:8] = flow_id.to_bytes(4, "little")
        data[-4:] = status.to_bytes(4, "little")
        return bytes(data)


def _destination(place: ActionType, conf: bytes, queues: int) -> Action:
    """The place of an action."""
    if place == ActionType.DROP:
        return Action(Fate.DROP)
    if place == ActionType.PASSTHRU:
        return Action(Fate.PASS)
    queue = _Queue.unpack(conf)
    count = 1 << queue.region if place == ActionType.QUEUE_REGION else 1
    if queue.index + count > queues:
        raise FlowFault(
            Outcome.INVALID, f"{count} queues from {queue.index} on, there are {queues}"
        )
    if place == ActionType.QUEUE_REGION:
        return Action(Fate.SPREAD, queue.index, count)
    return Action(Fate.QUEUE, queue.index)


@attrs.frozen(kw_only=True)
class RuleGroup:
    """A group of requests about rules: one that adds a rule, and one that deletes it.

    Attributes:
        name: Of its rules, for the log.
        kind: Of its rules.
        status: The number of each outcome in a reply.
        places: Where its rules may send frames.
        implied: See `FlowRequest.action`.
    """

    name: str
    kind: RuleKind
    status: Mapping[Outcome, int]
    places: tuple[ActionType, ...]
    implied: tuple[ActionType, ...] = ()

    def add(self, vf: Vf, request: FlowRequest, priority: int, *, try_only: bool) -> Answer:
        """Add a rule of the guest's.

        Args:
            vf: The VF.
            request: Which frames, and what becomes of them.
            priority: See `FlowRule`.
            try_only: Find out whether it could be added, and leave all as it is.
        """
        check_vsi(request.vsi)
        try:
            headers = request.headers()
            action = request.action(vf.queue_pairs, self.places, implied=self.implied)
            match = _match(headers)
            number = insert_rule(vf, self.kind, priority, match, action, try_only=try_only)
        except FlowFault as fault:
            log.debug("%s not added: %s", self.name, fault)
            return Answer(request.reply(0, self.status[fault.outcome]))
        return Answer(request.reply(0 if try_only else number, self.status[Outcome.OK]))

    def delete(self, vf: Vf, payload: bytes) -> Answer:
        """Delete a rule by its flow id."""
        request = FlowDelete.unpack(payload)
        check_vsi(request.vsi_id)
        outcome = Outcome.OK
        try:
            delete_rule(vf, self.kind, request.flow_id)
        except FlowFault as fault:
            outcome = fault.outcome
        return Answer(request.replace(status=self.status[outcome]).pack())


def _match(headers: ProtoHeaders) -> Match:
    """Which frames a rule is for."""
    try:
        return build_match(headers)
    except PatternError as exc:
        raise FlowFault(Outcome.INVALID, str(exc)) from exc


def insert_rule(
    vf: Vf,
    kind: RuleKind,
    priority: int,
    match: Match,
    action: Action,
    *,
    try_only: bool = False,
) -> int:
    """Add a rule of the guest's.

    Args:
        vf: The VF.
        kind: Which requests it comes from.
        priority: See `FlowRule`.
        match: Which frames.
        action: What becomes of them.
        try_only: Find out whether it could be added, and leave all as it is.

    Returns:
        Its flow id.

    Raises:
        FlowFault: It was not added.
    """
    rules = vf.state.rules
    for rule in rules:
        if (rule.kind, rule.priority, rule.match) == (kind, priority, match):
            outcome = Outcome.EXISTS if rule.action == action else Outcome.CONFLICT
            raise FlowFault(outcome, f"rule {rule.id} is for the same frames")
    if len(rules) >= MAX_RULES:
        raise FlowFault(Outcome.NO_RESOURCE, f"there are {MAX_RULES} rules")
    shape = shape_of(match)
    known = any(shape_of(rule.match) == shape for rule in rules)
    if not known and len({shape_of(rule.match) for rule in rules}) >= MAX_SHAPES:
        raise FlowFault(Outcome.NO_RESOURCE, f"rules of {MAX_SHAPES} different masks")
    used = {rule.id for rule in rules if rule.kind == kind}
    number = next(i for i in range(1, MAX_RULES + 1) if i not in used)
    if not try_only:
        rules.append(FlowRule(number, kind, priority, match, action))
        vf.show_rules()
    return number


def delete_rule(vf: Vf, kind: RuleKind, number: int) -> None:
    """Delete a rule of the guest's.

    Raises:
        FlowFault: There is no such rule.
    """
    for rule in vf.state.rules:
        if (rule.kind, rule.id) == (kind, number):
            vf.state.rules.remove(rule)
            vf.show_rules()
            return
    raise FlowFault(Outcome.NONEXISTENT, f"there is no rule {number}")
