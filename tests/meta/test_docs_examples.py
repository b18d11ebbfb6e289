"""What the pages show works as it is shown."""

import importlib.util
import re
import shlex
import types
from pathlib import Path
from typing import Any

import pytest

from emudev_core.config import BackendConfig, ObserverConfig, ProviderConfig, TransportConfig
from emudev_core.host import Host
from emudev_core.lifecycle import State
from emudev_core.plan import Planner
from emudev_core.plugins import Plugins, Source
from emudev_core.specs import BackendSpec, ObserverSpec, ProviderSpec, TransportSpec
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_plugins, make_source
from emudev_core.vdev import parse_toml, parse_vdev

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page, language):
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Avf(ProviderConfig):
    queues: int = 1


class VfioUser(TransportConfig):
    path: str


class Tap(BackendConfig):
    iface: str


PLUGINS = make_plugins(
    ProviderSpec(name="emu_iavf", summary="", device="avf", config=Avf, build=Any),
    TransportSpec(name="vfio_user", summary="", config=VfioUser, serve=Any),
    BackendSpec(name="tap_backend", summary="", config=Tap, build=Any),
    ObserverSpec(name="count_reads", summary="", config=ObserverConfig, build=Any),
)


def shown_commands(page):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^ +(emudev run --vdev .*)$", text, re.MULTILINE)


def plan_of(command):
    words = shlex.split(command)
    given = {"--vdev": [], "--observe": []}
    for option, value in zip(words[2::2], words[3::2], strict=True):
        given[option].append(parse_vdev(value, option))
    return Planner(PLUGINS).plan(given["--vdev"], given["--observe"])


def test_the_file_and_the_command_line_of_the_configuration_page_are_the_same(tmp_path):
    [shown] = blocks("configuration.md", "toml")
    path = tmp_path / "emudev.toml"
    path.write_text(shown)
    [command] = shown_commands("docs/configuration.md")
    assert Planner(PLUGINS).plan(*parse_toml(path)) == plan_of(command)


def test_the_command_of_the_readme_is_valid():
    [command] = shown_commands("README.md")
    plan = plan_of(command)
    assert [device.name for device in plan.devices] == ["avf_emudev_0"]
    assert dict(plan.backends[0].devices) == {"emu": "avf_emudev_0"}


def test_the_backend_of_the_tutorial_runs():
    [code] = blocks("write-a-backend.md", "python")
    module = types.ModuleType("emudev_counter")
    exec(compile(code, "write-a-backend.md", "exec"), vars(module))
    own = make_source(loopback.SPEC, exerciser.SPEC, port.SPEC)
    plugins = Plugins([own, Source("counter", "emudev-counter", "1.0", lambda: module)])
    assert plugins.failures == []
    with Host(plugins=plugins) as host:
        device = host.add("emu_port,id=0")
        counter = host.add("counter,port_emu_id=0")
        host.start()
        guest = device.members[0].plugin
        guest.transmit(bytes(60))
        guest.transmit(bytes(60))
        guest.enable(False)
        host.loop.turn()
        assert counter.rings == 2
        assert device.get_attr("link") is True
        device.stop()
        guest.transmit(bytes(60))
        assert counter.rings == 2


def test_the_device_of_the_tutorial_runs():
    if importlib.util.find_spec("emudev_pci") is None:
        pytest.skip("emudev-pci is not installed")
    from emudev_pci.guest import GuestFunction

    shown = [code for code in blocks("write-a-provider.md", "python") if "RegisterMap" in code]
    scope = {"__name__": "emudev_dice.device"}
    exec(compile(shown[0], "write-a-provider.md", "exec"), scope)
    spec = ProviderSpec(
        name="emu_dice",
        summary="",
        config=ProviderConfig,
        build=scope["Dice"],
        transport="loopback",
    )
    with Host(plugins=make_plugins(loopback.SPEC, spec)) as host:
        device = host.add("emu_dice,id=0")
        host.start()
        client = host.connect(device)
        dice = GuestFunction(client, {0: scope["MAP"]})
        dice.enable()
        page = dice.map_memory(4096)
        dice.bar[0].TARGET = page.address
        dice.bar[0].AGAIN = 1
        assert dice.vectors[0].wait(timeout=1)
        assert 1 <= page.read_u32(0) <= 6
        dice.close()
        assert device.state is State.STARTED
