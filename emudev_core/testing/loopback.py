"""A transport without a wire: the client calls the device in the same process.

Providers and backends are tested with it in milliseconds and without any plugin. It keeps the rules
that a real transport keeps, so that a device which breaks them fails here first:

- an access is checked against the regions, and answered before anything deferred runs;
- memory without a descriptor can't be read inside a handler; writes to it wait for its end;
- an answer that comes `Later` is waited for; what was unmapped is let go only then;
- a provider that raises puts its device in error, and the client gets EIO.

Time passes for the device (its loop turns) while the client waits, and a little before each read.
One client at a time; nothing that a client could map.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ..config import TransportConfig
from ..device import Device
from ..errors import MemoryAccessError, PeerError, TransportError
from ..hooks import hookimpl
from ..later import Later
from ..lifecycle import State
from ..loop import READ, Loop
from ..memory import EMPTY_TABLE, DmaChannel, DmaTicket, Mapping, MemoryRegion
from ..regions import IrqGroup, RegionFlag, RegionInfo, ResetKind
from ..specs import ConnectContext, TransportContext, TransportSpec

__all__ = ["SPEC", "LoopbackClient", "LoopbackTransport", "connect"]

_T = TypeVar("_T")

#: Sizes of the aligned accesses that go by `emudev_region_read` and `emudev_region_write`.
NUMBERS: Final = (1, 2, 4, 8)
END: Final = 1 << 64


class LoopbackTransport:
    """The device's end: it listens to nothing and lets one client in. On the loop's thread.

    Args:
        device: The device that is served.
        name: The transport's, for addresses.

    Attributes:
        listening: Whether a client may come.
    """

    def __init__(self, device: Device, name: str = "loopback") -> None:
        self._device = device
        self._name = name
        self._client: LoopbackClient | None = None
        self.listening = False

    @hookimpl
    def emudev_listen(self) -> str:
        """Let a client come."""
        self.listening = True
        return f"{self._name}:{self._device.name}"

    @hookimpl
    def emudev_unlisten(self) -> bool:
        """Let the client go, and no other come."""
        self.listening = False
        if self._client is not None:
            self._client.close()
        return True

    def enter(self, client: LoopbackClient) -> None:
        """Let a client in.

        Raises:
            TransportError: The device is not started, or has a client.
        """
        if not self.listening:
            raise TransportError(f"{self._device.name} is not started: nobody listens")
        if self._client is not None:
            raise TransportError(f"{self._device.name} has a client already")
        self._client = client
        self._device.client_attached(self._name)

    def leave(self) -> None:
        """The client has gone."""
        self._client = None
        self._device.client_detached()


class _Ticket:
    """An access that the client answers in the next turn of the loop."""

    def __init__(self) -> None:
        self.cancelled = False
        self.over = False

    def cancel(self) -> bool:
        """See `DmaTicket`."""
        self.cancelled = not self.over
        return self.cancelled


class _Messages:
    """Guest memory without a descriptor: bytes that the client keeps.

    Args:
        client: Knows whether a handler is running.
        address: Guest address of the first byte.
        memory: The bytes.
    """

    def __init__(
        self, client: LoopbackClient, address: int, memory: bytearray | memoryview
    ) -> None:
        self._client = client
        self._address = address
        self._memory = memoryview(memory).cast("B")

    def read(self, address: int, size: int) -> bytes:
        """Fetch bytes."""
        if self._client.answering:
            reason = "reached by message only, while the client waits for its answer"
            raise MemoryAccessError(address, size, reason)
        self._client.send_writes()
        start = address - self._address
        return bytes(self._memory[start : start + size])

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, at the end of the handler that runs."""
        start = address - self._address

        def store() -> None:
            self._memory[start : start + len(data)] = data

        self._client.writes.append(store)
        if not self._client.answering:
            self._client.send_writes()

    def fetch(self, address: int, size: int, done: Callable[[bytes | None], None]) -> DmaTicket:
        """Fetch bytes; see `DmaChannel`."""
        start = address - self._address

        def answer(there: bool) -> None:
            done(bytes(self._memory[start : start + size]) if there else None)

        return self._soon(answer)

    def store(
        self, address: int, data: bytes, done: Callable[[bool], None], *, ordered: bool = False
    ) -> DmaTicket:
        """Store bytes; see `DmaChannel`. All requests are answered in order here."""
        start = address - self._address

        def answer(there: bool) -> None:
            if there:
                self._memory[start : start + len(data)] = data
            done(there)

        return self._soon(answer)

    def _soon(self, answer: Callable[[bool], None]) -> _Ticket:
        ticket = _Ticket()

        def serve() -> None:
            if not ticket.cancelled:
                ticket.over = True
                answer(self._client.has(self))

        self._client.later(serve)
        return ticket


class LoopbackClient:
    """See the module, and `emudev_core.client.DeviceClient` for the methods.

    Args:
        device: The device, in this process.
        loop: The loop that serves it.
        transport: Its transport.

    Attributes:
        answering: Whether a handler runs that the client waits for.
        writes: Stores to memory without a descriptor that wait for the handler's end.
    """

    def __init__(self, device: Device, loop: Loop, transport: LoopbackTransport) -> None:
        self._device = device
        self._loop = loop
        self._transport = transport
        self._mappings: dict[int, tuple[MemoryRegion, Mapping | None]] = {}
        self._limbo: list[Mapping] = []
        self._bound: dict[tuple[int, int], int] = {}
        self._table = EMPTY_TABLE
        self._closed = False
        self.answering = False
        self.writes: list[Callable[[], None]] = []
        transport.enter(self)
        self._regions = {info.index: info for info in device.get_regions()}
        self._bells = {
            (info.index, window.offset + i * window.stride): bell
            for info in self._regions.values()
            for window in info.doorbells
            for i, bell in enumerate(window.doorbells)
        }

    # -- memory without a descriptor

    def later(self, callback: Callable[[], None]) -> None:
        """Have something done in the next turn of the loop."""
        self._loop.call_soon(callback)

    def has(self, channel: DmaChannel) -> bool:
        """Whether the memory that a channel reaches is still the client's to give."""
        return any(region.channel is channel for region, _ in self._mappings.values())

    # -- what is there

    def regions(self) -> Sequence[RegionInfo]:
        """The device's regions."""
        return self._device.get_regions()

    def irq_groups(self) -> Sequence[IrqGroup]:
        """The device's groups of interrupts."""
        return self._device.get_irq_groups()

    # -- accesses

    def region_read(self, region: int, offset: int, size: int) -> bytes:
        """Read bytes; what was marked before is done first, as it would be on a wire."""
        self._loop.turn(0.0)
        self._check(region, offset, size, RegionFlag.READ)
        if size in NUMBERS and offset % size == 0:
            value = self._answer(lambda: self._device.region_read(region, offset, size))
            return value.to_bytes(size, "little")
        return bytes(self._answer(lambda: self._device.region_read_bulk(region, offset, size)))

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write bytes; a posted write raises here all the same, to be seen."""
        size = len(data)
        self._check(region, offset, size, RegionFlag.WRITE)
        if size not in NUMBERS or offset % size:
            self._settle(self._answer(lambda: self._device.region_write_bulk(region, offset, data)))
            return
        value = int.from_bytes(data, "little")
        bell = self._bells.get((region, offset)) if size == 4 else None
        if bell is not None and self._device.is_direct("emudev_region_write"):
            self._answer(lambda: bell.write(value))
        else:
            self._settle(
                self._answer(lambda: self._device.region_write(region, offset, size, value))
            )

    def _check(self, region: int, offset: int, size: int, flag: RegionFlag) -> None:
        info = self._regions.get(region)
        if info is None or not info.flags & flag or not 0 <= offset <= info.size - size:
            there = f"{info.size:#x} bytes" if info is not None else "nothing"
            raise PeerError(f"region {region}: {offset:#x}+{size:#x}, there is {there}")

    def _answer(self, call: Callable[[], _T]) -> _T:
        """Call a hook as the answer to a command."""
        if self._closed or self._device.state is State.ERROR:
            raise TransportError(f"{self._device.name}: {self._device.error or 'is not served'}")
        outer, self.answering = self.answering, True
        try:
            return call()
        except PeerError:
            raise
        except Exception as exc:
            self._device.fail(exc, "a command of the client")
            raise PeerError(str(exc), errno=errno.EIO) from exc
        finally:
            self.answering = outer
            if not outer:
                self.send_writes()

    def send_writes(self) -> None:
        """Do the stores that waited, in order."""
        writes, self.writes = self.writes, []
        for store in writes:
            store()

    def _settle(self, answer: Later | bool) -> None:
        if not isinstance(answer, Later):
            return
        while not answer.done:  # the device watches the clock, and fails what takes too long
            self._loop.turn(0.01)
        if answer.error is not None:
            raise PeerError(str(answer.error), errno=errno.EIO)

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
        """Give the device a range of memory."""
        if (fd is None) == (memory is None):
            raise ValueError("expected a descriptor or memory, one of them")
        if size < 1 or not 0 <= address <= END - size:
            raise PeerError(f"{address:#x}+{size:#x} is no range of guest addresses")
        mapping: Mapping | None = None
        region = MemoryRegion(address, size, 0, readable, writable)
        try:
            self._table.plus(region)
        except ValueError as exc:
            raise PeerError(str(exc), errno=errno.EEXIST) from exc
        if fd is not None:
            try:
                mapping = Mapping(fd, offset, size, readable=readable, writable=writable)
            except OSError as exc:
                raise PeerError(str(exc), errno=exc.errno or errno.EINVAL) from exc
            region = MemoryRegion(address, size, mapping.address, readable, writable)
        else:
            assert memory is not None
            channel = _Messages(self, address, memory)
            region = MemoryRegion(address, size, None, readable, writable, channel)
        self._mappings[address] = (region, mapping)
        self._table = table = self._table.plus(region)
        self._answer(lambda: self._device.dma_map(table, region))
        self._answer(lambda: self._device.status_changed("memory"))

    def dma_unmap(self, address: int, size: int) -> None:
        """Take a range back."""
        found = self._mappings.get(address)
        if found is None or found[0].size != size:
            raise PeerError(f"{address:#x}+{size:#x} was not mapped so", errno=errno.ENOENT)
        self._unmap(address)
        self._answer(lambda: self._device.status_changed("memory"))

    def _unmap(self, address: int) -> None:
        region, mapping = self._mappings.pop(address)
        self._table = table = self._table.minus([region])
        try:
            self._settle(self._device.dma_unmap(table, region))
        except BaseException:
            if mapping is not None:  # somebody may still use it: kept until the device lets go
                self._limbo.append(mapping)
            raise
        if mapping is not None:
            mapping.close()

    # -- interrupts

    def irq_bind(self, group: int, vector: int, fd: int | None) -> None:
        """Let a vector signal an eventfd, or unbind it; the client keeps a copy of its own."""
        self._check_vector(group, vector)
        own = None if fd is None else os.dup(fd)
        if own is not None:
            os.set_blocking(own, False)
        former = self._bound.pop((group, vector), None)
        if own is not None:
            self._bound[group, vector] = own
        try:
            self._answer(lambda: self._device.irq_bound(group, vector, own))
        finally:
            if former is not None:
                os.close(former)
        self._answer(lambda: self._device.status_changed("irqs"))

    def irq_mask(self, group: int, vector: int, masked: bool) -> None:
        """Mask or unmask a vector."""
        self._check_vector(group, vector)
        self._answer(lambda: self._device.irq_masked(group, vector, masked))

    def _check_vector(self, group: int, vector: int) -> None:
        counts = {known.index: known.count for known in self.irq_groups()}
        if not 0 <= vector < counts.get(group, 0):
            raise PeerError(f"no vector {vector} in group {group}: {counts.get(group, 0)} there")

    # -- the device, and time

    def reset(self) -> None:
        """Reset the device."""
        self._settle(self._answer(lambda: self._device.reset(ResetKind.POWER)))

    def wait(self, fd: int, timeout: float) -> bool:
        """Turn the loop until `fd` is readable or the time is over."""
        deadline = time.monotonic() + timeout
        watch = self._loop.watch(fd, lambda events: None, READ)  # so that its sleep ends
        try:
            while True:
                left = max(0.0, deadline - time.monotonic())
                self._loop.turn(0.0 if _readable(fd) else left)
                if _readable(fd):
                    return True
                if time.monotonic() >= deadline:
                    return False
        finally:
            watch.close()

    def pause(self, seconds: float) -> None:
        """Turn the loop for a while, at least once."""
        deadline = time.monotonic() + seconds
        while True:
            self._loop.turn(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """Go away: vectors and memory are taken back, the device is reset, the next may come."""
        if self._closed:
            return
        self._closed = True
        for (group, vector), fd in list(self._bound.items()):
            self._attempt(partial(self._device.irq_bound, group, vector, None))
            os.close(fd)
        self._bound.clear()
        for address in list(self._mappings):
            self._attempt(partial(self._unmap, address))
        self._attempt(lambda: self._settle(self._device.reset(ResetKind.CLIENT_GONE)))
        while self._limbo:
            self._limbo.pop().close()
        self._transport.leave()

    def _attempt(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as exc:
            self._device.fail(exc, "taking memory and interrupts back from the client")


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def serve(config: TransportConfig, context: TransportContext) -> LoopbackTransport:
    """The device's end; see `TransportSpec.serve`."""
    return LoopbackTransport(context.device)


def connect(config: TransportConfig, context: ConnectContext) -> LoopbackClient:
    """The client's end; see `TransportSpec.connect`.

    Raises:
        TransportError: The device is not here, not served by this transport, or has a client.
    """
    device, loop = context.device, context.loop
    if device is None or loop is None:
        raise TransportError("a device is reached without a wire from its own process only")
    for member in device.members:
        if isinstance(member.plugin, LoopbackTransport):
            return LoopbackClient(device, loop, member.plugin)
    raise TransportError(f"{device.name} is served by another transport")


#: The transport's record; its name is ``loopback``.
SPEC = TransportSpec(
    name="loopback",
    summary="No wire: the client calls the device in the same process",
    config=TransportConfig,
    serve=serve,
    connect=connect,
)
