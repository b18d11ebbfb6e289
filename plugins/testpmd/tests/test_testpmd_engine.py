"""The engine on the loop's thread: what is forwarded and counted."""

from engines import FRAME

from emudev_net.port import PortStats
from emudev_testpmd.options import Topology
from emudev_testpmd.records import NoticeKind


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


def test_a_mode_that_refuses_packets_counts_them_apart(make_engine):
    one = make_engine(1, forward_mode="icmpecho")
    one.engine.port_start()
    one.engine.start()
    one.ports[0].arrive([FRAME] * 4)
    one.turn()
    (stream,) = one.engine.streams()
    assert (stream.rx_packets, stream.refused, stream.tx_packets, stream.tx_dropped) == (4, 4, 0, 0)


def test_queues_forward_to_the_same_queue(make_engine):
    one = make_engine(2, queues=3, rxq=3, txq=3)
    one.engine.port_start()
    one.engine.start()
    one.ports[0].arrive([FRAME], queue=2)
    one.turn()
    assert [len(one.ports[1].sent(q)) for q in range(3)] == [0, 0, 1]
    assert [s.rx_packets for s in one.engine.streams()] == [0, 0, 0, 0, 1, 0]


def test_ports_outside_the_mask_are_left_alone(make_engine):
    one = make_engine(3, portmask=0b101)
    one.engine.port_start()
    layout = one.engine.start()
    assert layout.ports == (0, 2)
    one.ports[1].arrive([FRAME])
    one.ports[0].arrive([FRAME])
    one.turn()
    assert len(one.ports[2].sent()) == 1
    assert one.ports[1].sent() == []
    assert one.engine.port_stop(1) == (1,)


def test_a_chain_of_ports(make_engine):
    one = make_engine(3, topology=Topology.CHAINED)
    one.engine.port_start()
    one.engine.start()
    for i, port in enumerate(one.ports):
        port.arrive([FRAME] * (i + 1))
    one.turn()
    assert [len(port.sent()) for port in one.ports] == [3, 1, 2]


def test_a_source_of_packets_is_stopped_like_any_other(make_engine):
    one = make_engine(1, forward_mode="txonly", burst=8)
    one.engine.port_start()
    one.engine.start()
    one.turn(3)
    totals = one.engine.stop()
    assert totals.streams[0].tx_packets == len(one.ports[0].sent()) > 0
    assert totals.streams[0].rx_packets == 0
    one.turn(3)
    assert one.ports[0].sent() == []


def test_first_bursts_are_sent_and_counted(make_engine):
    one = make_engine(2, burst=8)
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
