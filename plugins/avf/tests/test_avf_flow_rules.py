"""Flow rules on received frames: what becomes of those that match.

Frames are written out as bytes; expectations follow from avf.md 4.9 and 6.7.
"""

import struct

import pytest

from emudev_avf.flow_rules import (
    Action,
    Anchor,
    Fate,
    Field,
    Match,
    RuleKind,
    check_rules,
)
from emudev_avf.testing.flows import (
    HENA,
    KEY,
    MAC,
    ether,
    head,
    ipv4,
    ipv6,
    match,
    queue_of,
    rule,
    tcp,
    tcp4,
    udp,
)
from emudev_avf.virtchnl.proto_hdrs import HeaderType as H

# qword 1: flow director match, and the two bits of FLTSTAT (avf.md 6.7).
FLM, FD_ID, RSS = 1 << 11, 1 << 12, 3 << 12


# -- what becomes of a frame


def test_a_frame_goes_to_the_queue_of_its_rule(four_pairs):
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.QUEUE, 2))])
    frames = [ether(ipv4(tcp(dport=d), 6)) for d in (7001, 7002)]
    assert queue_of(four_pairs, *frames, ether(ipv4(udp(), 17)), ether(ipv6(tcp(), 6), 0x86DD)) == [
        2, 0, 0, 0,
    ]  # fmt: skip
    assert four_pairs.port.rule_hits(RuleKind.FDIR, 1) == 1


def test_a_frame_is_dropped_and_counted(four_pairs):
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.DROP))])
    frame = ether(ipv4(tcp(), 6))
    assert queue_of(four_pairs, frame, ether(ipv4(tcp(dport=1), 6)), frame) == [None, 0, None]
    assert (four_pairs.port.rule_drops, four_pairs.port.rule_hits(RuleKind.FDIR, 1)) == (2, 2)


def test_frames_for_others_are_neither_counted_nor_let_in(four_pairs):
    four_pairs.port.set_promiscuous(False, False)
    four_pairs.port.set_macs({MAC}, set())
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.QUEUE, 1))])
    foreign = bytes.fromhex("020000000009")
    assert queue_of(four_pairs, ether(ipv4(tcp(), 6), target=foreign)) == [None]
    assert four_pairs.port.rule_hits(RuleKind.FDIR, 1) == 0
    assert four_pairs.port.filtered == 1


def test_a_subscription_lets_frames_in_whatever_their_address(four_pairs):
    four_pairs.port.set_promiscuous(False, False)
    four_pairs.port.set_macs({MAC}, set())
    four_pairs.port.set_vlan_filter({1})
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.PASS), kind=RuleKind.SUBSCRIPTION)])
    tag = struct.pack(">HH", 0x8100, 9)
    for target, cast in (("020000000009", 0), ("030000000009", 1)):
        target = bytes.fromhex(target)
        assert four_pairs.deliver(ether(ipv4(tcp(), 6), target=target, tags=tag)) == 1
        ((_, (done,)),) = four_pairs.received()
        assert done.qword1 >> 9 & 3 == cast
    assert queue_of(four_pairs, ether(ipv4(udp(), 17), target=bytes.fromhex("020000000009"))) == [
        None
    ]


def test_a_region_spreads_by_hash(four_pairs):
    four_pairs.port.set_rss(KEY, bytes(64), HENA)
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.SPREAD, 2, 2))])
    frames = [ether(ipv4(tcp(sport=s), 6)) for s in range(1000, 1016)]
    found = queue_of(four_pairs, *frames)
    assert set(found) == {2, 3}
    assert queue_of(four_pairs, *frames) == found
    four_pairs.port.set_rss(b"", b"", 0)
    assert queue_of(four_pairs, frames[0]) == [2]  # no hash: the first of them


def test_a_mark_without_hash_is_in_both_places(four_pairs):
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.PASS, mark=0x12345678))])
    four_pairs.deliver(ether(ipv4(tcp(), 6)))
    ((_, (done,)),) = four_pairs.received()
    assert done.qword1 & (FLM | RSS) == FLM | FD_ID
    assert (done.hash, done.fd_id, done.ext_status) == (0x12345678, 0x12345678, 1 << 4)


@pytest.mark.parametrize(("rxdid", "place"), [(2, 24), (16, 24), (22, 12)])
def test_a_mark_is_the_flow_id_of_flexible_descriptors(guests, rxdid, place):
    guest = guests(rxdid=rxdid)
    guest.post(4)
    guest.deliver(ether(ipv4(tcp(), 6)))
    guest.port.set_rules([rule(tcp4(), Action(Fate.PASS, mark=0x12345678))])
    guest.deliver(ether(ipv4(tcp(), 6)))
    guest.port.set_rules([rule(tcp4(), Action(Fate.PASS))])
    guest.deliver(ether(ipv4(tcp(), 6)))
    ring = guest.port.rx[0]
    words = [guest.memory.read(guest.entry(ring, i) + place, 4) for i in range(3)]
    assert words == [b"\xff" * 4, bytes.fromhex("78563412"), b"\xff" * 4]


def test_a_mark_beside_a_hash(four_pairs):
    four_pairs.port.set_rss(KEY, bytes(64), HENA)
    four_pairs.deliver(ether(ipv4(tcp(), 6)))
    ((_, (plain,)),) = four_pairs.received()
    assert plain.qword1 & (FLM | RSS) == RSS
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.PASS, mark=5))])
    four_pairs.deliver(ether(ipv4(tcp(), 6)))
    ((_, (done,)),) = four_pairs.received()
    assert done.qword1 & (FLM | RSS) == FLM | RSS
    assert (done.hash, done.fd_id, done.ext_status) == (plain.hash, 5, 1 << 4)


def test_without_a_mark_only_the_match_shows(four_pairs):
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.PASS))])
    four_pairs.deliver(ether(ipv4(tcp(), 6)), ether(ipv4(udp(), 17)))
    (_, (first,)), (_, (second,)) = four_pairs.received()
    assert (first.qword1 & (FLM | RSS), first.fd_id, first.ext_status) == (FLM, 0, 0)
    assert second.qword1 & (FLM | RSS) == 0


def test_the_rule_of_lower_priority_number_counts_then_the_older_one(four_pairs):
    wide = match(head(H.IPV4))
    rules = [
        rule(wide, Action(Fate.QUEUE, 1), 1, 5),
        rule(tcp4(), Action(Fate.QUEUE, 2), 2, 5),
        rule(match(head(H.IPV4), head(H.UDP)), Action(Fate.QUEUE, 3), 3, 4),
    ]
    four_pairs.port.set_rules(rules)
    assert queue_of(four_pairs, ether(ipv4(tcp(), 6)), ether(ipv4(udp(), 17))) == [1, 3]
    four_pairs.port.set_rules([rules[1], rules[0], rules[2]])
    assert queue_of(four_pairs, ether(ipv4(tcp(), 6))) == [2]


def test_a_queue_that_is_not_enabled_loses_the_frame(four_pairs):
    four_pairs.port.rx[2].disable()
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.QUEUE, 2))])
    assert queue_of(four_pairs, ether(ipv4(tcp(), 6))) == [None]
    assert four_pairs.port.stats().rx_discards == 1


def test_counters_go_on_while_a_rule_stays(four_pairs):
    four_pairs.port.set_rules([rule(tcp4())])
    frame = ether(ipv4(tcp(), 6))
    queue_of(four_pairs, frame)
    four_pairs.port.set_rules([rule(tcp4()), rule(match(head(H.IPV6)), number=2)])
    queue_of(four_pairs, frame)
    assert four_pairs.port.rule_hits(RuleKind.FDIR, 1) == 2
    four_pairs.port.set_rules([])
    assert four_pairs.port.rule_hits(RuleKind.FDIR, 1) == 0


def test_a_reset_forgets_all_rules(four_pairs):
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.DROP))])
    four_pairs.port.set_classes(2)
    four_pairs.port.reset()
    assert (four_pairs.port.words[22], four_pairs.port.words[23]) == (0, 0)


def test_frames_without_a_rule_stay_in_class_0(four_pairs):
    four_pairs.port.set_rss(KEY, bytes([0, 1, 2, 3] * 16), HENA)
    frames = [ether(ipv4(tcp(sport=s), 6)) for s in range(1000, 1012)]
    assert set(queue_of(four_pairs, *frames)) == {0, 1, 2, 3}
    four_pairs.port.set_classes(2)
    assert set(queue_of(four_pairs, *frames)) == {0, 1}
    four_pairs.port.set_rules([rule(tcp4(), Action(Fate.SPREAD, 2, 2))])
    assert set(queue_of(four_pairs, *frames)) == {2, 3}


def test_a_thousand_rules_of_one_shape_each_find_their_frame(four_pairs):
    ports = range(2000, 3000)
    four_pairs.port.set_rules(
        [rule(tcp4(p), Action(Fate.QUEUE, p % 4), i) for i, p in enumerate(ports)]
    )
    some = [2000, 2001, 2447, 2998, 2999, 3000]
    frames = [ether(ipv4(tcp(dport=p), 6)) for p in some]
    assert queue_of(four_pairs, *frames) == [0, 1, 3, 2, 3, 0]


# -- what is refused


@pytest.mark.parametrize(
    "bad",
    [
        rule(Match(facts_mask=1 << 64)),
        rule(Match(facts_mask=1, facts=2)),
        rule(Match(tags_mask=-1)),
        rule(Match(fields=(Field(4, 0, 1, 1),))),
        rule(Match(fields=(Field(0, -1, 1, 1),))),
        rule(Match(fields=(Field(0, 128, 1, 1),))),
        rule(Match(fields=(Field(0, 121, 1 << 63, 0),))),
        rule(Match(fields=(Field(0, 0, 0, 0),))),
        rule(Match(fields=(Field(0, 0, 1, 2),))),
        rule(Match(fields=(Field(0, 0, 1, 1),) * 25)),
        rule(Match(), Action(Fate.QUEUE, 4)),
        rule(Match(), Action(Fate.QUEUE, -1)),
        rule(Match(), Action(Fate.SPREAD, 2, 3)),
        rule(Match(), Action(Fate.SPREAD, 2, 0)),
        rule(Match(), Action(mark=1 << 32)),
        rule(Match(), priority=-1),
    ],
)
def test_impossible_rules_of_a_saved_state_are_refused(bad):
    with pytest.raises(ValueError, match="flow rule"):
        check_rules([bad], 4)


def test_too_many_rules_or_shapes_are_refused():
    with pytest.raises(ValueError, match="1025"):
        check_rules([rule(Match(), number=i) for i in range(1025)], 4)
    shapes = [rule(Match(fields=(Field(Anchor.FRAME, i, 1, 1),)), number=i) for i in range(65)]
    check_rules(shapes[:64], 4)
    with pytest.raises(ValueError, match="one id"):
        check_rules([rule(Match()), rule(Match())], 4)
    with pytest.raises(ValueError, match="65"):
        check_rules(shapes, 4)
