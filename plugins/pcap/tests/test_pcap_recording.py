"""The port ``net_pcap`` that sends to a file: bytes by hand, both formats, what is lost, the end.

Source of the layouts: draft-ietf-opsawg-pcap, sections 4 and 5; draft-ietf-opsawg-pcapng, sections
3 and 4.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time

import pytest

from emudev_net.burst import Burst, Packet
from emudev_net.port import PortState
from emudev_pcap import writer, writer_kernels
from emudev_pcap.formats import PCAP, CaptureError

pytestmark = pytest.mark.usefixtures("kernels")

# Magic of nanoseconds, version 2.4, two unused words, snap length 262144, link type 1.
PCAP_HEADER = bytes.fromhex("4d3cb2a1 02000400 00000000 00000000 00000400 01000000")
HALF_PAST = 1_700_000_000_500_000_000


def frame(number, length=60):
    return bytes(12) + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(length - 18)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.pcap"


def records(data):
    """Seconds, nanoseconds, length on the wire and bytes of each record of a pcap file."""
    assert data[:20] == PCAP_HEADER[:16] + data[16:20]
    at, found = 24, []
    while at < len(data):
        seconds, part, kept, wire = struct.unpack_from("<IIII", data, at)
        found.append((seconds, part, wire, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    assert at == len(data)
    return found


def blocks(data):
    """Type and body of each block of a little-endian pcapng file."""
    at, found = 0, []
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert data[at + length - 4 : at + length] == struct.pack("<I", length)
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    return found


def test_a_pcap_file_is_byte_for_byte_what_the_specification_says(add, out):
    port = add(f"tx_pcap={out},tx_time=packet")
    times = (1_700_000_000_123_456_789, 5)
    port.tx_burst(0, Burst.of([Packet(frame(i), time=t) for i, t in enumerate(times)]))
    port.stop()
    # 1700000000 is 0x6553f100, 123456789 is 0x075bcd15, 60 is 0x3c.
    first = bytes.fromhex("00f15365 15cd5b07 3c000000 3c000000") + frame(0)
    second = bytes.fromhex("00000000 05000000 3c000000 3c000000") + frame(1)
    assert out.read_bytes() == PCAP_HEADER + first + second


def test_a_pcapng_file_is_byte_for_byte_what_the_specification_says(add, out):
    port = add(f"tx_pcap={out},tx_time=packet,tx_format=pcapng,id=3")
    port.tx_burst(0, Burst.of([Packet(frame(0, 61), time=HALF_PAST)]))
    port.stop()
    section, interface, packet, statistics = blocks(out.read_bytes())
    assert section[0] == 0x0A0D0D0A
    # Byte order, version 1.0, length unknown, the name of the program (option 4).
    assert section[1][:16] == bytes.fromhex("4d3c2b1a 01000000 ffffffffffffffff")
    assert section[1][16:18] == b"\x04\x00"
    assert b"emudev" in section[1]
    # Ethernet, snap length 262144; if_name of 10 bytes; if_tsresol 10**-9; the end.
    expected = bytes.fromhex("01000000 00000400 02000a00") + b"net_pcap_3" + bytes(2)
    assert interface == (1, expected + bytes.fromhex("09000100 09000000 00000000"))
    # Interface 0; 1700000000500000000 is 0x17979cfe_3a0e2500; 61 bytes, padded to 64.
    high, low = HALF_PAST >> 32, HALF_PAST & 0xFFFFFFFF
    body = struct.pack("<IIIII", 0, high, low, 61, 61) + frame(0, 61) + bytes(3)
    assert packet == (6, body)
    # Interface 0, the time, one packet received (option 4), none dropped (option 5).
    options = bytes.fromhex("04000800 0100000000000000 05000800 0000000000000000 00000000")
    assert (statistics[0], statistics[1][:4], statistics[1][12:]) == (5, bytes(4), options)


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_times_are_those_of_sending_and_never_go_back(add, out, form):
    before = time.time_ns()
    port = add(f"tx_pcap={out},tx_format={form}")
    for i in range(3):
        port.tx_burst(0, Burst.of([Packet(frame(i), time=77)]))
    after = time.time_ns()
    port.stop()
    data = out.read_bytes()
    if form == "pcap":
        times = [s * 10**9 + n for s, n, _, _ in records(data)]
    else:
        parts = [struct.unpack_from("<II", b, 4) for kind, b in blocks(data) if kind == 6]
        times = [high << 32 | low for high, low in parts]
    slack = 10_000_000  # between two clocks
    assert before - slack <= times[0] <= times[1] <= times[2] <= after + slack


def test_packets_without_a_time_have_that_of_sending(add, out):
    port = add(f"tx_pcap={out},tx_time=packet")
    port.tx_burst(0, Burst.of([frame(0)]))
    port.stop()
    [(seconds, _, _, _)] = records(out.read_bytes())
    assert abs(seconds - time.time()) < 60


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_packets_in_segments_are_written_in_one_piece(add, out, form):
    frames = [frame(i, 60 + i) for i in range(40)]
    port = add(f"tx_pcap={out},tx_format={form}")
    burst = Burst.of(frames, split=17)
    assert port.tx_burst(0, burst) == burst.count
    port.stop()
    assert written(out.read_bytes()) == frames
    assert (port.stats().opackets, port.stats().obytes) == (40, sum(map(len, frames)))


def written(data):
    """The packets of a file that the port has written."""
    if data[:4] == PCAP_HEADER[:4]:
        return [packet for _, _, _, packet in records(data)]
    found = []
    for kind, body in blocks(data):
        if kind == 6:
            kept = struct.unpack_from("<I", body, 12)[0]
            assert body[20 + kept :] == bytes(-kept % 4)
            found.append(body[20 : 20 + kept])
    return found


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_long_packets_are_cut_to_the_snap_length_and_counted(add, out, form):
    port = add(f"tx_pcap={out},tx_format={form},snaplen=100")
    port.tx_burst(0, Burst.of([frame(0, 100), frame(1, 101), frame(2, 1500)], split=64))
    port.stop()
    data = out.read_bytes()
    packets = [frame(0, 100), frame(1, 101)[:100], frame(2, 1500)[:100]]
    assert written(data) == packets
    if form == "pcap":
        assert [wire for _, _, wire, _ in records(data)] == [100, 101, 1500]
        assert data[16:20] == bytes.fromhex("64000000")
    else:
        wires = [struct.unpack_from("<I", b, 16)[0] for kind, b in blocks(data) if kind == 6]
        assert wires == [100, 101, 1500]
    assert port.xstats()["tx_truncated_packets"] == 2
    assert port.stats().obytes == 1701


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_records_pass_the_end_of_the_ring_whole(host, add, out, form):
    # 3 MiB of odd lengths through a ring of 1 MiB, as fast as the writer follows.
    port = add(f"tx_pcap={out},tx_format={form},tx_memory=1")
    frames = [frame(i, 1000 + i * 7919 % 60_001) for i in range(100)]
    for one in frames:
        while (
            port._rings[0].get(writer_kernels.FILLED) - port._rings[0].get(writer_kernels.TAKEN)
            > (1 << 20) - len(one) - 100
        ):
            time.sleep(0.001)
        port.tx_burst(0, Burst.of([one], split=500))
    port.stop()
    assert written(out.read_bytes()) == frames
    assert sum(map(len, frames)) > 2 << 20


def test_records_are_in_the_file_soon_without_a_stop(add, out):
    port = add(f"tx_pcap={out}")
    for i in range(3):
        port.tx_burst(0, Burst.of([frame(i)]))
        deadline = time.monotonic() + 10
        while len(records(out.read_bytes())) <= i:
            time.sleep(0.002)
            assert time.monotonic() < deadline


def test_all_queues_write_to_one_file(add, out):
    port = add(f"tx_pcap={out}", queues=3)
    for queue in range(3):
        port.tx_burst(queue, Burst.of([frame(10 * queue + i) for i in range(5)]))
    port.stop()
    found = written(out.read_bytes())
    assert sorted(found) == sorted(frame(10 * q + i) for q in range(3) for i in range(5))
    for queue in range(3):
        mine = [f for f in found if f[17] // 10 == queue]
        assert mine == [frame(10 * queue + i) for i in range(5)]


def test_a_stop_and_a_start_go_on_with_the_file(add, out):
    for form in ("pcap", "pcapng"):
        port = add(f"tx_pcap={out},tx_format={form},id={len(form)}")
        for i in range(3):
            port.tx_burst(0, Burst.of([frame(i)]))
            port.stop()
            port.start()
        port.close()
        assert written(out.read_bytes()) == [frame(i) for i in range(3)]


def test_a_file_that_somebody_changed_meanwhile_is_made_anew(add, out):
    port = add(f"tx_pcap={out}")
    port.tx_burst(0, Burst.of([frame(0)]))
    port.stop()
    out.write_bytes(b"something else")
    port.start()
    port.tx_burst(0, Burst.of([frame(1)]))
    port.stop()
    assert written(out.read_bytes()) == [frame(1)]


def test_a_new_port_makes_the_file_anew(add, out):
    out.write_bytes(bytes(1000))
    add(f"tx_pcap={out}").stop()
    assert out.read_bytes() == PCAP_HEADER


# -- what is lost


def test_what_finds_no_room_is_dropped_and_counted(add, out, monkeypatch):
    monkeypatch.setattr(writer.CaptureWriter, "_drain", lambda self, ring: 0)  # the disk hangs
    port = add(f"tx_pcap={out},tx_memory=1,tx_format=pcapng")
    frames = [frame(i, 9000) for i in range(150)]
    burst = Burst.of(frames)
    assert port.tx_burst(0, burst) == 150  # it never waits
    # 28 bytes before and 4 behind the 9000: 116 blocks fit into 1048576 bytes.
    assert (port.stats().opackets, port.stats().oerrors) == (116, 34)
    assert port.xstats()["tx_dropped_full"] == 34
    port.tx_burst(0, Burst.of([frame(0, 60)]))  # a small one fits still
    assert port.stats().opackets == 117
    monkeypatch.undo()
    port.stop()
    data = out.read_bytes()
    assert written(data) == [*frames[:116], frame(0, 60)]
    statistics = blocks(data)[-1]
    assert statistics[0] == 5
    assert struct.unpack_from("<QHHQ", statistics[1], 16)[0] == 151
    assert struct.unpack_from("<QHHQ", statistics[1], 16)[3] == 34


def test_packets_are_dropped_and_counted_while_the_link_is_down(add, out):
    port = add(f"tx_pcap={out}")
    port.set_link(False)
    assert port.tx_burst(0, Burst.of([frame(0)])) == 1
    assert port.xstats()["tx_dropped_link"] == 1
    port.set_link(True)
    port.tx_burst(0, Burst.of([frame(1)]))
    port.stop()
    assert written(out.read_bytes()) == [frame(1)]
    assert port.stats().opackets == 1


def test_without_a_file_packets_are_let_go_as_sent(add, tmp_path):
    source = tmp_path / "in.pcap"
    source.write_bytes(PCAP_HEADER)
    port = add(f"rx_pcap={source}")
    assert port.tx_burst(0, Burst.of([frame(0), frame(1)], split=20)) == 6
    assert (port.stats().opackets, port.stats().obytes, port.stats().oerrors) == (2, 120, 0)


def test_a_full_disk_takes_the_port_down_and_leaves_whole_records(host, add, out):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        port = add(f"tx_pcap={out}")
        deadline = time.monotonic() + 10
        while port.state is PortState.STARTED:
            port.tx_burst(0, Burst.of([frame(1, 1000)]))
            host.loop.turn(0.01)
            assert time.monotonic() < deadline
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert port.state is PortState.FAILED
    data = out.read_bytes()
    assert f"{out}, at offset {len(data)}: can't be written: File too large" in port.error
    assert written(data) == [frame(1, 1000)] * len(records(data))
    port.configure(1, 1)
    port.start()
    port.tx_burst(0, Burst.of([frame(2)]))
    port.stop()
    assert written(out.read_bytes())[-1] == frame(2)


# -- what is refused


def test_a_file_that_somebody_else_writes_to_is_refused(add, out):
    port = add(f"tx_pcap={out},id=1")
    port.tx_burst(0, Burst.of([frame(0)]))
    with pytest.raises(CaptureError, match="another port or program writes to it"):
        add(f"tx_pcap={out},id=2")
    port.stop()
    assert written(out.read_bytes()) == [frame(0)]  # it was left alone


def test_the_file_that_is_read_is_not_overwritten(add, tmp_path):
    source, link = tmp_path / "in.pcap", tmp_path / "link.pcap"
    source.write_bytes(PCAP_HEADER)
    link.symlink_to(source)
    with pytest.raises(CaptureError, match=r"link.pcap: it is the file of rx_pcap"):
        add(f"rx_pcap={source},tx_pcap={link}")
    assert source.read_bytes() == PCAP_HEADER


def test_what_can_not_be_written_is_refused_at_start(add, tmp_path):
    for path, message in (
        (tmp_path / "no" / "out.pcap", "can't be opened: No such file"),
        (tmp_path, "can't be opened: Is a directory"),
        ("/dev/null", "expected a file, it is something else"),
    ):
        with pytest.raises(CaptureError, match=message):
            add(f"tx_pcap={path},id={len(str(path))}")


def test_a_process_that_ends_without_a_stop_leaves_a_whole_file(out):
    program = f"""
from emudev_core.host import Host
from emudev_net.burst import Burst
port = Host().add("net_pcap,tx_pcap={out}")
port.configure()
port.start()
port.set_link(True)
while not port.ready:
    port.loop.turn(0.1)
assert port.tx_burst(0, Burst.of([bytes(60)] * 100)) == 100
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert written(out.read_bytes()) == [bytes(60)] * 100


def test_a_writer_that_is_closed_before_it_is_started_leaves_a_header(out):
    made = writer.CaptureWriter(str(out), PCAP, 262_144, "x", [], lambda error: None)
    made.close()
    made.close()
    assert out.read_bytes() == PCAP_HEADER
