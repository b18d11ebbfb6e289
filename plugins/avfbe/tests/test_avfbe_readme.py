"""The program of the README runs as it is shown."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from emudev_core.host import Host
from emudev_core.plugins import Plugins, find_sources
from emudev_core.testing import loopback
from emudev_core.testing import port as core_port
from emudev_core.testing.builders import make_source

README = Path(__file__).parents[1] / "README.md"


class Enough(Exception):
    pass


def test_the_loop_of_the_readme_forwards_packets(monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    shown = types.ModuleType("shown")
    exec(compile(code, str(README), "exec"), vars(shown))
    plugins = Plugins([*find_sources(), make_source(loopback.SPEC, core_port.SPEC)])
    with Host(plugins=plugins) as host:
        guests = [host.add(f"emu_port,id={n}").members[0].plugin for n in (0, 1)]
        ports = shown.two_ports(host, "net_avfbe,port_emu_id=0", "net_avfbe,port_emu_id=1")
        guests[0].transmit(b"there" * 20)
        guests[1].transmit(b"back" * 20)
        turn, turns = host.loop.turn, iter(range(20))

        def count(*arguments):
            if next(turns, None) is None:
                raise Enough
            return turn(*arguments)

        monkeypatch.setattr(host.loop, "turn", count)
        with pytest.raises(Enough):
            shown.forward(host, *ports)
        assert guests[1].received() == [b"there" * 20]
        assert guests[0].received() == [b"back" * 20]
        assert all(guest.attributes["link"] for guest in guests)
