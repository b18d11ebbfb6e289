"""Flows between the queues of a device and those of a TAP interface, and who wakes them.

- Guest to TAP, one flow a queue pair: woken by the pair's transmit doorbell; while the TAP has no
  room, by its descriptor being writable.
- TAP to guest, one flow a TAP queue: woken by its descriptor being readable, and behind each flow
  from the guest, since the host often answers at once; while the device has no room, by any receive
  doorbell, and the descriptor is not looked at.

While the loop sleeps, compiled code does all of this that needs no interpreter (`fast_wait`).

With workers their threads run the flows, and the same things wake them: doorbells by way of the
loop, descriptors by themselves. A TAP queue belongs to one worker, with all flows that share it.

Several pairs may share a TAP queue. Then what is received goes to the device's first receive queue,
whose kernel spreads it by RSS; else to the receive queue of the same number.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final

from emudev_core.device import Device
from emudev_core.loop import READ, WRITE, Loop
from emudev_core.queues import QueueInfo, QueueKernels, Shortcut, rx_queue, tx_queue
from emudev_net import flow_kernels
from emudev_net.fast_wait import FastWait
from emudev_net.flow import Flow
from emudev_net.primitives import Words
from emudev_net.workers import Worker, WorkerPool

from .ends import TapSink, TapSource
from .tap import Tap

__all__ = ["Wiring"]

_BROKEN: Final = select.EPOLLERR | select.EPOLLHUP


class _Queue:
    """One TAP queue: its flow towards the guest, and the flows from the guest that share it.

    Args:
        loop: The process' loop.
        fd: Its descriptor.
        source: Its frames for the guest.
        sink: Takes frames of the guest.
        receive: Kernels of the receive queue that they go to.
        broken: Called when the interface is gone.
        full: Word 0 is the number of such queues of which the guest has no room for a frame.
        worker: Runs its flows; None: the loop's thread does.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int,
        source: TapSource,
        sink: TapSink,
        receive: QueueKernels,
        broken: Callable[[], None],
        full: Words,
        worker: Worker | None = None,
    ) -> None:
        self.source = source
        self.sink = sink
        self.flow = Flow(loop, source.kernels, receive, on_blocked=self._no_room_there)
        self.active = False
        self._blocked = False
        self._full = full
        self._waiting: list[Flow] = []
        self._broken = broken
        self._fd = fd
        self._worker = worker
        self._number = 0
        if worker is not None:
            self._number = worker.add(self.flow, source_fd=fd, active=False)
        self.flow.resting = True
        self._watch = loop.watch(fd, self._ready, 0)  # errors are told in any case
        self._lane = FastWait.of(loop).add_flow(fd, self.flow.shortcut)

    def add_sender(self, flow: Flow) -> None:
        """Let the worker, if there is one, run a flow from the guest."""
        if self._worker is not None:
            self._worker.add(flow, sink_fd=self._fd)

    def _arm(self) -> None:
        if self._worker is not None:
            return  # it looks at the descriptor itself
        events = READ if self.active and not self._blocked else 0
        self.flow.resting = not events
        if self._waiting:
            events |= WRITE
        self._watch.set(events)

    def _ready(self, events: int) -> None:
        if events & _BROKEN:
            self._broken()
            return
        if events & READ:
            self.flow.kick()
        if events & WRITE:
            waiting, self._waiting = self._waiting, []
            for flow in waiting:
                flow.kick()
            self._arm()

    def _set_blocked(self, blocked: bool) -> None:
        self._full[0] += blocked - self._blocked
        self._blocked = blocked

    def _no_room_there(self) -> None:
        self._set_blocked(True)
        self._arm()

    def look(self) -> None:
        """Look for frames of the host behind those of the guest.

        It has answered many of them by the time that they are written, and to hear of that from the
        loop takes a turn.
        """
        if self._worker is None and self.active and not self._blocked:
            self.flow.kick()

    def room(self) -> None:
        """The device may have room again."""
        if self._worker is not None:
            self._worker.room()
        elif self._blocked:
            self._set_blocked(False)
            self._arm()
            if self.active:
                self.flow.kick()

    def wait_for_room(self, flow: Flow) -> None:
        """Kick a flow from the guest once this can be written to."""
        if flow not in self._waiting:
            self._waiting.append(flow)
        self._arm()

    def set_active(self, active: bool) -> None:
        """Let frames go to the guest, or let them wait; what waited from before is dropped."""
        if active == self.active:
            return
        self.active = active
        self._set_blocked(False)
        if active:  # workers rest: see `Wiring.refresh`
            self.source.discard()
            self.flow.restart()
        if self._worker is not None:
            self._worker.set_active(self._number, active)
        self._arm()

    def close(self) -> None:
        """Rest for ever; the descriptor stays open."""
        self._lane.close()
        self._watch.close()
        self.flow.close()


class Wiring:
    """Moves frames between a device and an attached TAP. On the loop's thread.

    All kernels have to be compiled, where they are to be. Nothing moves before `refresh`.

    Args:
        device: Its queues; the caller keeps it.
        tap: Its descriptors; the caller keeps it and closes this first.
        loop: The process' loop.
        lost: Called, perhaps more than once, when the interface turns out to be gone.
        workers: Threads that move the frames, at most one a TAP queue; 0: the loop's does.
        polling: They never sleep.

    Raises:
        ConfigError: Workers, but kernels that are not compiled.
    """

    def __init__(
        self,
        device: Device,
        tap: Tap,
        loop: Loop,
        lost: Callable[[], None],
        *,
        workers: int = 0,
        polling: bool = False,
    ) -> None:
        self._device = device
        self._tap = tap
        pairs = device.get_dev_info().max_queue_pairs
        self._queues: list[_Queue] = []
        self._flows: list[Flow] = []
        self._full = Words(1)
        self._sending = [False] * pairs
        self._unsubscribe: list[Callable[[], None]] = []
        self._pool: WorkerPool | None = None
        if workers:
            count = min(workers, len(tap.fds))
            self._pool = WorkerPool(count, tap.name, polling=polling)
        try:
            self._add_all(loop, lost)
        except BaseException:
            self.close()
            raise

    def _add_all(self, loop: Loop, lost: Callable[[], None]) -> None:
        device, tap, pool = self._device, self._tap, self._pool
        for number, fd in enumerate(tap.fds):
            receive = device.get_queue_info(rx_queue(number)).kernels
            assert receive is not None
            source = TapSource(fd, tap.header)
            sink = TapSink(fd, tap.header, tap.takes)
            worker = None if pool is None else pool.workers[number % len(pool.workers)]
            self._queues.append(_Queue(loop, fd, source, sink, receive, lost, self._full, worker))
        for pair in range(len(self._sending)):
            self._add_pair(pair, loop)
        if pool is not None:
            pool.start()
            device.add_runner(pool)

    def _add_pair(self, pair: int, loop: Loop) -> None:
        queue = self._queues[pair % len(self._queues)]
        info = self._device.get_queue_info(tx_queue(pair))
        assert info.kernels is not None
        flow: Flow = Flow(
            loop, info.kernels, queue.sink.kernels, on_blocked=lambda: queue.wait_for_room(flow)
        )
        self._flows.append(flow)
        queue.add_sender(flow)
        self._subscribe(info, flow.kick, flow.shortcut)
        receive = self._device.get_queue_info(rx_queue(pair))
        if self._pool is not None:
            for worker in self._pool.workers:
                self._subscribe(receive, worker.room, worker.room_shortcut)
            return
        # Behind it: the order of the doorbell's subscribers.
        self._subscribe(info, queue.look, queue.flow.shortcut)
        room = Shortcut(flow_kernels.tell.address, self._full.address)
        self._subscribe(receive, self._room, room)

    def _subscribe(self, info: QueueInfo, callback: Callable[[], None], shortcut: Shortcut) -> None:
        doorbell = self._device.get_db_info(info.doorbell)
        doorbell.subscribe(callback, shortcut)
        self._unsubscribe.append(partial(doorbell.unsubscribe, callback))

    def _room(self) -> None:
        """The guest has posted receive buffers, perhaps those that any of the flows waits for."""
        for queue in self._queues:
            queue.room()

    def refresh(self) -> None:
        """Follow the queues that are enabled now: flows, TAP queues, carrier."""
        with nullcontext() if self._pool is None else self._pool.pause():
            self._follow()

    def _follow(self) -> None:
        pairs = range(len(self._flows))
        receiving = [self._device.get_queue_info(rx_queue(p)).enabled for p in pairs]
        sending = [self._device.get_queue_info(tx_queue(p)).enabled for p in pairs]
        for number, queue in enumerate(self._queues):
            if len(self._queues) == 1:
                queue.set_active(any(receiving))
            else:
                self._tap.set_queue(number, receiving[number] or sending[number])
                queue.set_active(receiving[number])
            queue.room()
        for pair, flow in enumerate(self._flows):
            if sending[pair] and not self._sending[pair]:
                flow.restart()
                flow.kick()
        self._sending = sending
        self._tap.set_carrier(any(receiving))

    def stats(self) -> dict[str, Any]:
        """Counters of each TAP queue.

        Returns:
            ``rx`` (towards the guest) and ``tx`` (from it): a list of the counters of
            `TapSource.stats` and `TapSink.stats`; ``malformed``: packets whose requests did not fit
            their headers, found in software; ``workers``, if there are any: `WorkerPool.stats`.
        """
        flows = [*self._flows, *(queue.flow for queue in self._queues)]
        return {
            **({} if self._pool is None else {"workers": self._pool.stats()}),
            "rx": [queue.source.stats() for queue in self._queues],
            "tx": [queue.sink.stats() for queue in self._queues],
            "malformed": sum(flow.malformed for flow in flows),
        }

    def close(self) -> None:
        """Move nothing more, and end the workers. A second call does nothing."""
        if self._pool is not None:
            self._pool.close()
            self._device.remove_runner(self._pool)
        for undo in self._unsubscribe:
            undo()
        self._unsubscribe.clear()
        for flow in self._flows:
            flow.close()
        for queue in self._queues:
            queue.close()
