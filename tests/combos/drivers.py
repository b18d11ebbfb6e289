"""What is at the other end of each device that carries frames: drivers of guests, and memif peers.

A driver plays the guest of one device. It goes away in two ways: `close` is orderly, `vanish` is
what a killed process does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from emudev_core import attributes
from emudev_core.device import Device
from emudev_core.host import Host
from emudev_core.queues import rx_queue, tx_queue
from emudev_core.regions import ResetKind

__all__ = ["VARIANTS", "Driver", "Variant"]


class Driver(Protocol):
    """A guest's driver of a device that carries frames."""

    mac: bytes

    def open(self, *, wait: bool = True) -> None:
        """Bring the link up; or let it come when it comes, with `service`."""

    def service(self) -> None:
        """Take notice of what the device has told."""

    def send(self, frame: bytes) -> None:
        """Send a frame."""

    def receive(self, timeout: float) -> list[bytes]:
        """Wait for frames."""

    def reset(self) -> None:
        """Reset the device and bring the link up again."""

    def close(self) -> None:
        """Leave the device."""

    def vanish(self) -> None:
        """Go away without a word, as a killed process does."""


class AvfGuest:
    """The reference driver of emudev-avf as a `Driver`."""

    def __init__(self, host: Host, device: Device) -> None:
        from emudev_avf.driver.netdev import AvfDriver
        from emudev_avf.registers import MAP
        from emudev_pci.guest import GuestFunction

        self._function = GuestFunction(host.connect(device), {0: MAP})
        self._driver = AvfDriver(self._function)
        self._driver.probe()
        self.mac = self._driver.resources.mac

    def open(self, *, wait: bool = True) -> None:
        self._driver.open(wait=wait)

    def service(self) -> None:
        self._driver.service()

    def send(self, frame: bytes) -> None:
        self._driver.send(frame)

    def receive(self, timeout: float) -> list[bytes]:
        return [r.frame for r in self._driver.receive(timeout)]

    def reset(self) -> None:
        self._driver.reset()

    def close(self) -> None:
        self._driver.remove()
        self._function.close()

    def vanish(self) -> None:
        self._function.close()


class _MemifGuest:
    """What the peers of a memif interface share; its own address means nothing to memif."""

    mac = bytes.fromhex("020000000042")

    def __init__(self, host: Host, device: Device) -> None:
        self._host = host
        self._device = device
        config: Any = device.config
        self._socket = config.socket
        self._serves = not config.serves

    def _until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the interfaces did not come together in time"
            self._host.loop.turn(0.005)

    def _up(self) -> bool:
        return self._device.get_queue_info(rx_queue(0)).enabled

    def open(self, *, wait: bool = True) -> None:
        raise NotImplementedError

    def service(self) -> None:
        """There is nothing to take notice of."""

    def leave(self) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        self._device.reset(ResetKind.FUNCTION)
        self.leave()
        self.open()

    def close(self) -> None:
        self.leave()
        self._until(lambda: not self._up())

    def vanish(self) -> None:
        self.leave()


class MemifTwin(_MemifGuest):
    """A second interface of emudev-memif, of the other role, whose queues the test drives."""

    _ids = itertools.count(100)

    def __init__(self, host: Host, device: Device) -> None:
        from emudev_net.burst import Burst

        super().__init__(host, device)
        self._burst = Burst(256)
        self._twin: Any = None

    def open(self, *, wait: bool = True) -> None:
        role = "server" if self._serves else "client"
        self._twin = self._host.add(
            f"emu_memif,id={next(self._ids)},memif-id={self._device.id},role={role},"
            f"socket={self._socket},socket-abstract=no"
        )
        self._twin.configure()
        self._twin.start()
        self._twin.set_attr(attributes.LINK, True)
        self._until(lambda: self._up() and self._twin.get_queue_info(rx_queue(0)).enabled)
        self.receive(0)  # a client posts its buffers when it looks

    def send(self, frame: bytes) -> None:
        from emudev_net.burst import Burst

        burst = Burst.of([frame])
        sink = self._twin.get_queue_info(rx_queue(0)).kernels
        self._until(lambda: sink.push(sink.state, burst.address, burst.count) == burst.count)
        sink.notify(sink.state, 0, 0)

    def receive(self, timeout: float) -> list[bytes]:
        source = self._twin.get_queue_info(tx_queue(0)).kernels
        deadline = time.monotonic() + timeout
        while True:
            rows = source.peek(source.state, self._burst.address, self._burst.rows)
            found = [packet.data for packet in self._burst.packets(rows)]
            source.release(source.state, self._burst.address, rows)
            if found or time.monotonic() >= deadline:
                return found
            self._host.loop.turn(0.005)

    def leave(self) -> None:
        self._twin.close()
        self._host.registry.release(self._twin)


class MemifByHand(_MemifGuest):
    """A peer that shares no code with the interface: messages and rings by hand."""

    def __init__(self, host: Host, device: Device) -> None:
        super().__init__(host, device)
        self._peer: Any = None

    def open(self, *, wait: bool = True) -> None:
        from emudev_memif.testing import MemifClient, MemifServer

        turn, address = self._host.loop.turn, self._socket.encode()
        if self._serves:
            self._peer = MemifServer(turn, address)
            self._peer.join()
        else:
            self._until(lambda: os.path.exists(address))
            self._peer = MemifClient(turn, address, self._device.id)
        self._until(self._up)

    def send(self, frame: bytes) -> None:
        self._until(lambda: self._peer.send([frame]) == 1)

    def receive(self, timeout: float) -> list[bytes]:
        deadline = time.monotonic() + timeout
        while True:
            found: list[bytes] = self._peer.receive()
            if found or time.monotonic() >= deadline:
                return found
            self._host.loop.turn(0.005)

    def leave(self) -> None:
        self._peer.close()
        if self._serves:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._socket)


@dataclass(frozen=True)
class Variant:
    """One way to set a provider up.

    Attributes:
        name: For the names of tests; empty if there is one way only.
        keys: Of its vdev string; ``{folder}`` is a short empty folder.
        driver: Makes the driver of a device; None: there is none, and no frames are sent.
    """

    name: str = ""
    keys: str = ""
    driver: Callable[[Host, Device], Driver] | None = None


_SOCKET = "socket={folder}/m,socket-abstract=no"

#: Ways to set up each provider that needs more than its name, or carries frames.
VARIANTS: dict[str, list[Variant]] = {
    "emu_iavf": [Variant(driver=AvfGuest)],
    "emu_memif": [
        Variant("server", f"role=server,{_SOCKET}", MemifTwin),
        Variant("client", f"role=client,{_SOCKET}", MemifTwin),
        Variant("server_by_hand", f"role=server,{_SOCKET}", MemifByHand),
        Variant("client_by_hand", f"role=client,{_SOCKET}", MemifByHand),
    ],
}
