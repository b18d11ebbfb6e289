"""What may be done with the engine and its ports when, and what may not."""

import pytest
from engines import FRAME

from emudev_core.errors import ConfigError
from emudev_net.memory_port import MemoryPort
from emudev_net.port import PortState
from emudev_testpmd.records import ForwardError, NoticeKind

# -- what may be done when


def test_forwarding_needs_all_ports_started(make_engine):
    one = make_engine()
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


def test_nothing_was_counted_before_a_start(make_engine):
    one = make_engine()
    assert one.engine.totals() is None
    assert one.engine.streams() == ()
    one.engine.clear_forward_stats()


def test_without_ports_there_is_nothing_to_forward(make_engine):
    one = make_engine(0, made=None)
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
def test_a_mode_needs_its_queues(make_engine, options, words):
    one = make_engine(**options)
    one.engine.port_start()
    with pytest.raises(ForwardError, match=words):
        one.engine.start()


def test_rxonly_needs_no_transmit_queues(make_engine):
    one = make_engine(1, forward_mode="rxonly", txq=0)
    one.engine.port_start()
    one.engine.start()
    one.ports[0].arrive([FRAME])
    one.turn()
    assert one.engine.streams()[0].rx_packets == 1


def test_txonly_needs_no_receive_queues(make_engine):
    one = make_engine(1, forward_mode="txonly", rxq=0)
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


def test_two_ports_of_one_number_are_refused_by_name(make_engine):
    one = make_engine()
    with pytest.raises(ConfigError, match="net_memory_1 and net_other_1 are both port 1"):
        one.engine.port_attach(MemoryPort("net_other_1", one.loop))


def test_queues_change_while_all_ports_are_stopped(make_engine):
    one = make_engine(2, queues=2)
    one.engine.port_start()
    with pytest.raises(ForwardError, match="Please stop all ports first"):
        one.engine.set(rxq=2)
    one.engine.port_stop()
    one.engine.set(rxq=2, txq=2)
    one.engine.port_start()
    assert {(p.rx_queues, p.tx_queues) for p in one.ports} == {(2, 2)}
    assert len(one.engine.start().streams) == 4


def test_a_restart_without_changes_keeps_what_was_set_of_a_port(make_engine):
    one = make_engine()
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


def test_a_mask_of_ports_that_are_not_there_is_refused(make_engine):
    one = make_engine()
    with pytest.raises(ConfigError, match="portmask: no port 2"):
        one.engine.set(portmask=0b110)
    assert one.engine.options.portmask is None


def test_a_plan_is_told_before_the_start(make_engine):
    one = make_engine(2, forward_mode="mac")
    layout = one.engine.layout()
    assert (layout.mode, layout.ports) == ("mac", (0, 1))
    assert [s.label for s in layout.streams] == ["P=0/Q=0 -> P=1/Q=0", "P=1/Q=0 -> P=0/Q=0"]


# -- links


def test_links_are_told_and_set(make_engine):
    one = make_engine()
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
