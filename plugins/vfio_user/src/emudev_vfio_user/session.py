"""One client of one device: the thin shell around framing, tables and the device's hooks.

Reads as much as there is, serves messages in order, sends the replies of a batch together. What
drivers do most, reading registers and ringing doorbells, is served in `_serve_messages`, or in
`accesses` if it comes alone; everything else goes through `commands`.

While the loop sleeps, doorbells are served without the interpreter (`emudev_net.fast_wait`).

Everything runs on the loop's thread. `Later` answers park the connection: nothing is read until
they are there. A client that does not take its replies is not read from either (`outbox`), so that
what is kept for it stays below `KEEP` and one reply.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from emudev_core.errors import PeerError
from emudev_core.later import LIMIT
from emudev_core.lifecycle import State
from emudev_core.loop import READ, WRITE, Loop
from emudev_core.sockets import descriptors
from emudev_net.fast_wait import FastWait
from emudev_net.sigbus import Guard

from . import nearby
from .accesses import ACCESS, LONE_READ, LONE_WRITE, READ_REPLY, WRITE4, answer_alone, ring_alone
from .channel import CHUNK, Link, MessageDma, warn_unmapped
from .commands import HANDLERS, Answer
from .dma import DmaEntry, DmaTable
from .irqs import IrqTable
from .messages import HEADER, MAX_FDS, POSTED, REPLY, Command, Flags, command_name
from .outbox import Outbox
from .protocol import (
    FrameError,
    Phase,
    PhaseEvent,
    Receiver,
    close_fds,
    error_reply,
    step,
)
from .regions import check_regions, count_regions, find_doorbells, readable_sizes
from .served import ServedDevice
from .steps import Procedure, Run
from .teardown import take_back
from .version import Limits

__all__ = ["KEEP", "Session"]

log = logging.getLogger(__name__)

KEEP: Final = 256 << 10  #: replies gathered before they are sent, bytes

#: A reply above this is sent at once: gathering is for the many small ones.
_LARGE: Final = 4096

_ANCILLARY: Final = socket.CMSG_SPACE(MAX_FDS * 4)
_RECEIVE: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_PROGRESS: Final = READ | WRITE

#: Looked up once: an enum's members cost more than a name of the module.
_SERVING: Final = Phase.SERVING
_ERROR: Final = State.ERROR
_CTRUNC: Final = int(socket.MSG_CTRUNC)

_HEADER_PACK: Final = struct.Struct("<HHIII").pack


def _fail_truncated(device: ServedDevice, client: str, guard: Guard) -> None:
    """Memory was touched that the client's file no longer has; what the device does is void."""
    device.fail(
        f"{client} has truncated memory that it had mapped, or nothing backs it any more; "
        f"accesses that found zeroes in its place: {guard.faults}"
    )


class Session:
    """See the module.

    Args:
        device: What is served.
        loop: Watches the socket.
        sock: A connected stream socket; the session owns it.
        client: Name of the client, for people.
        gone: Called once when everything was taken back; the session is of no use afterwards.
        generation: The memory table's generation to start from.

    Raises:
        ValueError: The device describes impossible regions.
    """

    def __init__(
        self,
        device: ServedDevice,
        loop: Loop,
        sock: socket.socket,
        client: str,
        gone: Callable[[], None],
        *,
        generation: int = 0,
    ) -> None:
        self.device = device
        self.loop = loop
        self.client = client
        self.phase = Phase.GREETING
        self.limits = Limits()
        self.regions = check_regions(device.get_regions())
        self.region_count = count_regions(self.regions)
        self.channel = MessageDma(
            Link(self._send_command, self._serve_once, self._is_answering),
            partial(warn_unmapped, device.name, client),
        )
        self.dma = DmaTable(
            self.channel, generation, loop, partial(_fail_truncated, device, client)
        )
        self.irqs = IrqTable(device, loop, device.get_irq_groups())
        self.limbo: list[DmaEntry] = []  # unmapped, but the provider never said it let go
        self._gone = gone
        self.readable = readable_sizes(self.regions)
        self.bells = find_doorbells(self.regions)
        self.attached = False
        self.answering = False  # whether a message is being served
        self._run: Run[Any] | None = None
        self._receiver = Receiver()
        sock.setblocking(False)
        self._sock = sock
        self._receive = sock.recvmsg_into
        self.out = Outbox(loop, sock, self._look, self.leave)
        self._watch = loop.watch(sock.fileno(), self._ready, READ)
        self._lane = FastWait.of(loop).add_stream(sock.fileno(), self.bells, self._rings_only)

    # -- the socket

    @property
    def hung_up(self) -> bool:
        """Whether the client's end is closed."""
        if self.phase in (Phase.LEAVING, Phase.GONE):
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    @property
    def sent(self) -> tuple[int, int]:
        """Bytes that the kernel took for the client, and bytes that it did not take yet."""
        return self.out.progress, self.out.kept_bytes

    def _ready(self, events: int) -> None:
        if events == READ and self.phase is _SERVING and not self.out.kept:
            self._receive_batch()
            return
        if events & WRITE and self.out.choked and self.out.resume():
            self._look()
            self._serve()
        if events & READ:
            if self.phase in (Phase.SERVING, Phase.GREETING) and not self.out.choked:
                self._receive_batch()
        elif events & ~_PROGRESS:
            self.leave("the connection broke")

    def _rings_only(self) -> bool:
        """Whether a doorbell's write that comes next is for nobody but the doorbell."""
        return (
            self.phase is _SERVING
            and self.device.state is not _ERROR
            and not self.out.kept
            and not self._receiver.waiting
            and not self.channel.waits
            and self.device.is_direct("emudev_region_write")
        )

    def _receive_batch(self) -> None:
        receiver = self._receiver
        try:
            size, ancillary, flags, _ = self._receive([receiver.room()], _ANCILLARY, _RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.leave(str(exc))
            return
        # The kernel repeats MSG_CMSG_CLOEXEC in the flags.
        lost = flags & _CTRUNC
        if not (ancillary or lost or receiver.end):
            # A row of register reads: each comes alone, and the vCPU waits for its answer.
            if size == LONE_READ:
                if answer_alone(self, receiver.buffer):
                    return
            # A doorbell for each packet of a guest that is not busy.
            elif size == LONE_WRITE and ring_alone(self, receiver.buffer):
                return
        if ancillary or lost:
            fds = descriptors(ancillary)
            if not size:
                close_fds(fds)
            else:
                receiver.received(size, fds, bool(lost))
        elif size:
            receiver.received(size)
        if not size:
            self.leave("end of stream")
            return
        self._serve()

    def _look(self) -> None:
        """Look for what can be handled now."""
        if self.phase in (Phase.LEAVING, Phase.GONE):
            return
        choked = self.out.choked
        reads = READ if self.phase is not Phase.PARKED and not choked else 0
        self._watch.set(reads | (WRITE if choked else 0))

    # -- messages

    def _serve(self) -> None:
        """Serve the messages that are there, and send the replies."""
        nested = self.answering
        self.answering = True
        try:
            self._serve_messages()
        except FrameError as exc:
            # As text: a handler that keeps records would keep the session by the traceback.
            log.warning("%s: %s: %s", self.device.name, self.client, str(exc))
            if exc.answer:
                self.out.gathered.append(error_reply(exc.msg_id, exc.command, exc.errno))
            self.out.flush()
            self.leave("framing is lost")
        finally:
            self.answering = nested
        if self.out.gathered:
            self.loop.expecting = True
            self.out.flush()
        if not nested and self.channel.waits and self.phase is _SERVING:
            self.channel.pump()

    def _serve_messages(self) -> None:
        if self.phase not in (Phase.SERVING, Phase.GREETING) or self.out.choked:
            return
        device = self.device
        receiver = self._receiver
        buffer = receiver.buffer
        out = self.out.gathered
        serving = self.phase is _SERVING and device.state is not _ERROR
        readable, bells = self.readable, self.bells
        direct: bool | None = None
        for msg_id, command, flags, error, at, end in receiver.messages():
            if serving and command == 10 and flags == POSTED and end - at == 20:
                # A posted write of 4 bytes: the doorbells of a driver.
                offset, region, count, value = WRITE4(buffer, at)
                if count == 4:
                    bell = bells.get((region, offset))
                    if bell is not None:
                        if direct is None:
                            direct = device.is_direct("emudev_region_write")
                        if direct:
                            try:
                                bell.write(value)
                            except Exception as exc:
                                self.refuse(msg_id, command, flags, exc)
                                serving = False
                            continue
            elif serving and command == 9 and not flags and end - at == 16:
                offset, region, count = ACCESS(buffer, at)
                pack = READ_REPLY.get(count)
                if (
                    pack is not None
                    and not offset % count
                    and offset + count <= readable.get(region, 0)
                ):
                    try:
                        value = device.region_read(region, offset, count)
                        out.append(
                            pack(msg_id, 9, 32 + count, REPLY, 0, offset, region, count, value)
                        )
                    except Exception as exc:
                        self.refuse(msg_id, command, flags, exc)
                        serving = device.state is not State.ERROR
                    continue
            self._command(msg_id, command, flags, error, at, end)
            if self.out.choked or self.phase not in (Phase.SERVING, Phase.GREETING):
                return
            serving = self.phase is _SERVING and device.state is not _ERROR

    def _command(
        self, msg_id: int, command: int, flags: int, error: int, at: int, end: int
    ) -> None:
        receiver = self._receiver
        payload = bytes(memoryview(receiver.buffer)[at:end])
        if flags & Flags.REPLY:
            if not self.channel.answered(msg_id, command, flags, error, payload):
                self.refuse(msg_id, command, 0, PeerError("a reply that nobody waits for"))
            return
        try:
            handler = HANDLERS.get(command)
            if receiver.fds_lost:
                raise PeerError("descriptors were lost", errno=errno.EMFILE)
            if self.phase is Phase.GREETING and command != Command.VERSION:
                raise PeerError("the first command has to be VERSION", fatal=True)
            if handler is None:
                raise PeerError("is not supported")
            if not payload and command != Command.RESET:
                raise PeerError("came without a payload")
            answer = handler(self, payload)
        except Exception as exc:
            self.refuse(msg_id, command, flags, exc)
            return
        if type(answer) is bytes or isinstance(answer, tuple):
            self._reply(msg_id, command, flags, answer)
            return
        assert not isinstance(answer, bytes | tuple)
        self._start(answer, msg_id, command, flags)

    def _start(self, work: Procedure[Answer], msg_id: int, command: int, flags: int) -> None:
        """Run a procedure; park the connection if it takes time."""

        def done(answer: Answer | None, error: BaseException | None) -> None:
            if self.phase is Phase.PARKED:
                self.phase = step(self.phase, PhaseEvent.RESUME)
            if self.phase is Phase.SERVING:
                if isinstance(error, Exception):
                    self.refuse(msg_id, command, flags, error)
                elif answer is not None:
                    self._reply(msg_id, command, flags, answer)
            if parked:
                self._run = None
                if self.phase is Phase.LEAVING:
                    self._take_back()
                else:
                    self.out.flush()
                    self._look()
                    self._serve()

        def late() -> None:
            self.device.fail(f"{command_name(command)} was not finished within {LIMIT} s")

        parked = False
        run: Run[Answer] = Run(self.loop, work, done, late)
        if not run.finished:
            parked = True
            self._run = run
            if self.phase is Phase.SERVING:
                self.phase = step(self.phase, PhaseEvent.PARK)
                self._look()

    def agreed(self, limits: Limits) -> None:
        """VERSION was understood: the device may be used."""
        self.limits = limits
        self.channel.chunk = min(CHUNK, limits.max_data_xfer_size)
        self.phase = step(self.phase, PhaseEvent.AGREED)
        self.attached = True
        log.info("%s: %s attached", self.device.name, self.client)
        self.device.client_attached(self.client)

    def take_fds(self) -> list[int]:
        """Own the descriptors that came with the command at hand."""
        return self._receiver.take_fds()

    # -- replies

    def _reply(self, msg_id: int, command: int, flags: int, answer: Answer) -> None:
        if flags & POSTED or self.phase in (Phase.LEAVING, Phase.GONE):
            return
        payload, fds = answer if isinstance(answer, tuple) else (answer, ())
        message = _HEADER_PACK(msg_id, command, HEADER + len(payload), REPLY, 0) + payload
        if fds:
            self.out.send_with_fds(message, list(fds))
            return
        self.out.gathered.append(message)
        if len(message) > _LARGE or len(self.out.gathered) > KEEP // _LARGE:
            self.out.flush()

    def refuse(self, msg_id: int, command: int, flags: int, exc: Exception) -> None:
        """Answer a command that failed: the peer's fault, or the provider's."""
        if isinstance(exc, PeerError):
            number = exc.errno
            log.debug("%s: %s: %s: %s", self.device.name, self.client, command_name(command), exc)
        elif isinstance(exc, TimeoutError):
            number = errno.ETIMEDOUT  # the device was put in error when the time was up
        else:
            number = errno.EIO
            self.device.fail(exc, f"{command_name(command)}")
        if not flags & POSTED and self.phase not in (Phase.LEAVING, Phase.GONE):
            self.out.gathered.append(error_reply(msg_id, command, number))
        if isinstance(exc, PeerError) and exc.fatal:
            self.out.flush()
            self.leave(str(exc))

    # -- DMA by message

    def _is_answering(self) -> bool:
        return self.answering

    def _send_command(self, message: bytes) -> bool:
        if self.phase is not Phase.SERVING:
            return False
        self.out.gathered.append(message)
        self.out.flush()
        return self.phase is Phase.SERVING

    def _serve_once(self, seconds: float) -> bool:
        if self.phase is not Phase.SERVING:
            return False
        poll = select.poll()
        choked = self.out.choked
        poll.register(self._sock, select.POLLOUT if choked else select.POLLIN)
        clients = nearby.watch(self.loop, poll)
        for fd, events in poll.poll(seconds * 1000):
            if fd in clients:
                clients[fd].ready(events)
            else:
                self._ready(events)
        return self.phase is Phase.SERVING

    # -- the end

    def leave(self, reason: str) -> None:
        """Let the client go and take everything back; a second call does nothing."""
        if self.phase in (Phase.LEAVING, Phase.GONE):
            return
        log.info("%s: %s left: %s", self.device.name, self.client, reason)
        self.phase = step(self.phase, PhaseEvent.LEAVE)
        self._lane.close()
        self._watch.close()
        self._sock.close()
        self.channel.close()
        self.out.close()
        if self._run is None:
            self.loop.call_soon(self._take_back)

    def finish(self) -> None:
        """Take everything back now, not at the loop's next turn; for a server that stops."""
        self.leave("the server stopped listening")
        if self._run is None:
            self._take_back()

    def _take_back(self) -> None:
        if self.phase is not Phase.LEAVING or self._run is not None:
            return
        self._receiver.close()
        run = Run(self.loop, take_back(self), self._cleared, self._overdue)
        if not run.finished:
            self._run = run

    def _overdue(self) -> None:
        self.device.fail(f"did not let go of {self.client}'s memory within {LIMIT} s")

    def _cleared(self, result: None, error: BaseException | None) -> None:
        if error is not None:  # each step has a guard of its own
            log.error("%s: taking back from %s", self.device.name, self.client, exc_info=error)
        self.phase = step(self.phase, PhaseEvent.CLEARED)
        self._run = None
        self._gone()
