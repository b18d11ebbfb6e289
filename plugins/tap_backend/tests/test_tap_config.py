import subprocess
import sys

import msgspec
import pytest

from emudev_core import BackendSpec
from emudev_core.errors import ConfigError
from emudev_tap_backend import plugin
from emudev_tap_backend.config import TapConfig
from emudev_tap_backend.links import Link, TunFacts
from emudev_tap_backend.tap import Plan, plan


def config(**keys):
    return msgspec.convert({"iface": "tap0", **keys}, TapConfig)


def tap(*, multi_queue=False, attached=0, kind="tap"):
    return Link(7, "tap0", True, 1500, "tun", TunFacts(kind, multi_queue, attached=attached))


def test_the_name_alone_is_enough():
    made = config()
    assert (made.create, made.vnet_hdr, made.up) == ("auto", "auto", True)
    assert made.mtu is None
    assert made.queues is None
    assert made.sndbuf is None


def test_a_name_of_fifteen_characters_is_the_longest():
    assert config(iface="a" * 15).iface == "a" * 15
    with pytest.raises(msgspec.ValidationError, match=r"length <= 15 - at `\$\.iface`"):
        config(iface="a" * 16)


def test_an_interface_is_for_one_backend_with_all_its_queues():
    one, same, other = (
        list(config(iface=name, queues=queues).claims())
        for name, queues in (("tap0", 1), ("tap0", 2), ("tap1", 1))
    )
    assert one == same
    assert not set(one) & set(other)


@pytest.mark.parametrize("name", ["tap/0", "tap%d", "a:1", "a b", "tap\n", "größe", ".", ".."])
def test_names_that_the_kernel_refuses_or_expands_are_refused(name):
    with pytest.raises(msgspec.ValidationError, match="can't be the name of an interface"):
        config(iface=name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("create", "maybe"),
        ("vnet_hdr", "yes please"),
        ("mtu", 67),
        ("mtu", 65522),
        ("queues", 0),
        ("queues", 257),
        ("sndbuf", 1),
        ("workers", -1),
        ("workers", 17),
        ("polling", True),  # who should, without workers?
        ("colour", "red"),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused(key, value):
    with pytest.raises(msgspec.ValidationError):
        config(**{key: value})


def test_every_key_is_described():
    schema = msgspec.json.schema(TapConfig)["$defs"]["TapConfig"]["properties"]
    assert set(schema) == {
        "iface",
        "create",
        "mtu",
        "queues",
        "up",
        "vnet_hdr",
        "sndbuf",
        "workers",
        "polling",
    }
    assert all(entry.get("description") for entry in schema.values())


def test_the_plugin_offers_one_backend_for_one_device():
    (spec,) = plugin.emudev_backends()
    assert isinstance(spec, BackendSpec)
    assert (spec.name, spec.devices, spec.config) == ("tap_backend", ("emu",), TapConfig)


def test_offering_it_loads_nothing_heavy():
    code = (
        "import sys, emudev_tap_backend.plugin as p; list(p.emudev_backends());"
        "heavy = {'numpy', 'numba', 'pyroute2', 'asyncio'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_missing_interface_is_created_with_a_queue_a_pair():
    assert plan(config(), None, 1) == Plan(False, multi_queue=False, queues=1, shared=False)
    assert plan(config(), None, 4) == Plan(False, multi_queue=True, queues=4, shared=False)
    assert plan(config(queues=1), None, 4) == Plan(False, multi_queue=False, queues=1, shared=False)


def test_an_existing_interface_decides_on_multi_queue():
    assert plan(config(), tap(), 4) == Plan(True, multi_queue=False, queues=1, shared=False)
    many = tap(multi_queue=True)
    assert plan(config(), many, 4) == Plan(True, multi_queue=True, queues=4, shared=False)
    assert plan(config(queues=1), many, 4) == Plan(True, multi_queue=True, queues=1, shared=False)


def test_an_interface_that_others_use_is_shared():
    assert plan(config(), tap(multi_queue=True, attached=1), 1).shared


@pytest.mark.parametrize(
    ("keys", "link", "message"),
    [
        ({"create": "no"}, None, r"there is no interface tap0 and create=no \(ip tuntap add"),
        ({"create": "yes"}, tap(), "interface tap0 exists and create=yes"),
        ({}, tap(kind="tun"), "tap0 is no TAP interface but a TUN interface"),
        ({}, Link(2, "tap0", True, 1500, "veth"), "but an interface of kind veth"),
        ({"create": "yes"}, Link(2, "tap0", True, 1500), "but hardware or loopback"),
        ({"queues": 2}, tap(), "2 queues, but interface tap0 has one"),
        ({"queues": 3}, tap(multi_queue=True), "3 queues for a device with 2 queue pairs"),
    ],
)
def test_what_does_not_fit_is_a_mistake_of_the_user(keys, link, message):
    with pytest.raises(ConfigError, match=message):
        plan(config(**keys), link, 2)
