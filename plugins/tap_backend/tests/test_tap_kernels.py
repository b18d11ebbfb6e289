"""Kernels over a socket pair that keeps datagrams apart, as a TAP does.

Headers are ``struct virtio_net_hdr`` worked out by hand from virtio 1.2, 5.1.6.
"""

import ctypes
import errno
import os
import socket
import struct

import attrs
import pytest

from emudev_core.queues import Offload
from emudev_net import burst as b
from emudev_net.jit import compile_now
from emudev_tap_backend import kernels
from emudev_tap_backend.ends import ARENA, SLOT, TapSink, TapSource

ALL = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO
PLAIN = bytes(10)
TCP4_GSO, TCP6_GSO, UDP_GSO = (kind << b.GSO_SHIFT for kind in (1, 4, 5))
FRAME = bytes(range(60))
# Ethernet, IPv4 with 20 bytes, TCP with a data offset of 8 words, then payload
TCP4 = (
    bytes(12)
    + b"\x08\x00"
    + b"\x45"
    + bytes(8)
    + b"\x06"
    + bytes(10)
    + bytes(12)
    + b"\x80"
    + bytes(19)
)
TCP4_DATA = TCP4 + bytes(3000)


@attrs.frozen
class Packet:
    """A packet: its bytes, flags without FIRST and LAST, and offload word."""

    data: bytes
    flags: int = 0
    offload: tuple = (0, 0, 0, 0)


class Burst:
    """An int64[n, 8], filled by kernels or by `fill`."""

    def __init__(self, rows):
        self.rows = (ctypes.c_int64 * (8 * rows))()
        self.address = ctypes.addressof(self.rows)
        self.kept = []

    @classmethod
    def of(cls, packets):
        """Rows for packets, each bytes, a list of segments, or a `Packet`."""
        plain = [p if isinstance(p, Packet) else Packet(b"") for p in packets]
        parts = [
            [p.data] if isinstance(p, Packet) else [p] if isinstance(p, bytes) else p
            for p in packets
        ]
        made = cls(sum(len(p) for p in parts))
        at = 0
        for packet, segments in zip(plain, parts, strict=True):
            for i, segment in enumerate(segments):
                memory = ctypes.create_string_buffer(segment, max(1, len(segment)))
                made.kept.append(memory)
                flags = (b.FIRST if i == 0 else 0) | (b.LAST if i == len(segments) - 1 else 0)
                word = struct.unpack("<q", struct.pack("<4H", *packet.offload))[0]
                made.rows[at : at + 4] = [
                    ctypes.addressof(memory),
                    len(segment),
                    flags | (packet.flags if i == 0 else 0),
                    word if i == 0 else 0,
                ]
                at += 8
        return made

    def packets(self, rows):
        """What the first rows hold, one packet a row."""
        found = []
        for at in range(0, 8 * rows, 8):
            address, size, flags, word, *rest = self.rows[at : at + 8]
            assert flags & b.FIRST
            assert flags & b.LAST
            assert rest == [0, 0, 0, 0]
            offload = struct.unpack("<4H", struct.pack("<q", word))
            data = ctypes.string_at(address, size)
            found.append(Packet(data, flags & ~(b.FIRST | b.LAST), offload))
        return found


@pytest.fixture
def run():
    """Call a kernel: compiled, or as plain Python with EMUDEV_JIT=0."""
    compile_now([kernels.peek, kernels.push, kernels.release])
    return lambda kernel, *arguments: kernel(*arguments)


@pytest.fixture
def wire():
    """(our descriptor, the host's end)."""
    ours, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    host.setblocking(False)
    for end in (ours, host):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    yield ours.fileno(), host
    ours.close()
    host.close()


def header(flags, gso, length, size, start, offset):
    return struct.pack("<BBHHHH", flags, gso, length, size, start, offset)


# -- the source


def receive(run, source, capacity=64):
    """What a peek shows, released."""
    burst = Burst(capacity)
    rows = run(kernels.peek, source.state, burst.address, capacity)
    packets = burst.packets(rows)
    run(kernels.release, source.state, burst.address, rows)
    return packets


def test_a_plain_frame_comes_without_requests(run, wire):
    fd, host = wire
    source = TapSource(fd, 10)
    host.send(PLAIN + FRAME)
    assert receive(run, source) == [Packet(FRAME)]


@pytest.mark.parametrize(
    ("said", "frame", "packet"),
    [
        (
            "01 00 0000 0000 2200 1000",  # checksum wanted from 34, at 16 in there
            TCP4,
            Packet(TCP4, b.CSUM_WANTED, (34, 16, 0, 0)),
        ),
        ("02 00 0000 0000 0000 0000", FRAME, Packet(FRAME, b.CSUM_GOOD)),
        (
            # GSO, TCP over IPv4: the header is 34 + 8 words, whatever the host's hdr_len says
            "01 01 0001 a805 2200 1000",
            TCP4_DATA,
            Packet(TCP4_DATA, b.CSUM_WANTED | TCP4_GSO, (34, 16, 66, 1448)),
        ),
        (
            "01 84 0000 a805 2200 1000",  # TCP over IPv6, with ECN
            TCP4_DATA,
            Packet(TCP4_DATA, b.CSUM_WANTED | TCP6_GSO | b.GSO_ECN, (34, 16, 66, 1448)),
        ),
        (
            "01 05 0000 e803 2200 0600",  # UDP, 1000 bytes a datagram
            TCP4_DATA,
            Packet(TCP4_DATA, b.CSUM_WANTED | UDP_GSO, (34, 6, 42, 1000)),
        ),
    ],
)
def test_a_header_becomes_metadata(run, wire, said, frame, packet):
    fd, host = wire
    source = TapSource(fd, 10)
    host.send(bytes.fromhex(said) + frame)
    assert receive(run, source) == [packet]
    assert source.stats() == {"frames": 1, "bytes": len(frame), "dropped": 0, "malformed": 0}


@pytest.mark.parametrize(
    "datagram",
    [
        PLAIN,  # nothing behind the header
        PLAIN + bytes(13),  # less than an Ethernet header
        header(1, 0, 0, 0, 60, 0) + FRAME,  # the checksum lies behind the end
        header(1, 1, 66, 0, 34, 16) + TCP4_DATA,  # segments of no bytes
        header(0, 1, 66, 1448, 0, 0) + TCP4_DATA,  # segments without a checksum request
        header(1, 3, 42, 1000, 34, 6) + TCP4_DATA,  # UDP fragments, which nobody asked for
        header(1, 1, 66, 1448, 40, 16) + TCP4[:58],  # no room for a TCP header
        PLAIN + bytes(SLOT - 10),  # fills the slot: it was cut off
    ],
)
def test_what_cannot_be_described_is_dropped_and_counted(run, wire, datagram):
    fd, host = wire
    source = TapSource(fd, 10)
    host.send(datagram)
    host.send(PLAIN + FRAME)
    assert receive(run, source) == [Packet(FRAME)]
    assert source.stats() == {"frames": 1, "bytes": 60, "dropped": 1, "malformed": 1}


def test_a_longer_header_is_skipped(run, wire):
    fd, host = wire
    source = TapSource(fd, 12)
    host.send(header(1, 0, 0, 0, 34, 16) + b"\x07\x00" + TCP4)
    assert receive(run, source) == [Packet(TCP4, b.CSUM_WANTED, (34, 16, 0, 0))]


def test_without_header_all_is_frame(run, wire):
    fd, host = wire
    source = TapSource(fd, 0)
    host.send(FRAME)
    assert receive(run, source) == [Packet(FRAME)]


def test_what_was_not_released_is_shown_again_and_more_behind_it(run, wire):
    fd, host = wire
    source = TapSource(fd, 10)
    frames = [bytes([n]) * (60 + n) for n in range(6)]
    for frame in frames[:4]:
        host.send(PLAIN + frame)
    burst = Burst(3)
    assert run(kernels.peek, source.state, burst.address, 3) == 3
    run(kernels.release, source.state, burst.address, 1)
    for frame in frames[4:]:
        host.send(PLAIN + frame)
    assert [p.data for p in receive(run, source, 3)] == frames[1:4]
    assert [p.data for p in receive(run, source, 8)] == frames[4:]
    assert receive(run, source) == []


def test_the_largest_frames_fit_and_wait_in_the_host_while_memory_is_full(run, wire):
    fd, host = wire
    source = TapSource(fd, 10)
    big = bytes(65535 + 14 + 8)
    sent = 0
    burst = Burst(64)
    for _ in range(40):
        try:
            host.send(PLAIN + big)
            sent += 1
        except BlockingIOError:
            break
    assert sent > ARENA // SLOT
    rows = run(kernels.peek, source.state, burst.address, 64)
    assert rows == 6  # 6 slots are begun before less than the largest frame is left
    assert all(p.data == big for p in burst.packets(rows))
    assert run(kernels.peek, source.state, burst.address, 64) == rows
    run(kernels.release, source.state, burst.address, rows)
    assert run(kernels.peek, source.state, burst.address, 64) == min(6, sent - rows)


def test_an_interface_that_went_is_counted_by_its_errno(run):
    ours, _ = os.pipe()
    os.close(_)
    os.close(ours)
    source = TapSource(ours, 10)  # a descriptor that is none: EBADF
    assert receive(run, source) == []
    assert source.stats()["EBADF"] == 1


def test_waiting_frames_are_discarded(run, wire):
    fd, host = wire
    source = TapSource(fd, 10)
    for n in range(5):
        host.send(PLAIN + bytes(60 + n))
    burst = Burst(2)
    run(kernels.peek, source.state, burst.address, 2)
    assert source.discard() == 5
    assert receive(run, source) == []
    assert source.stats()["dropped"] == 5


# -- the sink


def send(run, sink, packets):
    burst = Burst.of(packets)
    return run(kernels.push, sink.state, burst.address, len(burst.rows) // 8)


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (Packet(FRAME), "00 00 0000 0000 0000 0000"),
        (Packet(FRAME, b.CSUM_GOOD), "02 00 0000 0000 0000 0000"),
        (Packet(TCP4, b.CSUM_WANTED, (34, 16, 0, 0)), "01 00 0000 0000 2200 1000"),
        # metadata that is not asked for does not leak into the header
        (Packet(FRAME, 0, (34, 16, 66, 1448)), "00 00 0000 0000 0000 0000"),
        (
            Packet(TCP4_DATA, b.CSUM_WANTED | TCP4_GSO, (34, 16, 66, 1448)),
            "01 01 4200 a805 2200 1000",
        ),
        (
            Packet(TCP4_DATA, b.CSUM_WANTED | TCP6_GSO, (54, 16, 74, 40000)),
            "01 04 4a00 409c 3600 1000",
        ),
        (
            Packet(TCP4_DATA, b.CSUM_WANTED | TCP4_GSO | b.GSO_ECN, (34, 16, 66, 1448)),
            "01 81 4200 a805 2200 1000",
        ),
        (
            Packet(TCP4_DATA, b.CSUM_WANTED | UDP_GSO, (34, 6, 42, 1000)),
            "01 05 2a00 e803 2200 0600",
        ),
    ],
)
def test_metadata_becomes_a_header(run, wire, packet, said):
    fd, host = wire
    sink = TapSink(fd, 10, ALL)
    assert send(run, sink, [packet]) == 1
    assert host.recv(70000) == bytes.fromhex(said) + packet.data
    assert sink.stats() == {"frames": 1, "bytes": len(packet.data), "dropped": 0, "malformed": 0}


def test_segments_are_joined_behind_one_header(run, wire):
    fd, host = wire
    sink = TapSink(fd, 12, ALL)
    assert send(run, sink, [[b"a" * 14, b"", b"b" * 100, b"c"], b"d" * 60]) == 5
    assert host.recv(1000) == bytes(12) + b"a" * 14 + b"b" * 100 + b"c"
    assert host.recv(1000) == bytes(12) + b"d" * 60


def test_a_sink_without_header_writes_frames_alone(run, wire):
    fd, host = wire
    sink = TapSink(fd, 0, Offload.NONE)
    assert send(run, sink, [[b"a" * 14, b"b" * 50]]) == 2
    assert host.recv(1000) == b"a" * 14 + b"b" * 50


def test_no_room_leaves_whole_packets_for_later(run, wire):
    fd, host = wire
    sink = TapSink(fd, 10, ALL)
    packets = [[bytes([n]) * 20000, bytes([n]) * 20000] for n in range(100)]
    taken = send(run, sink, packets)
    assert 0 < taken < 200
    assert taken % 2 == 0
    frames = sink.stats()["frames"]
    assert frames == taken // 2
    for n in range(frames):
        assert host.recv(50000) == PLAIN + bytes([n]) * 40000
    assert send(run, sink, packets[frames:]) > 0
    assert "EAGAIN" not in sink.stats()


def test_what_the_host_refuses_is_dropped_and_counted_by_errno(run, wire):
    fd, host = wire
    sink = TapSink(fd, 10, ALL)
    host.close()
    assert send(run, sink, [FRAME, FRAME]) == 2
    assert sink.stats() == {"frames": 0, "bytes": 0, "dropped": 2, "malformed": 0, "EPIPE": 2}
    assert sink.stats()[errno.errorcode[errno.EPIPE]] == 2


def test_a_packet_in_too_many_pieces_is_dropped(run, wire):
    fd, host = wire
    sink = TapSink(fd, 10, ALL)
    assert send(run, sink, [[b"x"] * 1024, FRAME]) == 1025
    assert host.recv(1000) == PLAIN + FRAME
    assert sink.stats() == {"frames": 1, "bytes": 60, "dropped": 1, "malformed": 1}
    assert send(run, sink, [[b"x"] * 1023]) == 1023
    assert host.recv(2000) == PLAIN + b"x" * 1023
