"""Rules for received frames: which frames, under which masks, and what becomes of them.

A `Match` is a set of equations on the frame: two words of facts that the device has found out about
it (`FACT_*`, its tags), and words of its bytes, counted from an anchor. Whoever takes requests
builds matches with `MatchBuilder`; `flow_tables` looks frames up among them.

Source: avf.md section 4.9.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable
from typing import Final

import attrs

__all__ = [
    "MAX_FIELDS",
    "MAX_RULES",
    "MAX_SHAPES",
    "WINDOW",
    "Action",
    "Anchor",
    "Fact",
    "Fate",
    "Field",
    "FlowRule",
    "Match",
    "MatchBuilder",
    "PatternError",
    "RuleKind",
    "Shape",
    "check_rules",
    "shape_of",
]

#: Most rules of a port; Linux keeps 128 of them.
MAX_RULES: Final = 1024
#: Most different sets of masks: what a frame's lookup costs grows with them, not with the rules.
MAX_SHAPES: Final = 64
#: Most words of a frame's bytes in one match.
MAX_FIELDS: Final = 24
#: The first bytes of a frame that can be matched.
WINDOW: Final = 128
_WORD: Final = (1 << 64) - 1


class PatternError(ValueError):
    """A pattern that no frame can be matched against here."""


class Anchor(enum.IntEnum):
    """Where the offset of a field counts from."""

    FRAME = 0  #: the frame's first byte; for what lies before its tags
    RAW = 1  #: the same, and the bytes behind follow as they would on a wire, tags included
    L3 = 2  #: behind the ethertype
    L4 = 3  #: behind the IP header and its extensions; not in fragments


class Fact(enum.Enum):
    """A group of bits of the first word of facts: (first bit, width)."""

    IP_VERSION = (0, 4)  #: 4, 6, or 0
    FRAGMENT = (4, 1)
    HAS_L4 = (5, 1)
    PROTOCOL = (8, 8)  #: of IP, behind extension headers
    S_TAGGED = (16, 1)  #: the outer one of two tags, or one of 802.1ad
    C_TAGGED = (17, 1)  #: the inner one of two tags, or one of 802.1Q
    TAGGED = (18, 1)
    ETHERTYPE = (32, 16)  #: behind the tags


class Fate(enum.IntEnum):
    """Where a frame goes."""

    PASS = 0  #: as it would without the rule
    DROP = 1
    QUEUE = 2
    SPREAD = 3  #: over `Action.count` queues from `Action.queue` on, by hash


class RuleKind(enum.IntEnum):
    """Which request made a rule."""

    FDIR = 1
    SUBSCRIPTION = 2  #: its frames are received whatever their addresses are
    CLOUD = 3


@attrs.frozen(order=True)
class Field:
    """Eight bytes of a frame, as little-endian numbers.

    Attributes:
        anchor: An `Anchor`.
        offset: From there, bytes.
        mask: Which bits count, 64 bits; not zero.
        value: What they are; zero outside the mask.
    """

    anchor: int
    offset: int
    mask: int
    value: int

    @property
    def end(self) -> int:
        """Offset behind the last byte that counts."""
        return self.offset + (self.mask.bit_length() + 7) // 8


#: What matches have in common that are looked up together: the masks.
Shape = tuple[int, int, tuple[tuple[int, int, int], ...]]


@attrs.frozen
class Match:
    """Which frames; all of it has to hold.

    Attributes:
        facts_mask, facts: Of the first word of facts.
        tags_mask, tags: Of the tags: bits 0 to 15 the C-VLAN's, 16 to 31 the outermost one's.
        fields: Of the bytes.
    """

    facts_mask: int = 0
    facts: int = 0
    tags_mask: int = 0
    tags: int = 0
    fields: tuple[Field, ...] = ()


@functools.lru_cache(maxsize=4 * MAX_RULES)
def shape_of(match: Match) -> Shape:
    """The masks of a match."""
    places = tuple((f.anchor, f.offset, f.mask) for f in match.fields)
    return (match.facts_mask, match.tags_mask, places)


@attrs.frozen
class Action:
    """What becomes of a frame.

    Attributes:
        fate: Where it goes.
        queue: The queue, or the first of them.
        count: How many queues, for `Fate.SPREAD`.
        mark: Number that its descriptor shows, 32 bits, or None.
    """

    fate: Fate = Fate.PASS
    queue: int = 0
    count: int = 0
    mark: int | None = None


@attrs.frozen
class FlowRule:
    """One rule.

    Of the rules that match a frame, that of the lowest priority number counts, and of equal ones
    the oldest.

    Attributes:
        id: Its flow id, or the number that it has among those of its kind.
        kind: Which request made it.
        priority: 0 comes first.
        match: Which frames.
        action: What becomes of them.
    """

    id: int
    kind: RuleKind
    priority: int
    match: Match
    action: Action


class MatchBuilder:
    """Collects what a frame has to be."""

    def __init__(self) -> None:
        self._facts = [0, 0]
        self._tags = [0, 0]
        self._bytes: dict[Anchor, tuple[bytearray, bytearray]] = {}

    def fact(self, fact: Fact, value: int, mask: int = -1) -> None:
        """Demand a fact.

        Raises:
            PatternError: It contradicts what was demanded before.
        """
        first, width = fact.value
        mask &= (1 << width) - 1
        self._demand(self._facts, mask << first, value << first)

    def tag(self, outermost: bool, tci: int, mask: int) -> None:
        """Demand a tag, and bits of it: the outermost one, or the C-VLAN's."""
        self.fact(Fact.TAGGED if outermost else Fact.C_TAGGED, 1)
        shift = 16 if outermost else 0
        self._demand(self._tags, (mask & 0xFFFF) << shift, tci << shift)

    def octets(self, anchor: Anchor, offset: int, spec: bytes, mask: bytes) -> None:
        """Demand bits of bytes.

        Args:
            anchor: Where from.
            offset: First byte, from there.
            spec: What they are; what is outside the mask does not count.
            mask: Which bits, as many bytes.

        Raises:
            PatternError: They are too far inside the frame, or contradict what was demanded before.
        """
        while mask and not mask[-1]:
            mask = mask[:-1]
        if offset + len(mask) > WINDOW:
            raise PatternError(f"bytes behind the first {WINDOW} of a frame can't be matched")
        masks, values = self._bytes.setdefault(anchor, (bytearray(WINDOW), bytearray(WINDOW)))
        for at, (bits, value) in enumerate(zip(mask, spec, strict=False), offset):
            if (values[at] ^ value) & masks[at] & bits:
                raise PatternError("the pattern contradicts itself")
            masks[at] |= bits
            values[at] |= value & bits

    def build(self) -> Match:
        """The match.

        Raises:
            PatternError: It is of too many words.
        """
        fields = []
        for anchor, (masks, values) in sorted(self._bytes.items()):
            at = 0
            while at < WINDOW:
                if masks[at]:
                    mask = int.from_bytes(masks[at : at + 8], "little")
                    value = int.from_bytes(values[at : at + 8], "little")
                    fields.append(Field(int(anchor), at, mask, value))
                    at += 8
                else:
                    at += 1
        if len(fields) > MAX_FIELDS:
            raise PatternError(f"a pattern of {len(fields)} words, at most {MAX_FIELDS} go")
        (facts_mask, facts), (tags_mask, tags) = self._facts, self._tags
        return Match(facts_mask, facts, tags_mask, tags, tuple(fields))

    @staticmethod
    def _demand(word: list[int], mask: int, value: int) -> None:
        value &= mask
        if (word[1] ^ value) & word[0] & mask:
            raise PatternError("the pattern contradicts itself")
        word[0] |= mask
        word[1] |= value


def check_rules(rules: Iterable[FlowRule], queues: int) -> None:
    """Refuse rules that no request can have made, as they may be in a saved state.

    Args:
        rules: All rules of a port.
        queues: Number of its receive queues.

    Raises:
        ValueError: What is wrong.
    """
    rules = list(rules)
    if len(rules) > MAX_RULES or len({shape_of(rule.match) for rule in rules}) > MAX_SHAPES:
        raise ValueError(f"{len(rules)} flow rules are too many")
    if len({(rule.kind, rule.id) for rule in rules}) != len(rules):
        raise ValueError("two flow rules with one id")
    for rule in rules:
        match, action = rule.match, rule.action
        words = [match.facts_mask, match.facts, match.tags_mask, match.tags]
        words += [word for field in match.fields for word in (field.mask, field.value)]
        if not all(0 <= word <= _WORD for word in words) or len(match.fields) > MAX_FIELDS:
            raise ValueError("a flow rule with impossible words")
        if match.facts & ~match.facts_mask or match.tags & ~match.tags_mask:
            raise ValueError("a flow rule with values outside its masks")
        for field in match.fields:
            if field.anchor not in list(Anchor) or not field.mask or field.value & ~field.mask:
                raise ValueError(f"a flow rule with an impossible field: {field}")
            if field.offset < 0 or field.end > WINDOW:
                raise ValueError(f"a flow rule about byte {field.offset} of a frame")
        count = action.count if action.fate == Fate.SPREAD else 1
        if not 0 <= action.queue < action.queue + count <= queues:
            raise ValueError(f"a flow rule for queue {action.queue} of {queues}")
        if action.mark is not None and not 0 <= action.mark <= 0xFFFF_FFFF:
            raise ValueError(f"a flow rule with the mark {action.mark:#x}")
        if not 0 <= rule.priority < 1 << 32:
            raise ValueError(f"a flow rule with the priority {rule.priority}")
