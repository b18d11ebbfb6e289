"""Ports: the contract, on the port in memory, and the tables and records below it."""

from __future__ import annotations

import ctypes
import logging

import pytest

from emudev_core.errors import ConfigError, LifecycleError
from emudev_core.host import Host
from emudev_core.loop import Loop
from emudev_core.queues import Offload, QueueStats, Shortcut
from emudev_core.subscribers import Subscribers
from emudev_net.addresses import (
    default_mac,
    is_assignable,
    mac_text,
    parse_mac,
    parse_station,
)
from emudev_net.burst import CSUM_WANTED, FIRST, LAST, Burst, Packet, offload_word
from emudev_net.memory_port import MemoryPort
from emudev_net.port import Port, PortConfig, PortEvent, PortEventKind, PortState, PortStats
from emudev_net.port_records import NEXT, PortStep, step_port
from emudev_net.port_stats import PortCounters
from emudev_net.testing import FramePortContract


class TestMemoryPort(FramePortContract):
    vdev = "net_memory,queues=3"

    def arrive(self, other, port, frames):
        port.arrive(frames)

    def sent(self, other, port):
        return [packet.data for packet in port.sent()]

    def test_its_link_follows_the_peer(self, host: Host, started, other, events):
        events.clear()
        started.set_peer(False)
        assert not started.link().up
        started.set_peer(True)
        assert started.link().up
        assert [(e.kind, e.value) for e in events] == [
            (PortEventKind.PEER, 0),
            (PortEventKind.LINK, 0),
            (PortEventKind.PEER, 1),
            (PortEventKind.LINK, 1),
        ]


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def port(loop):
    port = MemoryPort("net_memory_7", loop, queues=2)
    yield port
    port.close()


@pytest.mark.parametrize("state", PortState)
@pytest.mark.parametrize("step", PortStep)
def test_a_step_is_in_the_table_or_refused_with_what_is_allowed(state, step):
    if (state, step) in NEXT:
        assert step_port(state, step) is NEXT[state, step]
    else:
        with pytest.raises(LifecycleError, match=rf"p is {state.value}: can't {step.value} \(allo"):
            step_port(state, step, "p")


def test_nothing_leads_out_of_closed_and_everything_leads_there():
    assert {s for s, _ in NEXT if s is PortState.CLOSED} == set()
    assert {s for s, step in NEXT if step is PortStep.CLOSE} == set(PortState) - {PortState.CLOSED}


def test_addresses_are_read_and_written():
    mac = bytes.fromhex("525400123456")
    assert parse_mac("52:54:00:12:34:56") == parse_mac("52-54-00-12-34-56") == mac
    assert mac_text(mac) == "52:54:00:12:34:56"
    for bad in ("", "52:54:00:12:34", "52:54:00:12:34:5g", "525400123456", "52:54:00:12:34:56:78"):
        with pytest.raises(ValueError, match="expected a MAC address"):
            parse_mac(bad)


@pytest.mark.parametrize(
    ("mac", "good"),
    [("02 00 00 00 00 01", True), ("00 00 00 00 00 00", False), ("01 00 5e 00 00 01", False)],
)
def test_a_port_has_the_address_of_one_station(mac, good):
    assert is_assignable(bytes.fromhex(mac)) is good
    text = bytes.fromhex(mac).hex(":")
    if good:
        assert parse_station(text) == bytes.fromhex(mac)
    else:
        with pytest.raises(ValueError, match=f"the MAC address of one station, came '{text}'"):
            parse_station(text)


def test_a_device_has_the_same_local_address_each_time():
    mac = default_mac("avf_emudev_0")
    assert mac == default_mac("avf_emudev_0") != default_mac("avf_emudev_1")
    assert mac[0] & 3 == 2  # local, one station


def test_counters_are_those_of_the_queues_less_what_they_were_at_the_reset():
    now = {"rx": QueueStats(10, 1000, {"missed": 1, "nombuf": 2, "bad length": 4})}
    now["tx"] = QueueStats(5, 500, {"link": 7})

    class Ends:
        def __init__(self, name):
            self.stats = lambda: now[name]

    own = {"resets": 3}
    counters = PortCounters(lambda: ([Ends("rx"), None], [Ends("tx")]), lambda: own)
    assert counters.stats() == PortStats(
        ipackets=10, opackets=5, ibytes=1000, obytes=500, imissed=1, ierrors=4, oerrors=7,
        rx_nombuf=2,
    )  # fmt: skip
    found = counters.xstats()
    assert found["rx_q0_errors"] == 7
    assert found["rx_q1_packets"] == 0
    assert found["rx_dropped_bad_length"] == 4
    assert found["tx_dropped_link"] == 7
    assert found["resets"] == 3
    assert list(found)[-1] == "resets"
    counters.reset()
    assert counters.stats() == PortStats()
    now["rx"] = QueueStats(11, 1060, {"missed": 1, "nombuf": 2, "bad length": 4, "crc": 1})
    own["resets"] = 4
    assert counters.stats() == PortStats(ipackets=1, ibytes=60, ierrors=1)
    assert counters.xstats()["rx_dropped_crc"] == 1
    assert counters.xstats()["resets"] == 1


def test_offloads_are_what_the_port_takes_and_the_application_wants(port):
    assert port.takes == Offload(31)
    port.configure(1, 1, PortConfig(tx_offloads=Offload.CSUM, mtu=9000, promiscuous=True))
    port.tx_queue_setup(0)
    assert port.takes == Offload.CSUM
    assert port.tx_queue(0).takes == Offload.CSUM
    assert port.mtu == 9000
    assert port.promiscuous


def test_requests_of_packets_pass_as_they_are(port):
    port.configure(1, 1)
    port.start()
    asks = Packet(bytes(80), FIRST | LAST | CSUM_WANTED, offload_word(34, 16, 54, 0), time=5)
    burst = Burst.of([asks])
    assert port.tx_burst(0, burst) == 1
    [sent] = port.sent()
    assert (sent.flags, sent.offload, sent.time) == (asks.flags, asks.offload, 5)


def test_queues_are_apart(port):
    port.configure(2, 2)
    port.start()
    port.arrive([b"a" * 60], queue=1)
    burst = Burst(8)
    assert port.rx_burst(0, burst) == 0
    assert port.rx_burst(1, burst) == 1
    port.rx_release(1, burst)
    assert port.tx_burst(1, Burst.of([b"b" * 60])) == 1
    assert port.sent(0) == []
    assert [p.data for p in port.sent(1)] == [b"b" * 60]
    found = port.xstats()
    assert (found["rx_q0_packets"], found["rx_q1_packets"]) == (0, 1)
    assert (found["tx_q0_packets"], found["tx_q1_packets"]) == (0, 1)


def test_a_full_queue_takes_less_and_tells_when_it_has_room(port):
    port.configure(1, 1)
    port.start()
    port.sinks[0].room = 2
    burst = Burst.of([bytes(60)] * 3)
    woken = []
    port.subscribe_tx(0, lambda: woken.append(1))
    assert port.tx_burst(0, burst) == 2
    assert port.tx_burst(0, burst, 1) == 0
    assert len(port.sent()) == 2
    assert woken == [1]
    assert port.tx_burst(0, burst, 1) == 1


def test_wakes_are_told_by_shortcuts_until_the_port_is_closed(port):
    port.configure(1, 1)
    bell = Subscribers()
    bell.add(lambda: port.wake_rx(0), port.rx_subscribers(0))
    bell.add(lambda: port.wake_tx(0), port.tx_subscribers(0))
    undo = port.subscribe_rx(0, print, Shortcut(0x1000, 0x10))
    port.subscribe_tx(0, print, Shortcut(0x2000, 0x20))
    port.subscribe_rx(1, print)  # of another queue
    words = (ctypes.c_int64 * 5).from_address(bell.chain)
    assert list(words) == [2, 0x1000, 0x10, 0x2000, 0x20]
    undo()
    assert words[:3] == [1, 0x2000, 0x20]
    port.close()
    assert words[0] == 0


def test_a_receive_queue_can_be_fed_for_ever(port):
    port.configure(1, 1)
    port.start()
    burst = Burst(64)
    for i in range(300):  # 300 * 32 is more than the 4096 rows that it holds
        port.arrive([bytes([i & 0xFF]) * 60] * 32)
        assert port.rx_burst(0, burst) == 32
        port.rx_release(0, burst)
    assert port.stats().ipackets == 9600
    assert port.stats().ibytes == 9600 * 60


class Broken(MemoryPort):
    """Fails where it is told to."""

    fault = ""

    def on_configure(self):
        self._maybe("configure")

    def on_start(self):
        self._maybe("start")

    def on_stop(self):
        self._maybe("stop")

    def on_mac(self, mac):
        self._maybe("mac")

    def _maybe(self, step):
        if self.fault == step:
            raise ConfigError(f"no {step} today")


def test_a_step_that_the_port_refuses_leaves_it_as_it_was(loop):
    port = Broken("net_broken_0", loop)
    before = port.mac
    for step, call, state in (
        ("configure", lambda: port.configure(1, 1), PortState.NEW),
        ("start", port.start, PortState.CONFIGURED),
        ("mac", lambda: port.set_mac(b"\x02" * 6), PortState.STARTED),
    ):
        port.fault = step
        with pytest.raises(ConfigError, match=f"no {step} today"):
            call()
        assert port.state is state
        port.fault = ""
        if step != "mac":
            call()
    assert port.mac == before
    port.close()


def test_a_port_that_does_not_even_stop_is_down_nevertheless(loop, caplog):
    port = Broken("net_broken_0", loop)
    port.configure(1, 1)
    port.start()
    port.fault = "stop"
    with caplog.at_level(logging.WARNING):
        port.fail("it broke", removed=True)
    assert port.state is PortState.FAILED
    assert "did not stop well: no stop today" in caplog.text
    seen = []
    port.subscribe(seen.append)
    port.configure(1, 1)
    assert (port.state, port.error) == (PortState.CONFIGURED, "")
    assert seen == [PortEvent(PortEventKind.STATE, text="configured")]
    port.fault = ""
    port.close()


def test_a_port_without_packets_can_not_be_set_up(loop):
    class Empty(MemoryPort):
        def source(self, queue):
            return self.sinks[0].kernels

        sink = MemoryPort.source

    port = Empty("net_empty_0", loop)
    port.configure(1, 1)
    with pytest.raises(Exception, match="receive queue 0 gives no packets"):
        port.rx_queue_setup(0)
    with pytest.raises(Exception, match="transmit queue 0 takes no packets"):
        port.tx_queue_setup(0)
    port.close()


def test_the_number_of_a_port_is_at_the_end_of_its_name(loop):
    ports: list[Port] = [MemoryPort(name, loop) for name in ("net_memory_12", "plain")]
    assert [port.id for port in ports] == [12, 0]
    assert ports[0].mac == bytes.fromhex("02656d75000c")
    for port in ports:
        port.close()
