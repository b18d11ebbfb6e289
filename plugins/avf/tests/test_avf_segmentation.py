"""TSO and USO all the way: a guest's ring, the software stage, another guest's ring.

What comes out is compared with segments that scapy builds.
"""

import random

import pytest

from emudev_avf.rings import KERNELS
from emudev_core.loop import Loop
from emudev_net import flow as net_flow

scapy = pytest.importorskip("scapy.all")

MAC, OTHER = "52:54:00:77:00:02", "52:54:00:77:00:01"


def payload(size):
    return random.Random(size).randbytes(size)


def network(version, **fields):
    if version == 4:
        return scapy.IP(src="10.0.0.1", dst="10.0.0.2", ttl=64, flags="DF", **fields)
    return scapy.IPv6(src="fd00::1", dst="fd00::2", hlim=64)


def ether():
    return scapy.Ether(src=OTHER, dst=MAC)


def segments(version, data, mss, flags, seq):
    """What a host that segments in software would send; avf.md 6.5."""
    out = []
    pieces = [data[i : i + mss] for i in range(0, len(data), mss)]
    for k, piece in enumerate(pieces):
        kept = flags
        if k != len(pieces) - 1:
            kept = kept.replace("F", "").replace("P", "")
        if k != 0:
            kept = kept.replace("C", "")
        ip = network(version, id=1000 + k) if version == 4 else network(version)
        tcp = scapy.TCP(
            sport=2794, dport=1766, seq=seq + k * mss & 0xFFFFFFFF, ack=77, window=512, flags=kept,
            options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 2))],
        )  # fmt: skip
        out.append(bytes(ether() / ip / tcp / piece))
    return out


def request(version, data, flags, seq):
    """The frame as Linux hands it over: no IP lengths, no IPv4 checksum, a seed without length."""
    whole = bytearray(segments(version, data, len(data), flags, seq)[0])
    if version == 4:
        whole[16:18] = b"\0\0"
        whole[24:26] = b"\0\0"
        addresses, l4 = whole[26:34], 34
    else:
        whole[18:20] = b"\0\0"
        addresses, l4 = whole[22:54], 54
    seed = sum(int.from_bytes(addresses[i : i + 2], "big") for i in range(0, len(addresses), 2)) + 6
    seed = (seed & 0xFFFF) + (seed >> 16)
    seed = (seed & 0xFFFF) + (seed >> 16)
    whole[l4 + 16 : l4 + 18] = seed.to_bytes(2, "big")
    return bytes(whole)


@pytest.fixture
def wire(guests, compiled_or_plain):
    """A guest that sends, one that receives, and what moves all that is ready between them."""
    compiled_or_plain(*KERNELS, net_flow.pump)
    loop = Loop()
    flows = []

    def make(posted=400):
        sender, receiver = guests(length=128), guests(length=512)
        receiver.post(posted)
        flow = net_flow.Flow(loop, sender.port.kernels(1), receiver.port.kernels(0))
        flows.append(flow)
        return sender, receiver, flow

    yield make
    for flow in flows:
        flow.close()
    loop.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("size", "mss"), [(2896, 1448), (2897, 1448), (1449, 1448), (20_000, 1448), (60_000, 536)]
)
def test_a_tcp_frame_arrives_as_its_segments(wire, version, size, mss):
    sender, receiver, flow = wire()
    data = payload(size)
    frame = request(version, data, "FPAC", 0xFFFF_F000)
    sender.put((0, 0x11 | size << 30 | mss << 50))
    pieces = [700] if size < 16000 else [54, *[12288] * ((len(frame) - 55) // 12288)]
    ip = 20 if version == 4 else 40
    command = 0x167 if version == 4 else 0x127
    sender.send(frame, command=command, pieces=pieces, mac=14, ip=ip, l4=32)
    flow.run()
    received = receiver.received()
    assert [data for data, _ in received] == segments(version, data, mss, "FPAC", 0xFFFF_F000)
    # Checksums were computed here and need no second look: checked, and no error.
    assert {done[-1].qword1 & (1 << 3 | 3 << 22) for _, done in received} == {1 << 3}
    assert sender.tx_qword1(sender.tx_tail[0] - 1) == 0xF
    assert sender.signals(1) == 1
    assert receiver.signals(1) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_frame_arrives_as_datagrams(wire, version):
    sender, receiver, flow = wire()
    data = payload(5000)

    def datagram(piece, k=0):
        ip = network(version, id=1000 + k) if version == 4 else network(version)
        return bytes(ether() / ip / scapy.UDP(sport=5000, dport=6000) / piece)

    frame = bytearray(datagram(data))
    l4 = 34 if version == 4 else 54
    addresses = frame[26:34] if version == 4 else frame[22:54]
    seed = sum(int.from_bytes(addresses[i : i + 2], "big") for i in range(0, len(addresses), 2))
    seed = (seed + 17 & 0xFFFF) + (seed + 17 >> 16)
    frame[l4 + 6 : l4 + 8] = ((seed & 0xFFFF) + (seed >> 16)).to_bytes(2, "big")
    sender.put((0, 0x11 | 5000 << 30 | 1400 << 50))
    command = 0x367 if version == 4 else 0x327
    sender.send(bytes(frame), command=command, mac=14, ip=l4 - 14, l4=8)
    flow.run()
    want = [datagram(data[i : i + 1400], k) for k, i in enumerate(range(0, 5000, 1400))]
    assert [data for data, _ in receiver.received()] == want


def test_each_segment_carries_the_tag(wire):
    sender, receiver, flow = wire()
    data = payload(4000)
    sender.put((0, 0x11 | 4000 << 30 | 1448 << 50))
    sender.send(request(4, data, "A", 1), command=0x167 | 8, mac=14, ip=20, l4=32, l2tag1=0x2005)
    flow.run()
    want = [s[:12] + b"\x81\x00\x20\x05" + s[12:] for s in segments(4, data, 1448, "A", 1)]
    assert [data for data, _ in receiver.received()] == want


def test_a_checksum_request_arrives_complete(wire):
    sender, receiver, flow = wire()
    want = bytes(ether() / network(4) / scapy.TCP(sport=1, dport=2) / payload(333))
    seed = sum(int.from_bytes(want[i : i + 2], "big") for i in range(26, 34, 2)) + 6 + 353
    seed = (seed & 0xFFFF) + (seed >> 16)
    asked = want[:50] + seed.to_bytes(2, "big") + want[52:]
    sender.send(asked, command=0x147, mac=14, ip=20, l4=20, pieces=[60, 77])
    flow.run()
    ((data, _),) = receiver.received()
    assert data == want


def test_a_receiver_without_room_gets_the_rest_of_a_frame_later(wire):
    sender, receiver, flow = wire(posted=50)
    data = payload(60_000)
    sender.put((0, 0x11 | 60_000 << 30 | 536 << 50))
    sender.send(request(4, data, "A", 1), command=0x167, mac=14, ip=20, l4=32, pieces=[12288] * 4)
    got = []
    for count in (50, 50, 12):
        flow.run()
        batch = receiver.received()
        assert len(batch) == count
        got += [data for data, _ in batch]
        receiver.post(50)
    assert got == segments(4, data, 536, "A", 1)
    assert sender.tx_qword1(sender.tx_tail[0] - 1) == 0xF
