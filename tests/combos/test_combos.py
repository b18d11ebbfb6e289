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
from pathlib import Path
from typing import Any

import pytest
from recipes import DRIVERS, TRANSPORT_KEYS, Far, far_side, needs_keys, vdev

from emudev_core.errors import EmudevError
from emudev_core.host import Host
from emudev_core.plugins import load_plugins

PLUGINS = load_plugins()
COMBINATIONS = [
    pytest.param(*names, id="-".join(names))
    for names in itertools.product(PLUGINS.providers, PLUGINS.transports, PLUGINS.backends)
]
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


class Combination:
    """One provider, transport and backend, started."""

    def __init__(self, provider: str, transport: str, backend: str, far: Far, folder: Path) -> None:
        self.host = Host(plugins=PLUGINS)
        self.far = far
        self.provider = provider
        keys = TRANSPORT_KEYS.get(transport, "").format(folder=folder)
        for kind, name, given in (
            ("transports", transport, keys),
            ("providers", provider, ""),
            ("backends", backend, far.keys),
        ):
            if reason := needs_keys(PLUGINS, kind, name, given):
                pytest.skip(reason)
        self.refused = False
        self.device: Any = self.host.add(vdev(provider, "id=3", f"transport={transport}", keys))
        self.host.add(vdev(backend, far.keys, f"emu={self.device.name}"))

    def turn(self) -> None:
        """Let the device's side run for a moment."""
        self.host.loop.turn(0.005)

    def guest(self) -> Any:
        """The guest's driver, its link up."""
        if self.provider not in DRIVERS:
            pytest.skip(f"this suite has no driver for {self.provider}")
        driver = DRIVERS[self.provider](self.host, self.device)
        driver.open()
        return driver


@pytest.fixture
def combination(provider: str, transport: str, backend: str) -> Iterator[Combination]:
    """A combination, started; closed at the end, with nothing left open."""
    folder = tempfile.mkdtemp(prefix="emudev-")
    before = descriptors()
    threads = threading.active_count()
    with far_side(backend) as far:
        made = Combination(provider, transport, backend, far, Path(folder))
        try:
            try:
                made.host.start()
            except EmudevError as error:
                # A backend for frames refuses a device without queues, and says so.
                queues = made.device.get_dev_info().max_queue_pairs
                made.refused = not queues and "queues" in str(error)
                if not made.refused:
                    raise
            yield made
        finally:
            made.host.close()
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


HOST_MAC = bytes.fromhex("02aabbccdd01")


def to_host(combination: Combination, guest: Any, frame: bytes) -> None:
    """A frame from the guest arrives at the far side as it was sent."""
    guest.send(frame)
    receive = combination.far.receive
    assert receive is not None
    assert receive(lambda got: got[14:] == frame[14:], combination.turn) == frame


def to_guest(guest: Any, frame: bytes, send: Callable[[bytes], None]) -> None:
    """A frame that the far side sends arrives at the guest as it was sent."""
    send(frame)
    for _ in range(20):
        for got in guest.receive(0.5):
            if got[14:] == frame[14:]:
                assert got == frame
                return
    raise AssertionError(f"a frame of {len(frame)} bytes did not arrive")


def traffic(combination: Combination, guest: Any) -> None:
    """Frames of several sizes, both ways where the backend can."""
    far = combination.far
    for mark, size in enumerate((SMALL, SMALL + 1, FULL, JUMBO)):
        if far.receive is not None and size <= FULL:
            to_host(combination, guest, frame_for(HOST_MAC, guest.mac, size, mark))
        if far.send is not None and size <= FULL:
            to_guest(guest, frame_for(guest.mac, HOST_MAC, size, mark + 7), far.send)
        if far.answers:
            sent = frame_for(HOST_MAC, guest.mac, size, mark)
            back = sent[6:12] + sent[:6] + sent[12:]
            to_guest(guest, back, lambda _, sent=sent: guest.send(sent))


@pytest.mark.parametrize(("provider", "transport", "backend"), COMBINATIONS)
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
        combination.host.stop()
        combination.host.start()
        client = combination.host.connect(combination.device)
        config = client.region_read(7, 0, 4)
        assert config not in (bytes(4), b"\xff" * 4)
        client.close()
