"""A port over queues that a test plays the guest of: link, events, attributes, counters."""

from __future__ import annotations

import contextlib
import ctypes
import logging

import pytest

from emudev_core.attributes import AttributeInfo
from emudev_core.config import ProviderConfig
from emudev_core.errors import BackendError, ConfigError, EmudevError, LifecycleError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.host import Host
from emudev_core.plugins import Plugins, find_sources
from emudev_core.queues import DeviceInfo, Shortcut
from emudev_core.specs import ProviderSpec
from emudev_core.testing import exerciser, loopback
from emudev_core.testing import port as core_port
from emudev_core.testing.builders import make_source
from emudev_net.burst import Burst
from emudev_net.port import PortEvent, PortEventKind, PortState

MAC = bytes.fromhex("020304050607")


class Settable(core_port.Port):
    """A device whose address, MTU and modes can be set; it takes no MTU above 8000."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.attributes |= {"promiscuous": False, "all_multicast": False}

    @hookimpl
    def emudev_get_attributes(self):
        return (
            AttributeInfo("link", bool, "", writable=True),
            AttributeInfo("speed", int, "", writable=True),
            AttributeInfo("mac", str, "", writable=True),
            AttributeInfo("mtu", int, "", writable=True),
            AttributeInfo("promiscuous", bool, "", writable=True),
            AttributeInfo("all_multicast", bool, "", writable=True),
        )

    @hookimpl
    def emudev_set_attr(self, name, value):
        if name == "mtu" and value > 8000:
            from emudev_core.errors import DeviceError

            raise DeviceError("mtu: expected at most 8000")
        self.attributes[name] = value
        return True


class Silent(core_port.Port):
    """A device without attributes, and without a largest frame."""

    @hookimpl
    def emudev_get_attributes(self):
        return ()

    @hookimpl
    def emudev_get_dev_info(self):
        return DeviceInfo(type="silent", max_queue_pairs=1, doorbells=2)


class Bare:
    """A device without queues."""

    def __init__(self, config, context):
        pass

    @hookimpl
    def emudev_get_dev_info(self):
        return DeviceInfo(type="bare")


SPECS = (
    loopback.SPEC,
    exerciser.SPEC,
    core_port.SPEC,
    *(
        ProviderSpec(
            name=f"emu_{build.__name__.lower()}",
            summary="for tests",
            config=ProviderConfig if build is Bare else core_port.PortConfig,
            build=build,
            transport="loopback",
        )
        for build in (Settable, Silent, Bare)
    ),
)


class Setup:
    """A device and a port over it."""

    def __init__(self, host, device="emu_port,id=0,queues=4", keys=""):
        self.host = host
        self.device = host.add(device)
        self.guest = self.device.members[0].plugin
        self.port = host.add(f"net_avfbe,id=1,emu={self.device.name}{keys}")
        self.events = []
        self.port.subscribe(self.events.append)

    def start(self, rx=1, tx=1):
        self.host.start()
        self.port.configure(rx, tx)
        self.port.start()
        self.host.loop.turn()
        self.events.clear()
        return self

    def told(self, *kinds):
        self.host.loop.turn()
        found = [e for e in self.events if e.kind in kinds]
        self.events.clear()
        return found


@pytest.fixture
def host():
    with Host(plugins=Plugins([*find_sources(), make_source(*SPECS)])) as host:
        yield host


@pytest.fixture
def setup(host):
    made = Setup(host)
    yield made
    made.port.close()


def test_a_device_without_frames_is_refused_with_the_reason(host):
    device = host.add("emu_bare,id=0")
    port = host.add(f"net_avfbe,emu={device.name}")
    with pytest.raises(EmudevError, match=r"refuses bare_emudev_0: it has no queues"):
        host.start()
    with pytest.raises(ConfigError, match="net_avfbe_0: expected 0 to 0 receive queues"):
        port.configure(1, 1)
    port.close()


def test_it_is_what_the_device_is(setup):
    info = setup.port.info()
    assert (info.driver, info.device) == ("net_avfbe", "port_emudev_0")
    assert (info.max_rx_queues, info.max_tx_queues) == (4, 4)
    assert (info.max_frame, info.max_mtu) == (9018, 9000)
    assert not info.parallel


def test_a_device_that_names_no_largest_frame_gets_plain_ones(host):
    port = Setup(host, "emu_silent,id=0").start().port
    assert (port.info().max_frame, port.mtu) == (1518, 1500)
    assert port.link().speed == 10_000
    assert port.mac == bytes.fromhex("02656d750001")
    port.close()


# -- the link


def test_the_guest_sees_a_link_while_the_port_is_started(setup):
    assert setup.guest.attributes["link"] is False
    setup.start()
    assert setup.guest.attributes["link"] is True
    setup.port.set_link(False)
    assert setup.guest.attributes["link"] is False
    setup.port.set_link(True)
    setup.port.stop()
    assert setup.guest.attributes["link"] is False
    setup.port.start()
    assert setup.guest.attributes["link"] is True
    setup.port.close()
    assert setup.guest.attributes["link"] is False


def test_the_port_may_be_started_before_its_device(setup):
    setup.port.configure(1, 1)
    setup.port.start()
    assert setup.guest.attributes["link"] is False
    assert not setup.port.link().up
    setup.host.start()
    assert setup.guest.attributes["link"] is True
    assert setup.port.link().up


def test_its_own_link_follows_the_guest(setup):
    setup.start()
    setup.guest.enable(False)
    assert setup.told(PortEventKind.LINK) == [PortEvent(PortEventKind.LINK, value=0)]
    assert not setup.port.link().up
    assert setup.guest.attributes["link"] is True  # or it would never enable a queue again
    setup.guest.enable(True)
    assert setup.told(PortEventKind.LINK) == [PortEvent(PortEventKind.LINK, value=1)]


def test_its_own_link_follows_the_device_and_comes_back_with_it(setup):
    setup.start()
    setup.device.stop()
    assert not setup.port.link().up
    assert setup.port.state is PortState.STARTED
    assert setup.guest.attributes["link"] is False
    setup.device.start()
    assert setup.port.link().up
    assert setup.guest.attributes["link"] is True
    setup.guest.transmit(b"x" * 60)
    burst = Burst(4)
    assert setup.port.rx_burst(0, burst) == 1
    setup.port.rx_release(0, burst)


def test_its_speed_is_the_devices(setup):
    setup.guest.attributes["speed"] = 25_000
    assert setup.port.link().speed == 25_000


# -- events


def test_what_happens_to_served_queues_is_told_in_the_ports_terms(setup):
    setup.start(rx=2, tx=1)
    setup.guest.enable(False)
    queues = setup.told(PortEventKind.QUEUE_STATE)
    assert [(e.rx, e.queue, e.value) for e in queues] == [(False, 0, 0), (True, 0, 0), (True, 1, 0)]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (Event(EventKind.RESET, text="VF reset"), PortEvent(PortEventKind.RESET, text="VF reset")),
        (Event(EventKind.CLIENT, value=1), PortEvent(PortEventKind.PEER, value=1)),
        (Event(EventKind.CLIENT, value=0), PortEvent(PortEventKind.PEER)),
    ],
)
def test_resets_and_peers_are_told(setup, event, told):
    setup.start()
    setup.device.post_event(event)
    assert setup.told(told.kind) == [told]


def test_after_lost_events_everything_is_looked_at(setup):
    setup.start()
    woken = []
    setup.port.subscribe_rx(0, lambda: woken.append("rx"))
    setup.port.subscribe_tx(0, lambda: woken.append("tx"))
    setup.guest.enabled = False
    setup.device.post_event(Event(EventKind.OVERFLOW))
    assert setup.told(PortEventKind.LINK) == [PortEvent(PortEventKind.LINK, value=0)]
    assert woken == ["rx", "tx"]


def test_a_device_in_error_takes_the_port_with_it(setup):
    setup.start()
    setup.device.fail("its guest broke it")
    setup.host.loop.turn()
    assert setup.port.state is PortState.FAILED
    assert setup.events[-1].kind is PortEventKind.REMOVED
    assert "its guest broke it" in setup.events[-1].text
    with pytest.raises(LifecycleError, match="is failed"):
        setup.port.rx_burst(0, Burst(1))
    with pytest.raises(BackendError, match="port_emudev_0 is error"):
        setup.port.configure(1, 1)
    assert setup.port.state is PortState.FAILED


def test_a_device_that_is_closed_closes_the_port(setup):
    setup.start()
    setup.device.close()
    assert setup.port.state is PortState.CLOSED
    kinds = [e.kind for e in setup.events]
    assert PortEventKind.REMOVED in kinds
    assert kinds[-1] is PortEventKind.STATE


# -- queues and doorbells


def test_queue_pairs_are_apart_both_ways(setup):
    setup.start(rx=3, tx=2)
    burst = Burst(4)
    for queue in (0, 1, 2):
        setup.guest.transmit(bytes([queue]) * 60, pair=queue)
    for queue in (2, 1, 0):
        assert setup.port.rx_burst(queue, burst) == 1
        assert burst.packets()[0].data == bytes([queue]) * 60
        setup.port.rx_release(queue, burst)
    for queue in (0, 1):
        assert setup.port.tx_burst(queue, Burst.of([bytes([queue]) * 60])) == 1
        assert setup.guest.received(queue) == [bytes([queue]) * 60]


def test_doorbells_wake_those_who_sleep(setup):
    setup.start(rx=2, tx=1)
    woken = []
    for queue in (0, 1):
        setup.port.subscribe_rx(queue, lambda queue=queue: woken.append(queue))
    undo = setup.port.subscribe_tx(0, lambda: woken.append("room"))
    setup.guest.transmit(bytes(60), pair=1)
    assert woken == [1]
    bell = setup.device.get_db_info(6)  # pair 3 posts buffers: any queue may have room now
    bell.ring()
    assert woken == [1, "room"]
    undo()
    bell.ring()
    setup.port.close()
    setup.guest.transmit(bytes(60), pair=1)
    assert woken == [1, "room"]


def test_doorbells_show_native_code_the_shortcuts_of_those_who_sleep(setup):
    setup.start(rx=2, tx=2)

    def chain(pair, sends):
        info = setup.device.get_queue_info(2 * pair + sends)
        words = (ctypes.c_int64 * 17).from_address(setup.device.get_db_info(info.doorbell).chain)
        return words[: 1 + 2 * max(0, words[0])]

    assert [chain(pair, sends) for pair in range(4) for sends in (0, 1)] == [[0]] * 8
    setup.port.subscribe_rx(1, print, Shortcut(0x1000, 0x10))
    undo = setup.port.subscribe_tx(0, print, Shortcut(0x2000, 0x20))
    setup.port.subscribe_tx(1, print, Shortcut(0x3000, 0x30))
    assert [chain(pair, 1) for pair in range(4)] == [[0], [1, 0x1000, 0x10], [0], [0]]
    # Any queue of the peer may be the one that has room again.
    assert [chain(pair, 0) for pair in range(4)] == [[2, 0x2000, 0x20, 0x3000, 0x30]] * 4
    undo()
    assert [chain(pair, 0) for pair in range(4)] == [[1, 0x3000, 0x30]] * 4
    setup.port.stop()
    setup.port.configure(2, 2)
    assert [chain(pair, 0) for pair in range(4)] == [[1, 0x3000, 0x30]] * 4
    setup.port.close()
    assert [chain(pair, sends) for pair in range(4) for sends in (0, 1)] == [[0]] * 8


def test_configuring_anew_rings_once_for_each_ring(setup):
    setup.host.start()
    woken = []
    setup.port.subscribe_rx(0, lambda: woken.append(1))
    for _ in range(3):
        setup.port.configure(1, 1)
    setup.guest.transmit(bytes(60))
    assert woken == [1]


def test_who_polls_asks_the_served_queues_not_to_ring(setup):
    setup.port.set_polled(True)
    setup.start(rx=2, tx=1)
    bells = [setup.device.get_db_info(number).polled for number in range(8)]
    assert bells == [True, True, False, True, False, False, False, False]
    setup.port.stop()
    assert not any(setup.device.get_db_info(number).polled for number in range(8))
    setup.port.start()
    setup.port.set_polled(False)
    assert not any(setup.device.get_db_info(number).polled for number in range(8))


def test_the_device_can_pause_who_runs_the_kernels(setup):
    calls = []

    class Runner:
        @contextlib.contextmanager
        def pause(self):
            calls.append("rest")
            yield

    runner = Runner()
    setup.port.add_runner(runner)
    with setup.device.paused():
        assert calls == ["rest"]
    setup.port.remove_runner(runner)
    with setup.device.paused():
        pass
    assert calls == ["rest"]


def test_pairs_that_nobody_polls_are_named_once_and_shown(setup, caplog):
    with caplog.at_level(logging.WARNING):
        setup.start(rx=3)
        setup.guest.enable(False)
        setup.guest.enable(True)
        setup.host.loop.turn()
    [record] = [r for r in caplog.records if "waits" in r.message]
    assert record.message == (
        "net_avfbe_1 polls 3 queues: what the peer sends by queue pairs from 3 on waits"
    )
    assert setup.port.xstats()["rx_unserved_queues"] == 1
    setup.port.reset_stats()
    assert setup.port.xstats()["rx_unserved_queues"] == 1
    setup.guest.enable(False)
    assert setup.port.xstats()["rx_unserved_queues"] == 0


# -- address, MTU, modes


def test_its_address_is_the_devices(setup):
    assert setup.port.mac == bytes.fromhex("525400000001")
    setup.port.set_mac(MAC)  # which can't be set there: it is the port's own from now on
    assert setup.port.mac == MAC
    assert setup.guest.attributes["mac"] == "52:54:00:00:00:01"


def test_settings_are_the_devices_where_it_lets_them_be_set(host):
    made = Setup(host, "emu_settable,id=0").start()
    port, values = made.port, made.guest.attributes
    port.set_mac(MAC)
    assert values["mac"] == "02:03:04:05:06:07"
    port.set_mtu(4000)
    assert values["mtu"] == port.mtu == 4000
    port.set_promiscuous(True)
    port.set_all_multicast(True)
    assert (values["promiscuous"], values["all_multicast"]) == (True, True)
    with pytest.raises(ConfigError, match=r"net_avfbe_1: mtu: mtu: expected at most 8000"):
        port.set_mtu(8500)
    assert port.mtu == 4000
    values["mac"] = "02:00:00:00:00:09"  # the guest sets one
    assert port.mac[-1] == 9
    port.close()


def test_an_address_of_its_own_leaves_the_devices_alone(host):
    made = Setup(host, "emu_settable,id=0", ",mac=02:AA:00:00:00:01").start()
    assert made.port.mac == bytes.fromhex("02aa00000001")
    made.port.set_mac(MAC)
    assert made.port.mac == MAC
    assert made.guest.attributes["mac"] == "52:54:00:00:00:01"
    made.port.close()


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "x"])
def test_an_address_that_no_station_has_is_refused(host, mac):
    device = host.add("emu_port,id=0")
    with pytest.raises(ConfigError, match="mac"):
        host.add(f"net_avfbe,emu={device.name},mac={mac}")


def test_the_short_form_of_the_rfc_names_the_device(host):
    host.add("emu_port,id=3")
    port = host.add("net_avfbe,id=5,port_emu_id=3")
    assert (port.name, port.id, port.device.name) == ("net_avfbe_5", 5, "port_emudev_3")
    port.close()
