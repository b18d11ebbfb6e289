"""Flow rules on received frames: which frame matches, and what becomes of it.

Frames are written out as bytes; expectations follow from the protocols' RFCs and avf.md 4.9, 6.7.
"""

import struct

import pytest

from emudev_avf.flow_patterns import build_match
from emudev_avf.flow_rules import (
    Action,
    Anchor,
    Fate,
    Field,
    FlowRule,
    Match,
    MatchBuilder,
    PatternError,
    RuleKind,
    check_rules,
)
from emudev_avf.virtchnl.proto_hdrs import HeaderType as H
from emudev_avf.virtchnl.proto_hdrs import ProtoHeader, ProtoHeaders, RawPattern
from emudev_net.burst import FIRST, LAST, OUTER_VLAN_PRESENT, VLAN_PRESENT, Packet, vlan_word

MAC = bytes.fromhex("525400770002")
OTHER = bytes.fromhex("525400770001")
IP1, IP2 = bytes([192, 168, 76, 1]), bytes([192, 168, 76, 2])
V6A = bytes.fromhex("20010db8000000000000000000000001")
V6B = bytes.fromhex("20010db8000000000000000000000002")
# qword 1: flow director match, and the two bits of FLTSTAT (avf.md 6.7).
FLM, FD_ID, RSS = 1 << 11, 1 << 12, 3 << 12
KEY = bytes(range(1, 53))
HENA = 0x80007E1F_80000000


def ether(payload, kind=0x0800, target=MAC, tags=b""):
    return target + OTHER + tags + kind.to_bytes(2, "big") + payload


def ipv4(payload, protocol, *, source=IP1, target=IP2, tos=0, ttl=64, fragment=0):
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(payload), 7, fragment, ttl, protocol, 0)
    return head + source + target + payload


def ipv6(payload, protocol, *, source=V6A, target=V6B, tc=0, extension=b""):
    first = 0x60000000 | tc << 20
    size = len(extension) + len(payload)
    return struct.pack(">IHBB", first, size, protocol, 64) + source + target + extension + payload


def tcp(sport=1000, dport=7001):
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 2, 0x50, 0x10, 512, 0, 0) + bytes(8)


def udp(payload=bytes(8), sport=1000, dport=7001):
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def head(kind, selector=0, spec=b""):
    return ProtoHeader(kind, selector, spec.ljust(64, b"\0"))


def masked(kind, spec=b"", mask=b""):
    return ProtoHeader(kind, 0, spec.ljust(64, b"\0"), mask.ljust(64, b"\0"))


def match(*headers):
    return build_match(ProtoHeaders(0, headers))


def rule(found, action=None, number=1, priority=0, kind=RuleKind.FDIR):
    return FlowRule(number, kind, priority, found, action or Action(Fate.QUEUE, 1))


def tcp4(dport=7001):
    return match(head(H.IPV4), head(H.TCP, 2, struct.pack(">HH", 0, dport)))


@pytest.fixture
def guest(guests):
    made = guests(4)
    for pair in range(4):
        made.post(60, pair)
    return made


def queue_of(guest, *frames):
    """The queue of each frame, None for one that did not come."""
    found = []
    for frame in frames:
        assert guest.deliver(frame) == 1
        got = [pair for pair in range(4) for _ in guest.received(pair)]
        assert len(got) <= 1
        found.append(got[0] if got else None)
    return found


def hits(guest, found, *frames):
    """For each frame whether the match holds, told by the queue."""
    guest.port.set_rules([rule(found, Action(Fate.QUEUE, 3))])
    return [queue == 3 for queue in queue_of(guest, *frames)]


# -- what becomes of a frame


def test_a_frame_goes_to_the_queue_of_its_rule(guest):
    guest.port.set_rules([rule(tcp4(), Action(Fate.QUEUE, 2))])
    frames = [ether(ipv4(tcp(dport=d), 6)) for d in (7001, 7002)]
    assert queue_of(guest, *frames, ether(ipv4(udp(), 17)), ether(ipv6(tcp(), 6), 0x86DD)) == [
        2, 0, 0, 0,
    ]  # fmt: skip
    assert guest.port.rule_hits(RuleKind.FDIR, 1) == 1


def test_a_frame_is_dropped_and_counted(guest):
    guest.port.set_rules([rule(tcp4(), Action(Fate.DROP))])
    frame = ether(ipv4(tcp(), 6))
    assert queue_of(guest, frame, ether(ipv4(tcp(dport=1), 6)), frame) == [None, 0, None]
    assert (guest.port.rule_drops, guest.port.rule_hits(RuleKind.FDIR, 1)) == (2, 2)


def test_frames_for_others_are_neither_counted_nor_let_in(guest):
    guest.port.set_promiscuous(False, False)
    guest.port.set_macs({MAC}, set())
    guest.port.set_rules([rule(tcp4(), Action(Fate.QUEUE, 1))])
    foreign = bytes.fromhex("020000000009")
    assert queue_of(guest, ether(ipv4(tcp(), 6), target=foreign)) == [None]
    assert guest.port.rule_hits(RuleKind.FDIR, 1) == 0
    assert guest.port.filtered == 1


def test_a_subscription_lets_frames_in_whatever_their_address(guest):
    guest.port.set_promiscuous(False, False)
    guest.port.set_macs({MAC}, set())
    guest.port.set_vlan_filter({1})
    guest.port.set_rules([rule(tcp4(), Action(Fate.PASS), kind=RuleKind.SUBSCRIPTION)])
    tag = struct.pack(">HH", 0x8100, 9)
    for target, cast in (("020000000009", 0), ("030000000009", 1)):
        target = bytes.fromhex(target)
        assert guest.deliver(ether(ipv4(tcp(), 6), target=target, tags=tag)) == 1
        ((_, (done,)),) = guest.received()
        assert done.qword1 >> 9 & 3 == cast
    assert queue_of(guest, ether(ipv4(udp(), 17), target=bytes.fromhex("020000000009"))) == [None]


def test_a_region_spreads_by_hash(guest):
    guest.port.set_rss(KEY, bytes(64), HENA)
    guest.port.set_rules([rule(tcp4(), Action(Fate.SPREAD, 2, 2))])
    frames = [ether(ipv4(tcp(sport=s), 6)) for s in range(1000, 1016)]
    found = queue_of(guest, *frames)
    assert set(found) == {2, 3}
    assert queue_of(guest, *frames) == found
    guest.port.set_rss(b"", b"", 0)
    assert queue_of(guest, frames[0]) == [2]  # no hash: the first of them


def test_a_mark_without_hash_is_in_both_places(guest):
    guest.port.set_rules([rule(tcp4(), Action(Fate.PASS, mark=0x12345678))])
    guest.deliver(ether(ipv4(tcp(), 6)))
    ((_, (done,)),) = guest.received()
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


def test_a_mark_beside_a_hash(guest):
    guest.port.set_rss(KEY, bytes(64), HENA)
    guest.deliver(ether(ipv4(tcp(), 6)))
    ((_, (plain,)),) = guest.received()
    assert plain.qword1 & (FLM | RSS) == RSS
    guest.port.set_rules([rule(tcp4(), Action(Fate.PASS, mark=5))])
    guest.deliver(ether(ipv4(tcp(), 6)))
    ((_, (done,)),) = guest.received()
    assert done.qword1 & (FLM | RSS) == FLM | RSS
    assert (done.hash, done.fd_id, done.ext_status) == (plain.hash, 5, 1 << 4)


def test_without_a_mark_only_the_match_shows(guest):
    guest.port.set_rules([rule(tcp4(), Action(Fate.PASS))])
    guest.deliver(ether(ipv4(tcp(), 6)), ether(ipv4(udp(), 17)))
    (_, (first,)), (_, (second,)) = guest.received()
    assert (first.qword1 & (FLM | RSS), first.fd_id, first.ext_status) == (FLM, 0, 0)
    assert second.qword1 & (FLM | RSS) == 0


def test_the_rule_of_lower_priority_number_counts_then_the_older_one(guest):
    wide = match(head(H.IPV4))
    rules = [
        rule(wide, Action(Fate.QUEUE, 1), 1, 5),
        rule(tcp4(), Action(Fate.QUEUE, 2), 2, 5),
        rule(match(head(H.IPV4), head(H.UDP)), Action(Fate.QUEUE, 3), 3, 4),
    ]
    guest.port.set_rules(rules)
    assert queue_of(guest, ether(ipv4(tcp(), 6)), ether(ipv4(udp(), 17))) == [1, 3]
    guest.port.set_rules([rules[1], rules[0], rules[2]])
    assert queue_of(guest, ether(ipv4(tcp(), 6))) == [2]


def test_a_queue_that_is_not_enabled_loses_the_frame(guest):
    guest.port.rx[2].disable()
    guest.port.set_rules([rule(tcp4(), Action(Fate.QUEUE, 2))])
    assert queue_of(guest, ether(ipv4(tcp(), 6))) == [None]
    assert guest.port.stats().rx_discards == 1


def test_counters_go_on_while_a_rule_stays(guest):
    guest.port.set_rules([rule(tcp4())])
    frame = ether(ipv4(tcp(), 6))
    queue_of(guest, frame)
    guest.port.set_rules([rule(tcp4()), rule(match(head(H.IPV6)), number=2)])
    queue_of(guest, frame)
    assert guest.port.rule_hits(RuleKind.FDIR, 1) == 2
    guest.port.set_rules([])
    assert guest.port.rule_hits(RuleKind.FDIR, 1) == 0


def test_a_reset_forgets_all_rules(guest):
    guest.port.set_rules([rule(tcp4(), Action(Fate.DROP))])
    guest.port.set_classes(2)
    guest.port.reset()
    assert (guest.port.words[22], guest.port.words[23]) == (0, 0)


def test_frames_without_a_rule_stay_in_class_0(guest):
    guest.port.set_rss(KEY, bytes([0, 1, 2, 3] * 16), HENA)
    frames = [ether(ipv4(tcp(sport=s), 6)) for s in range(1000, 1012)]
    assert set(queue_of(guest, *frames)) == {0, 1, 2, 3}
    guest.port.set_classes(2)
    assert set(queue_of(guest, *frames)) == {0, 1}
    guest.port.set_rules([rule(tcp4(), Action(Fate.SPREAD, 2, 2))])
    assert set(queue_of(guest, *frames)) == {2, 3}


def test_a_thousand_rules_of_one_shape_each_find_their_frame(guest):
    ports = range(2000, 3000)
    guest.port.set_rules([rule(tcp4(p), Action(Fate.QUEUE, p % 4), i) for i, p in enumerate(ports)])
    some = [2000, 2001, 2447, 2998, 2999, 3000]
    frames = [ether(ipv4(tcp(dport=p), 6)) for p in some]
    assert queue_of(guest, *frames) == [0, 1, 3, 2, 3, 0]


# -- which frames


def test_ipv4_addresses_and_ports(guest):
    full = match(
        head(H.ETH),
        head(H.IPV4, 3, bytes(12) + IP1 + IP2),
        head(H.UDP, 3, struct.pack(">HH", 1000, 7001)),
    )
    assert hits(
        guest, full,
        ether(ipv4(udp(), 17)),
        ether(ipv4(udp(), 17, source=IP2)),
        ether(ipv4(udp(), 17, target=IP1)),
        ether(ipv4(udp(sport=1), 17)),
        ether(ipv4(udp(dport=1), 17)),
        ether(ipv4(udp(), 6)),
    ) == [True, False, False, False, False, False]  # fmt: skip


def test_ipv6_addresses_and_ports(guest):
    full = match(
        head(H.IPV6, 3, bytes(8) + V6A + V6B), head(H.TCP, 3, struct.pack(">HH", 1000, 7001))
    )
    extension = bytes([6, 0]) + bytes(6)  # hop by hop options, TCP behind them
    assert hits(
        guest, full,
        ether(ipv6(tcp(), 6), 0x86DD),
        ether(ipv6(tcp(), 0, extension=extension), 0x86DD),
        ether(ipv6(tcp(), 6, source=V6B), 0x86DD),
        ether(ipv6(tcp(), 6, target=V6B[:15] + b"\x03"), 0x86DD),
        ether(ipv6(tcp(dport=1), 6), 0x86DD),
    ) == [True, True, False, False, False]  # fmt: skip


def test_a_prefix_of_an_ipv6_address(guest):
    # bit 5: 32 bits of the source
    found = match(head(H.IPV6, 1 << 5, bytes(8) + V6A[:4]))
    far = bytes.fromhex("20010db9") + V6A[4:]
    assert hits(
        guest, found,
        ether(ipv6(tcp(), 6, source=V6B), 0x86DD),
        ether(ipv6(tcp(), 6, source=far), 0x86DD),
    ) == [True, False]  # fmt: skip


def test_dscp_ttl_and_protocol_of_ipv4(guest):
    dscp = match(head(H.IPV4, 1 << 2, b"\0\xb8"))
    frames = [ether(ipv4(udp(), 17, tos=t)) for t in (0xB8, 0xB9, 0xB4)]
    assert hits(guest, dscp, *frames) == [True, True, False]  # the ECN bits do not count
    ttl = match(head(H.IPV4, 1 << 3, bytes(8) + b"\x05"))
    assert hits(guest, ttl, *[ether(ipv4(udp(), 17, ttl=t)) for t in (5, 6)]) == [True, False]
    protocol = match(head(H.IPV4, 1 << 4, bytes(9) + b"\x2f"))
    assert hits(guest, protocol, *[ether(ipv4(bytes(20), p)) for p in (47, 17)]) == [True, False]


def test_traffic_class_of_ipv6(guest):
    found = match(head(H.IPV6, 1 << 2, b"\x0b\x80"))
    frames = [ether(ipv6(tcp(), 6, tc=t), 0x86DD) for t in (0xB8, 0xB9)]
    assert hits(guest, found, *frames) == [True, False]


def test_fragments_have_no_ports(guest):
    ports = match(head(H.IPV4), head(H.UDP, 2, struct.pack(">HH", 0, 7001)))
    whole, first, later = (ether(ipv4(udp(), 17, fragment=f)) for f in (0, 0x2000, 1))
    assert hits(guest, ports, whole, first, later) == [True, False, False]
    fragments = match(head(H.IPV4), head(H.IPV4_FRAG, 1, bytes(4) + b"\0\x07"))
    assert hits(guest, fragments, whole, first, later) == [False, True, True]


def test_ethernet_addresses_and_type(guest):
    source = match(head(H.ETH, 1, bytes(6) + OTHER))
    assert hits(guest, source, ether(bytes(50)), MAC + MAC + bytes(50)) == [True, False]
    target = match(head(H.ETH, 2, b"\xff" * 6))
    assert hits(guest, target, ether(bytes(50)), ether(bytes(50), target=b"\xff" * 6)) == [
        False, True,
    ]  # fmt: skip
    kind = match(head(H.ETH, 4, bytes(12) + b"\x88\xb5"))
    tag = struct.pack(">HH", 0x8100, 5)
    assert hits(
        guest, kind,
        ether(bytes(50), 0x88B5), ether(bytes(50), 0x88B6), ether(bytes(50), 0x88B5, tags=tag),
    ) == [True, False, True]  # fmt: skip


def tagged(frame, tci, tpid=0x8100, outer=None):
    flags = VLAN_PRESENT | (OUTER_VLAN_PRESENT if outer is not None else 0)
    return Packet(frame, FIRST | LAST | flags, vlan=vlan_word(tci, tpid, 0, outer or 0))


def test_vlan_ids_in_the_frame_and_beside_it(guest):
    guest.port.set_vlan_offload()
    five = match(head(H.ETH), head(H.C_VLAN, 1, b"\0\x05"), head(H.IPV4))
    inner = ipv4(udp(), 17)
    assert hits(
        guest, five,
        ether(inner, tags=struct.pack(">HH", 0x8100, 0x6005)),
        ether(inner, tags=struct.pack(">HH", 0x8100, 6)),
        ether(inner),
        tagged(ether(inner), 0x6005),
        tagged(ether(inner), 6),
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5)),
        tagged(ether(inner), 5, outer=9),
        tagged(ether(inner, tags=struct.pack(">HH", 0x8100, 5)), 9, 0x88A8),
    ) == [True, False, False, True, False, True, True, True]  # fmt: skip


def test_the_only_tag_goes_by_the_name_of_an_outer_one_too(guest):
    """As DPDK 24.11 has it for a subscription of ``eth / vlan vid is 5 / ipv4``."""
    five = match(masked(H.ETH), masked(H.S_VLAN, b"\0\x05", b"\x0f\xff"), masked(H.IPV4))
    inner = ipv4(udp(), 17)
    assert hits(
        guest, five,
        ether(inner, tags=struct.pack(">HH", 0x8100, 5)),
        ether(inner, tags=struct.pack(">HH", 0x88A8, 5)),
        ether(inner, tags=struct.pack(">HHHH", 0x8100, 5, 0x8100, 9)),
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5)),
        tagged(ether(inner), 5),
        ether(inner),
    ) == [True, True, True, False, True, False]  # fmt: skip


def test_fragments_as_dpdk_names_them(guest):
    """DPDK 24.11, ``eth / ipv4 fragment_offset ...``: the type is selected, and zero."""
    frame = head(H.IPV4_FRAG, 0, bytes(6) + b"\x20\0")
    found = match(head(H.ETH, 4), head(H.IPV4, 0, bytes(6) + b"\x20\0"), frame)
    whole, first, later = (ether(ipv4(udp(), 17, fragment=f)) for f in (0, 0x2000, 1))
    assert hits(guest, found, whole, first, later) == [False, True, True]


def test_the_outer_of_two_tags(guest):
    nine = match(head(H.S_VLAN, 1, b"\0\x09"), head(H.C_VLAN))
    inner = ipv4(udp(), 17)
    assert hits(
        guest, nine,
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5)),
        ether(inner, tags=struct.pack(">HHHH", 0x8100, 9, 0x8100, 5)),
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 5, 0x8100, 9)),
        ether(inner, tags=struct.pack(">HH", 0x8100, 9)),
        ether(inner, tags=struct.pack(">HH", 0x88A8, 9)),
        tagged(ether(inner), 5, outer=9),
    ) == [True, True, False, False, False, True]  # fmt: skip


def test_security_associations_and_sessions(guest):
    spi = bytes.fromhex("00001234")
    other = bytes.fromhex("00001235")
    esp = match(head(H.IPV4), head(H.ESP, 1, spi))
    natt = match(head(H.IPV4), head(H.UDP), head(H.ESP, 1, spi))
    ah = match(head(H.IPV4), head(H.AH, 1, bytes(4) + spi))
    ah6 = match(head(H.IPV6), head(H.AH, 1, bytes(4) + spi))
    l2tp = match(head(H.IPV4), head(H.L2TPV3, 1, spi))
    pppoe = match(head(H.ETH), head(H.PPPOE, 1, bytes.fromhex("00000007")))
    frames = {
        esp: lambda s: ether(ipv4(s + bytes(24), 50)),
        natt: lambda s: ether(ipv4(udp(s + bytes(20), dport=4500), 17)),
        ah: lambda s: ether(ipv4(b"\x11\x04\0\0" + s + bytes(24), 51)),
        ah6: lambda s: ether(ipv6(b"\x3b\x04\0\0" + s + bytes(24), 51), 0x86DD),
        l2tp: lambda s: ether(ipv4(s + bytes(24), 115)),
        pppoe: lambda s: ether(
            b"\x11\0\0" + (b"\x07" if s == spi else b"\x08") + bytes(40), 0x8864
        ),
    }
    for found, make in frames.items():
        assert hits(guest, found, make(spi), make(other), ether(ipv4(udp(), 17))) == [
            True, False, False,
        ]  # fmt: skip


def test_tunnels_over_udp(guest):
    teid = bytes.fromhex("00abcdef")
    gtpu = match(head(H.IPV4), head(H.UDP), head(H.GTPU_IP, 1, bytes(4) + teid))
    body = bytes.fromhex("30ff0020")
    assert hits(
        guest, gtpu,
        ether(ipv4(udp(body + teid + bytes(32), dport=2152), 17)),
        ether(ipv4(udp(body + bytes(36), dport=2152), 17)),
        ether(ipv4(udp(body + teid + bytes(32), dport=2153), 17)),
    ) == [True, False, False]  # fmt: skip
    down = match(head(H.IPV4), head(H.UDP), head(H.GTPU_IP), head(H.GTPU_EH_DOWN, 1, b"\0\x49"))

    def extended(pdu, qfi, flags=0x34):
        session = bytes([flags, 0xFF, 0, 0x28]) + teid + bytes([0, 0, 0, 0x85, 1, pdu, qfi, 0])
        return ether(ipv4(udp(session + bytes(32), dport=2152), 17))

    frames = (extended(0, 9), extended(0x10, 9), extended(0, 8), extended(0, 9, 0x30))
    assert hits(guest, down, *frames) == [True, False, False, False]
    # L2TPv2 with a length: flags, length, tunnel, session.
    session = match(head(H.IPV4), head(H.UDP), head(H.L2TPV2, 2, bytes(6) + b"\0\x05"))
    frames = [
        ether(ipv4(udp(bytes.fromhex(text) + bytes(20), dport=1701), 17))
        for text in ("4002001000010005", "4002001000010006", "0002001000010005")
    ]
    assert hits(guest, session, *frames) == [True, False, False]


def test_headers_with_masks(guest):
    net = match(
        masked(H.ETH, bytes(12) + b"\x08\0", bytes(12) + b"\xff\xff"),
        masked(H.IPV4, bytes(12) + bytes([192, 168, 64, 0]), bytes(12) + bytes([255, 255, 192, 0])),
        masked(H.UDP, b"\0\0\x1b\x50", b"\0\0\xff\xf0"),
    )
    far = bytes([192, 168, 128, 1])
    assert hits(
        guest, net,
        ether(ipv4(udp(dport=0x1B5F), 17)),
        ether(ipv4(udp(dport=0x1B60), 17)),
        ether(ipv4(udp(dport=0x1B5F), 17, source=far)),
    ) == [True, False, False]  # fmt: skip


def raw(spec, mask):
    return build_match(ProtoHeaders(0, (), RawPattern(spec, mask)))


def test_raw_bytes_of_a_frame(guest):
    frame = ether(ipv4(udp(), 17))
    mask = bytes(12) + b"\xff\xff" + bytes(22) + b"\xff\xff"
    found = raw(frame[: len(mask)], mask)
    assert hits(
        guest, found,
        frame,
        ether(ipv4(udp(dport=1), 17)),
        ether(ipv4(udp(), 17), 0x86DD),
        frame[:37],
    ) == [True, False, False, False]  # fmt: skip


def test_raw_bytes_count_tags_as_on_a_wire(guest):
    guest.port.set_vlan_offload()
    inner = ether(ipv4(udp(), 17))
    line = inner[:12] + struct.pack(">HH", 0x8100, 5) + inner[12:]
    found = raw(line[:46], b"\xff" * 46)
    assert hits(guest, found, line, tagged(inner, 5), inner, tagged(inner, 6)) == [
        True, True, False, False,
    ]  # fmt: skip
    double = inner[:12] + struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5) + inner[12:]
    found = raw(double[:46], b"\xff" * 46)
    assert hits(guest, found, double, tagged(inner, 5, outer=9), tagged(inner, 5)) == [
        True, True, False,
    ]  # fmt: skip


def test_raw_bytes_up_to_the_window(guest):
    frame = ether(ipv4(udp(bytes(range(200))), 17))
    assert hits(guest, raw(frame[:128], b"\xff" * 128), frame, frame[:127]) == [True, False]
    with pytest.raises(PatternError, match="128"):
        raw(frame[:129], b"\xff" * 129)
    # Bytes whose mask is zero do not count, however far out.
    assert raw(bytes(1024), bytes(1024)) == Match()


# -- what is refused


@pytest.mark.parametrize(
    "headers",
    [
        (head(0),),
        (head(25),),
        (head(-1),),
        (head(H.PPP),),
        (head(H.IPV4, 1 << 6),),  # no such field
        (head(H.TCP, 1 << 31),),
        (head(H.IPV4), head(H.IPV4)),
        (head(H.IPV4), head(H.UDP), head(H.GTPU_IP), head(H.IPV4)),  # inside a tunnel
        (head(H.IPV6), head(H.IPV4_FRAG)),
        (head(H.TCP), head(H.UDP)),
        (head(H.UDP), head(H.GTPU_IP, 0), head(H.GTPU_IP)),
        (head(H.C_VLAN), head(H.S_VLAN)),
        (head(H.C_VLAN), head(H.C_VLAN)),
        (head(H.S_VLAN), head(H.S_VLAN)),
        (head(H.ETH, 4, bytes(12) + b"\x86\xdd"), head(H.IPV4)),  # contradicts itself
        (head(H.IPV4, 1 << 4, bytes(9) + b"\x06"), head(H.UDP)),
        (masked(H.IPV4, bytes(64), bytes(20) + b"\x01"),),  # options
    ],
)
def test_what_can_not_be_told_apart_is_refused(headers):
    with pytest.raises(PatternError):
        match(*headers)


def test_patterns_inside_tunnels_are_refused():
    for hdrs in (ProtoHeaders(1, (head(H.IPV4),)), ProtoHeaders(1, (), RawPattern(b"a", b"a"))):
        with pytest.raises(PatternError):
            build_match(hdrs)


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


def test_a_match_of_too_many_words_is_refused():
    builder = MatchBuilder()
    for anchor in Anchor:
        for i in range(8):
            builder.octets(anchor, 9 * i, b"\1", b"\1")
    with pytest.raises(PatternError, match="24"):
        builder.build()
