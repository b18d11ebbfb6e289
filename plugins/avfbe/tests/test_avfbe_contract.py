"""The port passes the suite of all ports and the suite of all backends, over two devices."""

from __future__ import annotations

import importlib.util
import os

import pytest

from emudev_core.testing.contract import turn_until
from emudev_core.testing.contracts import BackendContract
from emudev_net.burst import Burst
from emudev_net.testing import FramePortContract


class TestBackend(BackendContract):
    """As a backend, it takes nothing by itself: an application does."""

    vdev = "net_avfbe"

    @pytest.fixture
    def backend(self, host, device):
        port = host.add(f"{self.vdev},emu={device.name}")
        host.start()
        port.configure(1, 1)
        port.start()
        yield port
        port.close()

    def test_the_guests_frames_are_released(self, host, backend, guest):
        """By an application that drops them."""
        burst = Burst(16)
        for length in (60, 64, 1514, 9014):
            guest.transmit(bytes(length))
        assert backend.rx_burst(0, burst) == 4
        backend.rx_release(0, burst)
        assert guest.waiting() == 0


class TestOverPlainQueues(FramePortContract):
    vdev = "net_avfbe"
    device = "emu_port,id=0,queues=3"

    def arrive(self, other, port, frames):
        for frame in frames:
            guest_of(port).transmit(frame)

    def sent(self, other, port):
        return guest_of(port).received()


def guest_of(port):
    return port.device.members[0].plugin


@pytest.mark.skipif(importlib.util.find_spec("emudev_avf") is None, reason="emudev-avf is missing")
@pytest.mark.skipif(importlib.util.find_spec("emudev_null") is None, reason="no inproc transport")
class TestOverAvf(FramePortContract):
    """Its guest is the reference driver."""

    vdev = "net_avfbe"
    device = "emu_iavf,id=0,transport=inproc"

    def connect(self, host, port):
        from emudev_avf.driver.netdev import AvfDriver
        from emudev_avf.registers import MAP
        from emudev_pci.guest import GuestFunction

        function = GuestFunction(host.connect(port.device), {0: MAP})
        driver = AvfDriver(function)
        driver.probe()
        driver.open()
        return driver

    def disconnect(self, other):
        other.remove()
        other.function.close()

    def address(self, other):
        return other.resources.mac

    def arrive(self, other, port, frames):
        for frame in frames:
            other.send(frame)

    def sent(self, other, port):
        return [received.frame for received in other.receive(0.05)]


SOCKET = f"emudev-ports-{os.getpid()}"


@pytest.mark.skipif(
    importlib.util.find_spec("emudev_memif") is None, reason="emudev-memif is missing"
)
class TestOverMemifServer(FramePortContract):
    """Its peer is a port over another interface, of the other role."""

    vdev = "net_avfbe"
    device = f"emu_memif,role=server,id=0,socket={SOCKET}"
    peer = f"emu_memif,role=client,id=1,memif-id=0,socket={SOCKET}"

    def connect(self, host, port):
        device = host.add(self.peer)
        peer = host.add(f"net_avfbe,id=8,emu={device.name}")
        host.start()
        peer.configure(1, 1)
        peer.start()
        turn_until(host, lambda: peer.link().up, 30)
        return peer

    def disconnect(self, other):
        other.close()

    def arrive(self, other, port, frames):
        port.rx_burst(0, Burst(8))  # it posts buffers when it looks
        burst = Burst.of(frames)
        assert other.tx_burst(0, burst) == burst.count

    def sent(self, other, port):
        burst = Burst(64)
        other.rx_burst(0, burst)
        found = [packet.data for packet in burst.packets()]
        other.rx_release(0, burst)
        return found


class TestOverMemifClient(TestOverMemifServer):
    device = f"emu_memif,role=client,id=0,memif-id=1,socket={SOCKET}"
    peer = f"emu_memif,role=server,id=1,socket={SOCKET}"
