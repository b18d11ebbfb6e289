"""Flow rules on received frames: which frames match a pattern, and which patterns are refused.

Frames are written out as bytes; expectations follow from the protocols' RFCs and avf.md 4.9.
"""

import struct

import pytest

from emudev_avf.flow_patterns import build_match
from emudev_avf.flow_rules import (
    Anchor,
    Match,
    MatchBuilder,
    PatternError,
)
from emudev_avf.testing.flows import (
    IP1,
    IP2,
    MAC,
    OTHER,
    V6A,
    V6B,
    ether,
    head,
    hits,
    ipv4,
    ipv6,
    masked,
    match,
    tagged,
    tcp,
    udp,
)
from emudev_avf.virtchnl.proto_hdrs import HeaderType as H
from emudev_avf.virtchnl.proto_hdrs import ProtoHeaders, RawPattern

# -- which frames


def test_ipv4_addresses_and_ports(four_pairs):
    full = match(
        head(H.ETH),
        head(H.IPV4, 3, bytes(12) + IP1 + IP2),
        head(H.UDP, 3, struct.pack(">HH", 1000, 7001)),
    )
    assert hits(
        four_pairs, full,
        ether(ipv4(udp(), 17)),
        ether(ipv4(udp(), 17, source=IP2)),
        ether(ipv4(udp(), 17, target=IP1)),
        ether(ipv4(udp(sport=1), 17)),
        ether(ipv4(udp(dport=1), 17)),
        ether(ipv4(udp(), 6)),
    ) == [True, False, False, False, False, False]  # fmt: skip


def test_ipv6_addresses_and_ports(four_pairs):
    full = match(
        head(H.IPV6, 3, bytes(8) + V6A + V6B), head(H.TCP, 3, struct.pack(">HH", 1000, 7001))
    )
    extension = bytes([6, 0]) + bytes(6)  # hop by hop options, TCP behind them
    assert hits(
        four_pairs, full,
        ether(ipv6(tcp(), 6), 0x86DD),
        ether(ipv6(tcp(), 0, extension=extension), 0x86DD),
        ether(ipv6(tcp(), 6, source=V6B), 0x86DD),
        ether(ipv6(tcp(), 6, target=V6B[:15] + b"\x03"), 0x86DD),
        ether(ipv6(tcp(dport=1), 6), 0x86DD),
    ) == [True, True, False, False, False]  # fmt: skip


def test_a_prefix_of_an_ipv6_address(four_pairs):
    # bit 5: 32 bits of the source
    found = match(head(H.IPV6, 1 << 5, bytes(8) + V6A[:4]))
    far = bytes.fromhex("20010db9") + V6A[4:]
    assert hits(
        four_pairs, found,
        ether(ipv6(tcp(), 6, source=V6B), 0x86DD),
        ether(ipv6(tcp(), 6, source=far), 0x86DD),
    ) == [True, False]  # fmt: skip


def test_dscp_ttl_and_protocol_of_ipv4(four_pairs):
    dscp = match(head(H.IPV4, 1 << 2, b"\0\xb8"))
    frames = [ether(ipv4(udp(), 17, tos=t)) for t in (0xB8, 0xB9, 0xB4)]
    assert hits(four_pairs, dscp, *frames) == [True, True, False]  # the ECN bits do not count
    ttl = match(head(H.IPV4, 1 << 3, bytes(8) + b"\x05"))
    assert hits(four_pairs, ttl, *[ether(ipv4(udp(), 17, ttl=t)) for t in (5, 6)]) == [True, False]
    protocol = match(head(H.IPV4, 1 << 4, bytes(9) + b"\x2f"))
    assert hits(four_pairs, protocol, *[ether(ipv4(bytes(20), p)) for p in (47, 17)]) == [
        True,
        False,
    ]


def test_traffic_class_of_ipv6(four_pairs):
    found = match(head(H.IPV6, 1 << 2, b"\x0b\x80"))
    frames = [ether(ipv6(tcp(), 6, tc=t), 0x86DD) for t in (0xB8, 0xB9)]
    assert hits(four_pairs, found, *frames) == [True, False]


def test_fragments_have_no_ports(four_pairs):
    ports = match(head(H.IPV4), head(H.UDP, 2, struct.pack(">HH", 0, 7001)))
    whole, first, later = (ether(ipv4(udp(), 17, fragment=f)) for f in (0, 0x2000, 1))
    assert hits(four_pairs, ports, whole, first, later) == [True, False, False]
    fragments = match(head(H.IPV4), head(H.IPV4_FRAG, 1, bytes(4) + b"\0\x07"))
    assert hits(four_pairs, fragments, whole, first, later) == [False, True, True]


def test_ethernet_addresses_and_type(four_pairs):
    source = match(head(H.ETH, 1, bytes(6) + OTHER))
    assert hits(four_pairs, source, ether(bytes(50)), MAC + MAC + bytes(50)) == [True, False]
    target = match(head(H.ETH, 2, b"\xff" * 6))
    assert hits(four_pairs, target, ether(bytes(50)), ether(bytes(50), target=b"\xff" * 6)) == [
        False, True,
    ]  # fmt: skip
    kind = match(head(H.ETH, 4, bytes(12) + b"\x88\xb5"))
    tag = struct.pack(">HH", 0x8100, 5)
    assert hits(
        four_pairs, kind,
        ether(bytes(50), 0x88B5), ether(bytes(50), 0x88B6), ether(bytes(50), 0x88B5, tags=tag),
    ) == [True, False, True]  # fmt: skip


def test_vlan_ids_in_the_frame_and_beside_it(four_pairs):
    four_pairs.port.set_vlan_offload()
    five = match(head(H.ETH), head(H.C_VLAN, 1, b"\0\x05"), head(H.IPV4))
    inner = ipv4(udp(), 17)
    assert hits(
        four_pairs, five,
        ether(inner, tags=struct.pack(">HH", 0x8100, 0x6005)),
        ether(inner, tags=struct.pack(">HH", 0x8100, 6)),
        ether(inner),
        tagged(ether(inner), 0x6005),
        tagged(ether(inner), 6),
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5)),
        tagged(ether(inner), 5, outer=9),
        tagged(ether(inner, tags=struct.pack(">HH", 0x8100, 5)), 9, 0x88A8),
    ) == [True, False, False, True, False, True, True, True]  # fmt: skip


def test_the_only_tag_goes_by_the_name_of_an_outer_one_too(four_pairs):
    """As DPDK 24.11 has it for a subscription of ``eth / vlan vid is 5 / ipv4``."""
    five = match(masked(H.ETH), masked(H.S_VLAN, b"\0\x05", b"\x0f\xff"), masked(H.IPV4))
    inner = ipv4(udp(), 17)
    assert hits(
        four_pairs, five,
        ether(inner, tags=struct.pack(">HH", 0x8100, 5)),
        ether(inner, tags=struct.pack(">HH", 0x88A8, 5)),
        ether(inner, tags=struct.pack(">HHHH", 0x8100, 5, 0x8100, 9)),
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5)),
        tagged(ether(inner), 5),
        ether(inner),
    ) == [True, True, True, False, True, False]  # fmt: skip


def test_fragments_as_dpdk_names_them(four_pairs):
    """DPDK 24.11, ``eth / ipv4 fragment_offset ...``: the type is selected, and zero."""
    frame = head(H.IPV4_FRAG, 0, bytes(6) + b"\x20\0")
    found = match(head(H.ETH, 4), head(H.IPV4, 0, bytes(6) + b"\x20\0"), frame)
    whole, first, later = (ether(ipv4(udp(), 17, fragment=f)) for f in (0, 0x2000, 1))
    assert hits(four_pairs, found, whole, first, later) == [False, True, True]


def test_the_outer_of_two_tags(four_pairs):
    nine = match(head(H.S_VLAN, 1, b"\0\x09"), head(H.C_VLAN))
    inner = ipv4(udp(), 17)
    assert hits(
        four_pairs, nine,
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5)),
        ether(inner, tags=struct.pack(">HHHH", 0x8100, 9, 0x8100, 5)),
        ether(inner, tags=struct.pack(">HHHH", 0x88A8, 5, 0x8100, 9)),
        ether(inner, tags=struct.pack(">HH", 0x8100, 9)),
        ether(inner, tags=struct.pack(">HH", 0x88A8, 9)),
        tagged(ether(inner), 5, outer=9),
    ) == [True, True, False, False, False, True]  # fmt: skip


def test_security_associations_and_sessions(four_pairs):
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
        assert hits(four_pairs, found, make(spi), make(other), ether(ipv4(udp(), 17))) == [
            True, False, False,
        ]  # fmt: skip


def test_tunnels_over_udp(four_pairs):
    teid = bytes.fromhex("00abcdef")
    gtpu = match(head(H.IPV4), head(H.UDP), head(H.GTPU_IP, 1, bytes(4) + teid))
    body = bytes.fromhex("30ff0020")
    assert hits(
        four_pairs, gtpu,
        ether(ipv4(udp(body + teid + bytes(32), dport=2152), 17)),
        ether(ipv4(udp(body + bytes(36), dport=2152), 17)),
        ether(ipv4(udp(body + teid + bytes(32), dport=2153), 17)),
    ) == [True, False, False]  # fmt: skip
    down = match(head(H.IPV4), head(H.UDP), head(H.GTPU_IP), head(H.GTPU_EH_DOWN, 1, b"\0\x49"))

    def extended(pdu, qfi, flags=0x34):
        session = bytes([flags, 0xFF, 0, 0x28]) + teid + bytes([0, 0, 0, 0x85, 1, pdu, qfi, 0])
        return ether(ipv4(udp(session + bytes(32), dport=2152), 17))

    frames = (extended(0, 9), extended(0x10, 9), extended(0, 8), extended(0, 9, 0x30))
    assert hits(four_pairs, down, *frames) == [True, False, False, False]
    # L2TPv2 with a length: flags, length, tunnel, session.
    session = match(head(H.IPV4), head(H.UDP), head(H.L2TPV2, 2, bytes(6) + b"\0\x05"))
    frames = [
        ether(ipv4(udp(bytes.fromhex(text) + bytes(20), dport=1701), 17))
        for text in ("4002001000010005", "4002001000010006", "0002001000010005")
    ]
    assert hits(four_pairs, session, *frames) == [True, False, False]


def test_headers_with_masks(four_pairs):
    net = match(
        masked(H.ETH, bytes(12) + b"\x08\0", bytes(12) + b"\xff\xff"),
        masked(H.IPV4, bytes(12) + bytes([192, 168, 64, 0]), bytes(12) + bytes([255, 255, 192, 0])),
        masked(H.UDP, b"\0\0\x1b\x50", b"\0\0\xff\xf0"),
    )
    far = bytes([192, 168, 128, 1])
    assert hits(
        four_pairs, net,
        ether(ipv4(udp(dport=0x1B5F), 17)),
        ether(ipv4(udp(dport=0x1B60), 17)),
        ether(ipv4(udp(dport=0x1B5F), 17, source=far)),
    ) == [True, False, False]  # fmt: skip


def raw(spec, mask):
    return build_match(ProtoHeaders(0, (), RawPattern(spec, mask)))


def test_raw_bytes_of_a_frame(four_pairs):
    frame = ether(ipv4(udp(), 17))
    mask = bytes(12) + b"\xff\xff" + bytes(22) + b"\xff\xff"
    found = raw(frame[: len(mask)], mask)
    assert hits(
        four_pairs, found,
        frame,
        ether(ipv4(udp(dport=1), 17)),
        ether(ipv4(udp(), 17), 0x86DD),
        frame[:37],
    ) == [True, False, False, False]  # fmt: skip


def test_raw_bytes_count_tags_as_on_a_wire(four_pairs):
    four_pairs.port.set_vlan_offload()
    inner = ether(ipv4(udp(), 17))
    line = inner[:12] + struct.pack(">HH", 0x8100, 5) + inner[12:]
    found = raw(line[:46], b"\xff" * 46)
    assert hits(four_pairs, found, line, tagged(inner, 5), inner, tagged(inner, 6)) == [
        True, True, False, False,
    ]  # fmt: skip
    double = inner[:12] + struct.pack(">HHHH", 0x88A8, 9, 0x8100, 5) + inner[12:]
    found = raw(double[:46], b"\xff" * 46)
    assert hits(four_pairs, found, double, tagged(inner, 5, outer=9), tagged(inner, 5)) == [
        True, True, False,
    ]  # fmt: skip


def test_raw_bytes_up_to_the_window(four_pairs):
    frame = ether(ipv4(udp(bytes(range(200))), 17))
    assert hits(four_pairs, raw(frame[:128], b"\xff" * 128), frame, frame[:127]) == [True, False]
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


def test_a_match_of_too_many_words_is_refused():
    builder = MatchBuilder()
    for anchor in Anchor:
        for i in range(8):
            builder.octets(anchor, 9 * i, b"\1", b"\1")
    with pytest.raises(PatternError, match="24"):
        builder.build()
