"""What every backend keeps."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from ..device import Device
from ..errors import EmudevError
from ..events import Event, EventKind
from ..host import Host
from ..lifecycle import State
from . import port
from .builders import descriptors, left_open
from .contract import Contract, turn_until

__all__ = ["BackendContract", "FrameBackendContract"]


class BackendContract(Contract):
    """What a host may rely on in every backend.

    Attributes:
        vdev: The backend under test without its device, such as ``tap_backend,iface=tap7``.
    """

    vdev: ClassVar[str]

    def devices(self, host: Host, device: Device) -> str:
        """The keys that name its devices; one of several devices adds the others here."""
        return f"emu={device.name}"

    @pytest.fixture
    def device(self, host: Host) -> Device:
        """A `port`, not started."""
        device: Device = host.add("emu_port,id=0")
        return device

    @pytest.fixture
    def guest(self, device: Device) -> port.Port:
        """The guest's side of it."""
        provider = device.members[0].plugin
        assert isinstance(provider, port.Port)
        return provider

    @pytest.fixture
    def backend(self, host: Host, device: Device) -> Any:
        """The backend, started."""
        backend = host.add(f"{self.vdev},{self.devices(host, device)}")
        host.start()
        return backend

    def test_building_opens_nothing(self, host: Host, device: Device) -> None:
        """Mistakes of other entries must show before anything is opened."""
        before = descriptors()
        host.add(f"{self.vdev},{self.devices(host, device)}")
        assert left_open(before) == []

    def test_a_device_without_queues_is_refused_with_a_reason(self, host: Host) -> None:
        """Before anything starts."""
        device = host.add("emu_exerciser,id=0")
        host.add(f"{self.vdev},{self.devices(host, device)}")
        with pytest.raises(EmudevError, match=r"refuses exerciser_emudev_0: \w"):
            host.start()
        assert device.state is not State.STARTED

    def test_it_stops_and_starts_again(self, backend: Any, device: Device) -> None:
        """Twice, and gives everything back."""
        device.stop()
        before = descriptors()
        for _ in range(2):
            device.start()
            device.stop()
        assert left_open(before) == []

    def test_it_survives_every_event(
        self, host: Host, backend: Any, device: Device, guest: port.Port
    ) -> None:
        """Also ones that it has no use for, with queues disabled and enabled in between."""
        for kind in EventKind:
            device.post_event(Event(kind, queue=0, value=1))
            host.loop.turn()
        for enabled in (False, True, False, True):
            guest.enable(enabled)
            host.loop.turn()
        device.post_event(Event(EventKind.QUEUE_STATE, queue=99, value=1))
        host.loop.turn()
        assert device.state is State.STARTED

    def test_the_guests_frames_are_released(
        self, host: Host, backend: Any, guest: port.Port
    ) -> None:
        """Whatever becomes of them, the guest gets its buffers back."""
        for length in (60, 64, 1514, 9014):
            guest.transmit(_frame(length))
        turn_until(host, lambda: guest.waiting() == 0)


class FrameBackendContract(BackendContract):
    """What a host may rely on in a backend whose outside a test can reach, besides."""

    def outside_send(self, backend: Any, frame: bytes) -> None:
        """Send a frame from the backend's outside towards the guest."""
        raise NotImplementedError

    def outside_receive(self, backend: Any, host: Host) -> bytes | None:
        """The next frame that reached the backend's outside, or None if there is none (yet)."""
        raise NotImplementedError

    def test_frames_leave_as_they_are(self, host: Host, backend: Any, guest: port.Port) -> None:
        """In order, byte for byte."""
        sent = [_frame(length) for length in (60, 61, 600, 1514)]
        for frame in sent:
            guest.transmit(frame)
        arrived: list[bytes] = []

        def complete() -> bool:
            frame = self.outside_receive(backend, host)
            if frame is not None and frame in sent:
                arrived.append(frame)
            return len(arrived) == len(sent)

        turn_until(host, complete)
        assert arrived == sent

    def test_frames_arrive_as_they_are(self, host: Host, backend: Any, guest: port.Port) -> None:
        """In order, byte for byte."""
        sent = [_frame(length) for length in (60, 61, 600, 1514)]
        for frame in sent:
            self.outside_send(backend, frame)
        arrived: list[bytes] = []

        def complete() -> bool:
            arrived.extend(frame for frame in guest.received() if frame in sent)
            return len(arrived) == len(sent)

        turn_until(host, complete)
        assert arrived == sent


def _frame(length: int) -> bytes:
    """A frame of a private EtherType, to a group address, that no host answers."""
    head = bytes.fromhex("0300000000aa0252540000aa88b5")
    return head + bytes((length + i) & 0xFF for i in range(length - len(head)))
