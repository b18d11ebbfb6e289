"""The host: from strings to running devices, and back from any failure."""

import os
import signal
import threading

import pytest

from emudev_core.config import BackendConfig, Claim, ObserverConfig, ProviderConfig
from emudev_core.errors import (
    BackendError,
    ConfigError,
    LifecycleError,
    PluginError,
    TransportError,
)
from emudev_core.hooks import hookimpl
from emudev_core.host import Host
from emudev_core.lifecycle import State
from emudev_core.loop import Loop
from emudev_core.plan import Planner
from emudev_core.specs import BackendSpec, ObserverSpec, ProviderSpec
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_plugins, open_descriptors
from emudev_core.vdev import parse_vdev

LOG = []


class SinkConfig(BackendConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fail: str = ""

    def claims(self):
        return (Claim("the sink", "fail"),) if self.fail == "build" else ()


class Sink:
    def __init__(self, config, context):
        if config.fail == "build":
            raise RuntimeError("no such library")
        self.config, self.context = config, context

    @hookimpl
    def emudev_backend_offered(self, device):
        return "not today" if self.config.fail == "offered" else None

    @hookimpl
    def emudev_backend_started(self, device):
        LOG.append(f"{self.context.name} started for {device.name}")
        if self.config.fail == "started":
            raise BackendError("interface tap9 is missing")

    @hookimpl
    def emudev_backend_stopped(self, device):
        LOG.append(f"{self.context.name} stopped for {device.name}")


class Counter:
    def __init__(self, config, context):
        self.reads = 0

    @hookimpl(wrapper=True)
    def emudev_region_read(self):
        self.reads += 1
        return (yield)


def refuse(config, context):
    raise ConfigError("not on this machine")


class Listener:
    @hookimpl
    def emudev_listen(self):
        return "self:self_emudev_0"


SPECS = (
    ProviderSpec(
        name="emu_self",
        summary="",
        config=ProviderConfig,
        build=lambda config, context: Listener(),
        transport="",
    ),
    loopback.SPEC,
    exerciser.SPEC,
    port.SPEC,
    BackendSpec(name="sink", summary="", config=SinkConfig, build=Sink),
    BackendSpec(name="wire", summary="", config=SinkConfig, build=Sink, devices=("a", "b")),
    ObserverSpec(name="counter", summary="", config=ObserverConfig, build=Counter),
    ProviderSpec(name="emu_no", summary="", config=ProviderConfig, build=refuse, transport=""),
    ProviderSpec(
        name="emu_bare",
        summary="",
        config=ProviderConfig,
        build=lambda config, context: Counter(config, context),
        transport="",
    ),
)


@pytest.fixture
def host():
    LOG.clear()
    before = open_descriptors()
    with Host(plugins=make_plugins(*SPECS)) as host:
        yield host
    assert open_descriptors() == before


def test_the_program_of_the_design(host):
    nic = host.add("emu_port,id=0")
    sink = host.add("sink,port_emu_id=0")
    assert nic.name == "port_emudev_0"
    assert sink.context.devices == {"emu": nic}
    assert (sink.context.name, sink.context.loop) == ("sink_0", host.loop)
    assert nic.state is State.ALLOCATED
    host.start()
    assert nic.address == "loopback:port_emudev_0"
    host.loop.call_soon(host.stop)
    host.run()
    host.close()
    assert LOG == ["sink_0 started for port_emudev_0", "sink_0 stopped for port_emudev_0"]
    assert nic.state is State.CLOSED
    assert len(host.registry) == 0


def test_a_stop_that_comes_before_run_is_not_lost(host):
    host.add("emu_port")
    host.stop()
    host.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_run_also_when_inherited_as_ignored(host, number):
    former = signal.signal(number, signal.SIG_IGN)
    try:
        host.add("emu_port")
        timer = threading.Timer(0.02, os.kill, (os.getpid(), number))
        timer.start()
        host.run()
        timer.join()
        os.kill(os.getpid(), number)  # a second one while closing changes nothing
        host.close()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, former)


def test_all_devices_are_offered_before_any_starts(host):
    one, two = host.add("emu_port"), host.add("emu_port")
    host.add(f"sink,emu={one.name}")
    host.add(f"sink,emu={two.name},fail=offered")
    with pytest.raises(BackendError, match="sink_1 refuses port_emudev_1: not today"):
        host.start()
    assert LOG == []
    assert (one.state, two.state) == (State.CONFIGURED, State.CONFIGURED)


def test_a_failed_start_stops_what_was_started(host):
    one, two = host.add("emu_port"), host.add("emu_port")
    host.add(f"sink,emu={one.name}")
    host.add(f"sink,emu={two.name},fail=started")
    with pytest.raises(BackendError, match="tap9 is missing"):
        host.start()
    assert LOG == [
        "sink_0 started for port_emudev_0",
        "sink_1 started for port_emudev_1",
        "sink_0 stopped for port_emudev_0",
    ]
    assert one.address == ""


def test_a_wire_serves_two_devices(host):
    one, two = host.add("emu_port"), host.add("emu_port")
    wire = host.add(f"wire,a={one.name},b={two.name}")
    assert wire.context.devices == {"a": one, "b": two}
    host.start()
    assert LOG == ["wire_0 started for port_emudev_0", "wire_0 started for port_emudev_1"]


def test_a_builder_that_raises_is_named_and_leaves_no_device(host):
    host.add("emu_port")
    with pytest.raises(
        PluginError, match=r"test-plugin 1\.0 failed in the builder of sink: RuntimeError: no such"
    ):
        host.add("sink,port_emu_id=0,fail=build")
    with pytest.raises(ConfigError, match="not on this machine"):
        host.add("emu_no,id=0")
    assert host.registry.find("no_emudev_0") is None
    with pytest.raises(ConfigError, match="not on this machine"):
        host.add("emu_no,id=0")  # and not: the id is taken


def test_after_a_failed_builder_its_device_may_have_another_backend(host):
    host.add("emu_port")
    for _ in range(2):
        with pytest.raises(PluginError, match="no such"):
            host.add("sink,port_emu_id=0,fail=build")
    assert host.add("sink,port_emu_id=0").context.name == "sink_0"


def test_what_a_plan_took_is_taken_for_what_is_added_later(host):
    planner = Planner(host.plugins)
    host.build(planner.plan([parse_vdev("emu_port"), parse_vdev("sink,port_emu_id=0")]))
    with pytest.raises(ConfigError, match="port_emudev_0 has a backend already: sink_0"):
        host.add("sink,port_emu_id=0")
    assert host.add("emu_port").name == "port_emudev_1"


def test_an_observer_counts_without_the_device_knowing(host):
    device = host.add("emu_exerciser")
    counter = host.observe("counter,emu=exerciser_emudev_0")
    host.start()
    client = host.connect(device)
    for _ in range(3):
        client.region_read(0, 0, 4)
    client.close()
    assert counter.reads == 3


def test_the_same_observer_may_watch_twice(host):
    device = host.add("emu_exerciser")
    for _ in range(2):
        host.observe("counter,emu=exerciser_emudev_0")
    assert [member.name for member in device.members[-2:]] == ["counter", "counter_2"]


def test_a_device_without_a_transport_runs_and_has_no_client(host):
    device = host.add("emu_bare")
    host.start()
    assert device.state is State.STARTED
    with pytest.raises(TransportError, match="has no client"):
        host.connect(device)


def test_a_device_that_listens_by_itself_takes_no_transport(host):
    with pytest.raises(ConfigError, match=r"emu_self listens by itself: .* came loopback"):
        host.add("emu_self,id=0,transport=loopback")
    device = host.add("emu_self,id=0")
    host.start()
    assert device.address == "self:self_emudev_0"


def test_a_backend_comes_before_the_start(host):
    host.add("emu_port")
    host.start()
    with pytest.raises(LifecycleError, match="port_emudev_0 is started: add sink_0 before"):
        host.add("sink,port_emu_id=0")


def test_devices_added_later_are_started_by_the_next_start(host):
    one = host.add("emu_port")
    host.start()
    two = host.add("emu_port")
    host.start()
    assert (one.state, two.state) == (State.STARTED, State.STARTED)


def test_a_loop_of_the_callers_stays_open():
    loop = Loop()
    with Host(loop, make_plugins(*SPECS)) as host:
        host.add("emu_port")
        host.start()
    loop.turn()
    loop.close()


class Clumsy(Sink):
    """A backend that fails in a callback of its own."""

    @hookimpl
    def emudev_backend_started(self, device):
        self.context.loop.call_soon(self.work)

    def work(self):
        raise KeyError("lost")


CLUMSY = BackendSpec(name="clumsy", summary="", config=SinkConfig, build=Clumsy)


def test_a_plugin_that_raises_in_a_callback_takes_only_its_own_device_along(caplog):
    with Host(plugins=make_plugins(*SPECS, CLUMSY)) as host:
        good, bad = host.add("emu_port"), host.add("emu_port")
        host.add(f"sink,emu={good.name}")
        host.add(f"clumsy,emu={bad.name}")
        host.loop.call_later(0.01, host.stop)
        host.run()
        assert good.state is State.STARTED
        assert bad.state is State.ERROR
        assert bad.error == (
            "plugin clumsy_0 (test-plugin 1.0) failed in a callback: KeyError: 'lost'"
        )


def test_what_no_plugin_raised_comes_out():
    with Host(plugins=make_plugins(loopback.SPEC, port.SPEC)) as host:
        host.add("emu_port")
        host.loop.call_soon(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            host.run()
