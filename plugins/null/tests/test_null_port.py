"""The port ``net_null``: DPDK's options, worked out by hand."""

from __future__ import annotations

import ctypes

import pytest

from emudev_core.errors import ConfigError
from emudev_core.host import Host
from emudev_core.queues import QueueKernels
from emudev_net import flow
from emudev_net.burst import CSUM_WANTED, FIRST, LAST, Burst, Packet
from emudev_net.flow import Flow
from emudev_net.jit import compile_now
from emudev_net.testing import PortContract, compiled_or_plain, jit  # noqa: F401  # fixtures
from emudev_null.port_kernels import KERNELS


class TestNullPort(PortContract):
    vdev = "net_null,size=60"

    def test_its_driver_is_called_as_in_dpdk(self, port):
        assert (port.info().driver, port.info().device) == ("net_null", "")


@pytest.fixture(autouse=True)
def kernels(compiled_or_plain):  # noqa: F811
    compiled_or_plain(*KERNELS)


@pytest.fixture
def add():
    """Makes a started port of a vdev string."""
    with Host() as host:
        made = []

        def make(vdev="net_null", queues=1):
            port = host.add(vdev)
            port.configure(queues, queues)
            port.start()
            made.append(port)
            return port

        yield make
        for port in made:
            port.close()


def test_it_receives_packets_of_64_bytes_without_end(add):
    port = add()
    burst = Burst(32)
    for _ in range(3):
        assert port.rx_burst(0, burst) == 32
        assert {p.data for p in burst.packets()} == {bytes(64)}
        port.rx_release(0, burst)
    assert (port.stats().ipackets, port.stats().ibytes) == (96, 96 * 64)


@pytest.mark.parametrize("copy", [0, 1])
def test_size_is_the_size_of_what_it_receives(add, copy):
    port = add(f"net_null,size=1500,copy={copy}")
    burst = Burst(600)
    assert port.rx_burst(0, burst) == 512  # at one time
    assert {len(p.data) for p in burst.packets()} == {1500}
    port.rx_release(0, burst, 2)
    assert port.stats().ibytes == 3000


def test_without_copy_all_packets_share_their_bytes_and_with_it_none(add):
    burst = Burst(16)
    for vdev, places in (("net_null", 1), ("net_null,copy=1", 16)):
        add(vdev).rx_burst(0, burst)
        assert len({burst.words[8 * i] for i in range(16)}) == places


def test_with_copy_each_look_copies_the_packet_anew(add):
    port = add("net_null,copy=1,size=32")
    burst = Burst(1)
    port.rx_burst(0, burst)
    ctypes.memset(burst.words[0], 0xFF, 32)
    assert burst.packets()[0].data == b"\xff" * 32
    port.rx_burst(0, burst)
    assert burst.packets()[0].data == bytes(32)


def test_it_drops_what_is_sent_whatever_it_asks_for_and_counts(add):
    for vdev in ("net_null", "net_null,copy=1", "net_null,copy=1,no-rx=1"):
        port = add(vdev)
        asks = Packet(bytes(3000), FIRST | LAST | CSUM_WANTED, segments=(100, 2000, 900))
        burst = Burst.of([b"a" * 60, asks])
        assert port.tx_burst(0, burst) == 4
        assert (port.stats().opackets, port.stats().obytes) == (2, 3060)
        assert port.stats().oerrors == 0


def test_no_rx_receives_nothing(add):
    port = add("net_null,no-rx=1")
    assert port.rx_burst(0, Burst(8)) == 0
    assert port.stats().ipackets == 0


def test_queues_count_by_themselves_and_go_on_after_they_are_configured_anew(add):
    port = add(queues=3)
    burst = Burst(4)
    port.rx_burst(2, burst)
    port.rx_release(2, burst)
    assert [port.xstats()[f"rx_q{q}_packets"] for q in range(3)] == [0, 0, 4]
    port.stop()
    port.configure(3, 1)
    port.start()
    assert port.stats().ipackets == 4


def test_a_size_of_no_frame_is_refused():
    with Host() as host:
        for size in (0, 65_536):
            with pytest.raises(ConfigError, match="size"):
                host.add(f"net_null,size={size}")


def test_a_flow_between_two_of_them_never_comes_to_an_end(add, jit):  # noqa: F811
    one, two = add(), add()
    if jit == "compiled":
        compile_now(flow.KERNELS)
    source: QueueKernels = one.rx_queue(0)
    moving = Flow(one.loop, source, two.tx_queue(0), budget=1000)
    assert moving.run() is flow.Outcome.BUDGET
    assert two.stats().opackets >= 1000
    assert one.stats().ipackets == two.stats().opackets
    moving.close()
