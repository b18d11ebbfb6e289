"""What is printed, against what DPDK 22.11's dpdk-testpmd printed for the same numbers."""

from pathlib import Path

import pytest

from emudev_core.loop import Loop
from emudev_net.memory_port import MemoryPort
from emudev_net.port import LinkStatus, PortInfo, PortStats
from emudev_testpmd import layout
from emudev_testpmd.options import Options, Topology
from emudev_testpmd.rates import RateMeter, Rates
from emudev_testpmd.records import Core, Layout, PortTotals, StreamStats, Totals
from emudev_testpmd.topology import Stream, deal, streams_of

GOLDEN = Path(__file__).parent / "golden" / "dpdk-22.11"


def golden(name):
    return (GOLDEN / f"{name}.txt").read_bytes().decode()


def laid_out(options, ports):
    """A layout as the engine makes it, with DPDK's numbering of lcores: the main one is 0."""
    dealt = deal(streams_of(options, ports), options, len(ports))
    cores = tuple(Core(i, None, tuple(streams)) for i, streams in enumerate(dealt))
    return Layout(options.forward_mode, tuple(ports), cores, threads=True)


class Recorded(MemoryPort):
    """A port that looks like the net_memif of the recordings."""

    def __init__(self, number, mac):
        super().__init__(f"net_memif{number}", Loop())
        self.id = number
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self.configure(1, 1)
        self.set_promiscuous(True)

    def describe(self):
        return PortInfo(
            driver="net_memif",
            device="memif_emudev_0",
            max_rx_queues=255,
            max_tx_queues=255,
            max_frame=1518,
        )

    def link(self):
        return LinkStatus(up=True, speed=100_000)


@pytest.fixture
def recorded():
    found = [Recorded(0, "8E:85:52:4C:3C:22"), Recorded(1, "9A:16:2B:9A:37:C9")]
    yield found
    for port in found:
        port.close()
        port.loop.close()


def plain(number, queues):
    """A port with so many queues each way."""
    port = MemoryPort(f"net_null_{number}", Loop(), queues=queues)
    port.configure(queues, queues)
    port.loop.close()
    return port


def test_port_statistics_are_testpmds():
    first = PortStats(ipackets=2012320, ibytes=120744736, opackets=2012352, obytes=120745216)
    second = PortStats(ipackets=2012416, ibytes=120749056, opackets=2012480, obytes=120752896)
    text = layout.nic_statistics(0, first, Rates(1233866, 1233258, 592283008, 591963888))
    text += layout.nic_statistics(1, second, Rates(1233906, 1233317, 592295136, 591992504))
    assert text == golden("show_port_stats")


def test_port_info_is_testpmds(recorded):
    assert layout.port_info(recorded[0]) == golden("show_port_info")


def test_the_summary_is_testpmds(recorded):
    assert layout.port_summary(recorded, 2) == golden("show_port_summary")


def test_extended_statistics_are_testpmds():
    counters = {
        "rx_good_packets": 0,
        "tx_good_packets": 1024,
        "rx_good_bytes": 0,
        "tx_good_bytes": 65536,
        "rx_missed_errors": 0,
        "rx_errors": 0,
        "tx_errors": 0,
        "rx_mbuf_allocation_errors": 0,
        "rx_q0_packets": 0,
        "rx_q0_bytes": 0,
        "rx_q0_errors": 0,
        "tx_q0_packets": 1024,
        "tx_q0_bytes": 65536,
    }
    assert layout.port_xstats(1, counters) == golden("show_port_xstats")


def test_totals_with_drops_are_testpmds():
    streams = (
        StreamStats(Stream(0, 0, 1, 0), tx_packets=1024, tx_dropped=11558592),
        StreamStats(Stream(1, 0, 0, 0), tx_packets=1024, tx_dropped=11558592),
    )
    ports = tuple(PortTotals(n, PortStats(opackets=1024), tx_dropped=11558592) for n in (0, 1))
    text = layout.forward_statistics(Totals("txonly", streams, ports))
    head = "Telling cores to stop...\nWaiting for lcores to finish...\n"
    assert f"{head}{text}\nDone.\n" == golden("totals_with_drops")


def test_what_a_port_took_and_dropped_itself_counts_as_dropped():
    totals = Totals("io", (), (PortTotals(0, PortStats(opackets=7, oerrors=2), tx_dropped=3),))
    text = layout.forward_statistics(totals)
    assert text.count("TX-packets: 7              TX-dropped: 5             TX-total: 12") == 2


def test_totals_of_several_queues_and_checksums_are_testpmds():
    ways = [(0, 0, 1, 0), (1, 0, 0, 0), (0, 1, 1, 1), (1, 1, 0, 1)]
    streams = tuple(
        StreamStats(Stream(*way), rx_packets=2835616, tx_packets=2835616) for way in ways
    )
    counted = PortStats(ipackets=5671232, opackets=5671232)
    ports = (PortTotals(0, counted), PortTotals(1, counted))
    text = layout.forward_statistics(Totals("csum", streams, ports))
    assert text == golden("totals_csum_two_queues")


def test_streams_that_moved_nothing_are_left_out():
    streams = tuple(StreamStats(Stream(0, q, 0, q)) for q in (0, 1))
    text = layout.forward_statistics(Totals("io", streams, (PortTotals(0, PortStats()),)))
    assert "Forward Stats for RX" not in text


def test_lost_packets_get_lines_of_their_own():
    totals = Totals("io", (), (PortTotals(0, PortStats(ierrors=4, rx_nombuf=3)),))
    text = layout.forward_statistics(totals)
    assert "  RX-error: 4\n  RX-nombufs: 3             \n  TX-packets" in text
    assert text.count("RX-nombufs: 3") == 2


def test_a_start_with_two_queues_is_testpmds():
    options = Options(rxq=2, txq=2)
    made = laid_out(options, [0, 1])
    text = layout.forward_configuration(made, options)
    text += layout.rxtx_configuration(made, options, [plain(0, 2), plain(1, 2)])
    assert text == golden("start_two_queues")


def test_a_start_of_flowgen_is_testpmds():
    options = Options(
        forward_mode="flowgen", txpkts=(60, 1000), eth_peer={1: bytes.fromhex("525400000001")}
    )
    made = laid_out(options, [0, 1])
    text = layout.forward_configuration(made, options)
    text += layout.rxtx_configuration(made, options, [plain(0, 1), plain(1, 1)])
    assert text == golden("start_flowgen")


def test_icmpecho_answers_on_the_same_port_as_in_testpmd():
    options = Options(forward_mode="icmpecho", rxq=2, txq=2)
    text = layout.forward_configuration(laid_out(options, [0, 1]), options)
    assert text == golden("config_fwd_icmpecho")


def test_chained_ports_are_testpmds():
    options = Options(topology=Topology.CHAINED)
    text = layout.forward_configuration(laid_out(options, [0, 1, 2]), options)
    assert text == golden("config_fwd_chained")


def test_segments_of_made_packets_are_testpmds():
    assert layout.txpkts((64,)) == golden("show_config_txpkts")


def test_threads_are_listed_with_the_cpus_that_they_have():
    cores = (Core(0, 3, ()), Core(1, None, ()), Core(2, 11, ()))
    assert layout.cores(Layout("io", (), cores, True)) == "List of forwarding lcores:  3  2 11\n"


@pytest.mark.parametrize(
    ("mbps", "text"),
    [(10_000, "10 Gbps"), (2_500, "2.5 Gbps"), (100, "100 Mbps"), (0, "None"), (7, "Invalid")],
)
def test_speeds_have_ethdevs_names(mbps, text):
    assert layout.speed(mbps) == text


def test_rates_are_those_since_the_last_look():
    times = iter([0, 500_000_000, 1_500_000_000])
    meter = RateMeter(lambda: next(times))
    assert meter.look(0, PortStats(ipackets=100, ibytes=6400)) == Rates()
    # 50 packets of 100 bytes in half a second
    assert meter.look(0, PortStats(ipackets=150, ibytes=11400)) == Rates(100, 0, 80_000, 0)
    # counters were set back
    assert meter.look(0, PortStats(ipackets=10, ibytes=100, opackets=5, obytes=300)) == Rates(
        tx_pps=5, tx_bps=2400
    )


def test_each_port_has_rates_of_its_own():
    times = iter([0, 0, 1_000_000_000])
    meter = RateMeter(lambda: next(times))
    meter.look(0, PortStats(opackets=1))
    meter.look(1, PortStats(opackets=1000))
    assert meter.look(0, PortStats(opackets=3)).tx_pps == 2
