"""Flow rules and traffic classes of a whole device, through the reference driver.

The backend gives the guest's frames back to it, so what the driver sends is what it receives.
"""

import struct

import pytest

pytest.importorskip("emudev_null", reason="the transport inproc")

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.registers import MAP
from emudev_avf.virtchnl.opcodes import Cap
from emudev_core import attributes
from emudev_core.hooks import hookimpl
from emudev_core.host import Host
from emudev_core.queues import rx_queue, tx_queue
from emudev_core.testing.contract import turn_until
from emudev_net import flow as flows
from emudev_net.flow import Flow
from emudev_net.jit import compile_now
from emudev_pci.guest import GuestFunction

ADD_FDIR, DEL_FDIR, ENABLE_CHANNELS, ADD_CLOUD = 47, 48, 30, 32
PAIRS = 4
DROP, QUEUE, MARK = 0, 3, 5
SOURCE, TARGET = bytes([192, 168, 77, 1]), bytes([192, 168, 77, 2])


class Looped:
    """A backend that gives the frames of the guest back to it."""

    def __init__(self, loop):
        self.loop = loop
        self.flows = []

    @hookimpl
    def emudev_backend_started(self, device):
        for pair in range(PAIRS):
            source, sink = (device.get_queue_info(q(pair)) for q in (tx_queue, rx_queue))
            flow = Flow(self.loop, source.kernels, sink.kernels)
            device.get_db_info(source.doorbell).subscribe(flow.kick)
            self.flows.append(flow)
        device.set_attr(attributes.LINK, True)

    @hookimpl
    def emudev_backend_event(self, device, event):
        for flow in self.flows:
            flow.kick()

    @hookimpl
    def emudev_backend_stopped(self, device):
        for flow in self.flows:
            flow.close()


class Machine:
    """A device of 4 queue pairs, and the driver in its guest."""

    def __init__(self, host):
        compile_now((*rings.KERNELS, *flows.KERNELS))
        self.host = host
        self.device = host.add(f"emu_iavf,id=0,transport=inproc,queues={PAIRS}")
        self.avf = self.device.members[0].plugin
        self.device.register(Looped(host.loop), "looped_0")
        host.start()
        turn_until(host, lambda: self.avf.ready, 60)
        self.driver = AvfDriver(
            GuestFunction(host.connect(self.device), {0: MAP}), queues=PAIRS, ring=64
        )
        self.driver.probe()
        self.driver.open()

    def add(self, port, *actions):
        """A rule for UDP over IPv4 to a port; returns flow id and status."""
        hdrs = struct.pack("<BxxxI", 0, 2) + struct.pack("<iI64s", 4, 0, b"")
        hdrs += struct.pack("<iI64s", 7, 2, struct.pack(">HH", 0, port))
        row = struct.pack("<I", len(actions)) + b"".join(actions)
        data = self.driver.admin.request(
            ADD_FDIR,
            struct.pack("<HHI", 1, 0, 0) + hdrs.ljust(2312, b"\0") + row.ljust(296, b"\0"),
        )
        return struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<i", data, 2612)[0]

    def pass_frame(self, port, protocol=17, sport=1000):
        """Send a frame to itself; returns (queue, frame) or None."""
        segment = struct.pack(">HHHHIBBHHH", sport, port, 0, 0, 0, 0x50, 0, 0, 0, 0)
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0, 64, protocol, 0)
        mac = self.driver.resources.mac
        self.driver.send(mac + mac + b"\x08\0" + head + SOURCE + TARGET + segment)
        for _ in range(20):
            for queue in range(PAIRS):
                for got in self.driver.receive(0.001, queue=queue):
                    return queue, got
        return None


@pytest.fixture
def machine():
    with Host() as host:
        yield Machine(host)


def action(kind, conf=b""):
    return struct.pack("<i32s", kind, conf)


def queue(index):
    return action(QUEUE, struct.pack("<HB", index, 0))


def test_rules_of_the_driver_steer_drop_and_mark_until_they_go(machine):
    assert machine.add(7001, queue(2)) == (1, 0)
    assert machine.add(7002, action(DROP)) == (2, 0)
    assert machine.add(7003, queue(3), action(MARK, struct.pack("<I", 77))) == (3, 0)
    assert machine.pass_frame(7001)[0] == 2
    assert machine.pass_frame(7002) is None
    marked_queue, marked = machine.pass_frame(7003)
    assert (marked_queue, marked.mark) == (3, 77)
    assert machine.pass_frame(7001)[1].mark is None
    assert machine.device.get_attr("rule_drops") == 1
    data = machine.driver.admin.request(DEL_FDIR, struct.pack("<HHIi", 1, 0, 2, 0))
    assert data == struct.pack("<HHIi", 1, 0, 2, 0)
    assert machine.pass_frame(7002) is not None


def test_a_reset_forgets_the_rules(machine):
    machine.add(7002, action(DROP))
    machine.driver.reset()
    assert machine.pass_frame(7002) is not None
    assert machine.add(7002, action(DROP)) == (1, 0)


def test_rules_are_saved_and_come_back(machine):
    machine.add(7002, action(DROP))
    machine.add(7001, queue(1), action(MARK, struct.pack("<I", 5)))
    saved = machine.device.save()
    with Host() as host:
        other = host.add(f"emu_iavf,id=0,transport=inproc,queues={PAIRS}")
        other.configure()
        other.restore(saved)
        avf = other.members[0].plugin
        assert len(avf.vf.state.rules) == 2
        assert avf.vf.state.rules == machine.avf.vf.state.rules
        assert avf.port.words[22] != 0


def test_traffic_classes_come_with_a_reset_and_filters_use_them(machine):
    driver = machine.driver
    assert Cap.ADQ in driver.resources.caps
    body = struct.pack("<IIHHIQHHIQ", 2, 0, 2, 0, 0, 0, 2, 2, 0, 0)
    driver.admin.send(ENABLE_CHANNELS, body)
    driver._recover()
    frame = bytes(32) + TARGET + bytes(14) + struct.pack(">H", 7001) + bytes(76)
    mask = bytes(32) + b"\xff" * 4 + bytes(14) + b"\xff\xff" + bytes(76)
    driver.admin.request(ADD_CLOUD, frame + mask + struct.pack("<iiIB3x", 0, 1, 1, 0))
    found = {machine.pass_frame(7001, 6, sport)[0] for sport in range(1000, 1016)}
    assert found == {2, 3}
    found = {machine.pass_frame(7002, 6, sport)[0] for sport in range(1000, 1016)}
    assert found == {0, 1}
