"""The contract of all backends, with a real interface."""

import contextlib
import socket

import pytest

from emudev_core.testing.contracts import FrameBackendContract
from emudev_net.jit import compile_now
from emudev_tap_backend.backend import KERNELS

ETH_P_ALL = 3


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
class TestTapBackend(FrameBackendContract):
    vdev = "tap_backend,iface=tap7"

    @pytest.fixture
    def backend(self, host, device):
        """Started with compiled kernels, with a raw socket on the host's side of the interface."""
        compile_now(KERNELS)  # a NIC whose link is down drops frames
        backend = host.add(f"{self.vdev},emu={device.name}")
        host.start()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
            packets.bind(("tap7", ETH_P_ALL))
            packets.setblocking(False)
            self.packets = packets
            yield backend

    def outside_send(self, backend, frame):
        self.packets.send(frame)

    def outside_receive(self, backend, host):
        with contextlib.suppress(BlockingIOError):
            frame, address = self.packets.recvfrom(70000)
            if address[2] != socket.PACKET_OUTGOING:
                return frame
        return None
