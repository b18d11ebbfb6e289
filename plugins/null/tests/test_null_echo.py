"""What becomes of a guest's frames: expectations are worked out from the RFCs."""

import ctypes
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.attributes import LINK
from emudev_core.host import Host
from emudev_core.plugins import Plugins, find_sources
from emudev_core.queues import QueueKernels
from emudev_core.testing import loopback, port
from emudev_core.testing.builders import make_source
from emudev_core.testing.contract import turn_until
from emudev_core.testing.contracts import BackendContract
from emudev_core.testing.port import PythonKernel
from emudev_net.burst import CSUM_WANTED, FIRST, LAST, Burst, Packet, offload_word
from emudev_net.flow_kernels import look
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.primitives import Words, copy, load64, store64
from emudev_null import echo_kernels
from emudev_null.echo import KERNELS, EchoSink

OURS = bytes.fromhex("02656368 6f00".replace(" ", ""))
GUEST = bytes.fromhex("525400770002")
BROADCAST = b"\xff" * 6
A4, B4 = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])
A6 = bytes.fromhex("fe800000000000005054 00fffe770002".replace(" ", ""))
B6 = bytes.fromhex("fe80000000000000000000000000 0001".replace(" ", ""))


def internet_sum(data: bytes) -> int:
    """RFC 1071: 0 over data with a right checksum in it."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(protocol: int, payload: bytes, source=A4, target=B4, fragment=0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    value = internet_sum(head + source + target)
    return head[:10] + struct.pack(">H", value) + source + target + payload


def ipv6(protocol: int, payload: bytes, source=A6, target=B6, hops=64) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops)
    return head + source + target + payload


def pseudo6(packet: bytes) -> bytes:
    payload = packet[40:]
    return packet[8:40] + struct.pack(">II", len(payload), packet[6]) + payload


def icmpv6(kind: int, body: bytes, **keys) -> bytes:
    bare = ipv6(58, struct.pack(">BBH", kind, 0, 0) + body, **keys)
    return bare[:42] + struct.pack(">H", internet_sum(pseudo6(bare))) + bare[44:]


def icmp(kind: int, body: bytes) -> bytes:
    bare = struct.pack(">BBH", kind, 0, 0) + body
    return bare[:2] + struct.pack(">H", internet_sum(bare)) + bare[4:]


def frame(kind: int, payload: bytes, target=OURS, source=GUEST, tags=b"") -> bytes:
    return target + source + tags + struct.pack(">H", kind) + payload


@queue_kernel
def gather_frames(state: int, burst: int, rows: int) -> int:
    """Copy segments one behind the other, up to a number of packets, and keep their rows."""
    taken = 0
    for i in range(rows):
        row = burst + i * 64
        if load64(row + 16) & 1 and load64(state + 8) == 0:
            break
        at = load64(state)
        store64(at, load64(row + 8))
        store64(at + 8, load64(row + 16))
        copy(at + 16, load64(row), load64(row + 8))
        store64(state, at + 16 + (load64(row + 8) + 7 & ~7))
        if load64(row + 16) & 2:
            store64(state + 8, load64(state + 8) - 1)
            taken = i + 1
    return taken


class Echo:
    """A sink and what it gave back."""

    def __init__(self, mode: str, room: int = 1000) -> None:
        self._memory = Words(1 << 16)
        self._state = Words(2)
        self.room(room)
        receive = gather_frames if mode == "compiled" else PythonKernel(gather_frames.function)
        self.sink = EchoSink(
            QueueKernels(self._state.address, None, receive, None, None),
            OURS,
        )
        self.sink.active = True

    def room(self, packets: int) -> None:
        self._state[0] = self._memory.address
        self._state[1] = packets

    def push(self, burst: Burst) -> int:
        kernels = self.sink.kernels
        return kernels.push(kernels.state, burst.address, burst.count)

    def taken(self) -> list[tuple[bytes, int]]:
        found, data, first = [], b"", 0
        at = self._memory.address
        while at < self._state[0]:
            size, flags = (ctypes.c_int64 * 2).from_address(at)
            data, first = (data, first) if not flags & FIRST else (b"", flags)
            data += ctypes.string_at(at + 16, size)
            if flags & LAST:
                found.append((data, first))
            at += 16 + (size + 7 & ~7)
        return found

    def answer(self, data: bytes, segments=(), flags=FIRST | LAST, offload=0) -> bytes | None:
        packet = Packet(data=data, flags=flags, offload=offload, segments=tuple(segments))
        burst = Burst.of([packet])
        self.room(1000)
        assert self.push(burst) == burst.count
        assert burst.packets()[0].data == data, "the guest's own buffers were changed"
        found = self.taken()
        return found[0][0] if found else None


@pytest.fixture(params=["plain", "compiled"])
def mode(request) -> str:
    if request.param == "compiled":
        if not jit_wanted():
            pytest.skip("nothing is compiled here")
        compile_now([gather_frames, echo_kernels.push, echo_kernels.notify])
        assert echo_kernels.push.address
    return request.param


@pytest.fixture
def echo(mode) -> Echo:
    return Echo(mode)


def arp(operation: int, sender: bytes, target: bytes, mac=GUEST, target_mac=bytes(6)) -> bytes:
    return struct.pack(">HHBBH", 1, 0x800, 6, 4, operation) + mac + sender + target_mac + target


def test_an_arp_request_for_any_address_is_answered(echo):
    asked = frame(0x806, arp(1, A4, B4), BROADCAST) + bytes(18)
    wanted = frame(0x806, arp(2, B4, A4, OURS, GUEST), GUEST, OURS) + bytes(18)
    assert echo.answer(asked) == wanted


@pytest.mark.parametrize("sender", [bytes(4), B4])
def test_probes_and_announcements_find_no_duplicate(echo, sender):
    assert echo.answer(frame(0x806, arp(1, sender, B4), BROADCAST)) is None


def test_an_arp_reply_is_not_answered(echo):
    assert echo.answer(frame(0x806, arp(2, A4, B4))) is None


@pytest.mark.parametrize("size", [0, 1, 56, 1472, 8972])
@pytest.mark.parametrize("tags", [b"", bytes.fromhex("88a8000181000002")])
def test_a_ping_is_answered_with_right_checksums(echo, size, tags):
    body = struct.pack(">HH", 0xE0, 9) + bytes(i & 0xFF for i in range(size))
    sent = frame(0x800, ipv4(1, icmp(8, body)), tags=tags)
    wanted = frame(0x800, ipv4(1, icmp(0, body), B4, A4), GUEST, OURS, tags)
    assert echo.answer(sent, segments=(60, 20)) == wanted


def test_a_fragment_that_does_not_begin_a_ping_keeps_its_bytes(echo):
    sent = frame(0x800, ipv4(1, b"\x08\0\0\0rest", fragment=0x00B9))
    wanted = frame(0x800, ipv4(1, b"\x08\0\0\0rest", B4, A4, 0x00B9), GUEST, OURS)
    assert echo.answer(sent) == wanted


def test_an_ipv6_ping_is_answered_with_a_right_checksum(echo):
    sent = frame(0x86DD, icmpv6(128, b"\0\1\0\2payload"))
    wanted = frame(0x86DD, icmpv6(129, b"\0\1\0\2payload", source=B6, target=A6), GUEST, OURS)
    assert echo.answer(sent) == wanted


def test_a_neighbour_solicitation_is_answered_with_our_address(echo):
    group = bytes.fromhex("ff0200000000000000000001ff000001")
    ask = icmpv6(135, bytes(4) + B6 + b"\1\1" + GUEST, target=group, hops=255)
    answer = echo.answer(frame(0x86DD, ask, bytes.fromhex("3333ff000001")))
    assert answer[:14] == GUEST + OURS + b"\x86\xdd"
    packet = answer[14:]
    assert packet[8:40] == B6 + A6
    assert packet[7] == 255
    assert packet[40:42] == bytes([136, 0])
    assert packet[44:] == bytes.fromhex("60000000") + B6 + b"\2\1" + OURS
    assert internet_sum(pseudo6(packet)) == 0


def test_a_solicitation_without_our_option_is_answered_too(echo):
    ask = icmpv6(135, bytes(4) + B6, hops=255)
    answer = echo.answer(frame(0x86DD, ask))
    assert len(answer) == 14 + 72
    assert answer[18:20] == b"\0\x20"
    assert internet_sum(pseudo6(answer[14:])) == 0


def test_duplicate_address_detection_finds_none(echo):
    ask = icmpv6(135, bytes(4) + A6, source=bytes(16), hops=255)
    assert echo.answer(frame(0x86DD, ask, bytes.fromhex("3333ff770002"))) is None


def test_ip_packets_to_groups_are_dropped(echo):
    assert echo.answer(frame(0x800, ipv4(17, bytes(20)), BROADCAST)) is None
    assert echo.answer(frame(0x86DD, ipv6(17, bytes(20)), bytes.fromhex("333300000001"))) is None
    assert echo.sink.stats() == {"frames": 0, "dropped": 2}


def test_udp_comes_back_to_its_socket_with_the_checksum_it_had(echo):
    sent = frame(0x800, ipv4(17, struct.pack(">HHHH", 5000, 7, 12, 0xBEEF) + b"data"))
    wanted = frame(
        0x800, ipv4(17, struct.pack(">HHHH", 7, 5000, 12, 0xBEEF) + b"data", B4, A4), GUEST, OURS
    )
    assert echo.answer(sent) == wanted


def test_tcp_keeps_its_ports_and_its_requests(echo):
    tcp = struct.pack(">HHIIHHHH", 1, 2, 3, 4, 0x5010, 100, 0x1234, 0) + bytes(3000)
    sent = frame(0x800, ipv4(6, tcp))
    flags = FIRST | LAST | CSUM_WANTED | 1 << 16
    packet = Packet(data=sent, flags=flags, offload=offload_word(34, 16, 54, 1448))
    assert echo.push(Burst.of([packet])) == 1
    ((data, first),) = echo.taken()
    assert data == frame(0x800, ipv4(6, tcp, B4, A4), GUEST, OURS)
    assert first & ~LAST == flags & ~LAST


def test_a_ping_whose_checksum_is_still_to_be_made_changes_only_its_type(echo):
    sent = frame(0x86DD, ipv6(58, bytes.fromhex("800012340001") + bytes(20)))
    wanted = frame(0x86DD, ipv6(58, bytes.fromhex("810012340001") + bytes(20), B6, A6), GUEST, OURS)
    assert echo.answer(sent, flags=FIRST | LAST | CSUM_WANTED) == wanted


def test_other_frames_have_their_addresses_swapped(echo):
    assert echo.answer(frame(0x88B5, b"x" * 60)) == frame(0x88B5, b"x" * 60, GUEST, OURS)
    group = frame(0x88B5, b"x" * 60, BROADCAST)
    assert echo.answer(group) == frame(0x88B5, b"x" * 60, GUEST, OURS)


@pytest.mark.parametrize("size", [0, 1, 13])
def test_frames_that_are_too_short_are_dropped(echo, size):
    assert echo.answer(bytes(size)) is None


def test_frames_wait_while_the_guest_has_no_room(echo):
    frames = [frame(0x88B5, bytes([i]) * 200) for i in range(5)]
    runt = Packet(data=b"short")
    packets = [runt, *(Packet(data=f, segments=(50, 100)) for f in frames)]
    burst = Burst.of(packets)
    echo.room(2)
    assert echo.push(burst) == 1 + 2 * 3
    assert [data for data, _ in echo.taken()] == [
        frame(0x88B5, f[14:], GUEST, OURS) for f in frames[:2]
    ]
    assert echo.sink.stats() == {"frames": 2, "dropped": 1}
    echo.room(0)
    rest = Burst.of(packets[3:])
    assert echo.push(rest) == 0
    echo.room(9)
    assert echo.push(rest) == 9
    assert echo.sink.stats() == {"frames": 5, "dropped": 1}


def test_nothing_comes_back_while_the_receive_queue_is_disabled(echo):
    echo.sink.active = False
    assert echo.answer(frame(0x88B5, bytes(60))) is None
    assert echo.sink.stats() == {"frames": 0, "dropped": 1}


def test_a_burst_of_more_packets_than_one_pass_holds_is_taken_whole(echo):
    data = frame(0x88B5, bytes(46))
    burst = Burst.of([Packet(data=data)] * 700)
    assert echo.push(burst) == 700
    assert len(echo.taken()) == 700


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=300),
    kind=st.sampled_from([0x800, 0x806, 0x86DD, 0x8100, 0x88A8, 0x88B5]),
    segments=st.lists(st.integers(1, 60), max_size=4),
)
def test_any_bytes_are_answered_or_dropped_and_counted(data, kind, segments):
    echo = Echo("plain")
    sent = frame(kind, data)
    answer = echo.answer(sent, segments=segments)
    assert sum(echo.sink.stats().values()) == 1
    if answer is not None:
        assert answer[:6] == GUEST
        assert len(answer) in (len(sent), len(sent) - len(data) + 72, 22 + 72, 18 + 72)


@pytest.mark.skipif(not jit_wanted(), reason="native code is compiled")
def test_doorbells_run_the_flow_by_native_code():
    compile_now(KERNELS)
    own = make_source(loopback.SPEC, port.SPEC, distribution="emudev-core-testing")
    with Host(plugins=Plugins([*find_sources(), own])) as host:
        device = host.add("emu_port,id=0,queues=1")
        host.add("echo,port_emu_id=0")
        host.start()
        turn_until(host, lambda: device.get_attr(LINK))
        bells = [device.get_db_info(n) for n in (0, 1)]
        chains = [list((ctypes.c_int64 * 3).from_address(bell.chain)) for bell in bells]
        assert chains[0][:2] == [1, look.address]
        assert chains[0] == chains[1]
        device.stop()
        assert [ctypes.c_int64.from_address(bell.chain).value for bell in bells] == [0, 0]


class TestEcho(BackendContract):
    vdev = "echo"


class TestEchoWithoutCompiler(BackendContract):
    vdev = "echo,mac=02:00:00:00:00:07"

    @pytest.fixture(autouse=True)
    def _plain(self, monkeypatch):
        monkeypatch.setenv("EMUDEV_JIT", "0")

    def test_a_ping_of_the_guest_is_answered(self, host, backend, guest):
        body = struct.pack(">HH", 1, 2) + b"payload"
        guest.transmit(frame(0x800, ipv4(1, icmp(8, body))))
        for _ in range(20):
            host.loop.turn(0.01)
        assert guest.received() == [
            frame(0x800, ipv4(1, icmp(0, body), B4, A4), GUEST, OURS),
        ]
        assert guest.attributes["link"] is True
        assert backend.stats() == {"frames": 1, "dropped": 0}
