"""Ports over AVF devices whose guests are the reference driver: traffic, resets, guests that go."""

from __future__ import annotations

import contextlib
import struct
from ipaddress import IPv4Address

import pytest

pytest.importorskip("emudev_avf")
pytest.importorskip("emudev_null", reason="the transport inproc")

from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.driver.packets import checksum, udp_frame
from emudev_avf.driver.rings import Headers
from emudev_avf.registers import MAP
from emudev_core.host import Host
from emudev_core.regions import ResetKind
from emudev_core.testing.contract import turn_until
from emudev_net import flow as flows
from emudev_net import worker_kernels
from emudev_net.burst import CSUM_WANTED, GSO_TCPV4, Burst, gso_size, gso_type
from emudev_net.flow import Flow
from emudev_net.jit import compile_now, jit_wanted
from emudev_net.port import PortEventKind
from emudev_net.workers import WorkerPool
from emudev_pci.guest import GuestFunction

HOST_MAC = bytes.fromhex("02aabbccdd01")
HERE, THERE = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


class End:
    """A device, the port over it, and its guest."""

    def __init__(self, host, number, queues=1, rx=1, tx=1):
        self.host = host
        self.device = host.add(f"emu_iavf,id={number},transport=inproc,queues={queues}")
        self.port = host.add(f"net_avfbe,id={number},avf_emu_id={number}")
        self.events = []
        self.port.subscribe(self.events.append)
        self.port.configure(rx, tx)
        self.queues = queues
        self.guest = None

    def boot(self):
        """A new guest, its link up."""
        function = GuestFunction(self.host.connect(self.device), {0: MAP})
        self.guest = AvfDriver(function, queues=self.queues)
        self.guest.probe()
        self.guest.open()
        turn_until(self.host, lambda: self.port.link().up)
        return self.guest

    def vanish(self):
        """The guest is killed."""
        self.guest.function.close()

    def leave(self):
        self.guest.remove()
        self.guest.function.close()

    def kinds(self):
        return [event.kind for event in self.events]


@pytest.fixture
def host():
    with Host() as host:
        yield host


@pytest.fixture
def make(host):
    with contextlib.ExitStack() as closing:

        def make(number=0, **options):
            end = End(host, number, **options)
            closing.callback(end.port.close)
            host.start()
            end.port.start()
            turn_until(host, lambda: end.port.ready, 60)
            end.boot()
            return end

        yield make


def frame_for(target, mark, size=100):
    return target + HOST_MAC + b"\x88\xb5" + bytes((mark + i) & 0xFF for i in range(size - 14))


def join(host, one, two, closing):
    """A flow each way that starts anew when its source does."""
    for source, sink in ((one, two), (two, one)):
        for queue in range(source.port.rx_queues):
            flow = Flow(host.loop, source.port.rx_queue(queue), sink.port.tx_queue(0))
            closing.callback(flow.close)
            closing.callback(source.port.subscribe_rx(queue, flow.kick))
            closing.callback(sink.port.subscribe_tx(0, flow.kick))

            def anew(event, flow=flow):
                if event.kind in (PortEventKind.RESET, PortEventKind.QUEUE_STATE):
                    flow.restart()

            closing.callback(source.port.subscribe(anew))


def receive(guest, count, queues=1):
    found = []
    for _ in range(200):
        for queue in range(queues):
            found += [r.frame for r in guest.receive(0.005, queue=queue)]
        if len(found) >= count:
            break
    return found


def test_two_guests_reach_each_other_through_two_ports(host, make):
    one, two = make(0), make(1)
    with contextlib.ExitStack() as closing:
        join(host, one, two, closing)
        for source, sink in ((one, two), (two, one)):
            sent = [frame_for(sink.guest.resources.mac, i, 60 + 7 * i) for i in range(100)]
            for frame in sent:
                source.guest.send(frame)
            assert receive(sink.guest, 100) == sent
    for end in (one, two):
        stats = end.port.stats()
        assert (stats.ipackets, stats.opackets, stats.ierrors, stats.oerrors) == (100, 100, 0, 0)
        end.leave()


def test_a_loop_of_bursts_forwards_without_kernels_of_its_own(host, make):
    one, two = make(0), make(1)
    sent = [frame_for(two.guest.resources.mac, i) for i in range(40)]
    for frame in sent:
        one.guest.send(frame)
    burst = Burst(16)
    moved = 0
    while moved < 40:
        host.loop.turn()
        if rows := one.port.rx_burst(0, burst):
            taken = two.port.tx_burst(0, burst)
            assert taken == rows
            one.port.rx_release(0, burst)
            moved += len(burst.packets())
    assert receive(two.guest, 40) == sent
    one.leave()
    two.leave()


def test_requests_of_the_guest_arrive_with_the_packet(host, make):
    one = make()
    payload = bytes(3000)
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 100, 0, 0)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40 + 3000, 0, 0, 64, 6, 0, HERE.packed, THERE.packed
    )
    frame = HOST_MAC + one.guest.resources.mac + b"\x08\x00" + head + tcp + payload
    one.guest.send(frame, headers=Headers(mac=14, ip=20, l4=20, protocol="tcp"), mss=1000)
    burst = Burst(16)
    assert one.port.rx_burst(0, burst) > 0
    [packet] = burst.packets()
    assert packet.flags & CSUM_WANTED
    assert gso_type(packet.flags) == GSO_TCPV4
    assert gso_size(packet.offload) == 1000
    assert packet.data[54:] == payload
    one.port.rx_release(0, burst)
    one.leave()


def test_what_the_other_port_does_not_take_is_done_on_the_way(host, make):
    one, two = make(0), make(1)
    payload = bytes(range(256)) * 12
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 100, 0, 0)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 0, 0, 64, 6, 0, HERE.packed, THERE.packed
    )
    frame = two.guest.resources.mac + one.guest.resources.mac + b"\x08\x00" + head + tcp + payload
    with contextlib.ExitStack() as closing:
        join(host, one, two, closing)
        one.guest.send(frame, headers=Headers(mac=14, ip=20, l4=20, protocol="tcp"), mss=1024)
        got = receive(two.guest, 3)
    assert [len(f) for f in got] == [54 + 1024] * 3
    assert b"".join(f[54:] for f in got) == payload
    assert all(checksum(f[14:34]) == 0 for f in got)
    one.leave()
    two.leave()


def test_packets_are_counted_at_the_queue_that_the_hash_sends_them_to(host, make):
    end = make(queues=4, rx=4, tx=1)
    mac = end.guest.resources.mac
    sent = [udp_frame(HOST_MAC, mac, IPv4Address(f"10.0.0.{i}"), THERE, 100) for i in range(1, 65)]
    for frame in sent:
        assert end.port.tx_burst(0, Burst.of([frame])) == 1
    assert len(receive(end.guest, 64, queues=4)) == 64
    found = end.port.xstats()
    spread = [found[f"tx_q{queue}_packets"] for queue in range(4)]
    assert sum(spread) == found["tx_good_packets"] == 64
    assert sum(count > 0 for count in spread) > 1
    end.leave()


def test_frames_of_each_pair_arrive_at_the_queue_of_its_number(host, make):
    end = make(queues=3, rx=2, tx=2)
    for queue in range(3):
        end.guest.send(frame_for(HOST_MAC, queue), queue=queue)
    burst = Burst(8)
    for queue in range(2):
        assert end.port.rx_burst(queue, burst) == 1
        assert burst.packets()[0].data == frame_for(HOST_MAC, queue)
        end.port.rx_release(queue, burst)
    assert end.port.xstats()["rx_unserved_queues"] == 1
    assert end.port.stats().ipackets == 2
    end.leave()


@pytest.mark.parametrize("how", ["reset", "function_level_reset"])
def test_a_reset_is_told_and_frames_pass_again(host, make, how):
    end = make()
    end.events.clear()
    getattr(end.guest, how)()
    turn_until(host, lambda: end.port.link().up)
    kinds = end.kinds()
    assert PortEventKind.RESET in kinds
    links = [e.value for e in end.events if e.kind is PortEventKind.LINK]
    assert links == [0, 1]
    end.guest.send(frame_for(HOST_MAC, 1))
    burst = Burst(8)
    turn_until(host, lambda: end.port.rx_burst(0, burst) == 1)
    end.port.rx_release(0, burst)
    assert end.port.tx_burst(0, Burst.of([frame_for(end.guest.resources.mac, 2)])) == 1
    assert receive(end.guest, 1) == [frame_for(end.guest.resources.mac, 2)]
    end.leave()


def test_what_was_seen_before_a_reset_may_be_released_after_it(host, make):
    end = make()
    for mark in range(5):
        end.guest.send(frame_for(HOST_MAC, mark))
    burst = Burst(8)
    assert end.port.rx_burst(0, burst) == 5
    end.device.reset(ResetKind.FUNCTION)
    end.port.rx_release(0, burst)
    assert end.port.rx_burst(0, burst) == 0
    end.guest.function.enable()
    end.guest._recover()
    end.guest.send(frame_for(HOST_MAC, 9))
    turn_until(host, lambda: end.port.rx_burst(0, burst) == 1)
    assert burst.packets()[0].data == frame_for(HOST_MAC, 9)
    end.port.rx_release(0, burst)
    end.leave()


def test_resets_under_traffic_lose_frames_and_nothing_else(host, make):
    one, two = make(0), make(1)
    with contextlib.ExitStack() as closing:
        join(host, one, two, closing)
        for turn in range(6):
            for mark in range(200):
                one.guest.send(frame_for(two.guest.resources.mac, mark, 600))
            (one if turn % 2 else two).guest.reset()
        turn_until(host, lambda: one.port.link().up and two.port.link().up)
        receive(two.guest, 10_000)
        last = frame_for(two.guest.resources.mac, 77, 77)
        one.guest.send(last)
        assert receive(two.guest, 1) == [last]
    one.leave()
    two.leave()


def test_a_guest_that_vanishes_takes_the_link_down_and_the_next_one_is_served(host, make):
    end = make()
    for mark in range(20):
        end.guest.send(frame_for(HOST_MAC, mark))
    burst = Burst(8)
    assert end.port.rx_burst(0, burst) == 8
    end.events.clear()
    end.vanish()
    turn_until(host, lambda: PortEventKind.LINK in end.kinds())
    assert not end.port.link().up
    assert [e.value for e in end.events if e.kind is PortEventKind.PEER] == [0]
    end.port.rx_release(0, burst)
    assert end.port.rx_burst(0, burst) == 0
    assert end.port.tx_burst(0, Burst.of([frame_for(HOST_MAC, 1)])) in (0, 1)
    again = end.boot()
    assert PortEventKind.PEER in end.kinds()
    again.send(frame_for(HOST_MAC, 5))
    turn_until(host, lambda: end.port.rx_burst(0, burst) == 1)
    end.port.rx_release(0, burst)
    end.leave()


def test_the_guest_sees_the_link_that_the_application_sets(host, make):
    end = make()
    end.port.set_link(False)
    turn_until(host, lambda: (end.guest.service(), not end.guest.link)[1])
    end.port.set_link(True)
    turn_until(host, lambda: (end.guest.service(), end.guest.link)[1])
    assert end.guest.speed == end.port.link().speed
    end.port.stop()
    turn_until(host, lambda: (end.guest.service(), not end.guest.link)[1])
    end.port.start()
    turn_until(host, lambda: (end.guest.service(), end.guest.link)[1])
    end.leave()


def test_a_frame_that_is_too_long_is_dropped_and_counted(host, make):
    end = make()
    longest = end.port.info().max_frame
    burst = Burst.of([frame_for(end.guest.resources.mac, 1, longest + 400)])
    assert end.port.tx_burst(0, burst) == 1
    stats = end.port.stats()
    assert (stats.opackets, stats.oerrors) == (0, 1)
    dropped = {n: c for n, c in end.port.xstats().items() if n.startswith("tx_dropped_") and c}
    assert list(dropped.values()) == [1]
    end.leave()


@pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only")
@pytest.mark.parametrize("polling", [False, True])
def test_workers_run_the_kernels_and_rest_for_resets(host, make, polling):
    one, two = make(0), make(1)
    compile_now([*flows.KERNELS, *worker_kernels.KERNELS, *one.port.kernels()])
    with contextlib.ExitStack() as closing:
        pool = WorkerPool(2, "ports", polling=polling)
        closing.callback(pool.close)
        for number, (source, sink) in enumerate(((one, two), (two, one))):
            flow = Flow(host.loop, source.port.rx_queue(0), sink.port.tx_queue(0), drop=True)
            pool.workers[number].add(flow)
            closing.callback(source.port.subscribe_rx(0, flow.kick))
            source.port.add_runner(pool)
            source.port.set_polled(polling)
            closing.callback(source.port.remove_runner, pool)
        pool.start()
        for mark in range(3):
            for source, sink in ((one, two), (two, one)):
                frame = frame_for(sink.guest.resources.mac, mark)
                source.guest.send(frame)
                assert receive(sink.guest, 1) == [frame]
            one.guest.reset()
            turn_until(host, lambda: one.port.link().up)
    one.leave()
    two.leave()
