"""The engine on worker threads: compiled kernels, several threads, polling and sleeping."""

import ctypes
import os
import threading
import time

import pytest

from emudev_core.errors import ConfigError
from emudev_core.loop import Loop
from emudev_core.queues import QueueKernels
from emudev_net import flow_kernels, worker_kernels
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.memory_port import MemoryPort
from emudev_net.port import PortInfo, PortState
from emudev_net.primitives import Words, load64_relaxed
from emudev_testpmd.engine import Engine
from emudev_testpmd.options import Options
from emudev_testpmd.records import NoticeKind

pytestmark = pytest.mark.skipif(
    not jit_wanted(), reason="kernels are not compiled: llvmlite is missing or EMUDEV_JIT=0"
)

FRAME = bytes.fromhex("020000000001 020000000002 88b5") + bytes(50)


@queue_kernel
def broken(state: int, burst: int, rows: int) -> int:
    """A kernel that fails as soon as its word says so."""
    return load64_relaxed(state)


class BrokenPort(MemoryPort):
    """A port whose transmit queue takes nothing, and fails when told to."""

    def __init__(self, name, loop):
        super().__init__(name, loop)
        self.word = Words(1)

    def sink(self, queue):
        return QueueKernels(self.word.address, None, broken, None, None)


class SerialPort(MemoryPort):
    """A port whose queues need one thread."""

    def describe(self):
        return PortInfo(
            driver="net_serial", max_rx_queues=4, max_tx_queues=4, max_mtu=9000, parallel=False
        )


class Threads:
    """Ports in memory, an engine whose threads forward between them."""

    def __init__(self, made, **options):
        self.loop = Loop(spin=0)
        self.ports = made(self.loop)
        self.engine = Engine(self.loop, self.ports, Options(**options))
        self.notices = []
        self.engine.subscribe(self.notices.append)
        self.engine.port_start()

    def arrive(self, number, packets, queue=0):
        """Let packets arrive while the threads rest: memory ports know no other way."""
        with self.ports[number].paused():
            self.ports[number].arrive(packets, queue)

    def sent(self, number, queue=0):
        with self.ports[number].paused():
            return self.ports[number].sent(queue)

    def until(self, condition, seconds=10.0):
        """Turn the loop until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.loop.turn(0.001)

    def names(self):
        return sorted(t.name for t in threading.enumerate() if t.name.startswith("emudev-testpmd"))


@pytest.fixture
def run():
    """Makes `Threads` and starts forwarding."""
    made = []

    def build(ports=2, queues=1, start=True, **options):
        make = ports
        if isinstance(ports, int):

            def make(loop):
                return [MemoryPort(f"net_memory_{n}", loop, queues=queues) for n in range(ports)]

        made.append(Threads(make, **options))
        if start:
            made[-1].engine.start()
        return made[-1]

    yield build
    for one in made:
        one.engine.close()
        one.loop.close()


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "sleeping"])
def test_a_thread_forwards_both_ways(run, interrupt):
    cpus = (min(os.sched_getaffinity(0)),)  # a CPU of its own: the loop's does not take its place
    one = run(interrupt=interrupt, cpus=cpus if interrupt else ())
    assert one.engine.layout().threads
    assert one.names() == ["emudev-testpmd-0"]
    for _ in range(3):
        for i in (0, 1):
            one.arrive(i, [FRAME[:-1] + bytes([i])] * 40)
        one.until(lambda: all(s.tx_packets % 40 == 0 for s in one.engine.streams()))
        one.until(lambda: one.engine.totals().tx_packets % 80 == 0)
        for i in (0, 1):
            assert {p.data[-1] for p in one.sent(1 - i)} <= {i}
        if interrupt:
            time.sleep(0.005)  # let it fall asleep
    one.until(lambda: one.engine.totals().rx_packets == 240)
    totals = one.engine.stop()
    assert [(s.rx_packets, s.tx_packets) for s in totals.streams] == [(120, 120)] * 2
    assert one.names() == []


def test_a_polling_ports_are_told_and_told_again_at_the_end(run):
    one = run()
    assert all(port.polled for port in one.ports)
    one.engine.stop()
    assert not any(port.polled for port in one.ports)
    one.engine.set(interrupt=True)
    one.engine.start()
    assert not any(port.polled for port in one.ports)


def test_one_core_that_sleeps_is_a_thread_only_if_it_has_a_cpu_or_its_peers_wake_it(run):
    one = run(interrupt=True)
    assert one.names() == []
    one.engine.stop()
    for options, count in (
        ({"cpus": (min(os.sched_getaffinity(0)),)}, 1),
        ({"cpus": (), "interrupt": False}, 1),
        ({"interrupt": True, "nb_cores": 2}, 2),
        ({"nb_cores": 1}, 0),
    ):
        one.engine.set(**options)
        assert one.engine.layout().threads == bool(count)  # as it would be
        one.engine.start()
        assert len(one.names()) == count
        assert one.engine.layout().threads == bool(count)
        one.engine.stop()
    signal = os.eventfd(0)
    try:
        one.ports[0].rx_fd = lambda queue: signal
        one.engine.start()
        assert len(one.names()) == 1
        one.engine.stop()
    finally:
        os.close(signal)


@pytest.mark.parametrize("nb_cores", [1, 2])
def test_ports_have_native_code_that_runs_the_streams_or_wakes_their_threads(run, nb_cores):
    one = run(interrupt=True, nb_cores=nb_cores)

    def chain(number):
        subscribers = one.ports[number].rx_subscribers(0)
        words = (ctypes.c_int64 * 3).from_address(subscribers.chain)
        return words[: 1 + 2 * max(0, words[0])]

    want = flow_kernels.look if nb_cores == 1 else worker_kernels.rouse
    assert want.address != 0
    assert [chain(number)[:2] for number in (0, 1)] == [[1, want.address]] * 2
    one.loop.turn(0)
    for number in (0, 1):
        with one.ports[number].paused():
            one.ports[number].sources[0].feed([FRAME] * (3 + number))
        want(chain(number)[2], 0, 0)  # as a doorbell does it while the loop sleeps
    if nb_cores == 1:
        assert one.engine.totals().tx_packets == 3 + 4
    one.until(lambda: one.engine.totals().tx_packets == 3 + 4)
    one.engine.stop()
    assert [chain(number) for number in (0, 1)] == [[0]] * 2


def test_two_threads_share_the_streams(run):
    one = run(2, queues=2, rxq=2, txq=2, nb_cores=2, interrupt=True)
    layout = one.engine.layout()
    assert [[s.label for s in core.streams] for core in layout.cores] == [
        ["P=0/Q=0 -> P=1/Q=0", "P=1/Q=0 -> P=0/Q=0"],
        ["P=0/Q=1 -> P=1/Q=1", "P=1/Q=1 -> P=0/Q=1"],
    ]
    assert one.names() == ["emudev-testpmd-0", "emudev-testpmd-1"]
    for port in (0, 1):
        for queue in (0, 1):
            one.arrive(port, [FRAME] * (10 + 2 * port + queue), queue)
    one.until(lambda: one.engine.totals().tx_packets == 10 + 11 + 12 + 13)
    totals = one.engine.stop()
    assert [s.tx_packets for s in totals.streams] == [10, 12, 11, 13]
    assert [p.stats.ipackets for p in totals.ports] == [21, 25]
    assert [p.stats.opackets for p in totals.ports] == [25, 21]


def test_a_port_that_needs_one_thread_gets_one(run):
    one = run(lambda loop: [SerialPort("net_serial_0", loop, queues=2)], rxq=2, txq=2, nb_cores=2)
    (core,) = one.engine.layout().cores
    assert len(core.streams) == 2


def test_threads_run_where_they_are_told_to(run):
    cpus = sorted(os.sched_getaffinity(0))
    one = run(2, nb_cores=2, cpus=cpus[-1:] + cpus[:1] if len(cpus) > 1 else (), interrupt=True)
    want = [cpus[-1], cpus[0]] if len(cpus) > 1 else [None, None]
    assert [core.cpu for core in one.engine.layout().cores] == want


def test_a_cpu_that_is_not_there_is_named_and_nothing_runs(run):
    one = run(start=False, cpus=(4095,))
    with pytest.raises(ConfigError, match="no thread can run on CPU 4095"):
        one.engine.start()
    assert not one.engine.running
    one.engine.set(cpus=())
    one.engine.start()


def test_each_thread_needs_its_cpu(run):
    one = run(start=False, nb_cores=2, cpus=(0,))
    with pytest.raises(ConfigError, match="expected a CPU for each of 2 threads, came 1"):
        one.engine.start()


def test_packets_that_are_made_are_dropped_where_the_port_has_no_room(run):
    one = run(1, forward_mode="txonly")
    one.until(lambda: one.engine.totals().tx_dropped > 0)
    totals = one.engine.stop()
    (stream,) = totals.streams
    assert stream.tx_packets == totals.ports[0].stats.opackets == len(one.sent(0)) == 4096
    assert stream.tx_dropped == totals.ports[0].tx_dropped > 0


@pytest.mark.parametrize("mode", ["mac", "macswap", "csum", "icmpecho", "5tswap", "flowgen"])
def test_every_mode_runs_on_a_thread(run, mode):
    one = run(1, forward_mode=mode, burst=4)
    one.arrive(0, [FRAME] * 20)
    one.until(lambda: one.engine.streams()[0].rx_packets == 20)
    if mode == "flowgen":
        one.until(lambda: one.engine.streams()[0].tx_packets > 0)
    else:
        assert one.engine.streams()[0].tx_packets == (0 if mode == "icmpecho" else 20)


def test_start_stop_start(run):
    one = run(start=False)
    for mode in ("io", "mac", "io"):
        one.engine.set(forward_mode=mode)
        one.engine.start()
        one.arrive(0, [FRAME] * 7)
        one.until(lambda: one.engine.totals().tx_packets == 7)
        assert one.engine.stop().mode == mode
        got = {p.data[:6] for p in one.sent(1)}
        assert got == {bytes.fromhex("020000000001")}
        assert one.names() == []


def test_a_port_whose_kernel_fails_goes_down_and_the_others_go_on(run):
    compile_now([broken])
    one = run(
        lambda loop: [
            MemoryPort("net_memory_0", loop),
            BrokenPort("net_memory_1", loop),
            MemoryPort("net_memory_2", loop),
            MemoryPort("net_memory_3", loop),
        ],
        nb_cores=2,
        interrupt=True,
    )
    bad = one.ports[1]
    bad.word[0] = -7
    one.arrive(0, [FRAME])
    one.until(lambda: bad.state is PortState.FAILED)
    texts = [n.text for n in one.notices if n.kind is NoticeKind.FAILED]
    assert texts == ["Port 1: error event: a kernel of P=0/Q=0 -> P=1/Q=0 failed and answered -7"]
    one.arrive(1, [FRAME])
    one.arrive(2, [FRAME] * 3)
    one.until(lambda: one.engine.streams()[2].tx_packets == 3)
    streams = one.engine.stop().streams
    assert streams[1].rx_packets == 0
    assert len(one.ports[3].sent()) == 3


def test_packets_arrive_whole_while_statistics_are_read_and_ports_rest(run):
    one = run(2, nb_cores=2)
    total = 0
    for round_ in range(20):
        frames = [FRAME + bytes([round_, i]) for i in range(50)]
        one.arrive(0, frames)
        total += len(frames)
        one.engine.totals()
        got = []
        while len(got) < len(frames):
            got += [p.data for p in one.sent(1)]
        assert got == frames
    assert one.engine.stop().streams[0].tx_packets == total
