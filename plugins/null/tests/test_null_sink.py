"""The backend that drops everything."""

import pytest

from emudev_core import Host
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_plugins


@pytest.fixture
def host():
    specs = (exerciser.SPEC, port.SPEC, loopback.SPEC)
    with Host(plugins=make_plugins(*specs, installed=True)) as host:
        yield host


def test_frames_of_all_queues_are_taken_and_counted(host):
    device = host.add("emu_port,id=0,queues=2")
    backend = host.add("null,emu=port_emudev_0")
    host.start()
    guest = device.members[0].plugin
    assert guest.attributes["link"] is True
    for _ in range(300):
        guest.transmit(bytes(60))
    guest.transmit(bytes(100), pair=1)
    for _ in range(5):
        host.loop.turn(0.01)
    assert guest.waiting() == guest.waiting(1) == 0
    assert backend.stats() == {"frames": 301, "bytes": 300 * 60 + 100}
    device.stop()
    assert guest.attributes["link"] is False


def test_a_queue_that_is_disabled_rests_until_it_is_enabled(host):
    device = host.add("emu_port,id=0")
    host.add("null,emu=port_emudev_0")
    host.start()
    guest = device.members[0].plugin
    guest.enable(False)
    guest.transmit(bytes(60))
    host.loop.turn(0.01)
    assert guest.waiting() == 1
    guest.enable(True)
    for _ in range(3):
        host.loop.turn(0.01)
    assert guest.waiting() == 0
