"""A blocking client: what a VMM is to a device, for reference drivers, tests and benchmarks.

It fits `emudev_core.client.DeviceClient`. One thread uses it. While it waits for an answer it
serves the device's DMA_READ and DMA_WRITE from the memory that was given to it, and, if the device
lives in the same process, lets the loop turn.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from emudev_core.errors import DecodeError, PeerError
from emudev_core.loop import Loop
from emudev_core.regions import IrqGroup, RegionInfo

from . import version
from .exchange import Exchange, Memory
from .messages import (
    HEADER,
    MAX_DATA,
    POSTED,
    Command,
    DeviceInfo,
    DmaMap,
    DmaMapFlags,
    DmaUnmap,
    DmaUnmapFlags,
    IrqFlags,
    IrqInfo,
    RegionAccess,
    RegionInfoHead,
    SetIrqs,
    SetIrqsFlags,
    WriteMultiHead,
    WriteMultiRecord,
)
from .protocol import close_fds
from .regions import decode_region

__all__ = ["VfioUserClient"]

_READ_REQUEST: Final = struct.Struct("<HHIIIQII").pack
_WINDOW: Final = 256  #: requests on their way at a time


class VfioUserClient(Exchange):
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
        super().__init__(where, loop, timeout)
        self.limits = version.Limits()
        self._regions: list[RegionInfo] | None = None
        self._own_fds: list[int] = []
        if greet:
            try:
                self.negotiate()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Go away, and close the descriptors of regions."""
        super().close()
        close_fds(self._own_fds)
        self._own_fds.clear()

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
            self.memory[address] = Memory(size, view, readable, writable)
        try:
            self.request(Command.DMA_MAP, request.pack(), () if fd is None else (fd,))
        except PeerError:
            self.memory.pop(address, None)
            raise

    def dma_unmap(self, address: int, size: int) -> None:
        """See `DeviceClient.dma_unmap`."""
        request = DmaUnmap(DmaUnmap.SIZE, 0, address, size)
        self.request(Command.DMA_UNMAP, request.pack())
        self.memory.pop(address, None)

    def dma_unmap_all(self) -> None:
        """Take all memory back."""
        request = DmaUnmap(DmaUnmap.SIZE, DmaUnmapFlags.ALL, 0, 0)
        self.request(Command.DMA_UNMAP, request.pack())
        self.memory.clear()

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
