"""The engine on the loop's thread: what may be done when, what is counted, and ports that fail."""

import pytest

from emudev_core.errors import BackendError, ConfigError
from emudev_core.loop import Loop
from emudev_core.queues import QueueKernels
from emudev_net import flow, memory_queues
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.memory_port import MemoryPort
from emudev_net.port import PortState, PortStats
from emudev_net.primitives import Words, load64
from emudev_testpmd.engine import Engine
from emudev_testpmd.options import Options, Topology
from emudev_testpmd.records import ForwardError, NoticeKind

FRAME = bytes.fromhex("020000000001 020000000002 88b5") + bytes(50)


@queue_kernel
def broken(state: int, burst: int, rows: int) -> int:
    """A kernel that fails as soon as its word says so."""
    return load64(state)


class FailingPort(MemoryPort):
    """A port whose kernels of one direction fail when told to."""

    def __init__(self, name, loop, *, rx=False, tx=False):
        super().__init__(name, loop)
        self.rx_breaks, self.tx_breaks = rx, tx
        self.word = Words(1)
        self.stopped_at = None

    def source(self, queue):
        made = super().source(queue)
        if self.rx_breaks:
            return QueueKernels(self.word.address, broken, None, made.release, None)
        return made

    def sink(self, queue):
        if self.tx_breaks:
            return QueueKernels(self.word.address, None, broken, None, None)
        return super().sink(queue)


class Ports:
    """Some ports in memory, and an engine."""

    def __init__(self, count=2, queues=1, made=None, **options):
        self.loop = Loop(spin=0)
        self.ports = made or [
            MemoryPort(f"net_memory_{n}", self.loop, queues=queues) for n in range(count)
        ]
        self.engine = Engine(self.loop, self.ports, Options(**{"interrupt": True, **options}))
        self.notices = []
        self.engine.subscribe(self.notices.append)

    def told(self, kind):
        return [n.text for n in self.notices if n.kind is kind]

    def turn(self, times=20):
        for _ in range(times):
            self.loop.turn(0)


@pytest.fixture(params=["compiled", "plain"])
def compiled(request, monkeypatch):
    """Whether kernels are compiled; both ways."""
    if request.param == "compiled":
        if not jit_wanted():
            pytest.skip("kernels are not compiled here")
        compile_now([*flow.KERNELS, *memory_queues.KERNELS, broken])
        return True
    monkeypatch.setenv("EMUDEV_JIT", "0")
    monkeypatch.setattr(flow.pump, "address", 0)
    return False


@pytest.fixture
def make(compiled):
    """Makes `Ports` whose packets move on the loop's thread."""
    made = []

    def build(*args, **keys):
        made.append(Ports(*args, **keys))
        return made[-1]

    yield build
    for one in made:
        one.engine.close()
        one.loop.close()


@pytest.fixture
def running(make):
    """Two ports that forward to each other."""
    one = make()
    one.engine.port_start()
    one.engine.start()
    return one


# -- forwarding


def test_packets_go_both_ways(running):
    for i in (0, 1):
        running.ports[i].arrive([FRAME[:-1] + bytes([i])] * 3)
    running.turn()
    for i in (0, 1):
        assert [p.data[-1] for p in running.ports[1 - i].sent()] == [i] * 3


def test_packets_rest_after_a_stop_and_move_after_the_next_start(running):
    running.engine.stop()
    running.ports[0].arrive([FRAME])
    running.turn()
    assert running.ports[1].sent() == []
    running.engine.start()
    running.turn()
    assert len(running.ports[1].sent()) == 1


def test_totals_count_from_the_start_on(running):
    running.ports[0].arrive([FRAME] * 5)
    running.turn()
    running.engine.stop()
    running.engine.start()
    running.ports[0].arrive([FRAME] * 3)
    running.ports[1].arrive([FRAME] * 2)
    running.turn()
    totals = running.engine.stop()
    assert totals.mode == "io"
    assert [(s.rx_packets, s.tx_packets, s.tx_dropped) for s in totals.streams] == [
        (3, 3, 0),
        (2, 2, 0),
    ]
    first, second = totals.ports
    assert first.stats == PortStats(ipackets=3, opackets=2, ibytes=192, obytes=128)
    assert second.stats == PortStats(ipackets=2, opackets=3, ibytes=128, obytes=192)
    assert (totals.rx_packets, totals.tx_packets) == (5, 5)
    assert running.engine.totals() == totals


def test_statistics_add_up_while_packets_move(running):
    running.ports[0].arrive([FRAME] * 100)
    for _ in range(3):
        running.turn(1)
        totals = running.engine.totals()
        assert totals.rx_packets == sum(s.rx_packets for s in totals.streams)
        assert totals.tx_packets == sum(s.tx_packets for s in totals.streams)


def test_what_has_no_room_is_dropped_and_counted(running):
    running.ports[1].sinks[0].room = 4
    running.ports[0].arrive([FRAME] * 10)
    running.turn()
    totals = running.engine.totals()
    stream = totals.streams[0]
    assert (stream.rx_packets, stream.tx_packets, stream.tx_dropped) == (10, 4, 6)
    assert (totals.ports[1].tx_dropped, totals.ports[1].tx_total) == (6, 10)
    assert (totals.tx_dropped, totals.ports[0].tx_dropped) == (6, 0)


def test_a_mode_that_refuses_packets_counts_them_apart(make):
    one = make(1, forward_mode="icmpecho")
    one.engine.port_start()
    one.engine.start()
    one.ports[0].arrive([FRAME] * 4)
    one.turn()
    (stream,) = one.engine.streams()
    assert (stream.rx_packets, stream.refused, stream.tx_packets, stream.tx_dropped) == (4, 4, 0, 0)


def test_queues_forward_to_the_same_queue(make):
    one = make(2, queues=3, rxq=3, txq=3)
    one.engine.port_start()
    one.engine.start()
    one.ports[0].arrive([FRAME], queue=2)
    one.turn()
    assert [len(one.ports[1].sent(q)) for q in range(3)] == [0, 0, 1]
    assert [s.rx_packets for s in one.engine.streams()] == [0, 0, 0, 0, 1, 0]


def test_ports_outside_the_mask_are_left_alone(make):
    one = make(3, portmask=0b101)
    one.engine.port_start()
    layout = one.engine.start()
    assert layout.ports == (0, 2)
    one.ports[1].arrive([FRAME])
    one.ports[0].arrive([FRAME])
    one.turn()
    assert len(one.ports[2].sent()) == 1
    assert one.ports[1].sent() == []
    assert one.engine.port_stop(1) == (1,)


def test_a_chain_of_ports(make):
    one = make(3, topology=Topology.CHAINED)
    one.engine.port_start()
    one.engine.start()
    for i, port in enumerate(one.ports):
        port.arrive([FRAME] * (i + 1))
    one.turn()
    assert [len(port.sent()) for port in one.ports] == [3, 1, 2]


def test_a_source_of_packets_is_stopped_like_any_other(make):
    one = make(1, forward_mode="txonly", burst=8)
    one.engine.port_start()
    one.engine.start()
    one.turn(3)
    totals = one.engine.stop()
    assert totals.streams[0].tx_packets == len(one.ports[0].sent()) > 0
    assert totals.streams[0].rx_packets == 0
    one.turn(3)
    assert one.ports[0].sent() == []


def test_first_bursts_are_sent_and_counted(make):
    one = make(2, burst=8)
    one.engine.port_start()
    one.engine.start(tx_first=2)
    one.turn()
    for port in one.ports:
        assert len(port.sent()) == 16
    assert [s.tx_packets for s in one.engine.streams()] == [16, 16]


def test_forward_statistics_can_be_cleared(running):
    running.ports[0].arrive([FRAME] * 3)
    running.turn()
    running.engine.clear_forward_stats()
    totals = running.engine.totals()
    assert (totals.rx_packets, totals.streams[0].rx_packets) == (0, 0)
    running.ports[0].arrive([FRAME] * 2)
    running.turn()
    totals = running.engine.stop()
    assert (totals.rx_packets, totals.streams[0].rx_packets) == (2, 2)
    running.engine.clear_forward_stats()
    assert running.engine.totals().rx_packets == 0


def test_clearing_a_ports_statistics_keeps_the_totals_sane(running):
    running.ports[0].arrive([FRAME] * 3)
    running.turn()
    running.engine.clear_port_stats(0)
    running.ports[0].arrive([FRAME] * 2)
    running.turn()
    assert running.engine.port_stats(0).ipackets == 2
    assert running.engine.totals().ports[0].stats.ipackets == 2


def test_plain_python_is_told(running, compiled):
    assert not running.engine.layout().threads
    running.turn()
    assert all(f.compiled == compiled for s in running.engine._streams for f in s.flows)
    told = running.told(NoticeKind.FORWARD)
    assert ["plain Python" in text for text in told] == ([] if compiled else [True])


# -- what may be done when


def test_forwarding_needs_all_ports_started(make):
    one = make()
    with pytest.raises(ForwardError, match="Not all ports were started: port 0 is new, port 1"):
        one.engine.start()
    one.engine.port_start(0)
    with pytest.raises(ForwardError, match="Not all ports were started: port 1 is new"):
        one.engine.start()
    assert not one.engine.running
    one.engine.port_start()
    one.engine.start()


def test_forwarding_starts_and_stops_once(running):
    with pytest.raises(ForwardError, match="Packet forwarding already started"):
        running.engine.start()
    running.engine.stop()
    with pytest.raises(ForwardError, match="Packet forwarding not started"):
        running.engine.stop()


def test_nothing_was_counted_before_a_start(make):
    one = make()
    assert one.engine.totals() is None
    assert one.engine.streams() == ()
    one.engine.clear_forward_stats()


def test_without_ports_there_is_nothing_to_forward(make):
    one = make(0, made=None)
    with pytest.raises(ConfigError, match="expected at least one port, came none"):
        one.engine.start()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forward_mode": "rxonly", "rxq": 0}, "rxq are 0, cannot use rxonly fwd mode"),
        ({"forward_mode": "txonly", "txq": 0}, "txq are 0, cannot use txonly fwd mode"),
        ({"rxq": 0}, "Either rxq or txq are 0, cannot use io fwd mode"),
    ],
)
def test_a_mode_needs_its_queues(make, options, words):
    one = make(**options)
    one.engine.port_start()
    with pytest.raises(ForwardError, match=words):
        one.engine.start()


def test_rxonly_needs_no_transmit_queues(make):
    one = make(1, forward_mode="rxonly", txq=0)
    one.engine.port_start()
    one.engine.start()
    one.ports[0].arrive([FRAME])
    one.turn()
    assert one.engine.streams()[0].rx_packets == 1


def test_txonly_needs_no_receive_queues(make):
    one = make(1, forward_mode="txonly", rxq=0)
    one.engine.port_start()
    one.engine.start()
    one.turn(2)
    assert one.engine.streams()[0].tx_packets > 0


def test_a_port_that_forwards_is_neither_stopped_nor_closed(running):
    for act in (running.engine.port_stop, running.engine.port_close, running.engine.port_detach):
        with pytest.raises(ForwardError, match="Please remove port 1 from forwarding config"):
            act(1)
    assert running.ports[1].state is PortState.STARTED
    with pytest.raises(ForwardError, match="Please remove port 0"):
        running.engine.port_stop()
    assert running.ports[0].state is PortState.STARTED


def test_a_started_port_is_not_closed(running):
    running.engine.stop()
    with pytest.raises(ForwardError, match=r"Cannot close started device \(port 1\)"):
        running.engine.port_close(1)
    assert running.engine.port_stop(1) == (1,)
    assert running.engine.port_stop(1) == ()
    assert running.engine.port_close(1) == (1,)
    assert list(running.engine.ports) == [0]
    with pytest.raises(ConfigError, match=r"no port 1 \(there are: 0\)"):
        running.engine.port_start(1)
    layout = running.engine.start()
    assert layout.lonely
    assert [s.label for s in layout.streams] == ["P=0/Q=0 -> P=0/Q=0"]


def test_a_port_that_comes_later_takes_part(running):
    running.engine.stop()
    port = MemoryPort("net_memory_5", running.loop)
    assert running.engine.port_attach(port) == 5
    with pytest.raises(ForwardError, match="port 5 is new"):
        running.engine.start()
    running.engine.port_start(5)
    assert running.engine.start().ports == (0, 1, 5)
    running.engine.stop()
    running.engine.port_stop(5)
    assert running.engine.port_detach(5) is port
    assert port.state is PortState.STOPPED
    port.close()


def test_two_ports_of_one_number_are_refused_by_name(make):
    one = make()
    with pytest.raises(ConfigError, match="net_memory_1 and net_other_1 are both port 1"):
        one.engine.port_attach(MemoryPort("net_other_1", one.loop))


def test_queues_change_while_all_ports_are_stopped(make):
    one = make(2, queues=2)
    one.engine.port_start()
    with pytest.raises(ForwardError, match="Please stop all ports first"):
        one.engine.set(rxq=2)
    one.engine.port_stop()
    one.engine.set(rxq=2, txq=2)
    one.engine.port_start()
    assert {(p.rx_queues, p.tx_queues) for p in one.ports} == {(2, 2)}
    assert len(one.engine.start().streams) == 4


def test_a_restart_without_changes_keeps_what_was_set_of_a_port(make):
    one = make()
    one.engine.port_start()
    assert one.ports[0].promiscuous
    one.ports[0].set_promiscuous(False)
    one.engine.port_stop()
    one.engine.port_start()
    assert not one.ports[0].promiscuous
    one.engine.port_stop()
    one.engine.set(mtu=1400)
    one.engine.port_start()
    assert one.ports[0].mtu == 1400
    assert not one.ports[0].promiscuous


def test_a_mode_that_is_set_while_packets_move_waits_for_the_next_start(running):
    assert running.engine.set(forward_mode="macswap") == {"forward_mode"}
    running.ports[0].arrive([FRAME])
    running.turn()
    assert running.ports[1].sent()[0].data == FRAME
    assert running.engine.stop().mode == "io"
    assert running.engine.set(burst=64) == frozenset()
    running.engine.start()
    running.ports[0].arrive([FRAME])
    running.turn()
    assert running.ports[1].sent()[0].data == FRAME[6:12] + FRAME[:6] + FRAME[12:]


def test_threads_are_not_changed_while_packets_move(running):
    with pytest.raises(ForwardError, match="Please stop forwarding first"):
        running.engine.set(nb_cores=2)
    assert running.engine.options.nb_cores == 1
    running.engine.set(nb_cores=1)  # no change


def test_a_mask_of_ports_that_are_not_there_is_refused(make):
    one = make()
    with pytest.raises(ConfigError, match="portmask: no port 2"):
        one.engine.set(portmask=0b110)
    assert one.engine.options.portmask is None


def test_a_plan_is_told_before_the_start(make):
    one = make(2, forward_mode="mac")
    layout = one.engine.layout()
    assert (layout.mode, layout.ports) == ("mac", (0, 1))
    assert [s.label for s in layout.streams] == ["P=0/Q=0 -> P=1/Q=0", "P=1/Q=0 -> P=0/Q=0"]


# -- links


def test_links_are_told_and_set(make):
    one = make()
    one.engine.port_start()
    assert one.engine.links_up()
    one.engine.set_link(1, False)
    assert not one.engine.links_up()
    one.engine.set_link(1, True)
    assert one.told(NoticeKind.LINK) == [
        "Port 0: link state change event: up",
        "Port 1: link state change event: up",
        "Port 1: link state change event: down",
        "Port 1: link state change event: up",
    ]


# -- what goes wrong


def failing(make, **breaks):
    loop = Loop(spin=0)
    bad = FailingPort("net_memory_1", loop, **breaks)
    good = [MemoryPort(f"net_memory_{n}", loop) for n in (0, 2, 3)]
    one = make(made=[good[0], bad, good[1], good[2]])
    for port in one.ports:
        port.loop = one.loop
    loop.close()
    one.engine.port_start()
    one.engine.start()
    return one, bad


@pytest.mark.parametrize("breaks", [{"rx": True}, {"tx": True}])
def test_a_port_whose_kernel_fails_goes_down_and_the_others_go_on(make, breaks):
    one, bad = failing(make, **breaks)
    bad.word[0] = -5
    one.ports[0].arrive([FRAME])
    bad.arrive([FRAME])
    one.turn()
    assert bad.state is PortState.FAILED
    assert "failed and answered -5" in bad.error
    (text,) = one.told(NoticeKind.FAILED)
    assert text.startswith("Port 1: error event: a kernel of P=")
    assert one.ports[0].state is PortState.STARTED
    one.ports[2].arrive([FRAME] * 2)
    one.turn()
    assert len(one.ports[3].sent()) == 2
    assert one.engine.running
    totals = one.engine.stop()
    assert totals.streams[2].tx_packets == 2
    with pytest.raises(ForwardError, match="Not all ports were started: port 1 is failed: a kern"):
        one.engine.start()
    bad.word[0] = 0
    one.engine.port_start(1)
    one.engine.start()


def test_a_port_that_fails_by_itself_rests_and_may_be_closed(running):
    running.ports[1].fail("its cable was cut", removed=True)
    (text,) = running.told(NoticeKind.FAILED)
    assert text == "Port 1: device removal event: its cable was cut"
    running.ports[0].arrive([FRAME])
    running.turn()
    assert running.engine.streams()[0].rx_packets == 0
    with pytest.raises(ForwardError, match="Please stop forwarding first: port 1 failed"):
        running.engine.port_start(1)
    running.engine.port_close(1)
    totals = running.engine.stop()
    assert [p.port for p in totals.ports] == [0, 1]
    assert list(running.engine.ports) == [0]


def test_what_a_closed_port_counted_stays_in_the_totals(running):
    running.ports[1].arrive([FRAME] * 4)
    running.turn()
    running.ports[1].fail("gone")
    running.engine.port_close(1)
    assert running.engine.stop().ports[1].stats.ipackets == 4


def test_a_port_that_can_not_start_says_why(make, monkeypatch):
    one = make()

    def refuse():
        raise BackendError("no such cable")

    monkeypatch.setattr(one.ports[1], "on_start", refuse)
    with pytest.raises(BackendError, match="no such cable"):
        one.engine.port_start()
    assert one.ports[0].state is PortState.STARTED
    with pytest.raises(ForwardError, match="Not all ports"):
        one.engine.start()


def test_closing_the_engine_stops_and_closes_everything(running):
    running.engine.close()
    assert not running.engine.running
    assert {p.state for p in running.ports} == {PortState.CLOSED}
    running.engine.close()
