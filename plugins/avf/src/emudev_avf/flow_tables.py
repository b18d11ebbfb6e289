"""Looking up the rule of a received frame: tables in words, and the kernel's part.

Rules with the same masks form a shape. For each shape the frame's bits under the masks are brought
together and looked up in an open hash, so that a frame costs as many lookups as there are shapes,
however many rules there are. Without rules all this is one load.

What is found out about the frame lies behind the record of `rx_pieces`, in the port's scratch.
Source: avf.md section 4.9.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import Final

from emudev_net.burst import OUTER_VLAN_PRESENT, VLAN_PRESENT
from emudev_net.jit import inline
from emudev_net.memory import signed
from emudev_net.parse import (
    KIND_IPV4,
    KIND_IPV6,
    OUT_FRAGMENT,
    OUT_KIND,
    OUT_L4,
    OUT_PROTOCOL,
    OUT_TAGS,
)
from emudev_net.primitives import (
    Words,
    copy,
    load16be,
    load64,
    shift_right64,
    store16be,
    store64,
)

from .descriptors import (
    RX_EXT_FD_ID,
    RX_FD_ID_SHIFT,
    RX_FLM,
    RX_FLTSTAT_FD,
    RX_HASH_SHIFT,
)
from .flow_rules import MAX_RULES, Anchor, FlowRule, Match, RuleKind, Shape, shape_of
from .ring_memory import add
from .rx_pieces import (
    F_ACCEPT,
    F_ANCHORS,
    F_FACTS,
    F_FLOW,
    F_HEADER_COPY,
    F_KEY,
    F_LINEAR,
    F_MATCHED,
    F_PARSED,
    F_QWORD0,
    F_QWORD2,
    F_QWORD3,
    F_TAG_FACTS,
    F_TOTAL,
    HEADER_BYTES,
)
from .words import (
    ON,
    P_CLASS0,
    P_RULE_DROPS,
    P_RX_COUNT,
    P_RX_QUEUES,
    Q_ENABLED,
    QUEUE_WORDS,
)

__all__ = ["NO_FLOW", "RuleTable", "confine", "find_rule", "show_flow", "steer", "take_rule"]

#: What a descriptor shows as flow id where no rule has marked the frame.
NO_FLOW: Final = 0xFFFF_FFFF
# `Fate`, in numbers.
FATE_DROP: Final = 1
FATE_QUEUE: Final = 2
FATE_SPREAD: Final = 3
TPID_VLAN: Final = 0x8100
TPID_OUTER: Final = 0x88A8

# A table: the number of shapes, whether any counts from `Anchor.RAW`, then the shapes.
T_SHAPES: Final = 0
T_RAW: Final = 8
T_FIRST: Final = 16
# A shape.
S_FIELDS: Final = 8 * 0  #: number of its fields
S_FACTS: Final = 8 * 1  #: mask of the facts
S_TAGS: Final = 8 * 2  #: mask of the tags
S_MASK: Final = 8 * 3  #: of the hash
S_PLACES: Final = 8 * 4  #: address of the hash: addresses of rules, or 0
S_LIST: Final = 8 * 5  #: address of its fields
SHAPE_WORDS: Final = 8
# A field: where its anchor is in the record, the offset, the offset behind it, the mask.
FIELD: Final = 32
# A rule.
RULE_RANK: Final = 8 * 0  #: lower ones win: priority, then age
RULE_FATE: Final = 8 * 1
RULE_QUEUE: Final = 8 * 2
RULE_COUNT: Final = 8 * 3
RULE_MARK: Final = 8 * 4  #: or `NO_FLOW`
RULE_HITS: Final = 8 * 5  #: address of its counter
RULE_ACCEPT: Final = 8 * 6  #: 1: its frames are received whatever their addresses are
RULE_FACTS: Final = 8 * 7
RULE_TAGS: Final = 8 * 8
RULE_KEY: Final = 8 * 9  #: one word for each field
RULE_WORDS: Final = 9
RANK_NONE: Final = (1 << 62) - 1


@inline
def mix(value: int, word: int) -> int:
    """A number of 30 bits that depends on `value`, one like it, and all bits of a word."""
    value = (value ^ (word & 0xFFFF_FFFF)) * 0x5BD1_E995
    value = (value ^ value >> 29) & 0x3FFF_FFFF
    value = (value ^ shift_right64(word, 32)) * 0x1B87_3593
    return (value ^ value >> 29) & 0x3FFF_FFFF


class RuleTable:
    """The tables of some rules.

    Args:
        rules: The rules, oldest first, as `check_rules` wants them.
        hits: For each rule the address of a word that counts its frames; the caller's.

    Attributes:
        address: For `find_rule`; good while this object lives.
    """

    def __init__(self, rules: Sequence[FlowRule], hits: Sequence[int]) -> None:
        shapes: dict[Shape, list[int]] = {}
        for i, rule in enumerate(rules):
            shapes.setdefault(shape_of(rule.match), []).append(i)
        places = {}
        size = 2 + SHAPE_WORDS * len(shapes)
        for shape, members in shapes.items():
            places[shape] = 4
            while places[shape] < 2 * len(members):
                places[shape] *= 2
            fields = len(shape[2])
            size += places[shape] + 4 * fields + (RULE_WORDS + fields) * len(members)
        self._words = Words(size)
        self.address = self._words.address
        words = array("q", bytes(8 * size))  # quicker to fill, one by one
        words[0] = len(shapes)
        at = 2 + SHAPE_WORDS * len(shapes)  # where the next thing goes
        for i, (shape, members) in enumerate(shapes.items()):
            words[1] |= any(place[0] == Anchor.RAW for place in shape[2])
            mask = places[shape] - 1
            head = [len(shape[2]), signed(shape[0]), signed(shape[1]), mask, 0, self._word(at)]
            for field in rules[members[0]].match.fields:
                line = (16 * field.anchor, field.offset, field.end, signed(field.mask))
                words[at : at + 4] = array("q", line)
                at += 4
            head[S_PLACES // 8] = self._word(at)
            start = 2 + SHAPE_WORDS * i
            words[start : start + len(head)] = array("q", head)
            first = at
            at += places[shape]
            for member in members:
                record = _rule_words(rules[member], member, hits[member])
                place = key_of(rules[member].match)[0] & mask
                while words[first + place]:
                    place = place + 1 & mask
                words[first + place] = self._word(at)
                words[at : at + len(record)] = array("q", record)
                at += len(record)
        self._words.view[:] = memoryview(words)

    def _word(self, index: int) -> int:
        return self.address + 8 * index


@functools.lru_cache(maxsize=4 * MAX_RULES)
def key_of(match: Match) -> tuple[int, tuple[int, ...]]:
    """The hash of a match, and the words that a frame's are compared with."""
    key = tuple(
        signed(word) for word in (match.facts, match.tags, *(f.value for f in match.fields))
    )
    value = 0
    for word in key:
        value = mix(value, word)
    return value, key


def _rule_words(rule: FlowRule, age: int, hits: int) -> tuple[int, ...]:
    action = rule.action
    mark = NO_FLOW if action.mark is None else action.mark
    accept = int(rule.kind == RuleKind.SUBSCRIPTION)
    rank = rule.priority << 16 | age
    head = (rank, action.fate, action.queue, action.count, mark, hits, accept)
    return (*head, *key_of(rule.match)[1])


@inline
def read_facts(frame: int, flags: int, tags: int) -> None:
    """Find out what rules may ask about a parsed frame."""
    header = frame + F_HEADER_COPY
    parsed = frame + F_PARSED
    limit = header + min(load64(frame + F_TOTAL), HEADER_BYTES)
    inside = load64(parsed + 8 * OUT_TAGS)
    kind = load64(parsed + 8 * OUT_KIND)
    l4 = load64(parsed + 8 * OUT_L4)
    facts = load16be(header + 12 + 4 * inside) << 32
    if kind >= KIND_IPV4:
        facts |= (6 if kind >= KIND_IPV6 else 4) | load64(parsed + 8 * OUT_PROTOCOL) << 8
        facts |= load64(parsed + 8 * OUT_FRAGMENT) << 4
        if l4 != 0:
            facts |= 1 << 5
    count = inside
    tpid = 0
    outer = 0
    inner = 0
    if inside > 0:
        tpid = load16be(header + 12)
        outer = load16be(header + 14)
    if inside > 1:
        inner = load16be(header + 18)
    if flags & VLAN_PRESENT:
        inner = outer
        outer = tags & 0xFFFF
        tpid = tags >> 16 & 0xFFFF
        count += 1
        if flags & OUTER_VLAN_PRESENT:
            inner = outer
            outer = shift_right64(tags, 48)
            count += 1
    if count > 1:
        facts |= 7 << 16
        store64(frame + F_TAG_FACTS, outer << 16 | inner)
    elif count == 1 and tpid == TPID_OUTER:
        facts |= 5 << 16
        store64(frame + F_TAG_FACTS, outer << 16)
    else:
        facts |= count * (6 << 16)
        store64(frame + F_TAG_FACTS, outer << 16 | outer)
    store64(frame + F_FACTS, facts)
    anchors = frame + F_ANCHORS
    store64(anchors, header)
    store64(anchors + 8, limit)
    store64(anchors + 16, header)
    store64(anchors + 24, limit)
    store64(anchors + 32, header + 14 + 4 * inside)
    store64(anchors + 40, limit)
    store64(anchors + 48, header + l4 if l4 != 0 else 0)
    store64(anchors + 56, limit)


@inline
def lay_out(frame: int, flags: int, tags: int) -> None:
    """Bring a frame whose tag travels beside it into the order that it has on a wire."""
    header = frame + F_HEADER_COPY
    line = frame + F_LINEAR
    size = min(load64(frame + F_TOTAL), HEADER_BYTES)
    at = line + 12
    copy(line, header, 12)
    if flags & OUTER_VLAN_PRESENT:
        store16be(at, TPID_OUTER)
        store16be(at + 2, shift_right64(tags, 48))
        at += 4
    tpid = tags >> 16 & 0xFFFF
    store16be(at, TPID_VLAN if tpid == 0 else tpid)
    store16be(at + 2, tags & 0xFFFF)
    at += 4
    copy(at, header + 12, size - 12)
    store64(frame + F_ANCHORS + 16, line)
    store64(frame + F_ANCHORS + 24, at + size - 12)


@inline
def same_key(rule: int, frame: int, count: int) -> int:
    """Whether a rule's words are those that were brought together."""
    for i in range(count):
        if load64(rule + RULE_KEY + 8 * i) != load64(frame + F_KEY + 8 * i):
            return 0
    return 1


@inline
def look_up(shape: int, frame: int) -> int:
    """Address of the rule of a shape that matches the frame, or 0."""
    facts = load64(frame + F_FACTS) & load64(shape + S_FACTS)
    tags = load64(frame + F_TAG_FACTS) & load64(shape + S_TAGS)
    value = mix(mix(0, facts), tags)
    count = load64(shape + S_FIELDS)
    field = load64(shape + S_LIST)
    for i in range(count):
        anchor = frame + F_ANCHORS + load64(field)
        base = load64(anchor)
        if base == 0 or base + load64(field + 16) > load64(anchor + 8):
            return 0
        word = load64(base + load64(field + 8)) & load64(field + 24)
        store64(frame + F_KEY + 8 * i, word)
        value = mix(value, word)
        field += FIELD
    mask = load64(shape + S_MASK)
    places = load64(shape + S_PLACES)
    place = value & mask
    for _ in range(mask + 1):
        rule = load64(places + 8 * place)
        if rule == 0:
            return 0
        if (
            load64(rule + RULE_FACTS) == facts
            and load64(rule + RULE_TAGS) == tags
            and same_key(rule, frame, count)
        ):
            return rule
        place = place + 1 & mask
    return 0


@inline
def find_rule(table: int, frame: int, flags: int, tags: int) -> int:
    """Find the rule of a parsed frame.

    Args:
        table: Address of the rule table.
        frame: Address of the frame's record; `F_FLOW` and `F_ACCEPT` are set in it.
        flags: Flags of the frame's first row.
        tags: Its VLAN word.

    Returns:
        Address of the rule that counts, or 0.
    """
    read_facts(frame, flags, tags)
    if load64(table + T_RAW) != 0 and flags & VLAN_PRESENT:
        lay_out(frame, flags, tags)
    best = 0
    rank = RANK_NONE
    for i in range(load64(table + T_SHAPES)):
        rule = look_up(table + T_FIRST + 8 * SHAPE_WORDS * i, frame)
        if rule != 0:
            if load64(rule + RULE_ACCEPT) != 0:
                store64(frame + F_ACCEPT, 1)
            if load64(rule + RULE_RANK) < rank:
                best = rule
                rank = load64(rule + RULE_RANK)
    if best != 0:
        store64(frame + F_FLOW, load64(best + RULE_MARK))
        store64(frame + F_MATCHED, 1)
    return best


@inline
def steer(port: int, rule: int, value: int, queue: int) -> int:
    """The queue of a frame that has a rule.

    Args:
        port: Address of the port's words.
        rule: Address of the rule.
        value: Hash of the frame, or -1.
        queue: Address of the queue's words that the hash has chosen, or 0.

    Returns:
        Address of the queue's words, 0 if it is not enabled.
    """
    fate = load64(rule + RULE_FATE)
    if fate != FATE_QUEUE and fate != FATE_SPREAD:
        return queue
    index = load64(rule + RULE_QUEUE)
    if fate == FATE_SPREAD and value > 0:
        index += value % load64(rule + RULE_COUNT)
    if index >= load64(port + P_RX_COUNT):
        return 0
    queue = load64(port + P_RX_QUEUES) + 8 * QUEUE_WORDS * index
    return queue if load64(queue + Q_ENABLED) == ON else 0


@inline
def confine(port: int, queue: int) -> int:
    """The queue of a frame without a rule where there are traffic classes: one of class 0."""
    first = load64(port + P_RX_QUEUES)
    index = (queue - first) // (8 * QUEUE_WORDS) % load64(port + P_CLASS0)
    queue = first + 8 * QUEUE_WORDS * index
    return queue if load64(queue + Q_ENABLED) == ON else 0


@inline
def show_flow(frame: int, value: int) -> int:
    """Put the flow id of a frame that has a rule into the legacy write-back.

    Args:
        frame: Address of the frame's record.
        value: Hash of the frame, or -1.

    Returns:
        Bits of qword 1.
    """
    mark = load64(frame + F_FLOW)
    if mark == NO_FLOW:
        return RX_FLM
    store64(frame + F_QWORD2, load64(frame + F_QWORD2) | RX_EXT_FD_ID)
    store64(frame + F_QWORD3, mark << RX_FD_ID_SHIFT)
    if value >= 0:
        return RX_FLM
    store64(frame + F_QWORD0, load64(frame + F_QWORD0) | mark << RX_HASH_SHIFT)
    return RX_FLM | RX_FLTSTAT_FD


@inline
def take_rule(port: int, rule: int) -> int:
    """Count a frame of a rule that is for this port; returns 1 if the rule drops it, else 0."""
    hits = load64(rule + RULE_HITS)
    store64(hits, load64(hits) + 1)
    if load64(rule + RULE_FATE) != FATE_DROP:
        return 0
    add(port + P_RULE_DROPS, 1)
    return 1
