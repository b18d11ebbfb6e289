"""What the tests of the control socket share: a process of one device, served in this thread."""

import pytest

from emudev_core.control.server import ControlServer
from emudev_core.host import Host
from emudev_core.testing import port
from emudev_core.testing.builders import make_plugins
from emudev_core.testing.control import Wire


@pytest.fixture
def port_host():
    """A host whose one device, of two pairs of queues, is started."""
    with Host(plugins=make_plugins(port.SPEC)) as made:
        made.add("emu_port,id=0,queues=2,transport=")
        made.start()
        yield made


@pytest.fixture
def port_device(port_host):
    """The device of `port_host`."""
    return port_host.registry.get("port_emudev_0")


@pytest.fixture
def server(port_host, tmp_path):
    """The control socket of `port_host`."""
    with ControlServer(port_host.registry, port_host.loop, tmp_path / "ctl.sock") as made:
        yield made


@pytest.fixture
def wire(server):
    """A client of bytes, behind the server's first line."""
    with Wire(server) as made:
        assert made.line()["type"] == "hello"
        yield made
