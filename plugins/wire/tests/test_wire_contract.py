"""The contract of all backends: the suite's device is one end, a second one the other."""

from emudev_core.testing import port
from emudev_core.testing.contracts import FrameBackendContract


class TestWire(FrameBackendContract):
    vdev = "wire"

    def devices(self, host, device):
        self.other = host.add("emu_port,id=7")
        return f"a={device.name},b={self.other.name}"

    @property
    def outside(self) -> port.Port:
        return self.other.members[0].plugin

    def outside_send(self, backend, frame):
        self.outside.transmit(frame)

    def outside_receive(self, backend, host):
        if not hasattr(self, "arrived"):
            self.arrived = []
        self.arrived += self.outside.received()
        return self.arrived.pop(0) if self.arrived else None


class TestOtherEnd(TestWire):
    """The ends are alike."""

    def devices(self, host, device):
        self.other = host.add("emu_port,id=7")
        return f"a={self.other.name},b={device.name}"


class TestSeveralQueues(TestWire):
    """The other end has more."""

    def devices(self, host, device):
        self.other = host.add("emu_port,id=7,queues=3")
        return f"a={device.name},b={self.other.name}"
