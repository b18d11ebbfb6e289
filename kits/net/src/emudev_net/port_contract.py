"""What applications rely on in every port: a suite that each kind of port passes.

    from emudev_net.testing import PortContract

    class TestMyPort(PortContract):
        vdev = "net_mine,file=/tmp/x"

A port over a device names one by `device`. One whose other side the test can play takes
`FramePortContract` of `emudev_net.frame_port_contract` instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from emudev_core.errors import ConfigError, LifecycleError
from emudev_core.host import Host
from emudev_core.plugins import Plugins, find_sources
from emudev_core.queues import QueueKernels
from emudev_core.testing import exerciser, loopback
from emudev_core.testing import port as core_port
from emudev_core.testing.builders import make_source
from emudev_core.testing.contract import Contract, turn_until

from . import memory_port
from .burst import Burst
from .port import Port, PortConfig, PortEvent, PortEventKind, PortState
from .port_records import NEXT, PortStep

__all__ = ["PortContract"]

GROUP = bytes.fromhex("0300000000aa")
SOURCE = bytes.fromhex("0252540000aa88b5")
ADDRESS = bytes.fromhex("02aabbccdd07")
#: Names that DPDK gives to the counters that all ports have.
XSTATS = (
    "rx_good_packets",
    "tx_good_packets",
    "rx_good_bytes",
    "tx_good_bytes",
    "rx_missed_errors",
    "rx_errors",
    "tx_errors",
    "rx_mbuf_allocation_errors",
    "rx_q0_packets",
    "rx_q0_bytes",
    "rx_q0_errors",
    "tx_q0_packets",
    "tx_q0_bytes",
)


def frame(length: int, target: bytes = GROUP) -> bytes:
    """A frame of a private ethertype that no host answers."""
    return target + SOURCE + bytes((length + i) & 0xFF for i in range(length - 14))


class PortContract(Contract):
    """What applications rely on.

    Attributes:
        vdev: The port under test without its device, such as ``net_avfbe``.
        device: The vdev string of the device below it, such as ``emu_iavf,id=0``; empty: it has
            none.
    """

    vdev: ClassVar[str]
    device: ClassVar[str] = ""

    # -- to be overridden

    def connect(self, host: Host, port: Port) -> Any:
        """Bring up what is at the other end, once the port is started; kept as `other`."""
        return None

    def disconnect(self, other: Any) -> None:
        """Undo `connect`."""

    # -- fixtures

    @pytest.fixture
    def plugins(self) -> Plugins:
        """What is installed, and the devices and ports for tests."""
        specs = (loopback.SPEC, exerciser.SPEC, core_port.SPEC, memory_port.SPEC)
        return Plugins([*find_sources(), make_source(*specs, distribution="emudev-net-testing")])

    @pytest.fixture
    def port(self, host: Host) -> Iterator[Port]:
        """The port, new; its device is started."""
        found: Any
        if self.device:
            device = host.add(self.device)
            found = host.add(f"{self.vdev},id=2,emu={device.name}")
        else:
            found = host.add(f"{self.vdev},id=2")
        assert isinstance(found, Port)
        host.start()
        yield found
        found.close()

    @pytest.fixture
    def started(self, host: Host, port: Port) -> Port:
        """The port, started with a queue each way."""
        port.configure(1, 1)
        port.start()
        turn_until(host, lambda: port.ready, 30)
        return port

    @pytest.fixture
    def other(self, host: Host, started: Port) -> Iterator[Any]:
        """What is at the other end; the link is up."""
        made = self.connect(host, started)
        turn_until(host, lambda: started.link().up)
        yield made
        self.disconnect(made)

    @pytest.fixture
    def events(self, port: Port) -> list[PortEvent]:
        """All events of the port, from the beginning."""
        found: list[PortEvent] = []
        port.subscribe(found.append)
        return found

    # -- what it is

    def test_it_bears_the_number_of_its_vdev_string(self, port: Port) -> None:
        """Applications number ports by it."""
        assert port.id == 2
        assert port.name == f"{self.vdev.partition(',')[0]}_2"
        assert port.state is PortState.NEW

    def test_it_says_what_it_can_do(self, port: Port) -> None:
        """In a way that makes sense."""
        info = port.info()
        assert info.driver == self.vdev.partition(",")[0]
        assert info.max_rx_queues + info.max_tx_queues > 0
        assert 68 <= info.min_mtu <= port.mtu <= info.max_mtu
        assert info.max_frame >= info.min_mtu + 14
        assert (info.nb_rx_queues, info.nb_tx_queues) == (0, 0)
        port.configure(1, 1)
        info = port.info()
        assert (info.nb_rx_queues, info.nb_tx_queues) == (1, 1)

    # -- life

    def test_every_step_is_allowed_or_refused_as_the_table_says(self, port: Port) -> None:
        """A refused one changes nothing."""
        steps: dict[PortStep, Callable[[], object]] = {
            PortStep.CONFIGURE: lambda: port.configure(1, 1),
            PortStep.SETUP: lambda: port.rx_queue_setup(0, 256),
            PortStep.START: port.start,
            PortStep.STOP: port.stop,
        }
        # Once to each state, in an order in which each step is allowed.
        way: list[Callable[[], object]] = [
            lambda: None,
            lambda: port.configure(1, 1),
            port.start,
            port.stop,
            lambda: port.fail("a test wants it"),
        ]
        seen = set()
        for reach in way:
            reach()
            seen.add(state := port.state)
            for step, run in steps.items():
                if (state, step) not in NEXT:
                    with pytest.raises(LifecycleError, match=rf"{port.name} is {state.value}"):
                        run()
                    assert port.state is state
        assert len(seen) == len(way)

    def test_it_starts_and_stops_again_and_again(self, host: Host, port: Port) -> None:
        """Also with another number of queues, and what was set up explicitly."""
        for _ in range(2):
            port.configure(1, 1)
            port.rx_queue_setup(0, 512)
            port.tx_queue_setup(0)
            for _ in range(2):
                port.start()
                turn_until(host, lambda: port.ready, 30)
                port.stop()
                assert not port.ready
                assert not port.link().up

    def test_what_it_can_not_do_is_refused(self, port: Port) -> None:
        """With what was expected and what came."""
        info = port.info()
        with pytest.raises(ConfigError, match=rf"0 to {info.max_rx_queues} receive queues"):
            port.configure(info.max_rx_queues + 1, 1)
        with pytest.raises(ConfigError, match=rf"0 to {info.max_tx_queues} transmit queues"):
            port.configure(1, info.max_tx_queues + 1)
        with pytest.raises(ConfigError, match="expected a queue"):
            port.configure(0, 0)
        with pytest.raises(ConfigError, match=rf"to {info.max_mtu} bytes, came 100000"):
            port.configure(1, 1, PortConfig(mtu=100_000))
        assert port.state is PortState.NEW
        port.configure(1, 1)
        for call in (port.rx_queue_setup, port.tx_queue_setup, port.rx_queue, port.tx_queue):
            with pytest.raises(ConfigError, match=r"no (receive|transmit) queue 1 \(1 configured"):
                call(1)

    def test_packets_pass_a_started_port_only(self, host: Host, port: Port) -> None:
        """Else the error says what it is."""
        burst = Burst.of([frame(60)])

        def start_and_stop() -> None:
            port.start()
            port.stop()

        states: list[Callable[[], object]] = [
            lambda: None,
            lambda: port.configure(1, 1),
            start_and_stop,
            port.close,
        ]
        for reach in states:
            reach()
            for call in (port.rx_burst, port.rx_release, port.tx_burst):
                with pytest.raises(LifecycleError, match=rf"{port.name} is {port.state.value}"):
                    call(0, burst)

    def test_queues_have_kernels_once_they_are_set_up(self, port: Port) -> None:
        """The same ones while the port is configured."""
        with pytest.raises(LifecycleError, match="has no queues"):
            port.rx_queue(0)
        port.configure(1, 1)
        with pytest.raises(LifecycleError, match="receive queue 0 is not set up"):
            port.rx_queue(0)
        port.rx_queue_setup(0)
        port.tx_queue_setup(0)
        source, sink = port.rx_queue(0), port.tx_queue(0)
        assert source.peek is not None
        assert source.release is not None
        assert sink.push is not None
        assert set(_kernels(source)) | set(_kernels(sink)) <= set(port.kernels())
        port.start()
        assert port.rx_queue(0) == source
        assert port.tx_queue(0) == sink

    def test_a_port_that_failed_is_down_and_can_be_closed(
        self, started: Port, events: list[PortEvent]
    ) -> None:
        """It says why."""
        started.fail("its worker failed")
        assert started.state is PortState.FAILED
        assert started.error == "its worker failed"
        assert not started.link().up
        errors = [e for e in events if e.kind is PortEventKind.ERROR]
        assert errors == [PortEvent(PortEventKind.ERROR, text="its worker failed")]
        started.fail("again")
        with pytest.raises(LifecycleError, match="is failed"):
            started.set_link(True)
        started.close()
        started.close()
        assert started.state.value == "closed"

    def test_closing_stops_it_first_and_is_told(
        self, started: Port, events: list[PortEvent]
    ) -> None:
        """Twice is once."""
        started.close()
        started.close()
        states = [e.text for e in events if e.kind is PortEventKind.STATE]
        assert states == ["stopped", "closed"]

    # -- link, address, modes

    def test_its_link_comes_up_and_obeys_the_application(
        self, host: Host, started: Port, other: Any, events: list[PortEvent]
    ) -> None:
        """Each change is told once."""
        events.clear()
        started.set_link(False)
        assert not started.link().up
        started.set_link(False)
        started.set_link(True)
        turn_until(host, lambda: started.link().up)
        changes = [e.value for e in events if e.kind is PortEventKind.LINK]
        assert changes == [0, 1]
        assert started.link().speed > 0

    def test_a_link_that_was_set_down_stays_down_over_a_start(self, host: Host, port: Port) -> None:
        """Until it is set up."""
        port.configure(1, 1)
        port.set_link(False)
        port.start()
        turn_until(host, lambda: port.ready, 30)
        host.loop.turn()
        assert not port.link().up
        port.set_link(True)
        other = self.connect(host, port)
        turn_until(host, lambda: port.link().up)
        self.disconnect(other)

    def test_its_address_and_modes_can_be_set(self, port: Port) -> None:
        """And are kept over a start."""
        port.configure(1, 1)
        assert len(port.mac) == 6
        port.set_mac(ADDRESS)
        port.set_promiscuous(True)
        port.set_all_multicast(True)
        smallest = port.info().min_mtu
        port.set_mtu(smallest)
        port.start()
        assert port.mac == ADDRESS
        assert port.promiscuous
        assert port.all_multicast
        assert port.mtu == smallest

    def test_a_bad_address_or_mtu_is_refused(self, port: Port) -> None:
        """The former one stays."""
        before, mtu = port.mac, port.mtu
        for bad in (bytes(6), b"\x01" + bytes(5), b"\x02", b"\xff" * 6):
            with pytest.raises(ConfigError, match="of one station"):
                port.set_mac(bad)
        for wrong in (port.info().min_mtu - 1, port.info().max_mtu + 1):
            with pytest.raises(ConfigError, match=f"came {wrong}"):
                port.set_mtu(wrong)
        assert (port.mac, port.mtu) == (before, mtu)

    # -- statistics

    def test_counters_bear_the_names_that_dpdk_gives_them(
        self, host: Host, started: Port, other: Any
    ) -> None:
        """And begin anew when they are reset."""
        assert set(XSTATS) <= set(started.xstats())
        started.reset_stats()
        assert not any(started.xstats()[name] for name in XSTATS)
        stats = started.stats()
        assert (stats.ipackets, stats.opackets, stats.ibytes, stats.obytes) == (0, 0, 0, 0)

    # -- who runs it

    def test_it_can_be_polled(self, port: Port) -> None:
        """In any state, over a start."""
        port.set_polled(True)
        port.configure(1, 1)
        port.start()
        assert port.polled
        port.set_polled(False)
        port.set_polled(True)
        port.stop()
        assert port.polled

    def test_runners_rest_while_it_is_paused(self, port: Port) -> None:
        """Until they are removed."""
        calls = []

        class Runner:
            @contextlib.contextmanager
            def pause(self) -> Iterator[None]:
                calls.append("rest")
                yield
                calls.append("go on")

        runner = Runner()
        port.add_runner(runner)
        with port.paused():
            assert calls == ["rest"]
        port.remove_runner(runner)
        with port.paused():
            pass
        assert calls == ["rest", "go on"]

    def test_who_subscribed_is_told_until_it_is_undone(self, port: Port) -> None:
        """Events and wakes."""
        seen: list[PortEvent] = []
        undo = port.subscribe(seen.append)
        port.configure(1, 1)
        assert seen == [PortEvent(PortEventKind.STATE, text="configured")]
        undo()
        undo()
        port.configure(1, 1)
        assert len(seen) == 1
        woken: list[str] = []

        def wake() -> None:
            woken.append("rx")

        stop = port.subscribe_rx(0, wake)
        port.wake_rx(0)
        stop()
        port.wake_rx(0)
        port.wake_tx(0)
        assert woken == ["rx"]


def _kernels(ends: QueueKernels) -> list[object]:
    return [k for k in (ends.peek, ends.push, ends.release, ends.notify) if k is not None]
