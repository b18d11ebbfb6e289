"""The order in which the plugins of one device are started, and stopped again.

    offered to its backends -> provider starts -> backends start -> transport listens

Stopping is the same backwards, and so is the way back from a step that failed: what was started is
stopped, nothing else. Each step leaves what undoes it on a list.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import BackendError, DeviceError
from .events import EventChannel
from .relay import Member, Relay, report

if TYPE_CHECKING:
    from .device import Device

__all__ = ["Sequence"]

log = logging.getLogger(__name__)


class Sequence:
    """See the module.

    Args:
        device: The device.
        relay: Its relay.
    """

    def __init__(self, device: Device, relay: Relay) -> None:
        self._device = device
        self._relay = relay
        self._offered: set[int] = set()
        self._undo: list[Callable[[], None]] = []

    def offer(self) -> None:
        """Offer the device to the backends that have not been asked yet.

        Raises:
            BackendError: A backend refuses it, with its reason.
            EmudevError: A backend failed.
        """
        device = self._device
        arguments = {"device": device}
        refusals = self._relay.answers("emudev_backend_offered", arguments, skip=self._offered)
        for member, reason in refusals:
            raise BackendError(f"{member.name} refuses {device.name}: {reason}")
        self._offered = {id(member.plugin) for member in self._relay.members}

    def start(self) -> str:
        """Take all steps, or none.

        Returns:
            Where the device is reachable; empty without a transport.

        Raises:
            EmudevError: What a plugin raised, or a `PluginError` that names it.
        """
        device = self._device
        self.offer()
        try:
            self._start("emudev_start", "emudev_stop")
            self._link_events()
            self._start("emudev_backend_started", "emudev_backend_stopped", device=device)
            address = device.listen()
            self._undo.append(self._unlisten)
        except BaseException:
            self.stop()
            raise
        return address

    def stop(self) -> None:
        """Undo what `start` did, last step first. What fails is reported, no more."""
        while self._undo:
            self._undo.pop()()

    def _start(self, hook: str, undo: str, **arguments: Any) -> None:
        done, failures = self._relay.announce(hook, arguments, stop=True)
        # Who has nothing to do at the start may still have something to undo at the end.
        asked = {id(impl.plugin) for impl in self._relay.implementations(hook)}
        started = {id(member.plugin) for member in self._relay.members} - asked
        started |= {id(member.plugin) for member in done}

        def stop() -> None:
            _, failures = self._relay.announce(undo, arguments, only=started, reverse=True)
            report(self._device.name, failures)

        self._undo.append(stop)
        if failures:
            raise failures[0].error

    def _link_events(self) -> None:
        for impl in self._relay.implementations("emudev_backend_event"):
            self._link(self._relay.member(impl.plugin))

    def _link(self, member: Member) -> None:
        """Bring the device's events to one backend while it is started."""
        device = self._device
        target = {id(member.plugin)}

        def deliver() -> None:
            for event in channel.drain():
                arguments = {"device": device, "event": event}
                _, failures = self._relay.announce("emudev_backend_event", arguments, only=target)
                report(device.name, failures)

        def unlink() -> None:
            try:
                device.unsubscribe_event(channel)
            except DeviceError as exc:
                log.debug("%s: %s", device.name, exc)
            channel.close()

        # One turn of the loop may change many things: a backend looks at them once, at its end.
        wake = deliver if device.loop is None else device.loop.task(deliver).mark
        channel = EventChannel(wake)
        device.subscribe_event(channel)
        self._undo.append(unlink)

    def _unlisten(self) -> None:
        device = self._device
        try:
            device.unlisten()
        except Exception as exc:
            log.error("%s: the transport did not end well: %s", device.name, exc, exc_info=exc)
