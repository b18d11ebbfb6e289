"""A NIC in memory, joined to real TAP interfaces in a namespace of their own."""

import os
import socket
import struct

import pytest

from emudev_core.errors import BackendError, ConfigError
from emudev_core.events import Event, EventKind
from emudev_net.burst import CSUM_WANTED, GSO_SHIFT
from emudev_tap_backend import backend as module
from emudev_tap_backend.links import find_link

pytestmark = pytest.mark.root

GSO_TCP4 = 1 << GSO_SHIFT

MACS = bytes.fromhex("52540077000252540077 0001".replace(" ", ""))
PLAIN = bytes(10)


def ones(data):
    """Folded one's complement sum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp4(payload, *, seq=1000, tags=b"", finished=False):
    """Ethernet, tags, IPv4, TCP: the checksum field holds the pseudo-header's sum, or is right."""
    size = 20 + 20 + len(payload)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 7, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    ip = ip[:10] + struct.pack(">H", ones(ip) ^ 0xFFFF) + ip[12:]
    pseudo = ip[12:20] + struct.pack(">BBH", 0, 6, 20 + len(payload))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, seq, 0, 0x50, 0x18, 500, ones(pseudo), 0)
    if finished:
        check = ones(tcp + payload) ^ 0xFFFF
        tcp = tcp[:16] + struct.pack(">H", check) + tcp[18:]
    return MACS + tags + b"\x08\0" + ip + tcp + payload


def word(start, offset, header=0, size=0):
    return start | offset << 16 | header << 32 | size << 48


def header(flags=0, gso=0, length=0, size=0, start=0, offset=0):
    return struct.pack("<BBHHHH", flags, gso, length, size, start, offset)


def plain(length=60, tags=b"", fill=0x5A):
    """A frame of an experimental type, which no stack answers."""
    return MACS + tags + b"\x88\xb5" + bytes([fill]) * (length - 14 - len(tags))


def incoming(packets):
    """The next frame that came out of the interface, not what the host sent into it."""
    while True:
        data, address = packets.recvfrom(70000)
        if address[2] != socket.PACKET_OUTGOING:
            return data


def guest_sends(nic, *segments, pair=0, **keys):
    queue = nic.queues[2 * pair + 1]
    queue.send(*segments, **keys)
    queue.doorbell.ring()


def got(nic, queue=0):
    return [data for data, _, _ in nic.queues[queue].got]


# -- frames


def test_frames_of_the_guest_come_out_of_the_interface(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    frames = [plain(60 + n, fill=n) for n in range(100)]
    for frame in frames:
        nic.queues[1].send(frame[:14], frame[14:])
    nic.queues[1].doorbell.ring()
    joined.until(lambda: not nic.queues[1].to_send)
    assert [incoming(packets) for _ in frames] == [PLAIN + frame for frame in frames]
    assert joined.backend.stats()["tx"][0]["frames"] == 100


def test_frames_of_the_host_reach_the_guest(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    frames = [plain(60 + n, fill=n) for n in range(100)]
    for frame in frames:
        packets.send(PLAIN + frame)
    joined.until(lambda: len(got(nic)) == 100)
    assert got(nic) == frames


def test_what_the_guest_sent_before_the_start_is_sent(joined, host):
    host.ip("tuntap add tap0 mode tap")
    host.ip("link set tap0 up")
    packets = host.packets("tap0")
    nic = joined.start(enable=False)
    nic.queues[1].send(plain())
    nic.enable()
    joined.until(lambda: not nic.queues[1].to_send)
    assert incoming(packets) == PLAIN + plain()


def test_a_large_segment_of_the_guest_passes_whole(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    frame = tcp4(os.urandom(30000))
    flags = CSUM_WANTED | GSO_TCP4
    guest_sends(nic, frame[:54], frame[54:], flags=flags, offload=word(34, 16, 54, 1448))
    joined.until(lambda: not nic.queues[1].to_send)
    data = incoming(packets)
    assert data[10:] == frame
    assert data[:2] + data[4:10] == header(1, 1, 0, 1448, 34, 16)[:2] + struct.pack(
        "<HHH", 1448, 34, 16
    )


def test_without_header_a_large_segment_is_cut_and_its_checksums_completed(joined, host):
    nic = joined.start(vnet_hdr="off")
    packets = host.packets("tap0", headers=False)
    payload = os.urandom(4000)
    frame = tcp4(payload)
    flags = CSUM_WANTED | GSO_TCP4
    guest_sends(nic, frame, flags=flags, offload=word(34, 16, 54, 1448))
    joined.until(lambda: not nic.queues[1].to_send)
    assert joined_payload([incoming(packets) for _ in range(3)], [1448, 1448, 1104]) == payload


def test_a_large_segment_of_the_host_is_cut_for_the_device(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    payload = os.urandom(60000)
    packets.send(header(1, 1, 54, 1448, 34, 16) + tcp4(payload))
    count, rest = divmod(60000, 1448)
    joined.until(lambda: len(got(nic)) == count + 1)
    assert joined_payload(got(nic), [1448] * count + [rest]) == payload


def joined_payload(frames, sizes):
    """What TCP segments carry; each must be a correct frame of the given payload."""
    assert [len(frame) - 54 for frame in frames] == sizes
    seq = 1000
    for frame in frames:
        assert frame[:14] == MACS + b"\x08\0"
        ip, tcp = frame[14:34], frame[34:]
        assert struct.unpack(">H", ip[2:4])[0] == len(frame) - 14
        assert ones(ip) == 0xFFFF
        assert ones(ip[12:20] + struct.pack(">BBH", 0, 6, len(tcp)) + tcp) == 0xFFFF
        assert struct.unpack(">I", tcp[4:8])[0] == seq
        seq += len(frame) - 54
    return b"".join(frame[54:] for frame in frames)


def test_an_unfinished_checksum_of_the_host_is_completed_for_the_device(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    packets.send(header(1, 0, 0, 0, 34, 16) + tcp4(b"hello"))
    joined.until(lambda: got(nic))
    ((data, flags, _),) = nic.queues[0].got
    assert data == tcp4(b"hello", finished=True)
    assert not flags & CSUM_WANTED


def test_an_unfinished_checksum_of_the_guest_passes_as_it_is(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    guest_sends(nic, tcp4(b"hello"), flags=CSUM_WANTED, offload=word(34, 16))
    assert joined.loop.turn(1)
    joined.until(lambda: not nic.queues[1].to_send)
    data = incoming(packets)
    assert data[10:] == tcp4(b"hello")
    assert data[:1] + data[6:10] == header(1, 0, 0, 0, 34, 16)[:1] + struct.pack("<HH", 34, 16)


def test_jumbo_frames_with_two_tags_pass_both_ways_whole(joined, host):
    nic = joined.start(mtu=9000)
    assert find_link("tap0").mtu == 9000
    packets = host.packets("tap0")
    tags = bytes.fromhex("88a8 0005 8100 0006".replace(" ", ""))
    frame = MACS + tags + b"\x88\xb5" + os.urandom(9000)
    guest_sends(nic, frame)
    joined.until(lambda: not nic.queues[1].to_send)
    # a packet socket shows the outer tag beside the frame
    seen = incoming(packets)[10:]
    assert seen in (frame, frame[:12] + frame[16:])
    frame = MACS + bytes.fromhex("81000005") + b"\x88\xb5" + os.urandom(9000)
    packets.send(PLAIN + frame)
    joined.until(lambda: got(nic))
    assert got(nic) == [frame]


def test_frames_that_wait_from_before_are_dropped_when_the_guest_comes(joined, host):
    nic = joined.start(enable=False)
    joined.backend._tap.set_carrier(True)
    packets = host.packets("tap0")
    packets.send(PLAIN + plain(fill=1))
    joined.until(lambda: True)
    nic.enable()
    joined.until(lambda: host.carrier("tap0"))
    packets.send(PLAIN + plain(fill=2))
    joined.until(lambda: got(nic))
    assert got(nic) == [plain(fill=2)]


# -- room


def test_a_guest_without_buffers_costs_nothing_until_it_rings(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    nic.queues[0].room = 3
    for n in range(10):
        packets.send(PLAIN + plain(fill=n))
    joined.until(lambda: len(got(nic)) == 3)
    before = nic.queues[0].pushes
    assert not any(joined.loop.turn(0) for _ in range(5)), "the loop finds no rest"
    assert nic.queues[0].pushes == before
    nic.queues[0].room = 4
    nic.queues[0].doorbell.ring()
    joined.until(lambda: len(got(nic)) == 7)
    nic.queues[0].room = 100
    nic.queues[0].doorbell.ring()
    joined.until(lambda: len(got(nic)) == 10)
    assert got(nic) == [plain(fill=n) for n in range(10)]
    assert not any(joined.loop.turn(0) for _ in range(5))


def test_a_disabled_queue_gets_nothing_and_goes_on_when_enabled(joined, host):
    nic = joined.start()
    packets = host.packets("tap0")
    nic.enable(0, enabled=False)
    joined.until(lambda: not host.carrier("tap0"))
    assert not any(joined.loop.turn(0) for _ in range(5))
    nic.enable(0)
    joined.until(lambda: host.carrier("tap0"))
    packets.send(PLAIN + plain(fill=9))
    joined.until(lambda: got(nic))
    assert got(nic) == [plain(fill=9)]


# -- queues


def test_each_pair_has_a_queue_of_its_own_where_the_interface_has_several(joined, host):
    host.ip("tuntap add tap0 mode tap multi_queue")
    host.ip("link set tap0 up")
    nic = joined.start(pairs=2)
    assert "numqueues 2 numdisabled 0" in host.ip("-d link show tap0")
    packets = host.packets("tap0")
    for pair in (0, 1):
        guest_sends(nic, plain(fill=pair), pair=pair)
    joined.until(lambda: not nic.queues[1].to_send and not nic.queues[3].to_send)
    assert {incoming(packets) for _ in range(2)} == {PLAIN + plain(fill=n) for n in (0, 1)}
    assert [q["frames"] for q in joined.backend.stats()["tx"]] == [1, 1]


def test_queues_that_the_guest_does_not_use_take_no_part(joined, host):
    host.ip("tuntap add tap0 mode tap multi_queue")
    host.ip("link set tap0 up")
    nic = joined.start(pairs=3, enable=False)
    nic.enable(0, 1)
    joined.until(lambda: "numqueues 1 numdisabled 2" in host.ip("-d link show tap0"))
    packets = host.packets("tap0")
    for n in range(20):
        frame = tcp4(bytes(10), finished=True)
        packets.send(PLAIN + frame[:34] + bytes([n]) + frame[35:])
    joined.until(lambda: len(got(nic)) == 20)
    nic.enable(2, 3)
    joined.until(lambda: "numqueues 2 numdisabled 1" in host.ip("-d link show tap0"))


def test_all_pairs_share_an_interface_of_one_queue(joined, host):
    nic = joined.start(pairs=2, queues=1)
    packets = host.packets("tap0")
    for pair in (0, 1):
        guest_sends(nic, plain(fill=pair), pair=pair)
    joined.until(lambda: not nic.queues[1].to_send and not nic.queues[3].to_send)
    assert {incoming(packets) for _ in range(2)} == {PLAIN + plain(fill=n) for n in (0, 1)}
    packets.send(PLAIN + plain(fill=7))
    joined.until(lambda: got(nic))
    assert got(nic) == [plain(fill=7)]


def test_a_shared_interface_wakes_for_the_room_of_any_queue(joined, host):
    nic = joined.start(pairs=2, queues=1)
    packets = host.packets("tap0")
    nic.queues[0].room = 0
    packets.send(PLAIN + plain())
    joined.until(lambda: nic.queues[0].pushes > 0)
    nic.queues[0].room = 9
    nic.queues[2].doorbell.ring()
    joined.until(lambda: got(nic))


# -- the link


def test_the_link_follows_the_interface_and_the_carrier_the_guest(joined, host):
    nic = joined.start(enable=False)
    assert nic.links == [True]
    assert not host.carrier("tap0")
    nic.enable()
    joined.until(lambda: host.carrier("tap0"))
    host.ip("link set tap0 down")
    joined.until(lambda: nic.links == [True, False])
    guest_sends(nic, plain())
    joined.until(lambda: not nic.queues[1].to_send)
    assert joined.backend.stats()["tx"][0]["EIO"] == 1
    host.ip("link set tap0 up")
    joined.until(lambda: nic.links == [True, False, True])


def test_an_interface_that_exists_keeps_its_state_and_mtu(joined, host):
    host.ip("tuntap add tap0 mode tap")
    host.ip("link set tap0 mtu 2000")
    nic = joined.start()
    link = find_link("tap0")
    assert (link.up, link.mtu) == (False, 2000)
    assert nic.links == [False]


def test_a_device_that_takes_an_mtu_is_told_that_of_the_interface(joined, host):
    host.ip("tuntap add tap0 mode tap")
    host.ip("link set tap0 mtu 2000")
    nic = joined.start(attributes={"link": False, "mtu": 9702})
    assert nic.attributes["mtu"] == 2000


def test_a_deleted_interface_is_survived_and_attached_again_when_it_is_back(joined, host, caplog):
    nic = joined.start(create="yes")
    host.ip("link del tap0")
    joined.until(lambda: not joined.backend.attached)
    assert nic.links[-1] is False
    assert caplog.text.count("interface tap0 was deleted") == 1
    guest_sends(nic, plain())
    joined.until(lambda: True)
    assert not any(joined.loop.turn(0) for _ in range(5))
    assert joined.backend.stats() == {}
    assert len(nic.queues[1].to_send) == 1

    host.ip("tuntap add tap0 mode tap")
    joined.until(lambda: joined.backend.attached)
    host.ip("link set tap0 up")
    joined.until(lambda: nic.links[-1] is True)
    packets = host.packets("tap0")
    packets.send(PLAIN + plain(fill=3))
    joined.until(lambda: got(nic))
    assert got(nic) == [plain(fill=3)]


def test_something_else_of_that_name_is_not_attached(joined, host, caplog):
    joined.start()
    host.ip("link del tap0")
    joined.until(lambda: not joined.backend.attached)
    host.ip("tuntap add tap0 mode tun")
    joined.until(lambda: True)
    assert not joined.backend.attached
    assert "came back" not in caplog.text


def test_an_interface_that_came_back_and_cannot_be_attached_is_tried_once(joined, host, caplog):
    joined.start(pairs=2, queues=2)
    host.ip("link del tap0")
    joined.until(lambda: not joined.backend.attached)
    host.ip("tuntap add tap0 mode tap")
    host.ip("link set tap0 up")
    joined.until(lambda: "came back, but" in caplog.text)
    host.ip("link set tap0 down")
    joined.until(lambda: True)
    assert caplog.text.count("came back, but: tap_backend: queues: 2 queues") == 1


def test_a_renamed_interface_goes_on(joined, host, caplog):
    nic = joined.start()
    host.ip("link set tap0 down")
    host.ip("link set tap0 name other")
    host.ip("link set other up")
    joined.until(lambda: nic.links == [True, False, True])
    assert "interface tap0 is called other now" in caplog.text
    packets = host.packets("other")
    guest_sends(nic, plain())
    joined.until(lambda: not nic.queues[1].to_send)
    assert incoming(packets) == PLAIN + plain()


def test_an_interface_that_moves_to_another_namespace_goes_on_with_the_link_up(
    joined, host, caplog
):
    nic = joined.start()
    name = f"emudev-moved-{os.getpid()}"
    host.ip(f"netns add {name}")
    try:
        host.ip(f"link set tap0 netns {name}")
        joined.until(lambda: "moved to another network namespace" in caplog.text)
        assert nic.links[-1] is True
        host.ip(f"-n {name} link del tap0")
        joined.until(lambda: not joined.backend.attached)
        assert nic.links[-1] is False
    finally:
        host.ip(f"netns del {name}")


def test_stopping_closes_everything_and_a_created_interface_goes(joined, host):
    before = os.listdir("/proc/self/fd")
    nic = joined.start()
    assert find_link("tap0") is not None
    joined.device.stop()
    assert nic.links[-1] is False
    assert find_link("tap0") is None
    assert os.listdir("/proc/self/fd") == before
    joined.device.start()
    assert find_link("tap0") is not None
    nic.enable()
    packets = host.packets("tap0")
    guest_sends(nic, plain())
    joined.until(lambda: not nic.queues[1].to_send)
    assert incoming(packets) == PLAIN + plain()


def test_a_reset_stops_the_carrier(joined, host):
    nic = joined.start()
    joined.until(lambda: host.carrier("tap0"))
    for queue in nic.queues:
        queue.enabled = False
    nic.post(Event(EventKind.RESET))
    joined.until(lambda: not host.carrier("tap0"))


# -- refusals


def test_a_device_without_queues_is_refused(joined, host):
    with pytest.raises(BackendError, match="tap_backend_0 refuses fake_emudev_0: it has no queues"):
        joined.start(pairs=0)
    assert find_link("tap0") is None


def test_a_missing_interface_is_an_error_before_anything_is_made(joined, host):
    with pytest.raises(ConfigError, match="there is no interface tap0 and create=no"):
        joined.start(create="no")


def test_a_tun_is_no_tap(joined, host):
    host.ip("tuntap add tap0 mode tun")
    with pytest.raises(ConfigError, match="tap0 is no TAP interface but a TUN interface"):
        joined.start()


def test_a_failed_start_leaves_no_descriptor(joined, host, monkeypatch):
    host.ip("tuntap add tap0 mode tap multi_queue")
    before = os.listdir("/proc/self/fd")

    def refuse(*_, **__):
        raise BackendError("interface tap0: can't set mtu 9000: Operation not permitted")

    monkeypatch.setattr(module, "change_link", refuse)
    with pytest.raises(BackendError, match="can't set mtu"):
        joined.start(mtu=9000)
    assert os.listdir("/proc/self/fd") == before


def test_the_interface_and_its_queues_are_shown(joined, host):
    def rows(name):
        [section] = [one for one in joined.backend.emudev_get_state() if one.name == name]
        return [dict(row) for row in section.read()]

    nic = joined.start()
    [tap] = rows("tap")
    assert (tap["interface"], tap["attached"], tap["queues"]) == ("tap0", True, 1)
    nic.queues[1].send(plain())
    nic.queues[1].doorbell.ring()
    joined.until(lambda: any(row["value"] for row in rows("tap-queues")))
    assert {(row["queue"], row["direction"]) for row in rows("tap-queues")} == {
        (0, "rx"), (0, "tx")
    }  # fmt: skip
