"""Backend hooks: the host tells a backend about its devices.

On the loop's thread. A backend object comes from `BackendSpec.build` and is registered in the relay
of each of its devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import Event
from . import hookspec

if TYPE_CHECKING:
    from ..device import Device


@hookspec
def emudev_backend_offered(device: Device) -> str | None:
    """A device is offered, configured but not started: can it be served?

    Called once a device, before anything is started or listening.

    Returns:
        None to take it, or the reason to refuse it, which ends the start with that message.

    Example:
        class Sink:
            @hookimpl
            def emudev_backend_offered(self, device):
                if device.get_dev_info().max_queue_pairs == 0:
                    return "it has no queues"
                return None
    """


@hookspec
def emudev_backend_started(device: Device) -> None:
    """Open what is needed and begin to move frames.

    Called at each start of the device, after its provider and before its transport. An exception
    (`BackendError`) ends the start; what was started is stopped again.

    Example:
        class Sink:
            @hookimpl
            def emudev_backend_started(self, device):
                self.device = device
    """


@hookspec
def emudev_backend_stopped(device: Device) -> None:
    """Stop moving frames and close what was opened.

    Called at each stop, before the provider's `emudev_stop`. An exception is reported, no more.

    Example:
        class Sink:
            @hookimpl
            def emudev_backend_stopped(self, device):
                self.device = None
    """


@hookspec
def emudev_backend_event(device: Device, event: Event) -> None:
    """Something happened at the device: queues enabled, reset, memory changed; see `EventKind`.

    Called once an event, in order, at the end of the loop's turn in which it happened.

    Example:
        class Sink:
            @hookimpl
            def emudev_backend_event(self, device, event):
                self.events.append(event)
    """
