"""A guest that does anything: the hands of fuzzers and of state machines that play driver.

`WildGuest` holds a device without a transport, and what its client would give it: memory between
pages that can't be touched (what is taken away from the device can't be touched either, so that a
stray access ends the process), eventfds, accesses to registers and configuration space. It may be
driven in any order; `check` says what must hold at any time, and `recover` that a driver which
resets the function and sets it up by the book is served, whatever came before.

Numbers are those of the drivers, not of the code under test. Source: avf.md sections 2, 3 and 4.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, Final

from emudev_core import attributes
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.loop import Loop
from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_core.queues import rx_queue, tx_queue
from emudev_core.regions import ResetKind
from emudev_core.registry import Registry
from emudev_core.specs import ProviderContext
from emudev_net.burst import Burst
from emudev_net.flow import Flow

from .config import AvfConfig
from .device import AvfDevice
from .testing import Guarded
from .virtchnl.opcodes import ALLOWED_CAPS
from .words import P_RULE_DROPS

__all__ = ["HOME", "REGIONS", "WildGuest"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

CONFIG: Final = 7  #: region of the configuration space
MSIX: Final = 2  #: interrupt group

#: Where the driver's own rings and buffers lie.
HOME: Final = 0x1_0000_0000
#: Guest address, size and whether the device may write it, of each region. The second follows the
#: first in the guest's addresses, and not in ours.
REGIONS: Final = (
    (HOME, 0x100000, True),
    (HOME + 0x100000, 0x10000, True),
    (0x2000_0000, 0x10000, True),
    (0x3000_0000, 0x1000, False),
)
_ATQ, _ARQ, _SEND, _RECEIVE, _RINGS = HOME, HOME + 0x1000, HOME + 0x2000, HOME + 0x22000, 0x44000
_LENGTH: Final = 32  #: descriptors of all rings
_BUFFER: Final = 2048

_ATQH, _ATQT, _ATQLEN, _ATQBAL, _ATQBAH = 0x6400, 0x8400, 0x6800, 0x7C00, 0x7800
_ARQH, _ARQT, _ARQLEN, _ARQBAL, _ARQBAH = 0x7400, 0x7000, 0x8000, 0x6C00, 0x6000
_RSTAT, _DYN_CTL01, _DYN_CTLN1, _ICR0_ENA1 = 0x8800, 0x5C00, 0x3800, 0x5000

# Opcodes of virtchnl.
_VERSION, _RESET_VF, _RESOURCES, _QUEUES, _IRQ_MAP = 1, 2, 3, 6, 7
_ENABLE, _PROMISCUOUS, _EVENT = 8, 14, 17
#: REQUEST_QUEUES, ENABLE_CHANNELS and DISABLE_CHANNELS are granted by a reset, without a reply.
_RESETTING = (29, 30, 31)

Reply = tuple[int, int, bytes]


class _Looped:
    """A backend that gives the guest its frames back."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.flows: list[Flow] = []

    @hookimpl
    def emudev_backend_started(self, device: Any) -> None:
        for pair in range(device.get_dev_info().max_queue_pairs):
            source, sink = (device.get_queue_info(q(pair)) for q in (tx_queue, rx_queue))
            flow = Flow(self._loop, source.kernels, sink.kernels, drop=True)
            device.get_db_info(source.doorbell).subscribe(flow.kick)
            self.flows.append(flow)
        device.set_attr(attributes.LINK, True)

    @hookimpl
    def emudev_backend_event(self, device: Any, event: Event) -> None:
        if event.kind in (EventKind.RESET, EventKind.QUEUE_STATE):
            for flow in self.flows:
                flow.restart()
                flow.kick()

    @hookimpl
    def emudev_backend_stopped(self, device: Any) -> None:
        for flow in self.flows:
            flow.close()


class WildGuest:
    """See the module. One thread.

    Args:
        queues: Queue pairs of the device.

    Attributes:
        avf: The device model.
        device: Its device.
        mapped: Which of `REGIONS` the device has.
        delivered: Frames that `deliver` gave to the device, and that it took.
    """

    def __init__(self, queues: int = 2) -> None:
        self.loop = Loop(spin=0)
        registry = Registry(self.loop)
        self.device = registry.allocate("avf_emudev_0", "a wild guest")
        context = ProviderContext(device=self.device, loop=self.loop, registry=registry)
        config = AvfConfig(queues=queues, caps=int(ALLOWED_CAPS), mac="52:54:00:77:00:02")
        self.avf = AvfDevice(config, context)
        self.device.register(self.avf, "provider", "wild 1.0")
        self.looped = _Looped(self.loop)
        self.device.register(self.looped, "looped_0", "wild 1.0")
        self.device.configure(config)
        while not self.avf.ready:
            self.loop.turn(0.01)
        self.device.start()
        self.queues = queues
        self.memory = [Guarded(at, size, writable=writable) for at, size, writable in REGIONS]
        self.mapped = [False] * len(REGIONS)
        self.fds: list[int | None] = [None] * config.vectors
        self.delivered = 0
        self._table_generation = 0
        self._next_send = self._next_receive = 0
        self._sane: int | None = None  # generation of the mailbox that was set up by the book
        for number in range(len(REGIONS)):
            self._touchable(number, False)

    def close(self) -> None:
        """Let everything go."""
        self.device.close()
        for vector in range(len(self.fds)):
            self._close_fd(vector)
        self.loop.close()

    # -- accesses; whoever uses them directly may have broken the mailbox

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register."""
        self._sane = None
        self._write(offset, value, size)

    def _write(self, offset: int, value: int, size: int = 4) -> None:
        self.device.region_write(0, offset, size, value & (1 << 8 * size) - 1)

    def read(self, offset: int, size: int = 4) -> int:
        """Read a register."""
        return self.device.region_read(0, offset, size)

    def write_config(self, offset: int, value: int, size: int = 4) -> None:
        """Write to configuration space."""
        self._sane = None
        self.device.region_write(CONFIG, offset, size, value & (1 << 8 * size) - 1)

    def read_config(self, offset: int, size: int = 4) -> int:
        """Read from configuration space."""
        return self.device.region_read(CONFIG, offset, size)

    def poke(self, region: int, offset: int, data: bytes) -> None:
        """Write to guest memory, as far as the region goes."""
        memory = self.memory[region]
        offset %= memory.size
        if self.mapped[region] and REGIONS[region][2]:
            if region == 0 and offset < _RECEIVE - HOME + 0x20000:
                self._sane = None
            memory.write(memory.guest + offset, data[: memory.size - offset])

    def map(self, region: int, on: bool) -> None:
        """Give the device a region, or take it back: nothing may touch it from then on."""
        if self.mapped[region] == on:
            return
        if region == 0:
            self._sane = None
        if on:
            self._touchable(region, True)
        self.mapped[region] = on
        changed = self.memory[region].region
        (self.device.dma_map if on else self.device.dma_unmap)(self._table(), changed)
        if not on:
            self._touchable(region, False)

    def _table(self) -> MemoryTable:
        self._table_generation += 1
        regions: list[MemoryRegion] = [
            m.region for m, on in zip(self.memory, self.mapped, strict=True) if on
        ]
        return MemoryTable(regions, self._table_generation)

    def _touchable(self, region: int, on: bool) -> None:
        memory = self.memory[region]
        rights = mmap.PROT_READ | (mmap.PROT_WRITE if REGIONS[region][2] else 0)
        _libc.mprotect(memory.host, memory.size, rights if on else 0)

    def bind(self, vector: int, on: bool) -> None:
        """Give a vector an eventfd, or take it."""
        if on == (self.fds[vector] is not None):
            return
        if on:
            self.fds[vector] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.device.irq_bound(MSIX, vector, self.fds[vector] if on else None)
        if not on:
            self._close_fd(vector)

    def _close_fd(self, vector: int) -> None:
        fd = self.fds[vector]
        if fd is not None:
            self.fds[vector] = None
            os.close(fd)

    def reset(self, kind: ResetKind) -> None:
        """Reset the function, or more."""
        self._sane = None
        self.device.reset(kind)

    def pf_reset(self, announced: bool) -> None:
        """Reset the function as its PF does."""
        (self.avf.announce_reset if announced else self.avf.silent_reset)()

    def link(self, up: bool) -> None:
        """The backend's link."""
        self.device.set_attr(attributes.LINK, up)

    def turn(self) -> None:
        """Let the device do what waits."""
        for _ in range(3):
            self.loop.turn(0)

    def pass_time(self) -> None:
        """Let the device run until a reset that goes on is over."""
        self.turn()
        for _ in range(10_000):
            if self.avf.resets.state.value == "active":
                break
            self.loop.turn(0.001)
        self.turn()

    # -- the mailbox, by the book

    @property
    def sane(self) -> bool:
        """Whether the mailbox works: nothing has disturbed it since it was set up."""
        return self._sane == self.avf.mailbox._generation

    def start_mailbox(self) -> None:
        """Set both rings up, where memory and bus mastering are given."""
        self.pass_time()
        self.map(0, True)
        self.device.region_write(CONFIG, 4, 2, 0x0406)
        self._next_send = self._next_receive = 0
        self.memory[0].write(_ATQ, bytes(_LENGTH * 32))
        for index in range(_LENGTH):
            self._post(index)
        for head, tail, length, low, high, base in (
            (_ATQH, _ATQT, _ATQLEN, _ATQBAL, _ATQBAH, _ATQ),
            (_ARQH, _ARQT, _ARQLEN, _ARQBAL, _ARQBAH, _ARQ),
        ):
            self._write(length, 0)
            self._write(head, 0)
            self._write(tail, 0)
            self._write(low, base & 0xFFFF_FFFF)
            self._write(high, base >> 32)
            self._write(length, 0x8000_0000 | _LENGTH)
        self._write(_ARQT, _LENGTH - 1)
        self._sane = self.avf.mailbox._generation
        self.receive()  # what waited for buffers

    def _post(self, index: int) -> None:
        address = _RECEIVE + index * 4096
        words = (0x1200, 0, 4096, 0, 0, 0, 0, 0, address >> 32, address & 0xFFFF_FFFF)
        self.memory[0].write(_ARQ + index * 32, struct.pack("<HHHHIIIIII", *words))

    def receive(self) -> list[Reply]:
        """Take what has come: opcode, status, payload."""
        found = []
        while self._next_receive != self.read(_ARQH):
            index = self._next_receive
            raw = struct.unpack("<HHHHIi", self.memory[0].read(_ARQ + index * 32, 16))
            flags, opcode, length, retval, high, low = raw
            assert (flags, opcode, retval) == (0x1203, 0x0802, 0), raw
            found.append((high, low, self.memory[0].read(_RECEIVE + index * 4096, length)))
            self._post(index)
            self._write(_ARQT, index)
            self._next_receive = (index + 1) % _LENGTH
        return found

    def request(self, opcode: int, payload: bytes = b"") -> Reply | None:
        """Send a request through a mailbox that works, and see that it is answered once.

        Returns:
            The answer; None to RESET_VF, and to what is granted by a reset.

        Raises:
            AssertionError: It was not answered, or not once, or something else was.
        """
        assert self.sane
        self.receive()
        opcode &= 0xFFFF_FFFF
        payload = payload[:4096]
        address = _SEND + self._next_send * 4096
        self.memory[0].write(address, payload)
        flags = 0x2000 | (0x1400 if payload else 0) | (0x200 if len(payload) > 512 else 0)
        words = (flags, 0x0801, len(payload), 0, opcode, 0, 0, 0)
        raw = struct.pack("<HHHHIIIIII", *words, address >> 32, address & 0xFFFF_FFFF)
        self.memory[0].write(_ATQ + self._next_send * 32, raw)
        self._next_send = (self._next_send + 1) % _LENGTH
        self._write(_ATQT, self._next_send)
        if opcode == _RESET_VF:
            assert not self.sane, "RESET_VF leaves the mailbox as it was"
            return None
        assert self.read(_ATQH) == self._next_send, "the request was not taken at once"
        replies = [reply for reply in self.receive() if reply[0] != _EVENT or opcode == _EVENT]
        if opcode in _RESETTING and not replies:
            assert self.avf.resets.state.value == "announced"
            return None
        assert [reply[0] for reply in replies] == [opcode]
        assert replies[0][1] <= 0
        return replies[0]

    # -- a driver by the book

    def open(self, pairs: int | None = None) -> None:
        """From the version to enabled queues with buffers posted; the mailbox works.

        Raises:
            AssertionError: A request was refused.
        """
        pairs = self.queues if pairs is None else pairs
        self._grant(_VERSION, struct.pack("<II", 1, 1))
        self._grant(_RESOURCES, b"\xff\xff\xff\xff")  # all that there is
        irq = struct.pack("<H", 1) + struct.pack("<HHHHHH", 1, 1, *[(1 << pairs) - 1] * 2, 0, 0)
        self._grant(_IRQ_MAP, irq)
        body = struct.pack("<HHI", 1, pairs, 0)
        for pair in range(pairs):
            tx, rx, _ = self.places(pair)
            body += struct.pack("<HHHHQQ", 1, pair, _LENGTH, 0, tx, 0)
            body += struct.pack(
                "<HHIHHIIBBBBQiI",
                *(1, pair, _LENGTH, 0, 0, _BUFFER, 9728, 0, 0, 0, 0, rx, 0, 0),
            )
        self._grant(_QUEUES, body)
        self._grant(_PROMISCUOUS, struct.pack("<HH", 1, 3))
        for pair in range(pairs):
            self.post_buffers(pair)
        mask = (1 << pairs) - 1
        self._grant(_ENABLE, struct.pack("<HHII", 1, 0, mask, mask))
        self.turn()

    def _grant(self, opcode: int, payload: bytes) -> bytes:
        reply = self.request(opcode, payload)
        assert reply is not None
        assert reply[1] == 0, f"request {opcode} was refused with {reply[1]}"
        return reply[2]

    def places(self, pair: int) -> tuple[int, int, int]:
        """Guest addresses of the rings of a pair, transmit first, and of its buffers."""
        at = HOME + _RINGS + pair * 0x20000
        return at, at + 0x1000, at + 0x2000

    def post_buffers(self, pair: int) -> None:
        """Fill the receive ring of a pair."""
        _, rx, buffers = self.places(pair)
        for index in range(_LENGTH):
            raw = struct.pack("<QQQQ", buffers + index * _BUFFER, 0, 0, 0)
            self.memory[0].write(rx + index * 32, raw)
        self._write(0x2000 + 4 * pair, _LENGTH - 1)

    def deliver(self, frames: Sequence[bytes], split: int = 0) -> int:
        """Give frames to the device, as a backend does; returns how many it took."""
        burst = Burst.of(frames, split, rows=512)
        kernels = self.avf.port.kernels(0)
        assert kernels.push is not None
        assert kernels.notify is not None
        rows = kernels.push(kernels.state, burst.address, burst.count)
        kernels.notify(kernels.state, 0, 0)
        taken = len(burst.packets(rows))
        self.delivered += taken
        return taken

    def recover(self) -> None:
        """Reset the function, set it up by the book, and see a frame come back.

        Raises:
            AssertionError: A step failed, or a queue was lost.
        """
        self.pass_time()
        for region in range(len(REGIONS)):
            self.map(region, True)
        self.bind(0, True)
        self.bind(1, True)
        self.reset(ResetKind.FUNCTION)
        assert self.read(_RSTAT) & 3 == 2
        self.link(True)
        self.start_mailbox()
        self._write(_DYN_CTL01, 0x19)
        self._write(_ICR0_ENA1, 1 << 30)
        self._write(_DYN_CTLN1, 0x19)
        pairs = self.avf.vf.queue_pairs
        self.open(pairs)
        for pair in range(pairs):
            self._send_and_receive(pair)
        self.check()

    def _send_and_receive(self, pair: int) -> None:
        tx, rx, _ = self.places(pair)
        frame = b"\xff" * 6 + bytes.fromhex("525400770002") + b"\x88\xb5" + bytes([pair]) * 50
        at = self.places(pair)[2] + _LENGTH * _BUFFER
        self.memory[0].write(at, frame)
        raw = struct.pack("<QQ", at, 7 << 4 | len(frame) << 34)
        self.memory[0].write(tx, raw)
        self._write(4 * pair, 1)
        self.turn()
        done = int.from_bytes(self.memory[0].read(tx + 8, 8), "little")
        assert done & 0xF == 0xF, f"the frame of queue {pair} was not sent"
        del rx
        # It is no IP: the hash leads it to the first queue.
        _, rx, buffers = self.places(0)
        word = int.from_bytes(self.memory[0].read(rx + 32 * pair + 8, 8), "little")
        assert word & 1, f"the frame of queue {pair} did not come back"
        assert self.memory[0].read(buffers + _BUFFER * pair, len(frame)) == frame
        fd = self.fds[1]
        assert fd is not None
        if pair == 0:
            assert os.eventfd_read(fd) >= 1  # for what went before, too

    # -- what must hold at any time

    def check(self) -> None:
        """The device serves, and its counters add up.

        Raises:
            AssertionError: It does not.
        """
        assert self.device.error == ""
        assert self.avf.mailbox.dropped == 0 or not self.sane
        flows = [flow.stats() for flow in self.looped.flows]
        port = self.avf.port
        stats = port.stats()
        sent = stats.tx_unicast + stats.tx_multicast + stats.tx_broadcast
        assert sent == sum(flow["received"] for flow in flows)
        taken = self.delivered + sum(flow["sent"] for flow in flows)
        taken -= sum(flow["malformed"] for flow in flows)
        received = stats.rx_unicast + stats.rx_multicast + stats.rx_broadcast
        lost = port.filtered + port.words[P_RULE_DROPS // 8]
        lost += sum(ring.stats().dropped.get("source", 0) for ring in port.rx)
        assert received + lost >= taken  # a frame may have been cut into several
