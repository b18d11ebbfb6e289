"""What the pages show works as it is shown."""

import importlib.util
import re
import shlex
import sys
import time
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


@pytest.fixture
def shown_on_ports(tmp_path):
    """The code of the page on ports, as a module: what is compiled needs a file."""
    pytest.importorskip("emudev_net", reason="emudev-net is not installed")
    path = tmp_path / "shown_on_ports.py"
    path.write_text("\n".join(blocks("ports.md", "python")))
    spec = importlib.util.spec_from_file_location("shown_on_ports", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["shown_on_ports"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["shown_on_ports"]


@pytest.fixture
def two_ports():
    pytest.importorskip("emudev_net", reason="emudev-net is not installed")
    from emudev_net.memory_port import MemoryPort

    with Host(plugins=make_plugins()) as host:
        ports = [MemoryPort(f"net_memory_{n}", host.loop) for n in (0, 1)]
        for one in ports:
            one.configure(1, 1)
            one.start()
        while not all(one.ready for one in ports):
            host.loop.turn(0.01)
        yield host, ports
        for one in ports:
            one.close()


def test_the_loop_of_the_page_on_ports_forwards_packets(shown_on_ports, two_ports, monkeypatch):
    host, (one, two) = two_ports
    one.arrive([b"there" * 20])
    two.arrive([b"back" * 20] * 300)
    turns = iter([None] * 10)
    monkeypatch.setattr(host.loop, "turn", lambda: next(turns))
    with pytest.raises(StopIteration):
        shown_on_ports.forward(host, one, two)
    assert [packet.data for packet in two.sent()] == [b"there" * 20]
    assert [packet.data for packet in one.sent()] == [b"back" * 20] * 300


def test_the_flow_of_the_page_on_ports_forwards_and_edits_packets(shown_on_ports, two_ports):
    from emudev_net.jit import compile_now

    host, (one, two) = two_ports
    mac = bytes.fromhex("525400123456")
    there = shown_on_ports.join(host, one, two, edit=shown_on_ports.to_station(mac))
    back = shown_on_ports.join(host, two, one)
    ipv4, arp = bytes(12) + b"\x08\x00" + bytes(86), bytes(12) + b"\x08\x06" + bytes(46)
    for _ in range(2):  # as it comes, and compiled
        one.arrive([ipv4, arp, ipv4[:30], ipv4])
        two.arrive([arp])
        host.loop.turn()
        assert [packet.data for packet in two.sent()] == [mac + ipv4[6:]] * 2
        assert [packet.data for packet in one.sent()] == [arp]
        compile_now([shown_on_ports.readdress, *shown_on_ports.flows.KERNELS])
    assert there.stats()["refused"] == 4
    there.close()
    back.close()


def test_the_workers_of_the_page_on_ports_run_its_flows(shown_on_ports, two_ports):
    from emudev_net import worker_kernels
    from emudev_net.jit import compile_now, jit_wanted

    if not jit_wanted():
        pytest.skip("workers run compiled kernels only")
    compile_now([*worker_kernels.KERNELS, *shown_on_ports.flows.KERNELS])
    host, (one, two) = two_ports
    flows = [shown_on_ports.join(host, one, two), shown_on_ports.join(host, two, one)]
    pool = shown_on_ports.join_on_workers(host, [one, two], flows)
    with pool.pause():
        one.arrive([bytes(60)])
    deadline = time.monotonic() + 5
    while two.sinks[0].frames == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    pool.close()
    for flow in flows:
        flow.close()
