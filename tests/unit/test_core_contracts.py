"""The core's own test devices pass the contracts that plugins have to pass."""

import ctypes

import pytest

from emudev_core.config import BackendConfig
from emudev_core.hooks import hookimpl
from emudev_core.plugins import Plugins
from emudev_core.queues import rx_queue, tx_queue
from emudev_core.specs import BackendSpec
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_plugins
from emudev_core.testing.contracts import FrameBackendContract, ProviderContract, TransportContract


class TestExerciser(ProviderContract):
    vdev = "emu_exerciser,faulty=no"


class TestPort(ProviderContract):
    vdev = "emu_port,queues=3"


class TestLoopback(TransportContract):
    transport = "loopback"


class Mirror:
    """A backend that sends each frame back, and keeps a copy for its outside."""

    def __init__(self, config, context):
        self._loop = context.loop
        self._task = None
        self.seen = []
        self.waiting = []

    @hookimpl
    def emudev_backend_offered(self, device):
        return None if device.get_dev_info().max_queue_pairs else "it has no queues"

    @hookimpl
    def emudev_backend_started(self, device):
        self._device = device
        self._task = self._loop.task(self._move)
        self._bell = device.get_db_info(device.get_queue_info(tx_queue(0)).doorbell)
        self._bell.subscribe(self._task.mark)

    @hookimpl
    def emudev_backend_stopped(self, device):
        self._bell.unsubscribe(self._task.mark)
        self._task.close()

    def send(self, frame):
        self.waiting.append(frame)
        self._task.mark()

    def _move(self):
        burst = (ctypes.c_int64 * 64)()
        address = ctypes.addressof(burst)
        transmit = self._device.get_queue_info(tx_queue(0)).kernels
        receive = self._device.get_queue_info(rx_queue(0)).kernels
        rows = transmit.peek(transmit.state, address, 8)
        for row in range(rows):
            self.seen.append(ctypes.string_at(burst[8 * row], burst[8 * row + 1]))
        transmit.release(transmit.state, address, rows)
        if rows == 8:
            self._task.mark()
        for frame in self.waiting:
            data = ctypes.create_string_buffer(frame, len(frame))
            burst[0:3] = [ctypes.addressof(data), len(frame), 3]
            receive.push(receive.state, address, 1)
        self.waiting.clear()


MIRROR = BackendSpec(name="mirror", summary="For tests", config=BackendConfig, build=Mirror)


class TestMirror(FrameBackendContract):
    vdev = "mirror"

    @pytest.fixture
    def plugins(self) -> Plugins:
        return make_plugins(MIRROR, loopback.SPEC, exerciser.SPEC, port.SPEC)

    def outside_send(self, backend, frame):
        backend.send(frame)

    def outside_receive(self, backend, host):
        return backend.seen.pop(0) if backend.seen else None
