"""The device ``emu_memif``: one end of the socket, the rings behind it, and what a backend sees.

Queue ``2p`` carries frames towards the peer, ``2p + 1`` frames from it, in both roles. The queues
are enabled while a peer is connected and has a ring for them.

memif has no message for a link that goes down, but DISCONNECT: while the backend's end is down, or
kernels are still being compiled, no peer is let in, and one that is there is sent away. So the link
is up exactly while frames can pass.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from emudev_core.attributes import AttributeInfo, AttributeValue
from emudev_core.errors import DecodeError, DeviceError, EmudevError, PeerError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.loop import READ, Watch
from emudev_core.memory import EMPTY_TABLE, MemoryRegion, MemoryTable
from emudev_core.queues import DeviceInfo, Direction, Doorbell, IrqInfo, QueueInfo
from emudev_core.regions import ResetKind
from emudev_core.sections import Row, Section
from emudev_core.specs import ProviderContext
from emudev_net.addresses import default_mac, mac_text, parse_station
from emudev_net.jit import Compilation

from .attributes import make_attributes
from .client import ClientEnd, ClientOptions
from .config import MemifConfig
from .ends import End, Peer, Rings
from .regions import GUEST_SHIFT, check_eventfd, check_memory, shrinkable, table
from .rings import RingSet, Role
from .server import ServerEnd, SocketOptions
from .sockets import Address
from .wakeups import Wakeups

__all__ = ["MemifDevice"]

log = logging.getLogger(__name__)

#: What a frame has beside its payload, without FCS: Ethernet header and two tags, bytes.
HEADERS: Final = 22
_VERSION: Final = 1  # of the saved record


class MemifDevice:
    """See the module. On the loop's thread. `ends.User` is what its end asks of it.

    Args:
        config: What the user said.
        context: What the host gives a builder.

    Attributes:
        name: Of the device.
        config: As given.
        role: Which end it is.
        pairs: Queue pairs.
        rings: The data plane, from `emudev_configure` on.
        link: Whether the backend's end of the link is up.
        up: Whether a peer is connected.
        peer: Who that is.
        status: Why there is none.
        mac: Its address, 6 bytes.
        connects, refusals, breaches: How often a peer came, was not let in, broke its rings.
    """

    rings: RingSet

    def __init__(self, config: MemifConfig, context: ProviderContext) -> None:
        self._device = context.device
        self._loop = context.loop
        self.config = config
        self.name = context.device.name
        self.role = Role.SERVER if config.serves else Role.CLIENT
        self.pairs = config.queues
        self.secret = config.secret.encode()
        self.mac = parse_station(config.mac) if config.mac else default_mac(self.name)
        self.link = False
        self.up = False
        self.peer = Peer()
        self.status = "not started"
        self.connects = self.refusals = self.breaches = 0
        self._running = False
        self._ready = False
        self._compilation: Compilation | None = None
        self._fault: Watch | None = None
        self._shared: Rings | None = None
        self._table = EMPTY_TABLE
        self._words = (ctypes.c_uint32 * (2 * self.pairs))()
        self._doorbells = [self._doorbell(queue) for queue in range(2 * self.pairs)]
        self._attributes = make_attributes(self)
        self._wakeups: Wakeups | None = None
        self._end = self._make_end()

    def _doorbell(self, queue: int) -> Doorbell:
        def polled(on: bool) -> None:
            if self._wakeups is not None:
                self._wakeups.set_polled(queue, on)

        return Doorbell(queue, ctypes.addressof(self._words) + 4 * queue, on_polled=polled)

    def _make_end(self) -> End:
        config = self.config
        address = Address(config.socket, config.socket_abstract)
        id = self._device.id if config.memif_id is None else config.memif_id
        if self.role is Role.SERVER:
            options = SocketOptions(
                address, int(config.mode, 8), config.owner_uid, config.owner_gid
            )
            return ServerEnd(self, self._loop, options, id)
        wanted = ClientOptions(address, id, config.rsize, config.bsize)
        return ClientEnd(self, self._loop, wanted)

    # -- lifecycle

    @hookimpl
    def emudev_configure(self) -> None:
        """Make the queues and compile their kernels in the background."""
        self.rings = RingSet(self.role, self.pairs, self.config.mtu + HEADERS)
        self._fault = self._loop.watch(self.rings.fault_fd, self._broken, READ)
        self._wakeups = Wakeups(self._loop, self.rings, self._doorbells)
        self._compilation = self.rings.compile(
            lambda error: self._loop.call_threadsafe(self._compiled),
            lambda text: log.info("%s: %s", self.name, text),
        )

    def _compiled(self) -> None:
        """The kernels are as fast as they get: plain ones serve where compiling failed."""
        self._ready = True
        self._end.update()

    @hookimpl
    def emudev_start(self) -> None:
        """Listen, or begin to connect."""
        self._running = True
        self.status = "waiting for a peer"
        try:
            self._end.open()
        except BaseException:
            self._running = False
            raise

    @hookimpl
    def emudev_stop(self) -> None:
        """Send the peer away, and end."""
        self._running = False
        self._end.close()
        self.status = "stopped"

    @hookimpl
    def emudev_listen(self) -> str:
        """Where it is reachable; see the hook."""
        return f"memif:{Address(self.config.socket, self.config.socket_abstract)}"

    @hookimpl
    def emudev_unlisten(self) -> bool:
        """What listens ends with `emudev_stop`, when the backends have let go."""
        return True

    @hookimpl
    def emudev_close(self) -> None:
        """Give everything back."""
        self._running = False
        self._end.close()
        if self._compilation is not None:
            self._compilation.cancel()
        if self._fault is not None:
            self._fault.close()
            self.rings.close()
        if self._wakeups is not None:
            self._wakeups.close()
        self._end.release()
        for doorbell in self._doorbells:
            doorbell.close()

    # -- link

    @property
    def wanted(self) -> bool:
        """Whether frames could go somewhere: running, compiled, the backend's link up."""
        return self._running and self._ready and self.link

    def set_link(self, up: bool) -> None:
        """The backend's end went up or down."""
        self.link = up
        self._end.update()

    # -- what its end asks (`ends.User`)

    def check_region(self, fd: int, size: int, before: int) -> None:
        """See `offers.Offer`."""
        check_memory(fd, size, before, self.config.memory_limit << 20)
        if not shrinkable(fd):
            return
        if self.config.unsealed == "refuse":
            raise PeerError("Invalid region: it is not sealed against shrinking")
        log.warning("%s: the peer can still truncate the memory that it shares", self.name)

    def check_ring(self, fd: int) -> None:
        """See `offers.Offer`."""
        check_eventfd(fd)

    def went_up(self, rings: Rings, peer: Peer) -> None:
        """A peer is connected: let frames pass.

        Raises:
            PeerError: The rings can't be used.
        """
        assert self._wakeups is not None
        try:
            with self._device.paused():
                self.rings.attach(
                    rings.regions, rings.c2s, rings.s2c, rings.c2s_fds, rings.s2c_fds, rings.layout
                )
        except (ValueError, EmudevError) as exc:
            raise PeerError(f"Rings can't be used: {exc}") from exc
        self.up = True
        self.connects += 1
        self.peer = peer
        self.status = ""
        self._shared = rings
        received = rings.c2s_fds if self.role is Role.SERVER else rings.s2c_fds
        log.info("%s: connected to %s, %s", self.name, peer, _counted(rings))
        self._publish(rings.regions)
        self._tell(EventKind.CLIENT, 1, str(peer))
        for queue in self._present(rings):
            self._device.post_event(Event(EventKind.QUEUE_STATE, queue, 1))
        self._tell(EventKind.LINK, 1)
        self._wakeups.attach({2 * pair + 1: fd for pair, fd in enumerate(received)})

    def went_down(self, reason: str) -> bool:
        """The peer has gone, or was sent away: nothing touches its memory when this returns."""
        assert self._wakeups is not None
        assert self._shared is not None
        self._wakeups.detach()
        rings, self._shared = self._shared, None
        self.up = False
        self.peer = Peer()
        self.status = reason
        try:
            with self._device.paused():
                self.rings.detach()
        except EmudevError as exc:
            # Somebody may still be inside the rings: they stay mapped until the device is closed.
            self._device.fail(f"{self.name}: its queues did not come to rest: {exc}")
            return False
        log.info("%s: disconnected: %s", self.name, reason)
        self._tell(EventKind.LINK, 0)
        self._tell(EventKind.RESET)
        for queue in self._present(rings):
            self._device.post_event(Event(EventKind.QUEUE_STATE, queue, 0))
        self._publish(())
        self._tell(EventKind.CLIENT, 0, reason)
        return True

    def refused(self, reason: str) -> None:
        """A connection ended before it was up; said once for as long as the reason stays."""
        self.refusals += 1
        if not self.up and reason != self.status:
            self.status = reason
            log.info("%s: no connection: %s", self.name, reason)

    def _present(self, rings: Rings) -> list[int]:
        """Queues that have a ring."""
        server = self.role is Role.SERVER
        towards, received = (rings.s2c, rings.c2s) if server else (rings.c2s, rings.s2c)
        found = [2 * pair for pair in range(min(len(towards), self.pairs))]
        found += [2 * pair + 1 for pair in range(min(len(received), self.pairs))]
        return sorted(found)

    def _publish(self, regions: Sequence[tuple[int, int]]) -> None:
        self._table = table(regions, self._table.generation + 1)
        self._tell(EventKind.MEMORY, self._table.generation)

    def _tell(self, kind: EventKind, value: int = 0, text: str = "") -> None:
        self._device.post_event(Event(kind, value=value, text=text))

    def _broken(self, events: int) -> None:
        """A kernel met something after which a ring can't be used any more."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.rings.fault_fd)
        reason = self.rings.broken
        if reason is not None:
            self.breaches += 1
            log.warning("%s: %s broke its rings: %s", self.name, self.peer, reason)
            self._end.disconnect(f"Broken rings: {reason}")

    # -- what an observer or a supervisor may ask, as of any device

    @hookimpl
    def emudev_reset(self, kind: ResetKind) -> bool:
        """Send the peer away; it may come again."""
        self._end.disconnect("Interface was reset")
        return True

    @hookimpl
    def emudev_quiesce(self) -> bool:
        """Nothing moves frames but the backend, which rests while it is asked to."""
        return True

    @hookimpl
    def emudev_dma_map(self, table: MemoryTable, region: MemoryRegion) -> None:
        """Shown to whoever asks for the table, and not used."""
        self._table = table

    @hookimpl
    def emudev_dma_unmap(self, table: MemoryTable, region: MemoryRegion) -> bool:
        """The other way."""
        self._table = table
        return True

    # -- backends ask

    @hookimpl
    def emudev_get_dev_info(self) -> DeviceInfo:
        """The size of the interface."""
        return DeviceInfo(
            type="memif",
            max_queue_pairs=self.pairs,
            max_events=len(EventKind),
            vectors=self.pairs,
            doorbells=2 * self.pairs,
            max_frame=self.config.mtu + HEADERS,
            parallel=True,
            link_first=True,
        )

    @hookimpl
    def emudev_get_mem_table(self) -> MemoryTable:
        """The regions that are mapped; see `regions.table` for their addresses."""
        return self._table

    @hookimpl
    def emudev_get_queue_info(self, queue: int) -> QueueInfo:
        """A ring and its kernels."""
        if not 0 <= queue < 2 * self.pairs:
            raise DeviceError(f"{self.name} has no queue {queue}: it has {2 * self.pairs}")
        receives = bool(queue & 1)
        base = 0
        if self._shared is not None and queue in self._present(self._shared):
            c2s = receives == (self.role is Role.SERVER)
            place = (self._shared.c2s if c2s else self._shared.s2c)[queue >> 1]
            base = place.region << GUEST_SHIFT | place.offset
        return QueueInfo(
            queue=queue,
            direction=Direction.TX if receives else Direction.RX,
            base=base,
            size=self.rings.size(queue),
            doorbell=queue,
            vector=None if receives else queue >> 1,
            enabled=self.rings.connected(queue),
            kernels=self.rings.kernels(queue),
        )

    @hookimpl
    def emudev_get_irq_info(self, vector: int) -> IrqInfo:
        """The eventfd of the ring towards the peer of the pair of that number."""
        if not 0 <= vector < self.pairs:
            raise DeviceError(f"{self.name} has no vector {vector}: it has {self.pairs}")
        fd = None
        if self._shared is not None:
            server = self.role is Role.SERVER
            fds = self._shared.s2c_fds if server else self._shared.c2s_fds
            fd = fds[vector] if vector < len(fds) else None
        return IrqInfo(vector, fd, lambda: self.rings.wake(2 * vector))

    @hookimpl
    def emudev_get_db_info(self, doorbell: int) -> Doorbell:
        """That of the queue of the same number."""
        if not 0 <= doorbell < 2 * self.pairs:
            raise DeviceError(f"{self.name} has no doorbell {doorbell}: it has {2 * self.pairs}")
        return self._doorbells[doorbell]

    @hookimpl
    def emudev_get_attributes(self) -> Sequence[AttributeInfo]:
        """See `attributes`."""
        return self._attributes.infos()

    @hookimpl
    def emudev_get_attr(self, name: str) -> AttributeValue:
        """See `attributes`."""
        return self._attributes.get(name)

    @hookimpl
    def emudev_set_attr(self, name: str, value: AttributeValue) -> bool:
        """See `attributes`."""
        self._attributes.set(name, value)
        return True

    # -- for people

    @hookimpl
    def emudev_get_state(self) -> list[Section]:
        """The peer and the rings."""
        return [
            Section("peer", "who is at the other end", self._peer_rows),
            Section("rings", "rings as they are shared with the peer", self._ring_rows),
        ]

    def _peer_rows(self) -> Iterator[Row]:
        yield {
            "role": self.role.value,
            "connected": self.up,
            "program": self.peer.program,
            "interface": self.peer.interface,
            "process": self.peer.process,
            "status": self.status,
            "connects": self.connects,
            "refusals": self.refusals,
            "breaches": self.breaches,
        }

    def _ring_rows(self) -> Iterator[Row]:
        for queue in range(2 * self.pairs):
            counted = self.rings.stats(queue)
            reasons = {name: count for name, count in counted.dropped.items() if count}
            yield {
                "queue": queue,
                "direction": "tx" if queue % 2 else "rx",
                "connected": self.rings.connected(queue),
                "slots": self.rings.size(queue),
                "packets": counted.packets,
                "bytes": counted.bytes,
                "dropped": sum(reasons.values()),
                "reasons": ", ".join(f"{name} {count}" for name, count in reasons.items()),
            }

    # -- saving

    @hookimpl
    def emudev_save(self) -> dict[str, Any]:
        """What the interface remembers; a connection ends with its process."""
        return {"version": _VERSION, "mac": mac_text(self.mac)}

    @hookimpl
    def emudev_restore(self, state: dict[str, Any]) -> bool:
        """Take it back; see the hook."""
        where = f"{self.name}: saved state"
        if state.get("version") != _VERSION:
            raise DecodeError(f"{where}: expected version {_VERSION}, came {state.get('version')}")
        try:
            self.mac = parse_station(str(state.get("mac")))
        except ValueError as exc:
            raise DecodeError(f"{where}: {exc}") from exc
        return True


def _counted(rings: Rings) -> str:
    """How many rings there are, for people."""
    sizes = sorted({place.slots for place in (*rings.c2s, *rings.s2c)})
    shown = " or ".join(map(str, sizes))
    return f"{len(rings.c2s)} C2S and {len(rings.s2c)} S2C rings of {shown} descriptors"
