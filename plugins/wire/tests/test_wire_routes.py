"""Which queue leads to which."""

import pytest

from emudev_core.errors import ConfigError
from emudev_core.host import Host
from emudev_core.plugins import Plugins, find_sources
from emudev_core.testing import loopback, port
from emudev_core.testing.builders import make_source
from emudev_wire.routes import NOWHERE, Route, Usable, plan_routes


def usable(receiving, sending):
    return Usable(tuple(receiving), tuple(sending))


def test_alike_ends_are_joined_number_to_number():
    both = usable([0, 1], [0, 1])
    assert plan_routes([both, both]) == (
        Route(0, 0, 0),
        Route(0, 1, 1),
        Route(1, 0, 0),
        Route(1, 1, 1),
    )


def test_more_senders_than_receivers_share_those_that_are_enabled():
    many, few = usable(range(5), range(5)), usable([1, 3], [1])
    routes = plan_routes([many, few])
    assert [r.sink for r in routes if r.end == 0] == [1, 1, 1, 3, 1]
    assert [(r.pair, r.sink) for r in routes if r.end == 1] == [(1, 1)]


def test_frames_for_an_end_that_is_down_go_nowhere():
    assert plan_routes([usable([], [0, 2]), usable([], [])]) == (
        Route(0, 0, NOWHERE),
        Route(0, 2, NOWHERE),
    )


@pytest.fixture
def host():
    own = make_source(loopback.SPEC, port.SPEC, distribution="emudev-core-testing")
    with Host(plugins=Plugins([*find_sources(), own])) as host:
        yield host


def test_a_device_is_not_joined_to_itself(host):
    host.add("emu_port,id=0")
    with pytest.raises(ConfigError, match=r"both ends are port_emudev_0.*echo"):
        host.add("wire,a=port_emudev_0,b=port_emudev_0")


@pytest.mark.parametrize("missing", ["a", "b"])
def test_both_ends_have_to_be_named(host, missing):
    host.add("emu_port,id=0")
    other = {"a": "b", "b": "a"}[missing]
    with pytest.raises(ConfigError, match=f"expected {missing}=DEVICE"):
        host.add(f"wire,{other}=port_emudev_0")


def test_polling_needs_workers(host):
    host.add("emu_port,id=0")
    host.add("emu_port,id=1")
    with pytest.raises(ConfigError, match="no workers to poll"):
        host.add("wire,a=port_emudev_0,b=port_emudev_1,polling=yes")


def test_queues_that_can_not_be_run_in_parallel_take_one_worker(host):
    host.add("emu_port,id=0")
    host.add("emu_port,id=1")
    host.add("wire,a=port_emudev_0,b=port_emudev_1,workers=2")
    with pytest.raises(Exception, match=r"one thread at a time|workers run compiled"):
        host.start()
