"""A whole device, called as a transport calls it, with the hands of its guest's driver."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, Final, Self

from emudev_core.events import Event, EventChannel
from emudev_core.loop import Loop
from emudev_core.registry import Registry
from emudev_core.specs import ProviderContext

from ..config import AvfConfig
from ..device import AvfDevice
from .mailbox import GuestMemory, Mailer
from .requests import LINUX_CAPS

__all__ = ["Machine", "config"]

RSTAT: Final = 0x8800
ICR0_ENA1: Final = 0x5000
DYN_CTL01: Final = 0x5C00
DYN_CTLN1: Final = 0x3800
#: Number of the configuration space, and of the MSI-X interrupts.
CONFIG: Final = 7
MSIX: Final = 2


class Machine:
    """A device, its loop, guest memory, eventfds, and a driver's hands.

    Args:
        memory: The guest's.
        keys: Of the configuration; 2 queue pairs and 52:54:00:77:00:02 are the default.

    Attributes:
        device: The device, started, with nothing bound yet.
        avf: Its provider.
        mail: The driver's mailbox.
    """

    def __init__(self, memory: GuestMemory, **keys: Any) -> None:
        config = AvfConfig(**{"queues": 2, "mac": "52:54:00:77:00:02", **keys})
        self.loop = Loop(spin=0)
        registry = Registry(self.loop)
        self.device = registry.allocate("avf_emudev_0", "a test")
        context = ProviderContext(device=self.device, loop=self.loop, registry=registry)
        self.avf = AvfDevice(config, context)
        self.device.register(self.avf, "provider", "test 1.0")
        self.device.configure(config)
        self.until(lambda: self.avf.ready, 60)
        self.device.start()
        self.memory = memory
        self.channel = EventChannel()
        self.device.subscribe_event(self.channel)
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.avf.vectors]
        self.mail = Mailer(memory, self.read, self.write)

    def plug(self) -> Self:
        """What a client does before the driver runs: memory, vectors, bus mastering."""
        self.device.dma_map(self.memory.table, self.memory.region)
        for vector, fd in enumerate(self.fds):
            self.device.irq_bound(MSIX, vector, fd)
        self.master(True)
        return self

    def master(self, on: bool) -> None:
        """Set the command register, with bus mastering or without."""
        self.device.region_write(CONFIG, 4, 2, 0x0402 | (4 if on else 0))

    def read(self, offset: int) -> int:
        """A register of BAR 0."""
        value: int = self.device.region_read(0, offset, 4)
        return value

    def write(self, offset: int, value: int) -> None:
        """Write a register of BAR 0."""
        self.device.region_write(0, offset, 4, value)

    def signals(self, vector: int) -> int:
        """Interrupts of a vector since the last call."""
        try:
            return os.eventfd_read(self.fds[vector])
        except BlockingIOError:
            return 0

    def turns(self, seconds: float) -> None:
        """Let the loop run for a time."""
        done: list[int] = []
        self.loop.call_later(seconds, lambda: done.append(1))
        while not done:
            self.loop.turn(0.1)

    def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        """Turn the loop until a condition holds.

        Raises:
            AssertionError: It does not in time.
        """
        done: list[int] = []
        timer = self.loop.call_later(seconds, lambda: done.append(1))
        while not condition():
            assert not done, "it did not happen in time"
            self.loop.turn(0.01)
        timer.cancel()

    def drain(self) -> list[Event]:
        """The events of the device since the last call."""
        return list(self.channel.drain())

    def probe(self, caps: int = LINUX_CAPS) -> bytes:
        """Steps 1 to 6 of avf.md 5.1; answers the resources."""
        assert self.read(RSTAT) & 3 in (1, 2)
        self.mail.start()
        assert self.mail.request(1, struct.pack("<II", 1, 1))[0] == 0
        status, data = self.mail.request(3, struct.pack("<I", caps))
        assert status == 0
        self.write(DYN_CTL01, 0x19)
        self.write(ICR0_ENA1, 1 << 30)
        return data

    def open(self, pairs: int = 1) -> list[tuple[int, int, bytes]]:
        """`ip link set up` of avf.md 5.1, up to ENABLE_QUEUES; answers what comes then."""
        self.write(0x2000, 511)
        self.write(DYN_CTLN1, 0x19)
        message = struct.pack("<HHI", 1, pairs, 0)
        for queue in range(pairs):
            ring = self.memory.take(512 * 32)
            message += struct.pack("<HHHHQQ", 1, queue, 512, 0, ring, 0)
            ring = self.memory.take(512 * 32)
            message += struct.pack(
                "<HHIHHIIBBBBQiI", 1, queue, 512, 0, 0, 1536, 9728, 0, 0, 0, 0, ring, 0, 0
            )
        assert self.mail.request(6, message)[0] == 0
        mask = (1 << pairs) - 1
        self.mail.send(8, struct.pack("<HHII", 1, 0, mask, mask))
        return self.mail.receive()

    def close(self) -> None:
        """Close the device and all that it was given."""
        self.device.close()
        for fd in self.fds:
            os.close(fd)
        self.loop.close()


def config(machine: Machine, offset: int, size: int) -> int:
    """A value of the configuration space."""
    value: int = machine.device.region_read(CONFIG, offset, size)
    return value
