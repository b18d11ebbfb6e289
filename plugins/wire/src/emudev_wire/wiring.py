"""The flows of a wire, who runs them, and who wakes them.

One flow for each transmit queue that is enabled, woken by its doorbell. While the other end has no
room its frames wait, so that a slow end slows the other down; when nothing moved for as long as the
wire's *patience*, they are dropped until something moves again: an end that hangs must not hold up
the other.

With workers their threads run the flows. Those that share a receive queue belong to one worker.

While the loop sleeps, doorbells run the flows, or wake their workers, without the interpreter
(`emudev_net.fast_wait`). It has to wake for what waits for room.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final

from emudev_core.device import Device
from emudev_core.errors import DeviceError
from emudev_core.loop import Loop, Timer
from emudev_core.queues import Doorbell, Offload, QueueKernels, Shortcut, rx_queue, tx_queue
from emudev_core.subscribers import Subscribers
from emudev_net.flow import Flow, Outcome
from emudev_net.flow_kernels import tell
from emudev_net.primitives import Words
from emudev_net.workers import Worker, WorkerPool

from .kernels import discard
from .routes import NOWHERE, Route

__all__ = ["Wiring", "doorbells", "kernels_of"]

_ALL: Final = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO | Offload.VLAN
_NOWHERE: Final = QueueKernels(0, None, discard, None, None, takes=_ALL)


def kernels_of(device: Device, queue: int) -> QueueKernels:
    """The kernels of a queue.

    Raises:
        DeviceError: The queue carries no frames.
    """
    kernels = device.get_queue_info(queue).kernels
    if kernels is None:
        raise DeviceError(f"{device.name}: queue {queue} carries no frames")
    return kernels


def doorbells(device: Device, number: Callable[[int], int]) -> list[Doorbell]:
    """The doorbells of one direction (`rx_queue` or `tx_queue`) of a device, by queue pair."""
    pairs = range(device.get_dev_info().max_queue_pairs)
    return [device.get_db_info(device.get_queue_info(number(p)).doorbell) for p in pairs]


class _Way:
    """A flow on its route, and whether it gets on.

    Args:
        route: From where to where.
        flow: Moves its frames.
        held: Word n is the number of ways into end n that wait for room, if the loop runs them.
    """

    def __init__(self, route: Route, flow: Flow, held: Words) -> None:
        self.route = route
        self.flow = flow
        self.worker: Worker | None = None
        self.lane = 0
        self.rows = -1
        self._held = held
        self._blocked = False

    @property
    def blocked(self) -> bool:
        """Whether it waits for room: nothing is done before there is; for the loop's thread."""
        return self._blocked

    @blocked.setter
    def blocked(self, blocked: bool) -> None:
        self._held[1 - self.route.end] += blocked - self._blocked
        self._blocked = self.flow.resting = blocked

    @property
    def stuck(self) -> bool:
        """Whether its last run ended for want of room."""
        if self.worker is not None:
            return self.worker.outcome(self.lane) == Outcome.FULL
        return self.blocked

    def kick(self) -> None:
        """Look for work."""
        self.blocked = False
        self.flow.kick()

    def rung(self) -> None:
        """Its end has more frames."""
        if not self.blocked:
            self.flow.kick()

    def close(self) -> None:
        """Move nothing more."""
        self.blocked = False
        self.flow.close()


class Wiring:
    """Moves frames between two devices. On the loop's thread.

    Args:
        devices: The two ends; the caller keeps them.
        loop: The process' loop.
        name: For the names of threads.
        patience: How long frames wait for room, ms.
        workers: Threads that move the frames; 0: the loop's does.
        polling: They never sleep.
        failed: Called with the code of a kernel that failed.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        loop: Loop,
        *,
        name: str,
        patience: int,
        workers: int,
        polling: bool,
        failed: Callable[[int], None],
    ) -> None:
        self._devices = tuple(devices)
        self._loop = loop
        self._name = name
        self._patience = patience
        self._workers = workers
        self._polling = polling
        self._failed = failed
        self._ways: dict[Route, _Way] = {}
        self._held = Words(2)
        # Who is told that a queue of an end has more frames, and that an end may have room.
        self._more: defaultdict[tuple[int, int], Subscribers] = defaultdict(Subscribers)
        self._room = (Subscribers(), Subscribers())
        self._pool: WorkerPool | None = None
        self._timer: Timer | None = None
        self._undo: tuple[list[Callable[[], None]], list[Callable[[], None]]] = ([], [])
        self._past: tuple[dict[str, int], dict[str, int]] = ({}, {})

    # -- the ends

    def attach(self, end: int) -> None:
        """Listen to the doorbells of an end."""
        device, undo = self._devices[end], self._undo[end]
        for pair, bell in enumerate(doorbells(device, tx_queue)):
            self._listen(undo, bell, self._more[end, pair])
        for bell in doorbells(device, rx_queue):
            self._listen(undo, bell, self._room[end])

    def _listen(self, undo: list[Callable[[], None]], bell: Doorbell, told: Subscribers) -> None:
        bell.subscribe(told.call, told)
        undo.append(partial(bell.unsubscribe, told.call))
        if self._polling:
            bell.polled = True
            undo.append(partial(setattr, bell, "polled", False))

    def detach(self, end: int) -> None:
        """Undo `attach`; the routes that touch the end have to be gone."""
        undo = self._undo[end]
        while undo:
            undo.pop()()

    def _make_room(self, end: int) -> None:
        """An end has room again, perhaps where a flow waits for it."""
        for way in self._ways.values():
            if way.blocked and way.route.end != end:
                way.kick()

    # -- routes

    def follow(self, routes: Sequence[Route]) -> None:
        """Have these routes and no others; flows whose route stays are not disturbed.

        Raises:
            EmudevError: Workers can't run them, or did not come to rest.
        """
        if tuple(self._ways) != tuple(routes):
            self._end_pool()  # what it ran is run by the next one
            old = self._ways
            self._ways = {r: old.pop(r) if r in old else self._way(r) for r in routes}
            for way in old.values():
                self._count(way)
                way.close()
            if self._workers and self._ways:
                self._begin_pool()
            self._tell_each()
        for way in self._ways.values():
            way.kick()
        if self._pool is not None:
            self._pool.room()
            self._arm()

    def _tell_each(self) -> None:
        """Have doorbells tell those who are concerned by them now."""
        for told in (*self._more.values(), *self._room):
            told.clear()
        for route, way in self._ways.items():
            self._more[route.end, route.pair].add(way.rung, way.flow.shortcut)
        for end, told in enumerate(self._room):
            if self._pool is None:
                held = Shortcut(tell.address, self._held.word(end))
                told.add(partial(self._make_room, end), held)
            else:
                for worker in self._pool.workers:
                    told.add(worker.room, worker.room_shortcut)

    def _way(self, route: Route) -> _Way:
        source = kernels_of(self._devices[route.end], tx_queue(route.pair))
        sink = _NOWHERE
        if route.sink != NOWHERE:
            sink = kernels_of(self._devices[1 - route.end], rx_queue(route.sink))
        flow = Flow(
            self._loop,
            source,
            sink,
            drop=self._patience == 0,
            on_blocked=lambda: self._blocked(way),
            on_failed=lambda _, code: self._failed(code),
        )
        way = _Way(route, flow, self._held)
        return way

    def restart(self, end: int, pair: int | None = None) -> None:
        """A transmit queue of an end (None: all) was reset: no frame of it is half moved."""
        with self._resting():
            for way in self._ways.values():
                if way.route.end == end and pair in (None, way.route.pair):
                    way.flow.restart()

    # -- workers

    def _resting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._pool is None else self._pool.pause()

    def _begin_pool(self) -> None:
        groups: dict[tuple[int, ...], list[_Way]] = {}
        for route, way in self._ways.items():
            nowhere = route.sink == NOWHERE
            key = (route.end, route.sink, route.pair) if nowhere else (route.end, route.sink)
            groups.setdefault(key, []).append(way)
        count = min(self._workers, len(groups))
        pool = self._pool = WorkerPool(count, self._name, polling=self._polling)
        ordered = sorted(groups.items(), key=lambda item: (item[0][1], item[0]))
        bells = [doorbells(device, tx_queue) for device in self._devices]
        for number, (_, ways) in enumerate(ordered):
            for way in ways:
                way.worker = pool.workers[number % count]
                signal = bells[way.route.end][way.route.pair].signal_fd
                way.lane = way.worker.add(way.flow, source_fd=signal)
        pool.start()
        for device in self._devices:
            device.add_runner(pool)

    def _end_pool(self) -> None:
        if self._pool is None:
            return
        self._pool.close()
        for device in self._devices:
            device.remove_runner(self._pool)
        self._pool = None
        for way in self._ways.values():
            way.worker = None

    # -- patience

    def _blocked(self, way: _Way) -> None:
        way.blocked = True
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._patience:
            self._timer = self._loop.call_later(self._patience / 1e3, self._look)

    def _look(self) -> None:
        """Begin to drop where nothing has moved since the last look, and end it where it has."""
        self._timer = None
        again = self._pool is not None
        for way in self._ways.values():
            flow, stuck = way.flow, way.stuck
            taken = flow.stats()["sent"]
            if stuck and taken == way.rows:
                flow.drop = True
                way.kick()
                if way.worker is not None:
                    way.worker.room()
            elif flow.drop and taken != way.rows:
                flow.drop = False
            way.rows = taken
            again |= stuck or flow.drop
        if again:
            self._arm()

    # -- counters

    def _count(self, way: _Way) -> None:
        past = self._past[way.route.end]
        for name, value in _counted(way).items():
            past[name] = past.get(name, 0) + value

    def stats(self, end: int) -> dict[str, int]:
        """What was done with the frames that an end has sent, since the wire was made.

        Returns:
            ``received`` of the end: ``sent`` were taken by the other end, ``discarded`` found it
            down, ``dropped`` found no room for too long, ``malformed`` asked for what their headers
            can't do; ``softened`` bursts went through the software stage, ``blocked`` times there
            was no room.
        """
        total = dict.fromkeys(_NAMES, 0) | self._past[end]
        for way in self._ways.values():
            if way.route.end == end:
                for name, value in _counted(way).items():
                    total[name] += value
        return total

    def worker_stats(self) -> dict[str, int]:
        """See `WorkerPool.stats`; empty without workers, which are new ones with each change."""
        return {} if self._pool is None else self._pool.stats()

    def close(self) -> None:
        """Move nothing more, and end the workers. A second call does nothing."""
        self.follow(())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for end in (0, 1):
            self.detach(end)


_NAMES: Final = ("received", "sent", "discarded", "dropped", "malformed", "softened", "blocked")


def _counted(way: _Way) -> dict[str, Any]:
    stats = way.flow.stats()
    sent = stats.pop("sent")
    nowhere = way.route.sink == NOWHERE
    stats |= {"discarded": sent, "sent": 0} if nowhere else {"discarded": 0, "sent": sent}
    return {name: stats[name] for name in _NAMES}
