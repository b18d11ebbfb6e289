"""The port ``net_pcap`` that receives from a file: order, repetition, timing, queues, faults."""

from __future__ import annotations

import logging
import struct
import time

import pytest

from emudev_core.errors import ConfigError
from emudev_net.burst import HASH_VALID, Burst
from emudev_net.port import PortEventKind, PortState
from emudev_pcap.formats import CaptureError

pytestmark = pytest.mark.usefixtures("kernels")

HEADER = struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)  # nanoseconds
MILLISECOND = 1_000_000


def frame(number, length=60):
    return bytes(12) + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(length - 18)


def udp(source, target, payload=b"x" * 18):
    """An IPv4 UDP frame between two hosts and ports of the same number."""
    length = 28 + len(payload)
    ip = struct.pack(
        "!BBHHHBBHII", 0x45, 0, length, 0, 0, 64, 17, 0, 0x0A000000 + source, 0x0A000000 + target
    )
    ports = struct.pack("!HHHH", 1000 + source, 1000 + target, 8 + len(payload), 0)
    return bytes(12) + b"\x08\x00" + ip + ports + payload


@pytest.fixture
def capture(tmp_path):
    """Writes a pcap file of frames, a second apart or at given times in ns; returns its path."""

    def write(frames, times=None, name="in.pcap", tail=b""):
        times = [i * 1_000_000_000 for i in range(len(frames))] if times is None else times
        path = tmp_path / name
        records = (
            struct.pack("<IIII", t // 10**9, t % 10**9, len(f), len(f)) + f
            for f, t in zip(frames, times, strict=True)
        )
        path.write_bytes(HEADER + b"".join(records) + tail)
        return path

    return write


@pytest.fixture(params=["in memory", "streamed"])
def memory(request):
    return "rx_memory=256" if request.param == "in memory" else "rx_memory=0"


def take(host, port, count, rows=32, queue=0):
    """The next `count` packets, and the time, ns, at which each was seen."""
    found, seen = [], []
    burst = Burst(rows)
    deadline = time.monotonic() + 20
    while len(found) < count:
        got = port.rx_burst(queue, burst)
        now = time.monotonic_ns()
        packets = burst.packets(min(got, count - len(found)))
        found += [p.data for p in packets]
        seen += [now] * len(packets)
        port.rx_release(queue, burst, len(packets))
        host.loop.turn(0)
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
    return found, seen


def test_all_packets_are_received_once_in_the_order_of_the_file(host, add, capture, memory):
    frames = [frame(i, 60 + i) for i in range(100)]
    port = add(f"rx_pcap={capture(frames)},{memory}")
    assert take(host, port, 100, rows=7)[0] == frames
    assert port.rx_burst(0, Burst(8)) == 0
    stats = port.stats()
    assert (stats.ipackets, stats.ibytes) == (100, sum(map(len, frames)))


def test_each_packet_has_its_time(host, add, capture):
    port = add(f"rx_pcap={capture([frame(0), frame(1)], [1_700_000_000_123_456_789, 5])}")
    burst = Burst(4)
    port.rx_burst(0, burst)
    assert [p.time for p in burst.packets()] == [1_700_000_000_123_456_789, 5]


def test_what_is_not_released_is_shown_again_also_after_part_of_it_was(host, add, capture, memory):
    frames = [frame(i) for i in range(10)]
    port = add(f"rx_pcap={capture(frames)},{memory}")
    burst = Burst(4)
    for _ in range(2):
        assert port.rx_burst(0, burst) == 4
        assert [p.data for p in burst.packets()] == frames[:4]
    port.rx_release(0, burst, 1)
    port.rx_release(0, burst, 2)  # of the three that are left
    assert port.rx_burst(0, burst) == 4
    assert [p.data for p in burst.packets()] == frames[3:7]
    assert (port.stats().ipackets, port.stats().ibytes) == (3, 180)
    port.rx_release(0, burst, 100)
    port.rx_release(0, burst, 1)  # nothing is left
    assert port.stats().ipackets == 7


def test_infinite_rx_begins_anew_without_end(host, add, capture, memory):
    frames = [frame(i) for i in range(5)]
    port = add(f"rx_pcap={capture(frames)},infinite_rx=1,{memory}")
    assert take(host, port, 23)[0] == [frames[i % 5] for i in range(23)]
    assert port.xstats()["rx_passes"] >= 4


def test_infinite_rx_of_a_file_without_packets_is_no_endless_loop(host, add, capture, memory):
    port = add(f"rx_pcap={capture([])},infinite_rx=1,{memory}")
    for _ in range(3):
        assert port.rx_burst(0, Burst(4)) == 0
        host.loop.turn(0)


def test_each_start_begins_at_the_start_of_the_file(host, add, capture, memory):
    frames = [frame(i) for i in range(5)]
    port = add(f"rx_pcap={capture(frames)},{memory}")
    take(host, port, 3)
    port.stop()
    port.start()
    assert take(host, port, 5)[0] == frames
    assert port.stats().ipackets == 8


def test_no_packet_comes_while_the_link_is_down(host, add, capture):
    frames = [frame(i) for i in range(5)]
    port = add(f"rx_pcap={capture(frames)}")
    take(host, port, 2)
    port.set_link(False)
    assert port.rx_burst(0, Burst(4)) == 0
    port.set_link(True)
    assert take(host, port, 3)[0] == frames[2:]


def test_the_end_is_told_once(host, add, capture, caplog):
    caplog.set_level(logging.INFO)
    path = capture([frame(0)])
    port = add(f"rx_pcap={path}", polled=False)
    assert f"{path} has 1 packets, 60 bytes" in caplog.text
    take(host, port, 1)
    for _ in range(3):
        port.rx_burst(0, Burst(4))
        host.loop.turn(0)
    assert caplog.text.count(f"receive queue 0 has had all of {path}") == 1


# -- timing


def test_flat_out_does_not_wait_for_recorded_gaps(host, add, capture):
    port = add(f"rx_pcap={capture([frame(i) for i in range(100)])}")  # 99 seconds
    burst = Burst(128)
    assert port.rx_burst(0, burst) == 100


@pytest.mark.parametrize("polled", [True, False])
def test_recorded_gaps_are_kept(host, add, capture, memory, polled):
    times = [0, 5, 30, 30, 60]
    path = capture([frame(i) for i in range(5)], [10**18 + t * MILLISECOND for t in times])
    port = add(f"rx_pcap={path},rx_timing=recorded,{memory}", polled=polled)
    seen = take(host, port, 5)[1]
    for moment, due in zip(seen, times, strict=True):
        assert moment - seen[0] >= (due - 1) * MILLISECOND
    assert seen[-1] - seen[0] < 1_000 * MILLISECOND


def test_who_sleeps_is_woken_when_a_packet_is_due(host, add, capture):
    path = capture([frame(i) for i in range(3)], [0, 20 * MILLISECOND, 40 * MILLISECOND])
    port = add(f"rx_pcap={path},rx_timing=recorded", polled=False)
    found = []
    burst = Burst(8)

    def look():
        while port.rx_burst(0, burst):
            found.extend(p.data for p in burst.packets())
            port.rx_release(0, burst)

    port.subscribe_rx(0, look)
    look()
    turns = 0
    deadline = time.monotonic() + 10
    while len(found) < 3 and time.monotonic() < deadline:
        host.loop.turn(1.0)
        turns += 1
    assert found == [frame(i) for i in range(3)]
    assert turns < 20  # it slept


def test_who_sleeps_is_woken_when_the_file_begins_anew(host, add, capture, memory):
    port = add(f"rx_pcap={capture([frame(1)])},infinite_rx=1,{memory}", polled=False)
    found = []
    burst = Burst(1)

    def look():
        while len(found) < 10 and port.rx_burst(0, burst):
            found.extend(p.data for p in burst.packets())
            port.rx_release(0, burst)

    port.subscribe_rx(0, look)
    look()
    deadline = time.monotonic() + 10
    while len(found) < 10 and time.monotonic() < deadline:
        host.loop.turn(1.0)
    assert found == [frame(1)] * 10


def test_times_that_go_back_hold_nobody_up(host, add, capture):
    times = [50 * MILLISECOND, 0, 51 * MILLISECOND, 2 * MILLISECOND]
    path = capture([frame(i) for i in range(4)], times)
    found, seen = take(host, add(f"rx_pcap={path},rx_timing=recorded"), 4)
    assert found == [frame(i) for i in range(4)]
    assert seen[3] - seen[0] < 1_000 * MILLISECOND


def test_a_rate_is_kept_whatever_the_timestamps_say(host, add, capture):
    path = capture([frame(i) for i in range(21)])
    seen = take(host, add(f"rx_pcap={path},rx_rate=200"), 21)[1]
    took = seen[-1] - seen[0]
    assert 99 * MILLISECOND <= took < 2_000 * MILLISECOND
    assert len({(moment - seen[0]) // MILLISECOND for moment in seen}) >= 5


def test_a_rate_goes_on_when_the_file_begins_anew(host, add, capture, memory):
    port = add(f"rx_pcap={capture([frame(0), frame(1)])},rx_rate=200,infinite_rx=1,{memory}")
    found, seen = take(host, port, 11)
    assert found == [frame(i % 2) for i in range(11)]
    assert seen[-1] - seen[0] >= 49 * MILLISECOND


def test_who_was_away_gets_no_flood_afterwards(host, add, capture):
    # Every millisecond a packet; nobody looks for the time of 60.
    path = capture([frame(i) for i in range(200)], [i * MILLISECOND for i in range(200)])
    port = add(f"rx_pcap={path},rx_timing=recorded")
    take(host, port, 1)
    time.sleep(0.06)
    burst = Burst(256)
    port.rx_burst(0, burst)
    assert burst.count <= 12


# -- queues


def test_packets_are_spread_by_flow_and_both_directions_stay_together(host, add, capture, memory):
    conversations = [(udp(i, 100 + i), udp(100 + i, i)) for i in range(40)]
    frames = [f for _ in range(3) for pair in conversations for f in pair]
    port = add(f"rx_pcap={capture(frames)},{memory}", queues=4)
    got = []
    burst = Burst(512)
    for queue in range(4):
        assert port.rx_burst(queue, burst) > 0
        assert all(p.flags & HASH_VALID for p in burst.packets())
        got.append([p.data for p in burst.packets()])
        port.rx_release(queue, burst)
    assert sorted(f for packets in got for f in packets) == sorted(frames)
    for packets in got:
        assert packets == [f for f in frames if f in packets]  # in the order of the file
    for there, back in conversations:
        assert [there in packets for packets in got] == [back in packets for packets in got]
    assert sum(len(packets) > 10 for packets in got) == 4
    assert port.stats().ipackets == len(frames)


def test_what_is_not_ip_goes_to_the_first_queue(host, add, capture):
    port = add(f"rx_pcap={capture([frame(i) for i in range(9)])}", queues=3)
    assert take(host, port, 9)[0] == [frame(i) for i in range(9)]
    for queue in (1, 2):
        assert port.rx_burst(queue, Burst(4)) == 0


def test_short_records_are_counted_once_however_many_queues_there_are(host, add, capture):
    frames = [udp(i, i + 1) if i % 2 else b"short" for i in range(20)]
    port = add(f"rx_pcap={capture(frames)}", queues=4)
    burst = Burst(64)
    for queue in range(4):
        port.rx_burst(queue, burst)
        port.rx_release(queue, burst)
        port.rx_burst(queue, burst)
    assert (port.stats().ipackets, port.stats().ierrors) == (10, 10)
    assert port.xstats()["rx_dropped_short"] == 10


def test_a_queue_without_packets_does_not_hang_in_a_file_without_end(host, add, capture, memory):
    port = add(f"rx_pcap={capture([frame(0)])},infinite_rx=1,{memory}", queues=2)
    burst = Burst(4)
    for _ in range(5):
        assert port.rx_burst(1, burst) == 0
        assert port.rx_burst(0, burst) <= 1
        port.rx_release(0, burst)
        host.loop.turn(0)
    assert port.stats().ipackets >= 3  # the loop winds a file back that is not in memory


def test_a_rate_is_that_of_all_queues_together(host, add, capture):
    frames = [udp(i, 100 + i) for i in range(40)]
    port = add(f"rx_pcap={capture(frames)},rx_rate=400", queues=2)
    burst = Burst(64)
    found = 0
    start = time.monotonic_ns()
    while found < 40:
        for queue in (0, 1):
            found += port.rx_burst(queue, burst)
            port.rx_release(queue, burst)
        assert time.monotonic_ns() - start < 10**10
    assert time.monotonic_ns() - start >= 90 * MILLISECOND


# -- faults


def test_a_file_that_is_cut_short_is_refused_at_start_with_the_offset(host, add, capture, memory):
    path = capture([frame(0), frame(1)], tail=bytes(16)[:9])
    with pytest.raises(CaptureError, match=rf"{path}, at offset 176: cut short: .* after 9"):
        add(f"rx_pcap={path},{memory}")


def test_a_damaged_file_is_used_up_to_the_damage_if_that_is_wanted(
    host, add, capture, memory, caplog
):
    frames = [frame(0), frame(1)]
    path = capture(frames, tail=struct.pack("<IIII", 0, 0, 1 << 30, 60) + bytes(100))
    port = add(f"rx_pcap={path},rx_damaged=use,infinite_rx=1,{memory}")
    assert take(host, port, 6)[0] == frames * 3
    if memory == "rx_memory=256":
        assert "the rest is left out" in caplog.text
        assert "at offset 176" in caplog.text


def test_a_file_that_breaks_while_it_is_replayed_takes_the_port_down(host, add, capture):
    # Larger than what is read at one time; what comes later becomes something else meanwhile.
    path = capture([frame(i, 9000) for i in range(100)])
    port = add(f"rx_pcap={path},rx_memory=0")
    events = []
    port.subscribe(events.append)
    take(host, port, 1)
    with path.open("r+b") as file:
        file.seek(24 + 60 * 9016)
        file.write(b"\xff" * 16)
    burst = Burst(8)
    deadline = time.monotonic() + 10
    while port.state is PortState.STARTED and time.monotonic() < deadline:
        if port.rx_burst(0, burst):
            port.rx_release(0, burst)
        host.loop.turn(0)
    assert port.state is PortState.FAILED
    assert "at offset 540984: expected a packet of at most 262144 bytes" in port.error
    assert [e.text for e in events if e.kind is PortEventKind.ERROR] == [port.error]
    assert port.stats().ipackets == 60
    port.configure(1, 1)
    path.write_bytes(HEADER)
    port.start()


def test_a_port_that_did_not_start_can_be_started_when_the_file_is_there(host, add, capture):
    path = capture([frame(0)])
    data = path.read_bytes()
    path.unlink()
    port = host.add(f"net_pcap,rx_pcap={path},id=7")
    port.configure()
    for _ in range(2):
        with pytest.raises(CaptureError, match="No such file"):
            port.start()
        assert port.state is PortState.CONFIGURED
    path.write_bytes(data)
    port.start()
    port.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("queues=2", "neither rx_pcap nor tx_pcap"),
        ("rx_pcap=a,rx_rate=5,rx_timing=recorded", "rx_rate: .* give one of them"),
        ("rx_pcap=a,tx_pcap=a", "would be overwritten"),
        ("tx_pcap=a,tx_memory=3", "a power of two"),
        ("rx_pcap=a,rx_rate=0", "rx_rate: expected"),
        ("rx_pcap=a,rx_timing=slow", "rx_timing: expected flat_out"),
        ("rx_pcap=a,snaplen=10", "snaplen: expected"),
        ("rx_pcap=a,queues=65", "queues: expected int"),
        ("rx_pcap=", "rx_pcap"),
        ("rx_iface=eth0", "unknown key"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_opened(host, keys, message):
    with pytest.raises(ConfigError, match=message):
        host.add(f"net_pcap,{keys}")
