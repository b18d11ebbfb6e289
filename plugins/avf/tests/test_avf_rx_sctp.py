"""SCTP's CRC-32c of received frames: verified, or completed where the sender left it to us.

Expectations: RFC 9260 (appendix A: over the packet with zeroes in its field, stored with the least
significant byte first), avf.md 6.5, 6.7 and 6.8; packets with a CRC are scapy's, or vectors of
RFC 3720, B.4, whose bytes 8 to 11 are zero, so that they can be taken for SCTP packets.
"""

import pytest
from scapy.compat import raw
from scapy.layers.sctp import SCTP, SCTPChunkData, SCTPChunkInit

from emudev_avf.rings import TagPlace
from emudev_avf.testing.frames import ether, ipv4, ipv6
from emudev_core.queues import Offload
from emudev_net.burst import (
    CRC32C_WANTED,
    CSUM_BAD,
    CSUM_GOOD,
    FIRST,
    LAST,
    VLAN_PRESENT,
    Packet,
    offload_word,
    vlan_word,
)

# By number as in avf.md 6.7 (qword 1) and 6.8 (status_error0).
L3L4P, IPE, L4E = 1 << 3, 1 << 22, 1 << 23
FLEX_L3L4P, FLEX_L4E = 1 << 3, 1 << 5

ZEROES = bytes(8) + bytes.fromhex("aa36918a") + bytes(20)
READ = bytes.fromhex(
    "01c0000000000000" "563a96d9" "00000000" "1400000000000400" "0000001400000018"
    "2800000000000000" "0200000000000000"
)  # fmt: skip
INIT = raw(SCTP(sport=2794, dport=1766) / SCTPChunkInit(init_tag=7))
DATA = raw(SCTP(sport=2794, dport=1766, tag=3) / SCTPChunkData(data=bytes(range(256)) * 4))
ODD = raw(SCTP(sport=2794, dport=1766, tag=3) / bytes(range(1, 234)))
SHORT = raw(SCTP(sport=1, dport=2, tag=3))
HOP_BY_HOP = bytes([60, 0, 5, 2, 0, 0, 1, 0])
DESTINATION = bytes([132, 1]) + bytes([1, 12]) + bytes(12)
TAG = b"\x81\x00\x60\x05"
STAG = b"\x88\xa8\x00\x07"


def v6(packet, protocol=132, extension=b""):
    return ipv6(packet, protocol, extension=extension)


def wrong(frame, at=-1):
    return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at:][1:]


def unsummed(frame, start, field=b"\xde\xad\xbe\xef"):
    return frame[: start + 8] + field + frame[start + 12 :]


def status(guest, frame, flags=0, split=0, **keys):
    guest.post(2)
    guest.deliver(Packet(frame, flags=FIRST | LAST | flags, **keys), split=split)
    ((_, done),) = guest.received()
    return done[-1].qword1 & (L3L4P | IPE | L4E)


@pytest.mark.parametrize("split", [0, 1, 11, 43, 64])
@pytest.mark.parametrize(
    "frame",
    [
        ether(ipv4(ZEROES, 132)),
        ether(ipv4(READ, 132)),
        ether(ipv4(INIT, 132)),
        ether(ipv4(ODD, 132)),
        ether(v6(ZEROES), 0x86DD),
        ether(v6(DATA), 0x86DD),
        ether(v6(READ, 0, HOP_BY_HOP + DESTINATION), 0x86DD),
        ether(ipv4(READ, 132), tags=TAG),
        ether(v6(READ), 0x86DD, tags=STAG + TAG),
    ],
    ids=lambda f: f"{len(f)}",
)
def test_a_right_crc_is_checked_and_a_wrong_one_an_error(guest, frame, split):
    if split:
        split = max(split, len(frame) // 64)  # a frame has at most 128 rows
    assert status(guest, frame, split=split) == L3L4P
    assert status(guest, wrong(frame), split=split) == L3L4P | L4E


def test_each_byte_of_the_packet_counts(guest):
    frame = ether(ipv4(READ, 132))
    guest.post(len(READ))
    guest.deliver(*(wrong(frame, 34 + i) for i in range(len(READ))))
    assert [d.qword1 & (L3L4P | L4E) for _, (d,) in guest.received()] == [L3L4P | L4E] * 48


def test_padding_behind_the_packet_does_not_count(guest):
    frame = ether(ipv4(SHORT, 132))
    assert len(frame) == 46
    assert status(guest, frame) == L3L4P  # padded in the guest's buffer
    assert status(guest, frame + b"\xff" * 14) == L3L4P  # padded on the wire
    assert status(guest, frame + b"\xff" * 14, split=7) == L3L4P


def test_a_crc_of_zero_is_wrong_to_hardware(guest):
    """RFC 9653 lets two ends agree on it; the stack looks itself at what is flagged."""
    assert status(guest, unsummed(ether(ipv4(DATA, 132)), 34, bytes(4))) == L3L4P | L4E


@pytest.mark.parametrize(
    ("frame", "flags", "want"),
    [
        (wrong(ether(ipv4(DATA, 132))), CSUM_GOOD, L3L4P),  # verified by somebody else
        (ether(ipv4(DATA, 132)), CSUM_BAD, L3L4P | L4E),
        (ether(ipv4(DATA, 132, bad=True)), 0, L3L4P | IPE),
        (ether(ipv4(DATA, 132, fragment=0x2000)), 0, L3L4P),  # the CRC is that of a larger packet
        (ether(ipv4(wrong(DATA), 132, fragment=0x2000)), 0, L3L4P),
        (ether(ipv4(wrong(DATA), 132, fragment=0x0010)), 0, L3L4P),
        (ether(v6(wrong(DATA), 44, bytes([132, 0, 0, 1, 0, 0, 0, 9])), 0x86DD), 0, L3L4P),
        (ether(ipv4(DATA, 132))[:-5], 0, 0),  # cut off: left to the guest
        (ether(ipv4(DATA[:11], 132)) + DATA[11:], 0, 0),  # shorter than its header, says IP
    ],
    ids=["good", "bad", "ip", "first", "first-wrong", "later", "v6", "cut", "no-header"],
)  # fmt: skip
@pytest.mark.parametrize("split", [0, 33])
def test_what_can_not_be_verified_is_not_called_wrong(guest, frame, flags, want, split):
    assert status(guest, frame, flags, split) == want


@pytest.mark.parametrize("rxdid", [2, 16, 22])
def test_flexible_descriptors_say_the_same(guests, rxdid):
    guest = guests(rxdid=rxdid)
    guest.post(4)
    frame = ether(ipv4(DATA, 132))
    guest.deliver(frame, wrong(frame))
    found = [done.status_error0 & (FLEX_L3L4P | FLEX_L4E) for _, (done,) in guest.received()]
    assert found == [FLEX_L3L4P, FLEX_L3L4P | FLEX_L4E]


@pytest.mark.parametrize("rxdid", [0, 22])
@pytest.mark.parametrize("buffer_size", [128, 1024])
@pytest.mark.parametrize("split", [0, 9, 77])
@pytest.mark.parametrize("packet", [ZEROES, READ, INIT, ODD, SHORT])
def test_a_crc_left_to_us_is_completed_in_the_guests_copy(
    guests, packet, split, buffer_size, rxdid
):
    guest = guests(buffer_size=buffer_size, rxdid=rxdid)
    guest.post(5)
    good = ether(ipv4(packet, 132))
    asked = Packet(
        unsummed(good, 34),
        flags=FIRST | LAST | CRC32C_WANTED,
        offload=offload_word(34, 8, 0, 0),
    )
    guest.deliver(asked, split=split)
    ((data, done),) = guest.received()
    assert data == good.ljust(60, b"\0")
    if rxdid:
        assert done[-1].status_error0 & (FLEX_L3L4P | FLEX_L4E) == FLEX_L3L4P
    else:
        assert done[-1].qword1 & (L3L4P | L4E | IPE) == L3L4P


def test_a_completed_crc_follows_the_frame_when_a_tag_moves(guest):
    good = ether(ipv4(READ, 132))
    asked = unsummed(good, 34)
    guest.post(2)
    guest.deliver(
        Packet(
            asked,
            flags=FIRST | LAST | CRC32C_WANTED | VLAN_PRESENT,
            offload=offload_word(34, 8, 0, 0),
            vlan=vlan_word(0x6005, 0x8100, 0, 0),
        )
    )
    guest.port.set_vlan_offload(TagPlace.L2TAG1)
    guest.deliver(
        Packet(
            asked[:12] + TAG + asked[12:],
            flags=FIRST | LAST | CRC32C_WANTED,
            offload=offload_word(38, 8, 0, 0),
        )
    )
    inside, beside = guest.received()
    assert inside[0] == good[:12] + TAG + good[12:]
    assert beside[0] == good
    assert beside[1][0].l2tag1 == 0x6005


@pytest.mark.parametrize(("start", "length"), [(13, 100), (34, 45), (90, 101), (65535, 100)])
def test_an_impossible_request_for_a_crc_is_dropped(guest, start, length):
    guest.post(1)
    frame = ether(ipv4(bytes(100), 132))[:length]
    guest.deliver(
        Packet(frame, flags=FIRST | LAST | CRC32C_WANTED, offload=offload_word(start, 8, 0, 0))
    )
    assert guest.received() == []
    assert guest.port.rx[0].drops["source"] == 1


def test_a_crc_inside_of_a_tunnel_is_completed_or_verified(guest):
    good = ether(ipv4(ipv4(READ, 132), 4))
    guest.post(3)
    guest.deliver(
        Packet(
            unsummed(good, 54),
            flags=FIRST | LAST | CRC32C_WANTED,
            offload=offload_word(54, 8, 0, 0),
        ),
        good,
        wrong(good),
    )
    completed, verified, broken = guest.received()
    assert completed[0] == good
    assert (completed[1][0].ptype, completed[1][0].qword1 & (L3L4P | L4E)) == (34, L3L4P)
    assert verified[1][0].qword1 & (L3L4P | L4E) == L3L4P
    assert broken[1][0].qword1 & (L3L4P | L4E) == L3L4P | L4E


def test_the_queue_takes_such_requests_as_they_are(guest):
    assert Offload.CRC32C in guest.port.kernels(0).takes
