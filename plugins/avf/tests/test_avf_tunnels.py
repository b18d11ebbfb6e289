"""Tunnels: their packet types, and what is said of their checksums.

Types: the numbers of Linux' table (avf.md 6.10 names the ranges), worked out by hand: 29 is IPv4 in
IPv4, 43 a GRE or UDP tunnel, 58 Ethernet in one, 73 with a VLAN tag; 66 more if the outer one is
IPv6.
"""

import random
import struct

import pytest

from emudev_avf.testing.frames import ones_sum
from emudev_net.burst import CSUM_BAD, CSUM_GOOD, CSUM_WANTED, FIRST, LAST, Packet, offload_word

MAC = bytes.fromhex("525400770002")
OTHER = bytes.fromhex("525400770001")
L3L4P, IPE, L4E, EIPE = (1 << n for n in (3, 22, 23, 24))


def ipv4(payload, protocol, good=True):
    head = struct.pack(">BBHHHBBH8s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
                       bytes(range(1, 9)))  # fmt: skip
    value = ~ones_sum(head) & 0xFFFF ^ (not good)
    return head[:10] + value.to_bytes(2, "big") + head[12:] + payload


def ipv6(payload, protocol):
    return struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64) + bytes(32) + payload


def udp(payload, port):
    return struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload


def gre(payload, kind, *, key=False, sequence=False, checksum=False):
    bits = checksum << 15 | key << 13 | sequence << 12
    return struct.pack(">HH", bits, kind) + bytes(4 * (key + sequence + checksum)) + payload


def ether(payload, kind=0x0800, tag=b""):
    return MAC + OTHER + tag + kind.to_bytes(2, "big") + payload


def vxlan(frame):
    return udp(bytes.fromhex("0800000000002a00") + frame, 4789)


def geneve(payload, kind, options=0):
    head = struct.pack(">BBHI", options, 0, kind, 0x2A00)
    return udp(head + bytes(4 * options) + payload, 6081)


TCP = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 5 << 4, 0x10, 512, 0, 0)
UDP = udp(b"abcd", 53)
SCTP = bytes(12)
TAG = b"\x81\x00\x00\x05"
FRAGMENT = bytearray(ipv4(UDP, 17))
FRAGMENT[6] = 0x20

TYPES = [
    (ipv4(ipv4(UDP, 17), 4), 31),
    (ipv4(ipv4(TCP, 6), 4), 33),
    (ipv4(bytes(ipv4(SCTP, 132)), 4), 34),
    (ipv4(ipv4(bytes(8), 1), 4), 35),
    (ipv4(ipv4(bytes(8), 99), 4), 30),
    (ipv4(bytes(FRAGMENT), 4), 29),
    (ipv4(ipv6(TCP, 6), 41), 40),
    (ipv4(ipv6(bytes(8), 58), 41), 42),
    (ipv4(gre(ipv4(TCP, 6), 0x0800), 47), 48),
    (ipv4(gre(ipv4(UDP, 17), 0x0800, key=True), 47), 46),
    (ipv4(gre(ipv6(UDP, 17), 0x86DD, key=True, sequence=True, checksum=True), 47), 53),
    (ipv4(gre(ether(bytes(30), 0x0806), 0x6558), 47), 58),
    (ipv4(gre(ether(ipv4(TCP, 6)), 0x6558), 47), 63),
    (ipv4(gre(ether(ipv6(UDP, 17), 0x86DD), 0x6558), 47), 68),
    (ipv4(vxlan(ether(bytes(30), 0x0806)), 17), 58),
    (ipv4(vxlan(ether(ipv4(UDP, 17))), 17), 61),
    (ipv4(vxlan(ether(ipv6(TCP, 6), 0x86DD)), 17), 70),
    (ipv4(vxlan(ether(bytes(30), 0x0806, TAG)), 17), 73),
    (ipv4(vxlan(ether(ipv4(TCP, 6), tag=TAG)), 17), 78),
    (ipv4(geneve(ether(ipv4(TCP, 6)), 0x6558), 17), 63),
    (ipv4(geneve(ether(ipv4(TCP, 6)), 0x6558, 3), 17), 63),
    (ipv4(geneve(ipv4(bytes(8), 1), 0x0800), 17), 50),
]  # fmt: skip
NO_TUNNELS = [
    (ipv4(UDP, 17), 24),
    (ipv4(vxlan(b"")[:12], 17), 24),  # too short for its header
    (ipv4(vxlan(b"short"), 17), 24),
    (ipv4(udp(bytes(8) + ether(bytes(30)), 4789), 17), 24),  # without its flag
    (ipv4(geneve(bytes(30), 0x1234), 17), 24),
    (ipv4(geneve(b"", 0x6558, 63), 17), 24),
    (ipv4(geneve(b"\x45" + bytes(10), 0x0800), 17), 24),
    (ipv4(gre(bytes(30), 0x880B), 47), 23),
    (ipv4(struct.pack(">HH", 0x0001, 0x0800) + ipv4(TCP, 6), 47), 23),  # version 1
    (ipv4(struct.pack(">HH", 0x4000, 0x0800) + ipv4(TCP, 6), 47), 23),  # routing
    (ipv4(b"\x45\x00", 4), 23),
    (ipv4(gre(b"", 0x0800)[:3], 47), 23),
]  # fmt: skip


def received(guest, frame, **keys):
    guest.post(1)
    guest.deliver(Packet(frame, **keys) if keys else frame)
    ((data, (done,)),) = guest.received()
    assert data == frame.ljust(60, b"\0")
    return done


@pytest.mark.parametrize(
    ("packet", "ptype"), TYPES, ids=[f"{p}-{i}" for i, (_, p) in enumerate(TYPES)]
)
def test_the_types_of_tunnels(guest, packet, ptype):
    done = received(guest, ether(packet))
    assert done.ptype == ptype


@pytest.mark.parametrize(("packet", "ptype"), TYPES[::3], ids=[str(p) for _, p in TYPES[::3]])
def test_the_types_of_tunnels_over_ipv6(guest, packet, ptype):
    # Short inner headers, so that the first 128 bytes hold them.
    done = received(guest, ether(ipv6(packet[20:], packet[9]), 0x86DD))
    assert done.ptype == ptype + 66


@pytest.mark.parametrize(("packet", "ptype"), NO_TUNNELS, ids=range(len(NO_TUNNELS)))
def test_what_only_looks_like_a_tunnel(guest, packet, ptype):
    assert received(guest, ether(packet)).ptype == ptype


def test_a_wrong_outer_header_is_said_to_be_wrong(guest):
    done = received(guest, ether(ipv4(vxlan(ether(ipv4(TCP, 6))), 17, good=False)))
    assert done.qword1 & (L3L4P | EIPE) == L3L4P | EIPE


def summed(packet):
    """An IP packet with a checksum in its TCP or UDP header, which has none (RFC 768, 9293)."""
    v6 = packet[0] >> 4 == 6
    size, protocol = (40, packet[6]) if v6 else (20, packet[9])
    pseudo = packet[8:40] if v6 else packet[12:20]
    pseudo += struct.pack(">II", len(packet) - size, protocol)
    at = size + (16 if protocol == 6 else 6)
    value = ~ones_sum(pseudo + packet[size:]) & 0xFFFF
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


DATA = b"odd" * 101
SEGMENT = summed(ipv4(TCP + DATA, 6))
SEGMENT6 = summed(ipv6(TCP + DATA, 6))
DATAGRAM = summed(ipv4(udp(DATA, 53), 17))
GOOD, BAD, LEFT = L3L4P, L3L4P | L4E, 0
INSIDE = [
    (ipv4(SEGMENT, 4), GOOD),
    (ipv4(ipv4(TCP + DATA, 6), 4), BAD),
    (ipv4(DATAGRAM, 4), GOOD),
    (ipv4(SEGMENT6, 41), GOOD),
    (ipv4(ipv6(TCP + DATA, 6), 41), BAD),
    (ipv6(SEGMENT6, 41), GOOD),
    (ipv4(gre(SEGMENT, 0x0800), 47), GOOD),
    (ipv4(gre(ether(SEGMENT, tag=TAG), 0x6558, key=True), 47), GOOD),
    (ipv4(gre(ether(ipv4(TCP + DATA, 6)), 0x6558, key=True), 47), BAD),
    (ipv4(gre(SEGMENT, 0x0800, checksum=True), 47), LEFT),  # GRE's own is not known
    (ipv4(gre(DATAGRAM, 0x0800), 47), LEFT),  # it may carry a frame in turn
    (ipv4(vxlan(ether(SEGMENT)), 17), GOOD),  # without an outer one
    (summed(ipv4(vxlan(ether(SEGMENT)), 17)), GOOD),
    (summed(ipv6(vxlan(ether(SEGMENT6, 0x86DD)), 17)), GOOD),
    (ipv6(vxlan(ether(SEGMENT6, 0x86DD)), 17), GOOD),  # RFC 6935
    (summed(ipv4(vxlan(ether(DATAGRAM)), 17)), GOOD),
    (summed(ipv4(vxlan(ether(ipv4(TCP + DATA, 6))), 17)), BAD),
    (summed(ipv4(geneve(SEGMENT, 0x0800, 3), 17)), GOOD),
    (summed(ipv4(vxlan(ether(SEGMENT)), 17))[:-1] + b"?", LEFT),  # both wrong
    (summed(ipv4(vxlan(ether(SEGMENT + b"pad")), 17)), GOOD),
    (summed(ipv4(vxlan(ether(bytes(30), 0x0806)), 17)), LEFT),  # has none
    (ipv4(vxlan(ether(SEGMENT[:-1])), 17), LEFT),  # longer than what it is in
    (ipv4(SEGMENT[:-1], 4), LEFT),
    (ipv4(SEGMENT, 4)[:-1], LEFT),
    (ipv4(ipv4(TCP + DATA, 6, good=False), 4), L3L4P | IPE),
    (ipv4(FRAGMENT[:10] + b"\x4a\xb9" + FRAGMENT[12:], 4), GOOD),  # nothing else to check
]  # fmt: skip


@pytest.mark.parametrize("split", [0, 15, 50])
@pytest.mark.parametrize("tag", [b"", TAG], ids=["plain", "tagged"])
@pytest.mark.parametrize(
    ("packet", "want"), INSIDE, ids=[f"{i}-{w:#x}" for i, (_, w) in enumerate(INSIDE)]
)
def test_checksums_inside_of_tunnels_are_verified(guest, packet, want, tag, split):
    frame = ether(packet, 0x86DD if packet[0] >> 4 == 6 else 0x0800, tag)
    guest.post(1)
    guest.deliver(frame, split=split)
    ((_, (done,)),) = guest.received()
    assert done.qword1 & (L3L4P | L4E | IPE | EIPE) == want


def test_a_wrong_outer_checksum_is_left_to_the_guest(guest):
    packet = bytearray(summed(ipv4(vxlan(ether(SEGMENT)), 17)))
    packet[27] ^= 1
    assert received(guest, ether(bytes(packet))).qword1 & L3L4P == 0
    # Who says that it is right has looked at it, and at nothing inside.
    good = FIRST | LAST | CSUM_GOOD
    assert received(guest, ether(bytes(packet)), flags=good).qword1 & (L3L4P | L4E) == GOOD
    packet = ipv4(vxlan(ether(ipv4(TCP + DATA, 6))), 17)
    assert received(guest, ether(packet), flags=good).qword1 & (L3L4P | L4E) == BAD
    packet = ipv4(vxlan(ether(SEGMENT)), 17)
    assert received(guest, ether(packet), flags=FIRST | LAST | CSUM_BAD).qword1 & L3L4P == 0


def test_an_inner_checksum_that_this_host_completes_is_good(guest):
    inner = 14 + 20 + 8 + 8 + 14 + 20
    frame = ether(ipv4(vxlan(ether(ipv4(TCP, 6))), 17))
    guest.post(2)
    wanted = FIRST | LAST | CSUM_WANTED
    guest.deliver(
        Packet(frame, flags=wanted, offload=offload_word(inner, 16, 0, 0)),
        Packet(frame, flags=wanted, offload=offload_word(34, 6, 0, 0)),
    )
    (data, (first,)), (_, (second,)) = guest.received()
    assert ones_sum(data[inner:]) == 0xFFFF
    assert first.qword1 & (L3L4P | L4E) == GOOD
    assert second.qword1 & (L3L4P | L4E) == BAD  # the outer one is completed, the inner one was not


@pytest.mark.parametrize("rxdid", [0, 17, 18, 20, 21, 22, 25])
def test_mangled_tunnels_are_delivered_as_they_are(guests, rxdid):
    guest = guests(rxdid=rxdid)
    dice = random.Random(rxdid)
    pool = [guest.take(2048)]
    for packet, _ in TYPES * 4:
        frame = bytearray(ether(packet, tag=dice.choice([b"", TAG, TAG + TAG])))
        for _ in range(dice.randrange(4)):
            frame[dice.randrange(12, len(frame))] = dice.randrange(256)
        frame = bytes(frame[: dice.randrange(14, len(frame) + 1)])
        guest.post(1, addresses=pool)
        assert guest.deliver(frame, split=dice.choice([0, 9])) > 0
        ((data, (done,)),) = guest.received()
        assert data == frame.ljust(60, b"\0")
        assert done.ptype < 154


# -- transmit


def context(eipt=0, eiplen=0, udp_or_gre=0, length=0, checksum=0, qword1=1):
    """A context descriptor with the parameters of a tunnel, by their places in avf.md 6.4."""
    return (eipt | eiplen // 4 << 2 | udp_or_gre << 9 | length // 2 << 12 | checksum << 23, qword1)


def wrong_sums(packet, *places):
    data = bytearray(packet)
    for at in places:
        data[at : at + 2] = b"\xaa\xbb"
    return bytes(data)


def test_the_checksums_of_a_tunnel_are_those_inside_and_of_its_outer_header(guest):
    right = ether(ipv4(vxlan(ether(ipv4(TCP, 6))), 17))
    # Outer IPv4 header at 14, UDP at 34, VXLAN at 42, inner Ethernet at 50, IPv4 at 64, TCP at 84.
    guest.put(context(3, 20, 1, 30))
    guest.send(wrong_sums(right, 24, 74), 0x167, mac=14, ip=20, l4=20)
    (packet,) = guest.peek()
    assert packet.data == right
    assert packet.flags & CSUM_WANTED
    assert packet.offload & 0xFFFF_FFFF == 84 | 16 << 16


def test_an_outer_header_alone_can_be_summed(guest):
    right = ether(ipv4(gre(ether(bytes(40), 0x88B5), 0x6558), 47))
    guest.put(context(3, 20, 2, 4))
    guest.send(wrong_sums(right, 24), 0x7, mac=14)
    (packet,) = guest.peek()
    assert packet.data == right
    assert not packet.flags & CSUM_WANTED


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (context(3, 20, 1, 30, checksum=1), "tunnel"),  # outer UDP checksum
        (context(0, 20, 1, 30), "tunnel"),  # a tunnel in nothing
        (context(3, 20, 1, 30, qword1=1 | 1 << 4 | 20 << 30 | 100 << 50), "tunnel"),  # TSO
        (context(3, 8, 1, 30), "offload"),
        (context(3, 508, 1, 254), "offload"),
    ],
)
def test_tunnels_that_can_not_be_sent_are_dropped_by_reason(guest, parameters, reason):
    guest.put(parameters)
    guest.send(ether(ipv4(vxlan(ether(ipv4(TCP, 6))), 17)), 0x167, mac=14, ip=20, l4=20)
    assert guest.peek() == []
    drops = guest.port.kernels(1).stats().dropped
    assert {k: n for k, n in drops.items() if n} == {reason: 1}
    assert guest.tx_qword1(1) == 0xF
