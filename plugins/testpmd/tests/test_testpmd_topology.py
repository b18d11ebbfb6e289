"""Which queue forwards to which, and on which thread.

The tables were worked out from what DPDK 22.11's testpmd prints (``show config fwd``) with net_null
ports, and from the rules in its config.c.
"""

import pytest

from emudev_testpmd.options import Options, Topology
from emudev_testpmd.topology import Stream, deal, gather, is_odd_pairing, other_port, streams_of


def ways(streams):
    return [(s.rx_port, s.rx_queue, s.tx_port, s.tx_queue) for s in streams]


def numbers(streams):
    return [[s.rx_port for s in one] for one in streams]


@pytest.mark.parametrize(
    ("topology", "want"),
    [
        (Topology.PAIRED, {1: [0], 2: [1, 0], 3: [1, 0, 2], 4: [1, 0, 3, 2]}),
        (Topology.CHAINED, {1: [0], 2: [1, 0], 3: [1, 2, 0], 4: [1, 2, 3, 0]}),
        (Topology.LOOP, {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3]}),
    ],
)
def test_ports_are_joined_as_the_topology_says(topology, want):
    for count, to in want.items():
        assert [other_port(i, count, topology) for i in range(count)] == to


def test_one_queue_makes_one_stream_a_port():
    assert ways(streams_of(Options(), [0, 1])) == [(0, 0, 1, 0), (1, 0, 0, 0)]


def test_several_queues_make_streams_queue_by_queue():
    # As recorded: three ports, --rxq 2 --txq 2.
    assert ways(streams_of(Options(rxq=2, txq=2), [0, 1, 2])) == [
        (0, 0, 1, 0),
        (1, 0, 0, 0),
        (2, 0, 2, 0),
        (0, 1, 1, 1),
        (1, 1, 0, 1),
        (2, 1, 2, 1),
    ]


def test_the_fewer_queues_count():
    assert len(streams_of(Options(rxq=4, txq=2), [0, 1])) == 4
    assert len(streams_of(Options(rxq=2, txq=4), [0, 1])) == 4


def test_one_queue_of_a_kind_leaves_one_stream_a_port():
    assert ways(streams_of(Options(rxq=4, txq=1), [0, 1])) == [(0, 0, 1, 0), (1, 0, 0, 0)]


def test_ports_of_a_list_pair_by_their_place():
    assert ways(streams_of(Options(), [5, 2])) == [(5, 0, 2, 0), (2, 0, 5, 0)]


def test_icmpecho_answers_on_the_same_port_and_queue_port_by_port():
    assert ways(streams_of(Options(forward_mode="icmpecho", rxq=2, txq=2), [0, 1])) == [
        (0, 0, 0, 0),
        (0, 1, 0, 1),
        (1, 0, 1, 0),
        (1, 1, 1, 1),
    ]


def test_icmpecho_with_fewer_transmit_queues_shares_them():
    echo = Options(forward_mode="icmpecho", rxq=3, txq=2)
    assert ways(streams_of(echo, [0])) == [(0, 0, 0, 0), (0, 1, 0, 1), (0, 2, 0, 0)]


@pytest.mark.parametrize(("mode", "rxq", "txq"), [("rxonly", 2, 0), ("txonly", 0, 2)])
def test_a_mode_of_one_direction_needs_no_queues_of_the_other(mode, rxq, txq):
    assert len(streams_of(Options(forward_mode=mode, rxq=rxq, txq=txq), [0, 1])) == 2


def test_an_odd_port_that_pairs_with_itself_is_worth_a_warning():
    assert is_odd_pairing(Options(), [0, 1, 2])
    assert not is_odd_pairing(Options(), [0, 1])
    assert not is_odd_pairing(Options(topology=Topology.CHAINED), [0, 1, 2])
    assert not is_odd_pairing(Options(forward_mode="icmpecho"), [0])


@pytest.mark.parametrize(
    ("cores", "want"),
    [
        (1, [[0, 1, 2, 3]]),
        (2, [[0, 1], [2, 3]]),
        (3, [[0], [1], [2, 3]]),  # the last threads get one more
        (4, [[0], [1], [2], [3]]),
        (9, [[0], [1], [2], [3]]),  # no more threads than ports
    ],
)
def test_streams_are_dealt_out_in_runs(cores, want):
    options = Options(nb_cores=cores)
    assert numbers(deal(streams_of(options, [0, 1, 2, 3]), options, 4)) == want


def test_more_threads_than_ports_share_the_queues():
    options = Options(nb_cores=4, rxq=3, txq=3)
    dealt = deal(streams_of(options, [0, 1]), options, 2)
    assert [len(one) for one in dealt] == [1, 1, 2, 2]


def test_icmpecho_has_no_more_threads_than_transmit_queues():
    options = Options(forward_mode="icmpecho", nb_cores=8, rxq=4, txq=2)
    assert len(deal(streams_of(options, [0]), options, 1)) == 2


def test_streams_of_ports_that_may_run_apart_stay_where_they_are():
    dealt = [[Stream(0, 0, 1, 0)], [Stream(1, 0, 0, 0)]]
    assert gather(dealt, ()) == dealt


def test_a_port_that_needs_one_thread_brings_its_streams_together():
    dealt = [[Stream(0, 0, 1, 0)], [Stream(2, 0, 3, 0)], [Stream(1, 0, 0, 0), Stream(3, 0, 2, 0)]]
    assert gather(dealt, [1]) == [
        [Stream(0, 0, 1, 0), Stream(1, 0, 0, 0)],
        [Stream(2, 0, 3, 0)],
        [Stream(3, 0, 2, 0)],
    ]


def test_streams_that_share_a_transmit_queue_run_on_one_thread():
    dealt = [[Stream(0, 0, 0, 0)], [Stream(0, 1, 0, 1)], [Stream(0, 2, 0, 0)]]
    assert gather(dealt, ()) == [[Stream(0, 0, 0, 0), Stream(0, 2, 0, 0)], [Stream(0, 1, 0, 1)]]
