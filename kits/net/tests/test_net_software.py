"""The software stage against scapy: what leaves it is what a host's own stack would have sent."""

import itertools
import struct
from socket import AF_INET, AF_INET6, inet_pton

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.utils import checksum

from emudev_core.queues import Offload
from emudev_net.burst import (
    CRC32C_WANTED,
    CSUM_GOOD,
    CSUM_WANTED,
    GSO_ECN,
    GSO_MASK,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    OUTER_VLAN_PRESENT,
    VLAN_PRESENT,
    Burst,
    Packet,
    csum_offset,
    csum_start,
    offload_word,
    to_gso,
    vlan_word,
)
from emudev_net.checksum import CRC32C_TABLE
from emudev_net.jit import jit_wanted
from emudev_net.primitives import Words
from emudev_net.software import settle, soften
from emudev_net.stage import (
    NOTE,
    S_CRC,
    S_MALFORMED,
    S_NOTES,
    S_OUT,
    S_OUT_CAPACITY,
    S_RESUME,
    S_SCRATCH,
    S_TAKES,
    SLOT,
    STAGE_WORDS,
)
from emudev_net.testing import Probe
from emudev_net.testing import probes as compile_probes

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
ALL = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO | Offload.VLAN


@pytest.fixture(scope="module", params=["compiled", "plain"])
def kernels(request):
    if request.param == "plain":
        return Probe(soften), Probe(settle)
    if not jit_wanted():
        pytest.skip("kernels are not compiled here")
    return compile_probes(soften, settle)


class Stage:
    def __init__(self, kernels, takes=Offload.NONE, rows=272):
        self.soften, self.settle = kernels
        self.out = Burst(rows)
        self.notes = Words(rows * NOTE // 8)
        self.scratch = Words(rows * SLOT // 8)
        self.words = Words(STAGE_WORDS)
        self.words[S_TAKES] = int(takes)
        self.words[S_OUT] = self.out.address
        self.words[S_OUT_CAPACITY] = rows
        self.words[S_NOTES] = self.notes.address
        self.words[S_SCRATCH] = self.scratch.address
        self.words[S_CRC] = CRC32C_TABLE.address

    def run(self, burst, rows=None):
        self.kept = burst  # the rows that are made point into it
        return self.soften(self.words.address, burst.address, burst.count if rows is None else rows)


def payload(size):
    return bytes((7 * i + (i >> 8)) & 0xFF for i in range(size))


def request(frame, kind, mss, **more):
    """A frame as a guest hands it over: seed in the checksum field, lengths of the whole frame."""
    data = bytearray(bytes(frame))
    layer = TCP if TCP in frame else UDP
    parsed = Ether(bytes(data))
    l4 = len(data) - len(bytes(parsed[layer]))
    protocol, field = (6, 16) if layer is TCP else (17, 6)
    ip = parsed[IPv6] if IPv6 in frame else parsed[IP]
    addresses = inet_pton(AF_INET6 if IPv6 in frame else AF_INET, ip.src)
    addresses += inet_pton(AF_INET6 if IPv6 in frame else AF_INET, ip.dst)
    # scapy's checksum is the complement of the folded sum that belongs into the field.
    pseudo = addresses + struct.pack(">II", len(data) - l4, protocol)
    data[l4 + field : l4 + field + 2] = (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    header = l4 + (4 * parsed[TCP].dataofs if layer is TCP else 8)
    word = offload_word(l4, field, header if kind else 0, mss)
    flags = CSUM_WANTED | (to_gso(kind) if kind else 0) | more.pop("flags", 0)
    return Packet(bytes(data), flags=flags, offload=word, **more)


def expected_segments(frame, mss):
    """What scapy builds for each segment."""
    layer = TCP if TCP in frame else UDP
    whole = Ether(bytes(frame))
    data = bytes(whole[layer].payload)
    pieces = [data[i : i + mss] for i in range(0, len(data), mss)]
    for k, piece in enumerate(pieces):
        segment = whole.copy()
        segment[layer].remove_payload()
        segment = segment / piece
        if IP in segment:
            segment[IP].id = (whole[IP].id + k) & 0xFFFF
            del segment[IP].len, segment[IP].chksum
        else:
            del segment[IPv6].plen
        if layer is TCP:
            segment[TCP].seq = (whole[TCP].seq + k * mss) & 0xFFFF_FFFF
            flags = int(whole[TCP].flags)
            if k < len(pieces) - 1:
                flags &= ~0x09
            if k > 0:
                flags &= ~0x80
            segment[TCP].flags = flags
        else:
            del segment[UDP].len
        del segment[layer].chksum
        yield bytes(segment)


TCP4 = ETHER / IP(src="10.0.0.1", dst="10.0.0.2", id=0xFFFE, flags="DF", options=b"\x01" * 4)
TCP6 = ETHER / IPv6(src="fe80::1", dst="fe80::2", fl=77)
TCP_LAYER = TCP(sport=5, dport=6, seq=0xFFFF_F000, ack=9, flags="FPAC", options=[("NOP", 0)] * 12)


@pytest.mark.parametrize("size", [1449, 2896, 9000, 65000 - 100])
@pytest.mark.parametrize("split", [0, 1000, 33])
def test_tcp_over_ipv4_is_segmented_as_scapy_builds_it(kernels, size, split):
    if split == 33:
        size = min(size, 4000)  # as many rows as a packet may have
    frame = TCP4 / TCP_LAYER / payload(size)
    burst = Burst.of([request(frame, GSO_TCPV4, 1448)], split=split)
    stage = Stage(kernels, rows=600)
    rows = stage.run(burst)
    found = stage.out.packets(rows)
    assert [p.data for p in found] == list(expected_segments(frame, 1448))
    assert all(p.flags & (GSO_MASK | CSUM_WANTED | GSO_ECN) == 0 for p in found)
    assert all(p.flags & CSUM_GOOD for p in found)
    assert stage.settle(stage.words.address, rows) == burst.count


@pytest.mark.parametrize("mss", [1, 536, 1440, 1441])
def test_tcp_over_ipv6_is_segmented_as_scapy_builds_it(kernels, mss):
    frame = TCP6 / TCP_LAYER / payload(100 if mss == 1 else 5003)
    burst = Burst.of([request(frame, GSO_TCPV6, mss)])
    stage = Stage(kernels)
    found = stage.out.packets(stage.run(burst))
    assert [p.data for p in found] == list(expected_segments(frame, mss))


@pytest.mark.parametrize("base", [TCP4, TCP6])
def test_udp_is_segmented_into_datagrams(kernels, base):
    frame = base / UDP(sport=5, dport=6) / payload(3001)
    burst = Burst.of([request(frame, GSO_UDP_L4, 1200)], split=700)
    stage = Stage(kernels)
    found = stage.out.packets(stage.run(burst))
    assert [p.data for p in found] == list(expected_segments(frame, 1200))


def test_a_sink_that_takes_checksums_gets_segments_with_seeds(kernels):
    frame = TCP4 / TCP_LAYER / payload(4000)
    burst = Burst.of([request(frame, GSO_TCPV4, 1448)])
    stage = Stage(kernels, Offload.CSUM)
    found = stage.out.packets(stage.run(burst))
    finish = Stage(kernels)
    done = []
    for packet in found:
        assert packet.flags & CSUM_WANTED
        again = Burst.of([packet])
        done += finish.out.packets(finish.run(again))
    assert [p.data for p in done] == list(expected_segments(frame, 1448))


def test_a_frame_that_fits_one_segment_is_completed(kernels):
    frame = TCP4 / TCP_LAYER / payload(500)
    stage = Stage(kernels)
    found = stage.out.packets(stage.run(Burst.of([request(frame, GSO_TCPV4, 1448)])))
    assert [p.data for p in found] == list(expected_segments(frame, 1448))


@pytest.mark.parametrize("split", [0, 15, 41])
@pytest.mark.parametrize(
    "frame",
    [
        TCP4 / TCP(sport=1, dport=2) / payload(333),
        TCP6 / TCP(sport=1, dport=2) / payload(332),
        TCP4 / UDP(sport=1, dport=2) / payload(1),
        TCP6 / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2) / payload(77),
    ],
)
def test_checksums_are_completed_as_scapy_computes_them(kernels, frame, split):
    data = bytes(frame)
    packet = request(frame, 0, 0)
    assert packet.data != data
    before = packet.data
    burst = Burst.of([packet], split=split)
    stage = Stage(kernels)
    (found,) = stage.out.packets(stage.run(burst))
    assert found.data == data
    assert found.flags & CSUM_WANTED == 0
    assert burst.packets()[0].data == before  # the guest's memory is not written


def test_sctp_gets_its_crc(kernels):
    frame = TCP4 / SCTP(sport=1, dport=2, tag=3) / SCTPChunkData(data=payload(101))
    data = bytes(frame)
    l4 = 38
    blank = data[: l4 + 8] + b"\xde\xad\xbe\xef" + data[l4 + 12 :]
    packet = Packet(blank, flags=CRC32C_WANTED, offload=offload_word(l4, 8, 0, 0))
    for takes in (Offload.NONE, ALL):
        stage = Stage(kernels, takes)
        (found,) = stage.out.packets(stage.run(Burst.of([packet], split=50)))
        assert found.data == data
        assert found.flags & CRC32C_WANTED == 0


def test_a_crc_that_the_sink_computes_is_left_to_it_behind_a_tag_too(kernels):
    frame = bytes(TCP4 / SCTP(sport=1, dport=2, tag=3) / SCTPChunkData(data=payload(101)))
    packet = Packet(frame, flags=CRC32C_WANTED, offload=offload_word(38, 8, 0, 0))
    stage = Stage(kernels, Offload.CRC32C | Offload.VLAN)
    burst = Burst.of([packet], split=50)
    assert stage.out.packets(stage.run(burst)) == burst.packets()
    tagged = attrs.evolve(
        packet, flags=CRC32C_WANTED | VLAN_PRESENT, vlan=vlan_word(9, 0x8100, 0, 0)
    )
    stage = Stage(kernels, Offload.CRC32C)
    (found,) = stage.out.packets(stage.run(Burst.of([tagged])))
    assert found.data == frame[:12] + bytes.fromhex("81000009") + frame[12:]
    assert found.flags & (CRC32C_WANTED | VLAN_PRESENT) == CRC32C_WANTED
    assert (csum_start(found.offload), csum_offset(found.offload)) == (42, 8)


def test_a_tag_is_inserted_without_copying_payload(kernels):
    frame = bytes(TCP4 / UDP(sport=1, dport=2) / payload(300))
    word = vlan_word(0x6005, 0x8100, 0, 0)
    burst = Burst.of([Packet(frame, flags=VLAN_PRESENT, vlan=word)])
    stage = Stage(kernels, Offload.CSUM)
    rows = stage.run(burst)
    (found,) = stage.out.packets(rows)
    assert found.data == frame[:12] + bytes.fromhex("81006005") + frame[12:]
    assert found.flags & VLAN_PRESENT == 0
    assert stage.out.words[8] == burst.words[0] + 12


def test_two_tags_are_inserted_outer_first(kernels):
    inner = TCP4 / UDP(sport=1, dport=2) / payload(100)
    expected = bytes(
        Ether(src=ETHER.src, dst=ETHER.dst)
        / Dot1AD(vlan=7, prio=1)
        / Dot1Q(vlan=5, prio=3)
        / inner[IP]
    )
    word = vlan_word(0x6005, 0x8100, 0, 0x2007)
    flags = VLAN_PRESENT | OUTER_VLAN_PRESENT
    burst = Burst.of([Packet(bytes(inner), flags=flags, vlan=word)], split=5)
    stage = Stage(kernels)
    (found,) = stage.out.packets(stage.run(burst))
    assert found.data == expected


def test_a_tag_moves_the_offsets_of_what_is_passed_on(kernels):
    frame = TCP4 / TCP_LAYER / payload(5000)
    packet = request(frame, GSO_TCPV4, 1448, flags=VLAN_PRESENT, vlan=vlan_word(9, 0, 0, 0))
    stage = Stage(kernels, ALL & ~Offload.VLAN)
    (found,) = stage.out.packets(stage.run(Burst.of([packet])))
    assert found.data == packet.data[:12] + bytes.fromhex("81000009") + packet.data[12:]
    assert csum_start(found.offload) == csum_start(packet.offload) + 4
    assert csum_offset(found.offload) == csum_offset(packet.offload)
    assert found.offload >> 32 & 0xFFFF == (packet.offload >> 32 & 0xFFFF) + 4
    assert found.offload >> 48 == 1448


def test_segments_are_tagged_each(kernels):
    frame = TCP4 / TCP_LAYER / payload(3000)
    packet = request(frame, GSO_TCPV4, 1000, flags=VLAN_PRESENT, vlan=vlan_word(9, 0x88A8, 0, 0))
    stage = Stage(kernels)
    found = stage.out.packets(stage.run(Burst.of([packet])))
    plain = list(expected_segments(frame, 1000))
    assert [p.data for p in found] == [d[:12] + b"\x88\xa8\0\x09" + d[12:] for d in plain]


def test_what_the_sink_takes_is_handed_on_as_it_is(kernels):
    packets = [
        request(TCP4 / TCP_LAYER / payload(9000), GSO_TCPV4, 1448, hash=5, time=6),
        Packet(b"x" * 60, flags=VLAN_PRESENT, vlan=3, own=9),
    ]
    burst = Burst.of(packets, split=1000)
    stage = Stage(kernels, ALL)
    rows = stage.run(burst)
    assert stage.out.packets(rows) == burst.packets()


@pytest.mark.parametrize("takes", [Offload.TSO4, Offload.VLAN | Offload.USO])
def test_segmentation_without_checksums_is_not_left_to_the_sink(kernels, takes):
    frame = TCP4 / TCP_LAYER / payload(3000)
    stage = Stage(kernels, takes)
    found = stage.out.packets(stage.run(Burst.of([request(frame, GSO_TCPV4, 1448)])))
    assert [p.data for p in found] == list(expected_segments(frame, 1448))


def move(stage, burst, takes_rows):
    """Run the stage until the burst is done; `takes_rows(n)` packets are taken at each turn."""
    got, start, turns = [], 0, 0
    while start < burst.count:
        turns += 1
        assert turns < 5000
        at = burst.address + 64 * start
        made = stage.soften(stage.words.address, at, burst.count - start)
        if made < 0:
            start -= made
            continue
        packets = stage.out.packets(made)
        count = min(takes_rows(), len(packets))
        if count == 0:
            continue
        got += [p.data for p in packets[:count]]
        rows = sum(len(p.segments) for p in packets[:count])
        start += stage.settle(stage.words.address, rows)
    return got


MIXED = [
    (TCP4 / TCP_LAYER / payload(6000), GSO_TCPV4),
    (TCP4 / UDP(sport=1, dport=2) / payload(50), 0),
    (TCP6 / TCP_LAYER / payload(2500), GSO_TCPV6),
    (TCP6 / UDP(sport=3, dport=4) / payload(2100), GSO_UDP_L4),
]
MIXED_PACKETS = [request(f, k, 500 if k else 0, own=i) for i, (f, k) in enumerate(MIXED)]
MIXED_EXPECTED = [
    data for f, k in MIXED for data in (expected_segments(f, 500) if k else [bytes(f)])
]


@given(takes=st.lists(st.integers(0, 5), min_size=1, max_size=10), rows=st.integers(8, 40))
@settings(max_examples=25, deadline=None)
def test_nothing_is_lost_or_repeated_when_the_sink_takes_only_a_part(kernels, takes, rows):
    burst = Burst.of(MIXED_PACKETS, split=2000)
    turns = itertools.cycle([*takes, 1])  # it does take something now and then
    got = move(Stage(kernels, rows=rows), burst, lambda: next(turns))
    assert got == MIXED_EXPECTED


def test_a_frame_that_was_begun_is_forgotten_when_the_source_shows_another(kernels):
    first = request(TCP4 / TCP_LAYER / payload(5000), GSO_TCPV4, 1000, own=1)
    other_frame = TCP4 / TCP_LAYER / payload(6000)
    other = request(other_frame, GSO_TCPV4, 1000, own=2)
    stage = Stage(kernels)
    stage.run(Burst.of([first]))
    assert stage.settle(stage.words.address, 4) == 0  # two segments of two rows
    assert stage.words[S_RESUME] == 2
    found = stage.out.packets(stage.run(Burst.of([other])))
    assert [p.data for p in found] == list(expected_segments(other_frame, 1000))


GOOD = request(TCP4 / TCP_LAYER / payload(3000), GSO_TCPV4, 1000)
L4, HEADER_END = 38, 70


@pytest.mark.parametrize(
    "bad",
    [
        offload_word(L4, 16, HEADER_END, 0),  # no segment size
        offload_word(L4, 16, 0xFFFF, 1000),  # header longer than the frame
        offload_word(L4, 16, 300, 1000),  # longer than any header
        offload_word(L4, 16, HEADER_END - 4, 1000),  # not what the TCP header says
        offload_word(14, 16, HEADER_END, 1000),  # L4 in the IP header
        offload_word(0xFFFF, 16, HEADER_END, 1000),
        offload_word(L4, 16, 10, 1000),
    ],
)
def test_requests_that_do_not_fit_the_frame_are_counted_and_left_out(kernels, bad):
    evil = Packet(GOOD.data, flags=GOOD.flags, offload=bad)
    fine = Packet(b"f" * 60)
    burst = Burst.of([fine, evil, fine], split=2000)
    stage = Stage(kernels)
    got = move(stage, burst, lambda: 100)
    assert got == [b"f" * 60] * 2
    assert stage.words[S_MALFORMED] == 1


@pytest.mark.parametrize("start", [60, 255, 0xFFFF])
def test_a_checksum_behind_the_end_is_counted_and_left_out(kernels, start):
    evil = Packet(b"x" * 60, flags=CSUM_WANTED, offload=offload_word(start, 0, 0, 0))
    stage = Stage(kernels)
    assert stage.run(Burst.of([evil])) == -1
    assert stage.words[S_MALFORMED] == 1


@given(
    offload=st.integers(-(1 << 63), (1 << 63) - 1),
    flags=st.integers(0, 0xFFFFF),
    takes=st.integers(0, 31),
    data=st.binary(max_size=200),
    split=st.integers(1, 100),
)
@settings(max_examples=200, deadline=None)
def test_any_request_ends(kernels, offload, flags, takes, data, split):
    frame = GOOD.data[:14] + data
    packet = Packet(frame, flags=flags, offload=offload)
    stage = Stage(kernels, Offload(takes))
    move(stage, Burst.of([packet], split=split), lambda: 1000)
