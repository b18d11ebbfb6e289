"""Devices get as many queues as the ports in front of them are to have."""

from typing import Annotated

import pytest
from msgspec import Meta

from emudev_core.config import ProviderConfig
from emudev_core.errors import ConfigError
from emudev_core.plan import Planner
from emudev_core.specs import ProviderSpec
from emudev_core.testing.builders import make_plugins
from emudev_core.vdev import Entry, parse_vdev
from emudev_testpmd.command import with_queues


class Many(ProviderConfig):
    """Of a device that can have several queues."""

    queues: Annotated[int, Meta(ge=1, le=16)] = 1


class One(ProviderConfig):
    """Of a device that can't."""

    size: int = 1


PLUGINS = make_plugins(
    *(
        ProviderSpec(name=name, summary="", config=config, build=lambda *_: None, transport="")
        for name, config in (("emu_many", Many), ("emu_one", One))
    )
)


def queues_of(entry, queues):
    plan = Planner(PLUGINS).plan([with_queues(entry, queues, PLUGINS)])
    return plan.devices[0].config.queues


def test_a_device_gets_the_queues_that_its_port_is_to_have():
    assert queues_of(parse_vdev("emu_many,id=0"), 4) == 4
    assert queues_of(Entry("emu_many", {}, "$.vdev[0]", text=False), 4) == 4
    assert queues_of(parse_vdev("emu_many"), 1) == 1


def test_a_number_that_was_given_stays():
    assert queues_of(parse_vdev("emu_many,queues=2"), 4) == 2


def test_more_than_a_device_can_have_is_said_before_anything_is_made():
    with pytest.raises(ConfigError, match=r"emu_many: queues: .*16.*32"):
        queues_of(parse_vdev("emu_many"), 32)


@pytest.mark.parametrize("text", ["emu_one", "tap_backend,iface=tap0", "nobody"])
def test_what_knows_no_number_of_queues_is_left_alone(text):
    entry = parse_vdev(text)
    assert with_queues(entry, 4, PLUGINS) is entry
