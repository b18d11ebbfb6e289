"""A blocking client: what a VMM is to a device, for reference drivers, tests and benchmarks.

It fits `emudev_core.client.DeviceClient`. One thread uses it. While it waits for an answer it
serves the device's DMA_READ and DMA_WRITE from the memory that was given to it, and, if the device
lives in the same process, lets the loop turn.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from emudev_core.errors import DecodeError, PeerError, TransportError
from emudev_core.loop import READ, Loop, Watch
from emudev_core.regions import IrqGroup, RegionInfo

from . import nearby, version
from .messages import (
    HEADER,
    MAX_DATA,
    POSTED,
    REPLY,
    Command,
    DeviceInfo,
    DmaAccess,
    DmaMap,
    DmaMapFlags,
    DmaUnmap,
    DmaUnmapFlags,
    Flags,
    Header,
    IrqFlags,
    IrqInfo,
    RegionAccess,
    RegionInfoHead,
    SetIrqs,
    SetIrqsFlags,
    WriteMultiHead,
    WriteMultiRecord,
    command_name,
)
from .protocol import Receiver, close_fds, error_reply
from .regions import decode_region
from .sockets import descriptors, inherited_fd

__all__ = ["VfioUserClient"]

_ANCILLARY: Final = socket.CMSG_SPACE(64 * 4)
_RECEIVE: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_READ_REQUEST: Final = struct.Struct("<HHIIIQII").pack
_WINDOW: Final = 256  #: requests on their way at a time


@attrs.frozen(eq=False)
class _Reply:
    error: int | None
    payload: bytes
    fds: list[int]


@attrs.frozen(eq=False)
class _Memory:
    """Memory that messages of the device reach."""

    size: int
    view: memoryview
    readable: bool
    writable: bool


class VfioUserClient:
    """See the module.

    Args:
        where: Path of the device's socket, ``fd:NAME`` of an inherited listening one, or a
            connected socket, which the client owns from now on.
        loop: The loop that serves the device, if it is in this process.
        timeout: How long an answer may take, seconds.
        greet: Negotiate the version at once; else `negotiate` has to be called.

    Attributes:
        loop: As given.
        limits: What the server takes.
        dma_reads, dma_writes: Messages of the device that were served.

    Raises:
        TransportError: Nobody listens there.
        PeerError: The server refused the version.
    """

    def __init__(
        self,
        where: str | socket.socket,
        *,
        loop: Loop | None = None,
        timeout: float = 5.0,
        greet: bool = True,
    ) -> None:
        self.loop = loop
        self._timeout = timeout
        self._sock = where if isinstance(where, socket.socket) else _connect(where)
        self._sock.setblocking(False)
        self._receiver = Receiver(MAX_DATA + 4096)
        self._next_id = 0
        self._replies: dict[int, _Reply | None] = {}
        self._memory: dict[int, _Memory] = {}
        self._regions: list[RegionInfo] | None = None
        self._own_fds: list[int] = []
        self._gone = ""
        self._watch: Watch | None = None
        self.limits = version.Limits()
        self.dma_reads = 0
        self.dma_writes = 0
        if loop is not None:
            nearby.join(self)
            self._watch = loop.watch(self._sock.fileno(), self.ready, READ)
        if greet:
            try:
                self.negotiate()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> VfioUserClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the device

    def negotiate(self) -> None:
        """Agree on a version; nothing else may come before."""
        self.limits = version.answer(self.request(Command.VERSION, version.offer()))

    def info(self) -> DeviceInfo:
        """What the device says of itself."""
        request = DeviceInfo(argsz=DeviceInfo.SIZE)
        return DeviceInfo.unpack(self.request(Command.GET_INFO, request.pack()))

    def regions(self) -> Sequence[RegionInfo]:
        """The device's regions, by index; asked for once.

        Descriptors of mappable regions belong to the client and are closed with it.
        """
        if self._regions is None:
            self._regions = [self._region(i) for i in range(self.info().num_regions)]
        return self._regions

    def _region(self, index: int) -> RegionInfo:
        argsz = RegionInfoHead.SIZE
        while True:
            request = RegionInfoHead(argsz=argsz, index=index).pack()
            reply = self._collect(self._submit(Command.GET_REGION_INFO, request))
            head = RegionInfoHead.unpack(reply.payload)
            if argsz < head.argsz <= MAX_DATA:
                close_fds(reply.fds)
                argsz = head.argsz
                continue
            self._own_fds += reply.fds
            return decode_region(reply.payload, reply.fds[0] if reply.fds else None)

    def irq_groups(self) -> Sequence[IrqGroup]:
        """The device's groups of interrupts, by index."""
        groups = []
        for index in range(self.info().num_irqs):
            request = IrqInfo(argsz=IrqInfo.SIZE, index=index).pack()
            info = IrqInfo.unpack(self.request(Command.GET_IRQ_INFO, request))
            maskable = bool(info.flags & IrqFlags.MASKABLE)
            automasked = bool(info.flags & IrqFlags.AUTOMASKED)
            groups.append(IrqGroup(index, info.count, maskable, automasked))
        return groups

    def reset(self) -> None:
        """Reset the device."""
        self.request(Command.RESET)

    # -- region access

    def region_read(self, region: int, offset: int, size: int) -> bytes:
        """Read `size` bytes of a region."""
        return self._data(self._submit_read(region, offset, size), size)

    def region_read_many(self, accesses: Iterable[tuple[int, int, int]]) -> list[bytes]:
        """Read (region, offset, size) each, many requests on their way at a time."""
        wanted = list(accesses)
        found: list[bytes] = []
        for first in range(0, len(wanted), _WINDOW):
            part = wanted[first : first + _WINDOW]
            head = RegionAccess.SIZE + HEADER
            ids = [self._new_id() for _ in part]
            self._send(
                b"".join(
                    _READ_REQUEST(i, Command.REGION_READ, head, 0, 0, offset, region, size)
                    for i, (region, offset, size) in zip(ids, part, strict=True)
                )
            )
            found += [self._data(i, size) for i, (_, _, size) in zip(ids, part, strict=True)]
        return found

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write bytes to a region; a posted write does not wait for an answer."""
        self.region_write_many([(region, offset, data)], posted=posted)

    def region_write_many(
        self, accesses: Iterable[tuple[int, int, bytes]], *, posted: bool = False
    ) -> None:
        """Write (region, offset, data) each, many requests on their way at a time."""
        wanted = list(accesses)
        flags = POSTED if posted else 0
        for first in range(0, len(wanted), _WINDOW):
            messages = []
            ids = []
            for region, offset, data in wanted[first : first + _WINDOW]:
                msg_id = self._new_id(expected=not posted)
                ids.append(msg_id)
                size = HEADER + RegionAccess.SIZE + len(data)
                head = (msg_id, Command.REGION_WRITE, size, flags, 0)
                messages += [_READ_REQUEST(*head, offset, region, len(data)), data]
            self._send(b"".join(messages))
            if not posted:
                for msg_id in ids:
                    self._payload(msg_id)

    def region_write_multi(
        self, accesses: Sequence[tuple[int, int, bytes]], *, posted: bool = True
    ) -> None:
        """Write (region, offset, 1 to 8 bytes) each with one REGION_WRITE_MULTI."""
        records = [
            WriteMultiRecord(offset, region, len(data), data.ljust(8, b"\0")).pack()
            for region, offset, data in accesses
        ]
        payload = WriteMultiHead(len(records)).pack() + b"".join(records)
        if posted:
            self._post(Command.REGION_WRITE_MULTI, payload)
        else:
            self.request(Command.REGION_WRITE_MULTI, payload)

    # -- memory

    def dma_map(
        self,
        address: int,
        size: int,
        *,
        fd: int | None = None,
        offset: int = 0,
        readable: bool = True,
        writable: bool = True,
        memory: bytearray | memoryview | None = None,
    ) -> None:
        """See `DeviceClient.dma_map`."""
        if (fd is None) == (memory is None):
            raise ValueError("either a descriptor or memory has to be given")
        flags = (DmaMapFlags.READ if readable else 0) | (DmaMapFlags.WRITE if writable else 0)
        request = DmaMap(DmaMap.SIZE, int(flags), offset, address, size)
        if memory is not None:
            view = memoryview(memory).cast("B")
            if len(view) < size:
                raise ValueError(f"memory has {len(view)} bytes, {size} are to be mapped")
            self._memory[address] = _Memory(size, view, readable, writable)
        try:
            self.request(Command.DMA_MAP, request.pack(), () if fd is None else (fd,))
        except PeerError:
            self._memory.pop(address, None)
            raise

    def dma_unmap(self, address: int, size: int) -> None:
        """See `DeviceClient.dma_unmap`."""
        request = DmaUnmap(DmaUnmap.SIZE, 0, address, size)
        self.request(Command.DMA_UNMAP, request.pack())
        self._memory.pop(address, None)

    def dma_unmap_all(self) -> None:
        """Take all memory back."""
        request = DmaUnmap(DmaUnmap.SIZE, DmaUnmapFlags.ALL, 0, 0)
        self.request(Command.DMA_UNMAP, request.pack())
        self._memory.clear()

    # -- interrupts

    def irq_bind(self, group: int, vector: int, fd: int | None) -> None:
        """See `DeviceClient.irq_bind`."""
        flags = SetIrqsFlags.DATA_EVENTFD | SetIrqsFlags.TRIGGER
        self.set_irqs(flags, group, vector, 1, fds=() if fd is None else (fd,))

    def irq_mask(self, group: int, vector: int, masked: bool) -> None:
        """See `DeviceClient.irq_mask`."""
        action = SetIrqsFlags.MASK if masked else SetIrqsFlags.UNMASK
        self.set_irqs(SetIrqsFlags.DATA_NONE | action, group, vector, 1)

    def irq_disable(self, group: int) -> None:
        """Unbind all vectors of a group."""
        self.set_irqs(SetIrqsFlags.DATA_NONE | SetIrqsFlags.TRIGGER, group, 0, 0)

    def set_irqs(
        self,
        flags: int,
        group: int,
        start: int,
        count: int,
        *,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """SET_IRQS as it is; see `messages.SetIrqs`. The caller keeps the descriptors."""
        request = SetIrqs(SetIrqs.SIZE + len(data), int(flags), group, start, count)
        self.request(Command.SET_IRQS, request.pack() + data, fds)

    # -- waiting

    def wait(self, fd: int, timeout: float) -> bool:
        """See `DeviceClient.wait`."""
        deadline = time.monotonic() + timeout
        while True:
            if _is_readable(fd):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._idle(left, fd)

    def pause(self, seconds: float) -> None:
        """See `DeviceClient.pause`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._idle(left, None)

    def fileno(self) -> int:
        """The socket; -1 once closed."""
        return self._sock.fileno()

    def ready(self, events: int) -> None:
        """Take what has come, and answer what the device asks for."""
        self._receive()

    def close(self) -> None:
        """Go away."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._sock.close()
        self._receiver.close()
        self._gone = self._gone or "the client is closed"
        for reply in self._replies.values():
            close_fds(reply.fds if reply is not None else ())
        self._replies.clear()
        close_fds(self._own_fds)
        self._own_fds.clear()

    # -- commands and replies

    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a command and wait for its answer's payload; the caller keeps the descriptors.

        Raises:
            PeerError: The answer was an error; with its errno.
            TransportError: The device's end has gone, or does not answer.
        """
        return self._payload(self._submit(command, payload, fds))

    def _post(self, command: int, payload: bytes) -> None:
        msg_id = self._new_id(expected=False)
        head = Header(msg_id, command, HEADER + len(payload), POSTED)
        self._send(head.pack() + payload)

    def _submit(self, command: int, payload: bytes, fds: Sequence[int] = ()) -> int:
        msg_id = self._new_id()
        self._send(Header(msg_id, command, HEADER + len(payload)).pack() + payload, fds)
        return msg_id

    def _submit_read(self, region: int, offset: int, size: int) -> int:
        msg_id = self._new_id()
        head = HEADER + RegionAccess.SIZE
        self._send(_READ_REQUEST(msg_id, Command.REGION_READ, head, 0, 0, offset, region, size))
        return msg_id

    def _data(self, msg_id: int, size: int) -> bytes:
        data = self._payload(msg_id)[RegionAccess.SIZE :]
        if len(data) != size:
            raise DecodeError(f"REGION_READ: {len(data)} bytes came, {size} were asked for")
        return data

    def _payload(self, msg_id: int) -> bytes:
        reply = self._collect(msg_id)
        close_fds(reply.fds)
        return reply.payload

    def _new_id(self, *, expected: bool = True) -> int:
        msg_id = self._next_id
        self._next_id = (msg_id + 1) & 0xFFFF
        if expected:
            self._replies[msg_id] = None
        return msg_id

    def _collect(self, msg_id: int) -> _Reply:
        deadline = time.monotonic() + self._timeout
        while (reply := self._replies[msg_id]) is None:
            if self._gone:
                raise TransportError(f"the device's end has gone: {self._gone}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TransportError(f"no answer within {self._timeout} s")
            if not self._receive():
                self._idle(left, None)
        del self._replies[msg_id]
        if reply.error is not None:
            close_fds(reply.fds)
            raise PeerError(f"refused: {os.strerror(reply.error)}", errno=reply.error)
        return reply

    # -- the socket

    def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if self._gone:
            raise TransportError(f"the device's end has gone: {self._gone}")
        rest = memoryview(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        deadline = time.monotonic() + self._timeout
        while rest:
            try:
                sent = (
                    self._sock.sendmsg([rest], rights, _SEND)
                    if rights
                    else self._sock.send(rest, _SEND)
                )
            except BlockingIOError:
                # The device's end may be waiting for us to take its replies.
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TransportError(f"nothing was taken for {self._timeout} s") from None
                if not self._receive():
                    self._idle(min(left, 0.1), None, sending=True)
                continue
            except OSError as exc:
                self._receive()  # an answer that says why may have come before
                self._gone = self._gone or str(exc)
                raise TransportError(f"the device's end has gone: {exc}") from exc
            rest = rest[sent:]
            rights = []

    def _receive(self) -> bool:
        """Take what has come; whether there was anything."""
        if self._gone:
            return False
        try:
            size, ancillary, _, _ = self._sock.recvmsg_into(
                [self._receiver.room()], _ANCILLARY, _RECEIVE
            )
        except BlockingIOError:
            return False
        except OSError as exc:
            self._lose(str(exc))
            return False
        if not size:
            self._lose("end of stream")
            return False
        self._receiver.received(size, descriptors(ancillary))
        for msg_id, command, flags, error, at, end in self._receiver.messages():
            payload = bytes(memoryview(self._receiver.buffer)[at:end])
            if flags & Flags.REPLY:
                self._take_reply(msg_id, flags, error, payload)
            else:
                self._serve(msg_id, command, flags, payload)
        return True

    def _take_reply(self, msg_id: int, flags: int, error: int, payload: bytes) -> None:
        if msg_id not in self._replies:
            self._lose(f"a reply with the unknown id {msg_id:#x}")
            return
        number = (error or errno.EIO) if flags & Flags.ERROR else None
        self._replies[msg_id] = _Reply(number, payload, self._receiver.take_fds())

    def _lose(self, reason: str) -> None:
        self._gone = reason
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _idle(self, seconds: float, fd: int | None, *, sending: bool = False) -> None:
        """Let the device's end run until something may have come."""
        if self.loop is not None:
            self._turn(self.loop, seconds, fd)
            return
        poll = select.poll()
        if not self._gone:
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if sending else 0))
        if fd is not None:
            poll.register(fd, select.POLLIN)
        if poll.poll(seconds * 1000) and not self._gone:
            self._receive()

    @staticmethod
    def _turn(loop: Loop, seconds: float, fd: int | None) -> None:
        watch: Watch | None = None
        if fd is not None:
            try:
                watch = loop.watch(fd, lambda events: None, READ)
            except ValueError:  # the loop looks at it already
                seconds = min(seconds, 0.01)
        try:
            loop.turn(min(seconds, 0.05))
        finally:
            if watch is not None:
                watch.close()

    # -- what the device asks for

    def _serve(self, msg_id: int, command: int, flags: int, payload: bytes) -> None:
        try:
            answer = self._answer(command, payload)
        except PeerError as exc:
            self._send(error_reply(msg_id, command, exc.errno))
            return
        if not flags & Flags.NO_REPLY:
            self._send(Header(msg_id, command, HEADER + len(answer), REPLY).pack() + answer)

    def _answer(self, command: int, payload: bytes) -> bytes:
        if command not in (Command.DMA_READ, Command.DMA_WRITE):
            raise PeerError(f"{command_name(command)} to a client", errno=errno.ENOSYS)
        access = DmaAccess.unpack(payload)
        data = payload[DmaAccess.SIZE :]
        if access.count > MAX_DATA or (command == Command.DMA_WRITE and access.count > len(data)):
            raise PeerError(f"{access.count} bytes", errno=errno.E2BIG)
        for view, start, part in self._pieces(access, command == Command.DMA_WRITE):
            if command == Command.DMA_WRITE:
                view[:] = data[start : start + part]
            else:
                data += view
        if command == Command.DMA_READ:
            self.dma_reads += 1
            return access.pack() + data
        self.dma_writes += 1
        return access.pack()

    def _pieces(self, access: DmaAccess, write: bool) -> Iterator[tuple[memoryview, int, int]]:
        """Views of the memory of an access, where they start in it, and their length."""
        done = 0
        while done < access.count:
            at = access.address + done
            for address, memory in self._memory.items():
                allowed = memory.writable if write else memory.readable
                if allowed and address <= at < address + memory.size:
                    part = min(access.count - done, address + memory.size - at)
                    yield memory.view[at - address : at - address + part], done, part
                    done += part
                    break
            else:
                raise PeerError(f"no memory at {at:#x}", errno=errno.ENODEV)


def _connect(path: str) -> socket.socket:
    if path.startswith("fd:"):
        number = os.dup(inherited_fd(path.removeprefix("fd:")))
        with socket.socket(fileno=number) as listening:
            path = listening.getsockname()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as exc:
        sock.close()
        raise TransportError(f"can't connect to {path}: {exc.strerror}") from exc
    return sock


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
