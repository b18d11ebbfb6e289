"""What is fuzzed: functions of bytes that raise, or end the process, if something is wrong.

A target reads its input as a list of steps, so that bytes that are inserted or changed anywhere
still mean something. It makes what it needs once, and leaves it fit for the next input.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["TARGETS", "Steps"]


class Steps:
    """Bytes, read from the front; what is missing at the end is zero.

    Args:
        data: The input.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __iter__(self) -> Iterator[int]:
        """The first byte of each step, until nothing is left."""
        while self._at < len(self._data):
            yield self.u8()

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or as many as are left."""
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def number(self, size: int) -> int:
        """A little-endian number."""
        return int.from_bytes(self.take(size), "little")

    def u8(self) -> int:
        """A byte."""
        return self.number(1)

    def counted(self) -> bytes:
        """Bytes behind their number; from 224 on the number counts 80 bytes each."""
        count = self.u8()
        return self.take(count if count < 224 else 224 + 80 * (count - 224))


# -- the AVF device


@functools.cache
def _wild() -> Any:
    from unittest import mock

    from emudev_avf import resets
    from emudev_avf.wild import WildGuest

    mock.patch.dict(resets._LASTS, dict.fromkeys(resets._LASTS, 0.0)).start()
    return WildGuest()


def _fresh() -> Any:
    """The wild guest, its device as after power on."""
    from emudev_core.regions import ResetKind

    guest = _wild()
    guest.pass_time()
    guest.reset(ResetKind.POWER)
    for region in range(4):
        guest.map(region, region != 1)
    guest.link(True)
    return guest


def virtchnl(data: bytes) -> None:
    """Requests of any opcode and content: each is answered once, and frames pass afterwards."""
    guest = _fresh()
    guest.start_mailbox()
    steps = Steps(data)
    first = True
    for opcode in steps:
        if first and opcode & 1:
            guest.open(1)
        first = False
        if not guest.sane:
            guest.start_mailbox()
        number = opcode if opcode < 255 else steps.number(4)
        guest.request(number, steps.counted())
        guest.check()
    guest.recover()


def device(data: bytes) -> None:
    """Accesses of any kind in any order, memory that comes and goes, resets."""
    from emudev_core.regions import ResetKind

    guest = _fresh()
    steps = Steps(data)
    kinds = list(ResetKind)
    for step in steps:
        what, rest = step & 15, step >> 4
        if what == 0:
            guest.write(steps.number(2) & 0xFFFC, steps.number(4))
        elif what == 1:
            guest.read(steps.number(2) & 0xFFFC)
        elif what == 2:
            size = 1 << (rest & 1)
            guest.write_config(min(steps.number(2) & 0xFFF, 0x1000 - size), steps.number(4), size)
        elif what == 3:
            guest.map(rest & 3, bool(rest & 4))
        elif what == 4:
            guest.start_mailbox()
        elif what == 5 and guest.sane:
            guest.request(steps.u8(), steps.counted())
        elif what == 6 and guest.sane and guest.avf.vf.queue_pairs:
            if guest.request(9, struct.pack("<HHII", 1, 0, 3, 3)) is not None and guest.sane:
                guest.open(1)
        elif what == 7:
            guest.poke(rest & 3, steps.number(2), steps.counted())
        elif what == 8 and guest.mapped[0]:
            at = guest.places(rest & 1)[rest >> 1 & 1] + 16 * (steps.u8() & 31)
            guest.memory[0].write(at, steps.take(32))
        elif what == 9:
            guest._write((0x2000 if rest & 2 else 0) + 4 * (rest & 1), steps.number(2))
        elif what == 10:
            guest.deliver([steps.counted()], 50 if rest & 1 else 0)
        elif what == 11:
            guest.reset(kinds[rest % len(kinds)])
        elif what == 12:
            guest.pf_reset(bool(rest & 1))
        elif what == 13:
            guest.bind(rest % 3, bool(rest & 4))
        elif what == 14:
            guest.link(bool(rest & 1))
        else:
            guest.pass_time()
        guest.check()
    guest.recover()


def descriptors(data: bytes) -> None:
    """Rings of any descriptors over memory with holes, in a queue set up by the book."""
    from emudev_avf.wild import HOME

    guest = _fresh()
    guest.start_mailbox()
    guest.open(1)
    steps = Steps(data)
    tx, rx, buffers = guest.places(0)
    tail = 0
    places = (buffers, HOME + 0xFFFF0, HOME + 0x100000, 0x2000_FFF0, 0x3000_0FF0, 0)
    for kind in steps:
        what = kind & 7
        if what == 7:
            guest.deliver([steps.counted()], kind >> 3)
        elif what == 6:
            at = places[kind >> 3 & 3] + steps.number(2)
            raw = struct.pack("<QQQQ", at, 0, 0, 0)
            guest.memory[0].write(rx + 32 * (steps.u8() & 31), raw)
            guest._write(0x2000, steps.u8() & 63)
        elif what == 5:
            guest.memory[0].write(buffers + steps.number(2), steps.counted())
        else:
            for _ in range(1 + what):
                form = steps.u8()
                address = places[form & 7] if form & 7 < len(places) else steps.number(8)
                address += steps.number(1)
                qword1 = steps.number(8)
                if form & 8:  # data, of a size that is likely
                    qword1 = form >> 4 << 4 | (qword1 & 0x3FFF) << 34 | (qword1 >> 16 & 0x3F) << 8
                elif form & 16:  # context
                    qword1 = qword1 & ~15 | 1
                raw = struct.pack("<QQ", address % (1 << 64), qword1 & (1 << 64) - 1)
                guest.memory[0].write(tx + 16 * tail, raw)
                tail = (tail + 1) % 32
            guest._write(0, tail)
        guest.turn()
        guest.check()
    guest.recover()


# -- vfio-user


@functools.cache
def _served() -> Any:
    from emudev_core.host import Host
    from emudev_core.plugins import Plugins, find_sources
    from emudev_core.testing import exerciser
    from emudev_core.testing.builders import make_source

    own = make_source(exerciser.SPEC, distribution="emudev-core-testing")
    host = Host(plugins=Plugins([*find_sources(), own]))
    folder = tempfile.mkdtemp(prefix="emudev-fuzz-")
    served = host.add(f"emu_exerciser,id=0,transport=vfio_user,faulty=no,path={folder}/s")
    host.start()

    def end() -> None:
        host.close()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return host, served, f"{folder}/s"


def _file(kind: int) -> int:
    """A descriptor of one of some kinds."""
    if kind == 0:
        return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    fd = os.memfd_create("emudev-fuzz", os.MFD_CLOEXEC)
    os.ftruncate(fd, 0x4000 if kind == 1 else 100)
    return fd


def _opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def vfio_user(data: bytes) -> None:
    """Messages of a client, mostly with headers that are right; the server outlives them all."""
    from emudev_core.lifecycle import State

    host, served, path = _served()
    before = _opened()
    steps = Steps(data)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            peer.connect(path)
        host.loop.turn(0)
        greeting = struct.pack("<HHIIIHH", 0, 1, 20, 0, 0, 0, 1)
        if not data or data[0] & 1:
            peer.send(greeting)
            host.loop.turn(0)
        for number, command in enumerate(steps):
            form, payload = steps.u8(), steps.counted()
            size = 16 + len(payload) + (steps.number(2) if form & 8 else 0)
            flags = 0x10 if form & 16 else form >> 5
            head = struct.pack("<HHIII", number, command, size, flags, 0)
            fds = [_file(form & 3) for _ in range(1 + (form >> 6))] if form & 4 else []
            try:
                socket.send_fds(peer, [head + payload], fds)
            except (BrokenPipeError, ConnectionError, BlockingIOError):
                break
            finally:
                for fd in fds:
                    os.close(fd)
            host.loop.turn(0)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                _, received, _, _ = socket.recv_fds(peer, 1 << 16, 8)
                for fd in received:
                    os.close(fd)
        for _ in range(3):
            host.loop.turn(0)
    finally:
        peer.close()
    for _ in range(200):
        if _opened() <= before:
            break
        host.loop.turn(0.001)
    assert _opened() <= before, "descriptors were left open"
    assert served.state is State.STARTED, served.error
    assert not served.get_mem_table().regions, "memory is still mapped"


# -- memif


class _Interface:
    """What a memif server asks about its interface."""

    pairs = 2
    secret = b""
    taken = False

    def check_region(self, fd: int, size: int, before: int) -> None:
        """As the device does."""
        from emudev_memif.regions import check_memory

        check_memory(fd, size, before, 1 << 30)

    def check_ring(self, fd: int) -> None:
        """As the device does."""
        from emudev_memif.regions import check_eventfd

        check_eventfd(fd)


def memif(data: bytes) -> None:
    """Records of either end, in any order; descriptors are owned by somebody at any time."""
    from emudev_core.errors import EmudevError
    from emudev_memif.protocol import (
        Claimed,
        ClientProtocol,
        Closed,
        Offered,
        ServerProtocol,
        State,
    )
    from emudev_memif.wire import Hello

    before = _opened()
    steps = Steps(data)
    end: Any
    if steps.u8() & 1:
        end = ClientProtocol(0, b"", "fuzz", "fuzz")
    else:
        end = ServerProtocol(
            Hello(max_s2c_ring=1, max_c2s_ring=1), lambda id: _Interface() if id == 0 else None
        )
    for kind in steps:
        form = steps.u8()
        record = struct.pack("<H", kind) + steps.counted()[:126]
        if not form & 8:
            record = record.ljust(128, b"\0")
        fds = [_file(form & 3) for _ in range(1 + (form >> 6))] if form & 4 else []
        for event in end.receive(record, fds, truncated=bool(form & 16)):
            if isinstance(event, Claimed):
                end.accept()
            elif isinstance(event, Offered):
                for one in (*event.regions, *event.rings):
                    os.close(one.fd)
                with contextlib.suppress(EmudevError):
                    end.connected("fuzz")
            elif isinstance(event, Closed):
                assert end.state is State.CLOSED
        while (pending := end.pending()) is not None:
            assert len(pending[0]) == 128
            end.sent()
    end.gone()
    assert _opened() == before, "descriptors were left open"


# -- the control socket


@functools.cache
def _controlled() -> Any:
    from emudev_core.control.server import ControlServer

    host, _, path = _served()
    server = ControlServer(host.registry, host.loop, f"{path}.control")
    atexit.register(server.close)
    return host, server


def control(data: bytes) -> None:
    """Lines of a client: each is answered once, by JSON, and in order."""
    host, server = _controlled()
    host.loop.turn(0)
    before = _opened()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(server.path))
        peer.setblocking(False)
        peer.send(data)
        peer.shutdown(socket.SHUT_WR)
        received = b""
        for _ in range(2000):
            host.loop.turn(0)
            with contextlib.suppress(BlockingIOError):
                piece = peer.recv(1 << 20)
                received += piece
                if not piece:
                    break
            if b'"following"' in received and not host.loop.turn(0):
                break  # whoever follows events stays
    replies = [json.loads(line) for line in received.splitlines()]
    assert replies[0]["type"] == "hello"
    asked = [line for line in data.split(b"\n")[:-1] if line.strip()]
    answers = [reply for reply in replies[1:] if reply["type"] != "event"]
    assert len(answers) == len(asked)
    assert not any(reply.get("kind") == "internal" for reply in answers)
    for _ in range(200):
        if _opened() <= before:
            break
        host.loop.turn(0.001)
    assert _opened() <= before, "descriptors were left open"


#: Every target by name, with the distributions that it needs.
TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[str, ...]]] = {
    "virtchnl": (virtchnl, ("emudev_avf",)),
    "device": (device, ("emudev_avf",)),
    "descriptors": (descriptors, ("emudev_avf",)),
    "vfio_user": (vfio_user, ("emudev_vfio_user",)),
    "memif": (memif, ("emudev_memif",)),
    "control": (control, ("emudev_vfio_user",)),
}
