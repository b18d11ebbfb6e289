"""The mailbox: the pair of admin queues by which a VF driver and its PF talk.

The driver writes requests into the send ring (ATQ) and its tail, and polls the head until the
device has taken them: so they are processed inside the write of the tail. Replies and events go
into buffers that the driver has posted on the receive ring (ARQ); while there is none they wait
here.

A request may end in a reset, after which neither ring exists any more: each step that runs foreign
code (the handler of a request, an access by message) compares the generation afterwards, and goes
on with what is there then.

Guest memory that only messages reach can't be read while the client waits for its write to be
answered; then the work is done later, see `defer`. Source: avf.md section 3.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from emudev_core.errors import MemoryAccessError
from emudev_core.memory import MemoryTable
from emudev_core.wire import Wire, u16, u32, wire

__all__ = ["AqDescriptor", "AqFlag", "AqOpcode", "Mailbox", "Message"]

log = logging.getLogger(__name__)

ENABLE: Final = 1 << 31  #: of ATQLEN and ARQLEN
CRIT: Final = 1 << 30
OVFL: Final = 1 << 29
LENGTH: Final = 0x3FF  #: of ATQLEN and ARQLEN, and of heads and tails

#: Longest message, bytes: the buffers of all drivers.
MAX_MESSAGE: Final = 4096
#: Requests that are answered within one write of the tail: a whole ring of the drivers. With more
#: than these, others have their turn in between.
BATCH: Final = 32
#: Messages to the guest that wait for buffers; more than fill the largest ring, and a bound.
MAX_WAITING: Final = 1024

#: Status of an admin queue command, not of the virtchnl request in it.
AQ_EINVAL: Final = 14

#: Causes in ICR01 when an element is posted to the receive ring.
ICR_ADMINQ: Final = 1 << 30 | 1 << 0


class AqFlag(enum.IntFlag):
    """Flags of a descriptor."""

    DD = 1 << 0  #: done
    CMP = 1 << 1  #: complete
    ERR = 1 << 2
    VFE = 1 << 3
    LB = 1 << 9  #: large buffer: more than 512 bytes
    RD = 1 << 10  #: the buffer is for the device to read
    VFC = 1 << 11
    BUF = 1 << 12  #: there is a buffer
    SI = 1 << 13
    EI = 1 << 14
    FE = 1 << 15


class AqOpcode(enum.IntEnum):
    """Commands that reach the device, and the one that it sends."""

    QUEUE_SHUTDOWN = 0x0003
    SEND_TO_PF = 0x0801
    SEND_TO_VF = 0x0802


@wire(size=32)
class AqDescriptor(Wire):
    """A descriptor of either ring. Source: avf.md section 3.2."""

    flags: int = u16("a set of AqFlag")
    opcode: int = u16("an AqOpcode; others are refused")
    datalen: int = u16("bytes in the buffer")
    retval: int = u16("status of the command, not of the request")
    cookie_high: int = u32("virtchnl opcode")
    cookie_low: int = u32("virtchnl status, signed")
    param0: int = u32("0")
    param1: int = u32("0")
    addr_high: int = u32("guest address of the buffer, high half")
    addr_low: int = u32("guest address of the buffer, low half")

    @property
    def address(self) -> int:
        """Guest address of the buffer."""
        return self.addr_high << 32 | self.addr_low


@attrs.frozen
class Message:
    """A reply or event on its way to the guest.

    Attributes:
        opcode: virtchnl opcode, of 32 bits.
        status: virtchnl status, 0 or negative.
        payload: At most 4096 bytes.
    """

    opcode: int
    status: int
    payload: bytes


class _ByMessage(Exception):
    """Memory that can't be reached inside this handler."""


class Mailbox:
    """Both rings. For the loop's thread.

    Args:
        registers: Has VF_ATQH1, VF_ATQT1, VF_ATQLEN1, VF_ATQBAL1, VF_ATQBAH1 and the same of the
            ARQ as integer attributes: the register file of BAR 0.
        memory: Answers the present memory table; an empty one while the device may not do DMA.
        receive: Called with opcode and payload of each request; answers by `post`.
        raised: Called after elements were posted to the receive ring: causes and interrupt.
        defer: Calls a function once the client's access has been answered and waiting is allowed.
        held: Whether messages have to wait: stores that belong before them are with the client
            still. `receive_tail_written` ends the waiting.

    Attributes:
        requests: Requests that were taken.
        refused: Commands that were completed with an error of the admin queue.
        dropped: Messages to the guest that found no place, or no room in the posted buffer.
    """

    def __init__(
        self,
        registers: Any,
        memory: Callable[[], MemoryTable],
        receive: Callable[[int, bytes], None],
        raised: Callable[[], None],
        defer: Callable[[Callable[[], None]], None],
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        self._regs = registers
        self._memory = memory
        self._receive = receive
        self._raised = raised
        self._defer = defer
        self._held = held
        self._generation = 0
        self._waiting: deque[Message] = deque()
        self._may_wait = False
        self._deferred = False
        self._draining = False
        self._flushing = False
        self.requests = 0
        self.refused = 0
        self.dropped = 0

    # -- what the device tells

    def send_tail_written(self) -> None:
        """The guest wrote ATQT: take all requests up to it."""
        try:
            self._drain()
        except _ByMessage:
            self._run_later()

    def receive_tail_written(self) -> None:
        """The guest wrote ARQT: it has posted buffers."""
        try:
            self._flush()
        except _ByMessage:
            self._run_later()

    def post(self, opcode: int, status: int, payload: bytes = b"") -> None:
        """Send a reply or an event to the guest; it waits if no buffer is posted."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            self._regs.VF_ARQLEN1 |= OVFL
            return
        self._waiting.append(Message(opcode, status, payload))
        try:
            self._flush()
        except _ByMessage:
            self._run_later()

    def reset(self) -> None:
        """Forget everything that waits, and what was deferred; the registers are the caller's."""
        self._generation += 1
        self._waiting.clear()
        self._deferred = False

    @property
    def receiving(self) -> bool:
        """Whether the guest has enabled its receive ring."""
        return bool(self._regs.VF_ARQLEN1 & ENABLE)

    @property
    def waiting(self) -> tuple[Message, ...]:
        """What waits for buffers, oldest first."""
        return tuple(self._waiting)

    def restore(self, waiting: list[Message]) -> None:
        """Take back what `waiting` was when the device was saved."""
        self.reset()
        self._waiting.extend(waiting)

    # -- later, where waiting for memory is allowed

    def _run_later(self) -> None:
        if not self._deferred:
            self._deferred = True
            self._defer(self._run_deferred)

    def _run_deferred(self) -> None:
        self._deferred = False
        self._may_wait = True
        try:
            self._drain()
            self._flush()
        finally:
            self._may_wait = False

    def _check_reachable(self, address: int, size: int) -> MemoryTable:
        table = self._memory()
        if not self._may_wait:
            for end in (address, address + size - 1):
                region = table.find(end)
                if region is not None and region.host is None:
                    raise _ByMessage
        return table

    def _read(self, address: int, size: int) -> bytes:
        table = self._check_reachable(address, size)
        may_wait, self._may_wait = self._may_wait, False  # commands that come in meanwhile may not
        try:
            return table.read(address, size)
        finally:
            self._may_wait = may_wait

    def _write(self, address: int, data: bytes) -> None:
        self._memory().write(address, data)

    # -- the send ring

    def _drain(self) -> None:
        if self._draining:  # an access by message let further commands in; the outer loop sees them
            return
        self._draining = True
        try:
            for _ in range(BATCH):
                generation = self._generation
                if not self._take_one(generation) and self._generation == generation:
                    return
            self._run_later()
        finally:
            self._draining = False

    def _take_one(self, generation: int) -> bool:
        """Take the request at the head; False if there is none or the ring is broken."""
        regs = self._regs
        length = regs.VF_ATQLEN1
        size = length & LENGTH
        head = regs.VF_ATQH1 & LENGTH
        tail = regs.VF_ATQT1 & LENGTH
        if not length & ENABLE or head == tail or head >= size or tail >= size:
            return False
        address = (regs.VF_ATQBAH1 << 32 | regs.VF_ATQBAL1) + head * AqDescriptor.SIZE
        try:
            descriptor = AqDescriptor.unpack(self._read(address, AqDescriptor.SIZE))
            payload, status = self._fetch(descriptor, generation)
            if self._generation != generation:
                return False
            flags = descriptor.flags | AqFlag.DD | AqFlag.CMP | (AqFlag.ERR if status else 0)
            # Complete before the handler runs: after a reset nothing is written any more.
            self._write(address, descriptor.replace(flags=flags, retval=status).pack())
        except MemoryAccessError as exc:
            log.debug("send ring: %s", exc)
            if self._generation == generation:
                regs.VF_ATQLEN1 |= CRIT
            return False
        if self._generation != generation:
            return False
        regs.VF_ATQH1 = (head + 1) % size
        if status:
            self.refused += 1
        elif descriptor.opcode == AqOpcode.SEND_TO_PF:
            self.requests += 1
            self._receive(descriptor.cookie_high, payload)
        return True

    def _fetch(self, descriptor: AqDescriptor, generation: int) -> tuple[bytes, int]:
        """The payload of a command, and the status with which the command is completed."""
        if descriptor.opcode == AqOpcode.QUEUE_SHUTDOWN:
            return b"", 0
        if descriptor.opcode != AqOpcode.SEND_TO_PF or descriptor.datalen > MAX_MESSAGE:
            return b"", AQ_EINVAL
        if not descriptor.datalen or not descriptor.flags & (AqFlag.BUF | AqFlag.RD):
            return b"", 0
        try:
            return self._read(descriptor.address, descriptor.datalen), 0
        except MemoryAccessError as exc:
            log.debug("send buffer: %s", exc)
            if self._generation == generation:
                self._regs.VF_ATQLEN1 |= CRIT
            return b"", AQ_EINVAL

    # -- the receive ring

    def _flush(self) -> None:
        if self._flushing or self._held():
            return
        self._flushing = True
        posted: int | None = None
        try:
            while self._waiting:
                generation = self._generation
                if self._post_one(generation):
                    posted = generation
                elif self._generation == generation:
                    return
        finally:
            self._flushing = False
            if posted == self._generation:
                self._raised()

    def _post_one(self, generation: int) -> bool:
        """Post the oldest message; False if there is no buffer or the ring is broken."""
        regs = self._regs
        length = regs.VF_ARQLEN1
        size = length & LENGTH
        head = regs.VF_ARQH1 & LENGTH
        tail = regs.VF_ARQT1 & LENGTH
        if not length & ENABLE or head == tail or head >= size or tail >= size:
            return False
        address = (regs.VF_ARQBAH1 << 32 | regs.VF_ARQBAL1) + head * AqDescriptor.SIZE
        message = self._waiting[0]
        try:
            posted = AqDescriptor.unpack(self._read(address, AqDescriptor.SIZE))
            if self._generation != generation:
                return False
            payload = message.payload[: posted.datalen]
            if len(payload) < len(message.payload):
                self.dropped += 1
            if payload:
                self._write(posted.address, payload)
                if self._generation != generation:
                    return False
            filled = AqDescriptor(
                flags=posted.flags & AqFlag.LB | AqFlag.DD | AqFlag.CMP | AqFlag.BUF,
                opcode=AqOpcode.SEND_TO_VF,
                datalen=len(payload),
                retval=0,
                cookie_high=message.opcode,
                cookie_low=message.status & 0xFFFF_FFFF,
                param0=0,
                param1=0,
                addr_high=posted.addr_high,
                addr_low=posted.addr_low,
            )
            self._write(address, filled.pack())
        except MemoryAccessError as exc:
            log.debug("receive ring: %s", exc)
            if self._generation == generation:
                regs.VF_ARQLEN1 |= CRIT
            return False
        if self._generation != generation:
            return False
        self._waiting.popleft()
        regs.VF_ARQH1 = (head + 1) % size
        return True
