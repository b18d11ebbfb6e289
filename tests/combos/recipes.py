"""What the combinations know of plugins that need more than their name.

A transport or backend that is not here gets no keys: if its configuration then misses a required
one, its combinations are skipped with that reason. A provider without a driver here is taken
through its life and its register accesses, but carries no frames.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from emudev_core.host import Host
from emudev_core.plugins import Plugins

# Source: Linux, include/linux/socket.h, include/uapi/linux/if_packet.h.
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20

#: Keys of transports; ``{folder}`` is a short empty folder.
TRANSPORT_KEYS = {"vfio_user": "path={folder}/s"}


class Driver(Protocol):
    """A guest's driver of a device that carries frames."""

    mac: bytes

    def open(self) -> None:
        """Bring the link up."""

    def send(self, frame: bytes) -> None:
        """Send a frame."""

    def receive(self, timeout: float) -> list[bytes]:
        """Wait for frames."""

    def reset(self) -> None:
        """Reset the device and bring the link up again."""

    def close(self) -> None:
        """Leave the device."""


class AvfGuest:
    """The reference driver of emudev-avf as a `Driver`."""

    def __init__(self, host: Host, device: object) -> None:
        from emudev_avf.driver.netdev import AvfDriver
        from emudev_avf.registers import MAP
        from emudev_pci.guest import GuestFunction

        self._function = GuestFunction(host.connect(device), {0: MAP})  # type: ignore[arg-type]
        self._driver = AvfDriver(self._function)
        self._driver.probe()
        self.mac = self._driver.resources.mac

    def open(self) -> None:
        self._driver.open()

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
        """Go away without a word, as a killed VMM does."""
        self._function.close()


DRIVERS: dict[str, Callable[[Host, object], AvfGuest]] = {"emu_iavf": AvfGuest}


@dataclass
class Far:
    """The other side of a backend, as a test sees it.

    Attributes:
        answers: It sends every frame back by itself, its addresses swapped.
        send: Sends a frame towards the guest; None if it can't.
        receive: Waits for a frame from the guest that fits a test; None if it can't.
    """

    answers: bool = False
    send: Callable[[bytes], None] | None = None
    receive: Callable[[Callable[[bytes], bool], Callable[[], None]], bytes | None] | None = None
    keys: str = ""
    cleanup: list[Callable[[], None]] = field(default_factory=list)


@contextlib.contextmanager
def far_side(backend: str) -> Iterator[Far]:
    """What a backend needs, and its other side."""
    if backend == "tap_backend":
        with _tap() as far:
            yield far
    elif backend == "echo":
        yield Far(answers=True)
    else:
        yield Far()


@contextlib.contextmanager
def _tap() -> Iterator[Far]:
    if os.geteuid() != 0:
        pytest.skip("a TAP interface needs root")
    if not Path("/dev/net/tun").exists():
        pytest.skip("this machine has no /dev/net/tun")
    name = f"emuc{uuid.uuid4().hex[:8]}"
    _ip("tuntap", "add", "dev", name, "mode", "tap")
    try:
        # The host's own stack must not talk on it.
        subprocess.run(
            ["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1"], check=False, timeout=10
        )
        _ip("link", "set", "dev", name, "up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
            raw.bind((name, 3))
            raw.setblocking(False)
            # The kernel attaches an interface's queue up to a second after its carrier came and
            # drops what is sent until then. Source: Linux, net/core/link_watch.c.
            raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)

            def receive(fits: Callable[[bytes], bool], turn: Callable[[], None]) -> bytes | None:
                for _ in range(200):
                    turn()
                    with contextlib.suppress(BlockingIOError):
                        frame = raw.recv(65536)
                        if fits(frame):
                            return frame
                return None

            yield Far(send=lambda frame: _send(raw, frame), receive=receive, keys=f"iface={name}")
    finally:
        _ip("link", "del", "dev", name)


def _send(raw: socket.socket, frame: bytes) -> None:
    raw.send(frame)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10, capture_output=True)


def vdev(*parts: str) -> str:
    """A vdev string of the parts that are not empty."""
    return ",".join(part for part in parts if part)


def needs_keys(plugins: Plugins, kind: str, name: str, keys: str) -> str:
    """Why a plugin can't be configured with `keys`: a required key is missing; or nothing."""
    import msgspec

    spec = getattr(plugins, kind)[name]
    given = {pair.partition("=")[0] for pair in keys.split(",") if pair}
    for wanted in msgspec.structs.fields(spec.config):
        if wanted.required and wanted.encode_name not in given:
            return f"{name} needs the key {wanted.encode_name}, of which this suite does not know"
    return ""
