"""A device: the typed face of its relay, its state, and the supervision of what its plugins do.

`Device` is what RFC v1 calls ``rte_emu_dev``. It has one method a hook, the hook's name less
``emudev_``; the hook's documentation says who calls it and what the answer means. The object that a
provider's builder returns is a *provider*: an implementation of hooks in the device's relay, beside
the transport, the backend and the observers.

A method of a hook with one answer is bound straight to the only implementation, so that it costs
what a method call costs. Bindings change when an observer comes or goes: look the method up at each
call (``device.region_read(...)``) instead of keeping it.
"""

from __future__ import annotations

import logging
from collections import abc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import later as _later
from .attributes import AttributeInfo, AttributeValue
from .blame import culprit
from .config import ProviderConfig
from .errors import DeviceError, LifecycleError, PluginError
from .events import Event, EventChannel, EventKind
from .later import Later
from .lifecycle import LifecycleEvent, State, step
from .memory import MemoryRegion, MemoryTable
from .queues import DeviceInfo, Doorbell, IrqInfo, QueueInfo
from .regions import IrqGroup, RegionInfo, ResetKind
from .relay import Failure, Member, Relay, report
from .runners import Runner, Runners
from .sections import Section
from .sequence import Sequence

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["Device"]

log = logging.getLogger(__name__)

#: Hooks with one answer, by method, that may be bound straight to their implementation.
BOUND: Final = (
    "get_regions",
    "get_irq_groups",
    "region_read",
    "region_write",
    "region_read_bulk",
    "region_write_bulk",
    "get_dev_info",
    "get_mem_table",
    "get_queue_info",
    "get_irq_info",
    "get_db_info",
    "get_attributes",
    "get_attr",
    "set_attr",
    "region_map",
    "get_suggestions",
)

#: What a device answers to a hook that its provider does not implement; for others it is an error.
_UNIMPLEMENTED: Final[dict[str, Any]] = {
    "emudev_get_regions": (),
    "emudev_get_irq_groups": (),
    "emudev_get_attributes": (),
    "emudev_get_suggestions": (),
    "emudev_subscribe_event": True,
    "emudev_unsubscribe_event": True,
    "emudev_dma_unmap": True,
    "emudev_reset": True,
    "emudev_quiesce": True,
    "emudev_listen": "",
    "emudev_unlisten": True,
}


class Device:
    """See the module. For the loop's thread.

    Args:
        name: Such as ``avf_emudev_0``.
        id: Its number among the devices of its stem, stable for its life.
        stem: The name less ``_emudev_`` and the number.
        loop: The process' loop. Without one, nothing watches answers that come later, and events
            reach backends at once instead of at the end of the turn.

    Attributes:
        name, id, stem, loop: As given.
        state: Where it is in its life.
        config: The provider's configuration, None until it is known.
        error: Why it is in error; empty unless it is.
        address: Where it is reachable while it is started, such as ``vfio_user:/run/avf0.sock``.
        paused: ``with device.paused():`` keeps queue kernels at rest that run on other threads
            (`runners`); for a provider, around whatever must not change under them. Nothing but a
            call without such threads.
    """

    def __init__(self, name: str, id: int, stem: str, loop: Loop | None = None) -> None:
        self.name = name
        self.id = id
        self.stem = stem
        self.loop = loop
        self.state = State.ALLOCATED
        self.config: ProviderConfig | None = None
        self.error = ""
        self.address = ""
        self._channels: list[EventChannel] = []
        self._calls: dict[str, Callable[..., Any]] = {}
        self._runners = Runners()
        self.paused: Callable[[], AbstractContextManager[None]] = self._runners.paused
        self._relay = Relay(name, self._rebind)
        self._sequence = Sequence(self, self._relay)

    def __repr__(self) -> str:
        return f"<Device {self.name} {self.state.value}>"

    # -- who takes part

    @property
    def members(self) -> tuple[Member, ...]:
        """The plugins of this device, in the order of registration: the provider first."""
        return self._relay.members

    def register(self, plugin: object, name: str, origin: str = "") -> None:
        """Let an object take part in this device with its hook implementations.

        Args:
            plugin: Compares by identity.
            name: Unique within the device.
            origin: Distribution and version, for messages.

        Raises:
            PluginError: Unknown hooks or arguments, a name or object that is here already.
        """
        self._relay.register(plugin, name, origin)

    def unregister(self, plugin: object) -> None:
        """Let it go; an unknown object is ignored."""
        self._relay.unregister(plugin)

    def is_direct(self, hook: str) -> bool:
        """Whether one implementation answers the hook and no observer watches it.

        A transport may serve declared doorbells itself while ``emudev_region_write`` is direct.
        """
        return self._relay.direct(hook)

    def _rebind(self) -> None:
        self._calls.clear()
        for method in BOUND:
            hook = f"emudev_{method}"
            if self._relay.direct(hook):
                self.__dict__[method] = self._relay.function(hook)
            else:
                self.__dict__.pop(method, None)

    def _ask(self, hook: str, *arguments: Any) -> Any:
        call = self._calls.get(hook)
        if call is None:
            function = self._relay.function(hook)
            if function is None:
                if hook in _UNIMPLEMENTED:
                    return _UNIMPLEMENTED[hook]
                raise DeviceError(f"{self.name}: its provider does not implement {hook}")
            call = self._calls[hook] = function
        answer = call(*arguments)
        if answer is None:
            raise DeviceError(f"{self.name}: nobody answered {hook}")
        return answer

    def _tell(self, hook: str, **arguments: Any) -> None:
        """Announce what a client did; a provider that raises puts the device in error."""
        _, failures = self._relay.announce(hook, arguments)
        self._report(failures)
        for failure in failures:
            if failure.member is self._relay.members[0]:
                self.fail(failure.error, hook)

    def _report(self, failures: abc.Sequence[Failure]) -> None:
        report(self.name, failures)

    # -- kernels on other threads

    def add_runner(self, runner: Runner) -> None:
        """Have `paused` pause this one too, before it calls any kernel of the device.

        Args:
            runner: The backend's own; removed again before it goes.
        """
        self._runners.add(runner)

    def remove_runner(self, runner: Runner) -> None:
        """Undo `add_runner`, once it calls no kernel any more; an unknown one is ignored."""
        self._runners.remove(runner)

    # -- errors and events

    def fail(self, reason: str | BaseException, hook: str = "") -> None:
        """Put the device in error: it serves nobody any more and can only be closed.

        Subscribers get an `EventKind.ERROR` with the reason. A device that is in error or closed
        already stays as it is.

        Args:
            reason: Why, or what a plugin raised; then the one in whose code it happened is named,
                the provider if that can't be told.
            hook: In which hook.
        """
        if self.state in (State.ERROR, State.CLOSED):
            return
        cause = reason if isinstance(reason, BaseException) else None
        if cause is not None and not isinstance(cause, PluginError) and self.members:
            member = culprit(cause, self.members) or self.members[0]
            cause = PluginError(str(member), hook or "a callback", cause)
        self.error = str(cause or reason)
        log.error("%s is in error: %s", self.name, self.error, exc_info=_raised(reason))
        self._step(LifecycleEvent.FAIL)
        self.post_event(Event(EventKind.ERROR, text=self.error))

    def post_event(self, event: Event) -> None:
        """Post an event to every subscriber of this device.

        For what the core has to tell, and for providers that do not keep subscribers of their own.
        """
        for channel in tuple(self._channels):
            channel.post(event)

    def _step(self, event: LifecycleEvent) -> None:
        self.state = step(self.state, event, self.name)
        self.post_event(Event(EventKind.STATE, text=self.state.value))

    # -- lifecycle

    def configure(self, config: ProviderConfig | None = None) -> None:
        """Build what the configuration asks for (`emudev_configure`).

        Args:
            config: Kept as `config`; None keeps the one that the provider was built with.

        Raises:
            LifecycleError: Not in this state.
            PluginError: A plugin failed; the device stays allocated.
        """
        step(self.state, LifecycleEvent.CONFIGURE, self.name)
        if config is not None:
            self.config = config
        _, failures = self._relay.announce("emudev_configure", stop=True)
        if failures:
            raise failures[0].error
        self._step(LifecycleEvent.CONFIGURE)

    def offer(self) -> None:
        """Offer the device to its backends (`emudev_backend_offered`), each once.

        `start` does this too; a host that starts several devices offers all of them first.

        Raises:
            BackendError: A backend refused it, with its reason.
            PluginError: A backend failed.
        """
        self._sequence.offer()

    def start(self) -> None:
        """Start the provider, then the backends, then let the transport listen.

        Whatever was started is stopped again if a step fails.

        Raises:
            LifecycleError: Not in this state.
            EmudevError: What a plugin raised, or a `PluginError` that names it.
        """
        step(self.state, LifecycleEvent.START, self.name)
        self.address = self._sequence.start()
        self._step(LifecycleEvent.START)
        log.info("%s started%s", self.name, f" at {self.address}" if self.address else "")

    def stop(self) -> None:
        """Stop the transport, the backends, the provider; what fails is reported, no more.

        Raises:
            LifecycleError: Not in this state.
        """
        step(self.state, LifecycleEvent.STOP, self.name)
        self._sequence.stop()
        self.address = ""
        self._step(LifecycleEvent.STOP)
        log.info("%s stopped", self.name)

    def close(self) -> None:
        """Stop if needed, and give everything back (`emudev_close`). A second call does nothing."""
        if self.state is State.CLOSED:
            return
        self._sequence.stop()
        self.address = ""
        _, failures = self._relay.announce("emudev_close", reverse=True)
        self._report(failures)
        self._step(LifecycleEvent.CLOSE)
        self._channels.clear()

    def save(self) -> bytes:
        """Everything the device remembers (`emudev_save`), for `restore`.

        Raises:
            LifecycleError: It is not configured, or closed, or in error.
            DeviceError: Its provider does not implement it.
        """
        from .saving import encode_device

        if self.state in (State.ALLOCATED, State.ERROR, State.CLOSED):
            raise LifecycleError(f"{self.name} is {self.state.value}: it has nothing to save")
        with self.paused():
            state = self._ask("emudev_save")
        return encode_device(self.stem, state)

    def restore(self, data: bytes) -> None:
        """Take back what `save` gave (`emudev_restore`).

        Raises:
            LifecycleError: The device is not configured, or started.
            DecodeError: Not what a device of this kind saved; the device is as it was.
        """
        from .saving import decode_device

        if self.state not in (State.CONFIGURED, State.STOPPED):
            raise LifecycleError(
                f"{self.name} is {self.state.value}: restore needs a resting device"
            )
        self._ask("emudev_restore", decode_device(self.name, self.stem, data))

    # -- provider-facing: a transport tells

    def get_regions(self) -> abc.Sequence[RegionInfo]:
        """See `hooks.provider.emudev_get_regions`."""
        found: abc.Sequence[RegionInfo] = self._ask("emudev_get_regions")
        return found

    def get_irq_groups(self) -> abc.Sequence[IrqGroup]:
        """See `hooks.provider.emudev_get_irq_groups`."""
        found: abc.Sequence[IrqGroup] = self._ask("emudev_get_irq_groups")
        return found

    def region_read(self, region: int, offset: int, size: int) -> int:
        """See `hooks.provider.emudev_region_read`."""
        value: int = self._ask("emudev_region_read", region, offset, size)
        return value

    def region_write(self, region: int, offset: int, size: int, value: int) -> Later | bool:
        """See `hooks.provider.emudev_region_write`."""
        done: Later | bool = self._ask("emudev_region_write", region, offset, size, value)
        return done

    def region_read_bulk(self, region: int, offset: int, size: int) -> bytes:
        """See `hooks.provider.emudev_region_read_bulk`."""
        data: bytes = self._ask("emudev_region_read_bulk", region, offset, size)
        return data

    def region_write_bulk(self, region: int, offset: int, data: bytes) -> Later | bool:
        """See `hooks.provider.emudev_region_write_bulk`."""
        done: Later | bool = self._ask("emudev_region_write_bulk", region, offset, data)
        return done

    def dma_map(self, table: MemoryTable, region: MemoryRegion) -> None:
        """See `hooks.provider.emudev_dma_map`."""
        self._tell("emudev_dma_map", table=table, region=region)

    def dma_unmap(self, table: MemoryTable, region: MemoryRegion) -> Later | bool:
        """See `hooks.provider.emudev_dma_unmap`; an answer that comes later is watched."""
        return self._supervise("emudev_dma_unmap", self._ask("emudev_dma_unmap", table, region))

    def irq_bound(self, group: int, vector: int, fd: int | None) -> None:
        """See `hooks.provider.emudev_irq_bound`."""
        self._tell("emudev_irq_bound", group=group, vector=vector, fd=fd)

    def irq_masked(self, group: int, vector: int, masked: bool) -> None:
        """See `hooks.provider.emudev_irq_masked`."""
        self._tell("emudev_irq_masked", group=group, vector=vector, masked=masked)

    def irq_trigger(self, group: int, vector: int) -> None:
        """See `hooks.provider.emudev_irq_trigger`."""
        self._tell("emudev_irq_trigger", group=group, vector=vector)

    def reset(self, kind: ResetKind) -> Later | bool:
        """See `hooks.provider.emudev_reset`; an answer that comes later is watched."""
        return self._supervise("emudev_reset", self._ask("emudev_reset", kind))

    def quiesce(self) -> Later | bool:
        """See `hooks.provider.emudev_quiesce`; an answer that comes later is watched."""
        return self._supervise("emudev_quiesce", self._ask("emudev_quiesce"))

    def _supervise(self, hook: str, answer: Any) -> Later | bool:
        if not isinstance(answer, Later):
            return bool(answer)
        if answer.done or self.loop is None:
            return answer

        def expire() -> None:
            reason = f"{hook} was not finished within {_later.LIMIT:g} s"
            self.fail(f"{self.members[0] if self.members else self.name}: {reason}")
            answer.finish(DeviceError(f"{self.name}: {reason}"))

        timer = self.loop.call_later(_later.LIMIT, expire)

        def settle(done: Later) -> None:
            timer.cancel()
            if done.error is not None:
                self.fail(done.error, hook)

        answer.then(settle)
        return answer

    def client_attached(self, client: str) -> None:
        """See `hooks.provider.emudev_client_attached`."""
        self._tell("emudev_client_attached", client=client)

    def client_detached(self) -> None:
        """See `hooks.provider.emudev_client_detached`."""
        self._tell("emudev_client_detached")

    def status_changed(self, what: str) -> None:
        """See `hooks.provider.emudev_status_changed`."""
        self._tell("emudev_status_changed", what=what)

    # -- backend-facing: a backend asks

    def get_dev_info(self) -> DeviceInfo:
        """See `hooks.device.emudev_get_dev_info`."""
        info: DeviceInfo = self._ask("emudev_get_dev_info")
        return info

    def subscribe_event(self, channel: EventChannel) -> bool:
        """See `hooks.device.emudev_subscribe_event`; the core's events are posted to it too."""
        done: bool = self._ask("emudev_subscribe_event", channel)
        if channel not in self._channels:
            self._channels.append(channel)
        return done

    def unsubscribe_event(self, channel: EventChannel) -> bool:
        """See `hooks.device.emudev_unsubscribe_event`."""
        if channel not in self._channels:
            raise DeviceError(f"{self.name}: the channel is not subscribed")
        self._channels.remove(channel)
        done: bool = self._ask("emudev_unsubscribe_event", channel)
        return done

    def get_mem_table(self) -> MemoryTable:
        """See `hooks.device.emudev_get_mem_table`."""
        table: MemoryTable = self._ask("emudev_get_mem_table")
        return table

    def get_queue_info(self, queue: int) -> QueueInfo:
        """See `hooks.device.emudev_get_queue_info`."""
        info: QueueInfo = self._ask("emudev_get_queue_info", queue)
        return info

    def get_irq_info(self, vector: int) -> IrqInfo:
        """See `hooks.device.emudev_get_irq_info`."""
        info: IrqInfo = self._ask("emudev_get_irq_info", vector)
        return info

    def get_db_info(self, doorbell: int) -> Doorbell:
        """See `hooks.device.emudev_get_db_info`."""
        info: Doorbell = self._ask("emudev_get_db_info", doorbell)
        return info

    def get_attributes(self) -> abc.Sequence[AttributeInfo]:
        """See `hooks.device.emudev_get_attributes`."""
        found: abc.Sequence[AttributeInfo] = self._ask("emudev_get_attributes")
        return found

    def get_attr(self, name: str) -> AttributeValue:
        """See `hooks.device.emudev_get_attr`."""
        value: AttributeValue = self._ask("emudev_get_attr", name)
        return value

    def set_attr(self, name: str, value: AttributeValue) -> bool:
        """See `hooks.device.emudev_set_attr`."""
        done: bool = self._ask("emudev_set_attr", name, value)
        return done

    def region_map(self, name: str, size: int) -> int:
        """See `hooks.device.emudev_region_map`."""
        base: int = self._ask("emudev_region_map", name, size)
        return base

    def get_suggestions(self) -> abc.Sequence[str]:
        """See `hooks.device.emudev_get_suggestions`."""
        rows: abc.Sequence[str] = self._ask("emudev_get_suggestions")
        return rows

    def get_state(self) -> list[tuple[Member, Section]]:
        """See `hooks.device.emudev_get_state`: the sections of all plugins, with whose they are.

        A plugin that raises has a section ``error`` whose reading raises that.
        """
        lost: list[Failure] = []
        found = self._relay.answers("emudev_get_state", {}, lost=lost)
        shown = [(member, section) for member, sections in found for section in sections]
        failed = [(one.member, Section("error", "", partial(_raise, one.error))) for one in lost]
        return shown + failed

    # -- the transport and the backends, by themselves

    def listen(self) -> str:
        """See `hooks.transport.emudev_listen`; `start` does this in its turn."""
        address: str = self._ask("emudev_listen")
        return address

    def unlisten(self) -> bool:
        """See `hooks.transport.emudev_unlisten`; `stop` does this in its turn."""
        done: bool = self._ask("emudev_unlisten")
        return done

    def backends(self) -> Iterator[Member]:
        """The members that are told when the device starts (`emudev_backend_started`)."""
        for impl in self._relay.implementations("emudev_backend_started"):
            yield self._relay.member(impl.plugin)


def _raised(reason: str | BaseException) -> BaseException | None:
    return reason if isinstance(reason, BaseException) else None


def _raise(error: Exception) -> NoReturn:
    raise error
