"""Builders: plugins that are not installed, devices without a host, guest memory."""

from __future__ import annotations

import contextlib
import os
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import memory
from ..device import Device
from ..hooks import hookimpl
from ..loop import Loop
from ..memory import MemoryRegion
from ..plugins import KINDS, Plugins, Source, find_sources
from ..registry import Registry
from ..specs import Spec

__all__ = [
    "GuestMemory",
    "descriptors",
    "left_open",
    "make_device",
    "make_plugins",
    "make_source",
    "open_descriptors",
]


def make_source(*records: Spec, distribution: str = "test-plugin", version: str = "1.0") -> Source:
    """A plugin that offers these records, as if a distribution of that name were installed."""
    module: Any = types.ModuleType(distribution.replace("-", "_"))
    for kind, (hook, cls) in KINDS.items():
        mine = [record for record in records if isinstance(record, cls)]
        if mine:
            setattr(module, hook, hookimpl(_returning(mine, kind)))
    return Source(distribution, distribution, version, lambda: module)


def _returning(records: Sequence[Spec], kind: str) -> Any:
    def answer() -> Sequence[Spec]:
        return records

    answer.__name__ = f"emudev_{kind}s"
    return answer


def make_plugins(*records: Spec, installed: bool = False) -> Plugins:
    """Plugins that offer these records, and what is installed if that is wanted."""
    sources: Iterable[Source] = find_sources() if installed else ()
    return Plugins([*sources, make_source(*records)] if records else sources)


def make_device(
    provider: object | None = None, name: str = "test_emudev_0", loop: Loop | None = None
) -> Device:
    """A device without a host, with an object as its provider."""
    device = Registry(loop).allocate(name, "a test")
    if provider is not None:
        device.register(provider, "provider", "test-plugin 1.0")
    return device


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(descriptors())


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, with what they lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor, closed by now
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def left_open(before: Mapping[int, str], seconds: float = 1.0) -> list[str]:
    """What was opened since `before` and is still open.

    Args:
        before: What `descriptors` said.
        seconds: How long to wait for those that other threads use for a moment, such as a
            compiler's cache files.
    """
    deadline = time.monotonic() + seconds
    while True:
        new = [to for fd, to in descriptors().items() if before.get(fd) != to]
        if not new or time.monotonic() >= deadline:
            return new
        time.sleep(0.01)


class GuestMemory:
    """A range of guest memory in a memfd, mapped here.

    Args:
        size: Bytes.
        guest: Guest address of its first byte.

    Attributes:
        fd: The memfd, owned by this.
        region: The range as a transport would publish it.
    """

    def __init__(self, size: int = 65536, guest: int = 0x10_0000) -> None:
        self.fd = os.memfd_create("emudev-test", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._mapping = memory.Mapping(self.fd, 0, size)
        self.region = MemoryRegion(guest, size, self._mapping.address)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes, as the guest does."""
        os.pwrite(self.fd, data, offset)

    def read(self, offset: int, size: int) -> bytes:
        """Fetch bytes, as the guest does."""
        return os.pread(self.fd, size, offset)

    def close(self) -> None:
        """Unmap and close; a second call does nothing."""
        self._mapping.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
