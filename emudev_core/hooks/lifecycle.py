"""The life of a device: announced to everyone in its relay, provider first, in this order.

    allocate -> configure -> start -> stop -> close -> release

All run on the loop's thread and never wait. The transition table is in `emudev_core.lifecycle`.
"""

from __future__ import annotations

from typing import Any

from . import hookspec


@hookspec
def emudev_configure() -> None:
    """Build what the configuration asks for: state, queues, kernels in the background.

    Called once by the host after the builder, before `emudev_start`; nothing is listening yet. An
    exception leaves the device allocated and names the plugin.

    Example:
        class Dice:
            @hookimpl
            def emudev_configure(self):
                self.value = 1
    """


@hookspec
def emudev_start() -> None:
    """Begin to work: clients may come from now on.

    Called at each start, before the transport listens and the backends are started. An exception
    stops the start; what was started is stopped again.

    Example:
        class Dice:
            @hookimpl
            def emudev_start(self):
                self.running = True
    """


@hookspec
def emudev_stop() -> None:
    """Pause: the link goes down, queues rest; everything the guest set is kept.

    Called at each stop, after the backends were stopped. An exception is reported and does not keep
    the others from stopping.

    Example:
        class Dice:
            @hookimpl
            def emudev_stop(self):
                self.running = False
    """


@hookspec
def emudev_close() -> None:
    """Give everything back: descriptors, mappings, threads.

    Called once a device, also after a failed start; nothing touches guest memory afterwards. An
    exception is reported and does not keep the others from closing. A backend of two devices is
    called for each.

    Example:
        class Dice:
            @hookimpl
            def emudev_close(self):
                self.log.close()
    """


@hookspec(firstresult=True)
def emudev_save() -> dict[str, Any]:
    """Everything the device remembers, as values that msgspec encodes.

    Called by the host on a device that is stopped or quiesced. The provider answers.

    Returns:
        A record with a ``version``; `emudev_restore` of the same or a later version takes it.

    Example:
        class Dice:
            @hookimpl
            def emudev_save(self):
                return {"version": 1, "value": self.value}
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_restore(state: dict[str, Any]) -> bool:
    """Take back what `emudev_save` gave.

    Called by the host on a configured device before it starts. The provider answers. Bad values
    raise `DecodeError` and leave the device as it was.

    Returns:
        True.

    Example:
        class Dice:
            @hookimpl
            def emudev_restore(self, state):
                self.value = state["value"]
                return True
    """
    raise AssertionError("a specification is not called")
