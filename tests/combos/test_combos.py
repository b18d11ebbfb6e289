"""Every installed provider over every transport with every backend, third parties' included.

Device and guest share the test's thread: the client lets the host's loop turn while it waits.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from drivers import VARIANTS, Driver, Variant
from recipes import COUNTS, HOST_MAC, TRANSPORT_KEYS, Far, far_side, needs_keys, vdev
from wires import Wire, as_port

from emudev_core.errors import EmudevError
from emudev_core.host import Host
from emudev_core.lifecycle import State
from emudev_core.plugins import load_plugins

PLUGINS = load_plugins()


def combinations() -> Iterator[Any]:
    """Each way to set a provider up, over each transport that it takes, with each backend."""
    for name, spec in PLUGINS.providers.items():
        # One that names no transport is reached by itself.
        transports = PLUGINS.transports if spec.transport else [""]
        for variant, transport, backend in itertools.product(
            VARIANTS.get(name, [Variant()]), transports, PLUGINS.backends
        ):
            names = (name, variant.name, transport, backend)
            yield pytest.param(
                name, variant, transport, backend, id="-".join(part for part in names if part)
            )


COMBINATIONS = list(combinations())
if not COMBINATIONS:
    pytest.skip("no provider, transport and backend are installed", allow_module_level=True)

SMALL = 60
FULL = 1514
JUMBO = 9014


def descriptors() -> list[str]:
    """Descriptors of this process, by what they are."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sorted(found)


class OtherEnd:
    """The second device of a backend that joins two: what its guest does is the far side."""

    def __init__(self, host: Host, device: Any, variant: Variant, folder: Path) -> None:
        self.folder = folder
        self._host = host
        self._device = device
        self._variant = variant
        self._driver: Driver | None = None

    def join(self, far: Far) -> None:
        """Its guest, with or without a link by now; again does nothing."""
        if self._driver is not None:
            return
        assert self._variant.driver is not None
        driver = self._driver = self._variant.driver(self._host, self._device)
        driver.open(wait=False)
        far.mac = driver.mac
        far.send = driver.send

        def receive(fits: Callable[[bytes], bool], turn: Callable[[], None]) -> bytes | None:
            for _ in range(200):
                turn()
                driver.service()
                for frame in driver.receive(0.005):
                    if fits(frame):
                        return frame
            return None

        far.receive = receive

    def leave(self) -> None:
        """Its guest goes."""
        if self._driver is not None:
            self._driver.vanish()


class Combination:
    """One provider, transport and backend, started."""

    def __init__(
        self, provider: str, variant: Variant, transport: str, backend: str, far: Far, folder: Path
    ) -> None:
        self.host = Host(plugins=PLUGINS)
        self.far = far
        self.provider = provider
        self.transport = transport
        self._variant = variant
        self._wire: Wire | None = None
        own = variant.keys.format(folder=folder)
        keys = TRANSPORT_KEYS.get(transport, "").format(folder=folder)
        for kind, name, given in (
            ("transports", transport, keys),
            ("providers", provider, own),
            ("backends", backend, far.keys),
        ):
            if name and (reason := needs_keys(PLUGINS, kind, name, given)):
                pytest.skip(reason)
        self.refused = False
        carried = f"transport={transport}" if transport else ""
        self.device: Any = self.host.add(vdev(provider, "id=3", own, carried, keys))
        self._other: OtherEnd | None = None
        self._ports: tuple[Any, Any] = (None, None)
        devices = PLUGINS.backends[backend].devices
        if len(devices) == 2:
            there = folder / "other"
            there.mkdir()
            own = variant.keys.format(folder=there)
            keys = TRANSPORT_KEYS.get(transport, "").format(folder=there)
            other = self.host.add(vdev(provider, "id=4", own, carried, keys))
            self._other = OtherEnd(self.host, other, variant, there)
            names = (
                f"{key}={d.name}" for key, d in zip(devices, (self.device, other), strict=True)
            )
            self.host.add(vdev(backend, far.keys, *names))
        else:
            self._ports = self._add_backend(backend)

    def _add_backend(self, name: str) -> tuple[Any, Any]:
        """Add it; the port over the device and the one that its frames go to, if there are any."""
        devices = PLUGINS.backends[name].devices
        if devices == ("emu",):
            backend = self.host.add(vdev(name, self.far.keys, f"emu={self.device.name}"))
            if name in COUNTS:
                self.far.count = partial(COUNTS[name], backend)
            return as_port(backend), None
        if devices:
            pytest.skip(f"{name} joins several devices, and here is one")
        back = as_port(self.host.add(vdev(name, self.far.keys)))
        if back is None or "net_avfbe" not in PLUGINS.backends:
            pytest.skip(f"{name} has no device; emudev-avfbe is not installed to join it to one")
        return self.host.add(f"net_avfbe,emu={self.device.name}"), back

    def start(self) -> None:
        """Start everything, the application of its ports included."""
        self.host.start()
        front, back = self._ports
        if front is None:
            return
        if back is None:
            from emudev_net.memory_port import MemoryPort

            back = memory = MemoryPort("net_memory_0", self.host.loop)
            self.far.send = lambda frame: memory.arrive([frame])
            self.far.receive = partial(_from_memory, memory)
        else:
            self.far.count = lambda: back.stats().opackets
        self._wire = Wire(self.host, front, back)

    def close(self) -> None:
        """End everything."""
        if self._wire is not None:
            self._wire.close()
        if self._other is not None:
            self._other.leave()
        self.host.close()
        if self._other is not None:
            self._other.folder.rmdir()

    def turn(self) -> None:
        """Let the device's side run for a moment."""
        self.host.loop.turn(0.005)

    @property
    def has_driver(self) -> bool:
        """Whether there is a driver for the device."""
        return self._variant.driver is not None

    def guest(self) -> Driver:
        """The guest's driver, its link up."""
        if self._variant.driver is None:
            pytest.skip(f"this suite has no driver for {self.provider}")
        driver = self._variant.driver(self.host, self.device)
        if self._other is not None:
            self._other.join(self.far)
        driver.open()
        if self._wire is not None:
            self._wire.join()
        return driver


def _from_memory(
    memory: Any, fits: Callable[[bytes], bool], turn: Callable[[], None]
) -> bytes | None:
    for _ in range(200):
        turn()
        for packet in memory.sent():
            if fits(packet.data):
                return bytes(packet.data)
    return None


@pytest.fixture
def combination(
    provider: str, variant: Variant, transport: str, backend: str
) -> Iterator[Combination]:
    """A combination, started; closed at the end, with nothing left open."""
    folder = tempfile.mkdtemp(prefix="emudev-")
    before = descriptors()
    threads = threading.active_count()
    with far_side(backend) as far:
        made = Combination(provider, variant, transport, backend, far, Path(folder))
        try:
            try:
                made.start()
            except EmudevError as error:
                # A backend for frames refuses a device without queues, and says so.
                queues = made.device.get_dev_info().max_queue_pairs
                made.refused = not queues and "queues" in str(error)
                if not made.refused:
                    raise
            yield made
        finally:
            made.close()
    assert list(Path(folder).iterdir()) == []
    shutil.rmtree(folder)
    left = descriptors()
    for name in before:
        left.remove(name)
    # What a process opens once and keeps: the kernels' cache is read through no descriptor.
    assert [name for name in left if "urandom" not in name] == []
    assert threading.active_count() <= threads


def frame_for(target: bytes, source: bytes, size: int, mark: int) -> bytes:
    """A frame of an experimental ethertype with a pattern in it."""
    body = bytes((mark + i) & 0xFF for i in range(size - 14))
    return target + source + b"\x88\xb5" + body


def to_host(combination: Combination, guest: Any, frame: bytes) -> None:
    """A frame from the guest arrives at the far side as it was sent."""
    guest.send(frame)
    receive = combination.far.receive
    assert receive is not None
    assert receive(lambda got: got[14:] == frame[14:], combination.turn) == frame


def arrive(guest: Any, frames: list[bytes]) -> None:
    """Frames arrive at the guest as they are, whatever else does."""
    missing = list(frames)
    for _ in range(20 if missing else 0):
        for got in guest.receive(0.5):
            alike = [frame for frame in missing if frame[14:] == got[14:]]
            if alike:
                assert got == alike[0]
                missing.remove(got)
        if not missing:
            break
    assert not missing, f"frames of {[len(f) for f in missing]} bytes did not arrive"


def arrive_all(guest: Any, far: Far) -> None:
    """Frames that come by themselves arrive at the first guest."""
    arrive(guest, far.arriving)
    far.arriving = []


def to_guest(guest: Any, frame: bytes, send: Callable[[bytes], None]) -> None:
    """A frame that the far side sends arrives at the guest as it was sent."""
    send(frame)
    arrive(guest, [frame])


def count_one(combination: Combination, guest: Any, count: Callable[[], int], frame: bytes) -> None:
    """A frame from the guest is one more."""
    before = count()
    guest.send(frame)
    for _ in range(200):
        if count() > before:
            break
        combination.turn()
    assert count() == before + 1


def traffic(combination: Combination, guest: Any) -> None:
    """Frames of several sizes, both ways where the backend can."""
    far = combination.far
    arrive_all(guest, far)
    for mark, size in enumerate((SMALL, SMALL + 1, FULL, JUMBO)):
        if far.receive is not None and size <= FULL:
            to_host(combination, guest, frame_for(far.mac, guest.mac, size, mark))
        if far.count is not None:
            count_one(combination, guest, far.count, frame_for(far.mac, guest.mac, size, mark))
        if far.send is not None and size <= FULL:
            to_guest(guest, frame_for(guest.mac, HOST_MAC, size, mark + 7), far.send)
        if far.answers:
            sent = frame_for(far.mac, guest.mac, size, mark)
            back = sent[6:12] + sent[:6] + sent[12:]
            to_guest(guest, back, lambda _, sent=sent: guest.send(sent))


@pytest.mark.parametrize(("provider", "variant", "transport", "backend"), COMBINATIONS)
class TestCombination:
    """Start, send, receive, reset, vanish, close, twice."""

    def test_frames_go_both_ways_through_reset_and_return(self, combination: Combination) -> None:
        if combination.refused:
            return
        guest = combination.guest()
        traffic(combination, guest)
        guest.reset()
        traffic(combination, guest)
        guest.close()
        again = combination.guest()
        traffic(combination, again)
        again.close()

    def test_a_guest_that_vanishes_leaves_a_device_for_the_next(
        self, combination: Combination
    ) -> None:
        if combination.refused:
            return
        guest = combination.guest()
        arrive_all(guest, combination.far)
        for mark in range(20):
            guest.send(frame_for(HOST_MAC, guest.mac, FULL, mark))
        guest.vanish()
        for _ in range(5):
            combination.turn()
        again = combination.guest()
        traffic(combination, again)
        again.close()

    def test_it_stops_and_starts_again(self, combination: Combination) -> None:
        if combination.refused:
            return
        device = combination.device
        for _ in range(2):
            device.stop()
            combination.turn()
            device.start()
        assert device.state is State.STARTED
        if combination.transport:
            client = combination.host.connect(device)
            assert client.region_read(7, 0, 4) not in (bytes(4), b"\xff" * 4)
            client.close()
        if combination.has_driver:
            guest = combination.guest()
            traffic(combination, guest)
            guest.close()
