"""What the combinations know of transports and backends that need more than their name.

A transport or backend that is not here gets no keys: if its configuration then misses a required
one, its combinations are skipped with that reason. Providers are in `drivers`: one without a driver
there is taken through its life and its register accesses, but carries no frames. A backend that is
a port needs no recipe: the suite is its application (`wires`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emudev_core.plugins import Plugins

# Source: Linux, include/linux/socket.h, include/uapi/linux/if_packet.h.
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20

#: Keys of transports; ``{folder}`` is a short empty folder.
TRANSPORT_KEYS = {"vfio_user": "path={folder}/s"}

#: How many frames of the guest have reached a backend, by its object, where it is no port.
COUNTS: dict[str, Callable[[Any], int]] = {"null": lambda backend: backend.stats()["frames"]}

HOST_MAC = bytes.fromhex("02aabbccdd01")

Receive = Callable[[Callable[[bytes], bool], Callable[[], None]], bytes | None]


@dataclass
class Far:
    """The other side of a backend, as a test sees it.

    Attributes:
        answers: It sends every frame back by itself, its addresses swapped.
        send: Sends a frame towards the guest; None if it can't.
        receive: Waits for a frame from the guest that fits a test; None if it can't.
        count: How many frames of the guest have arrived; None if that can't be told.
        arriving: Frames that come to the first guest by themselves.
        keys: Of the backend's vdev string.
        mac: Where frames for it go.
    """

    answers: bool = False
    send: Callable[[bytes], None] | None = None
    receive: Receive | None = None
    count: Callable[[], int] | None = None
    arriving: list[bytes] = field(default_factory=list)
    keys: str = ""
    mac: bytes = HOST_MAC


@contextlib.contextmanager
def far_side(backend: str) -> Iterator[Far]:
    """What a backend needs, and its other side."""
    if backend == "tap_backend":
        with _tap() as far:
            yield far
    elif backend == "echo":
        yield Far(answers=True)
    elif backend == "net_null":
        yield Far(keys="no-rx=yes")
    elif backend == "net_pcap":
        with _captures() as far:
            yield far
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


# Source: the pcap file format, version 2.4: file header, record header.
_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


@contextlib.contextmanager
def _captures() -> Iterator[Far]:
    """A capture to be replayed, and one that is written."""
    arriving = [
        b"\xff" * 6 + bytes.fromhex("02aabbccdd0288b5") + bytes((n + i) & 0xFF for i in range(n))
        for n in (46, 100, 1500)
    ]
    with tempfile.TemporaryDirectory(prefix="emudev-captures-") as folder:
        replayed, written = Path(folder) / "in.pcap", Path(folder) / "out.pcap"
        records = (_RECORD.pack(1, n, len(f), len(f)) + f for n, f in enumerate(arriving))
        header = _FILE.pack(0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        replayed.write_bytes(header + b"".join(records))

        def receive(fits: Callable[[bytes], bool], turn: Callable[[], None]) -> bytes | None:
            for _ in range(200):
                turn()
                for frame in _frames(written.read_bytes()):
                    if fits(frame):
                        return frame
            return None

        yield Far(receive=receive, arriving=arriving, keys=f"rx_pcap={replayed},tx_pcap={written}")


def _frames(data: bytes) -> list[bytes]:
    """The whole records of a capture file that is being written, little-endian."""
    found, at = [], _FILE.size
    while at + _RECORD.size <= len(data):
        size = _RECORD.unpack_from(data, at)[2]
        at += _RECORD.size + size
        if at <= len(data):
            found.append(data[at - size : at])
    return found


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
