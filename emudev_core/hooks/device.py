"""Backend-facing hooks: a backend asks, the provider answers (RFC v1, ``emu_dev_ops``).

All are called on the loop's thread, at any time between configure and close, seldom: a backend
keeps what it was told until an event says that it changed. What can't be answered raises
`DeviceError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..attributes import AttributeInfo, AttributeValue
from ..events import EventChannel
from ..memory import MemoryTable
from ..queues import DeviceInfo, Doorbell, IrqInfo, QueueInfo
from ..sections import Section
from . import hookspec


@hookspec(firstresult=True)
def emudev_get_dev_info() -> DeviceInfo:
    """What the device is.

    Called by a backend when it is offered the device and when it starts.

    Returns:
        The same at each call.

    Example:
        from emudev_core.queues import DeviceInfo

        class Dice:
            @hookimpl
            def emudev_get_dev_info(self):
                return DeviceInfo(type="dice")
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_subscribe_event(channel: EventChannel) -> bool:
    """Post events to a channel from now on; one that is subscribed already stays so once.

    Called once a channel, by a backend or a program; the core posts its own events to the
    channel, too. Without an implementation the core keeps the channels by itself, and the provider
    posts with `Device.post_event`.

    Returns:
        True.

    Example:
        class Dice:
            @hookimpl
            def emudev_subscribe_event(self, channel):
                self.channels.append(channel)
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_unsubscribe_event(channel: EventChannel) -> bool:
    """Post no more events to a channel; an unknown one is a `DeviceError`.

    Called once a channel, when its owner stops.

    Returns:
        True.

    Example:
        class Dice:
            @hookimpl
            def emudev_unsubscribe_event(self, channel):
                self.channels.remove(channel)
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_mem_table() -> MemoryTable:
    """The present snapshot of guest memory.

    Called when a backend starts and after each `EventKind.MEMORY`.

    Returns:
        The snapshot that the transport published last.

    Example:
        from emudev_core.memory import EMPTY_TABLE

        class Dice:
            @hookimpl
            def emudev_get_mem_table(self):
                return EMPTY_TABLE
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_queue_info(queue: int) -> QueueInfo:
    """A queue and its kernels, whether enabled or not; an unknown number is a `DeviceError`.

    Called when a backend starts and after each `EventKind.QUEUE_STATE` and `RESET`.

    Returns:
        The queue as it is now; its kernels stay good until the device is closed.

    Example:
        from emudev_core.errors import DeviceError

        class Dice:
            @hookimpl
            def emudev_get_queue_info(self, queue):
                raise DeviceError("a dice has no queues")
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_irq_info(vector: int) -> IrqInfo:
    """An interrupt vector; an unknown number is a `DeviceError`.

    Called when a backend starts and after each `EventKind.IRQ`.

    Returns:
        The vector as it is now.

    Example:
        from emudev_core.queues import IrqInfo

        class Dice:
            @hookimpl
            def emudev_get_irq_info(self, vector):
                return IrqInfo(vector, None, lambda: None)
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_db_info(doorbell: int) -> Doorbell:
    """A doorbell; an unknown number is a `DeviceError`.

    Called when a backend starts, once a queue.

    Returns:
        The doorbell, good until the device is closed.

    Example:
        from emudev_core.errors import DeviceError

        class Dice:
            @hookimpl
            def emudev_get_db_info(self, doorbell):
                raise DeviceError("a dice has no doorbells")
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_attributes() -> Sequence[AttributeInfo]:
    """What `emudev_get_attr` and `emudev_set_attr` know; `emudev_core.attributes` has common names.

    Called when a backend starts, and by tools.

    Returns:
        The attributes, the same at each call. Without an implementation there are none.

    Example:
        class Dice:
            @hookimpl
            def emudev_get_attributes(self):
                return []
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_attr(name: str) -> AttributeValue:
    """The value of an attribute; an unknown name is a `DeviceError` with the nearest known one.

    Called at any time, seldom.

    Returns:
        A value of the attribute's type.

    Example:
        class Dice:
            @hookimpl
            def emudev_get_attr(self, name):
                return self.sides
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_set_attr(name: str, value: AttributeValue) -> bool:
    """Change an attribute; a read-only one, a wrong type or range is a `DeviceError`.

    Called at any time, seldom, such as when a backend's link goes up or down.

    Returns:
        True.

    Example:
        class Dice:
            @hookimpl
            def emudev_set_attr(self, name, value):
                self.sides = value
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_region_map(name: str, size: int) -> int:
    """Map a named region of the device's own memory into the caller.

    Called by a backend that wants to work on the device's memory itself. An unknown name or a size
    that is too large is a `DeviceError`.

    Args:
        name: Such as ``doorbells``; known to the provider.
        size: Bytes wanted from its start.

    Returns:
        Address in this process, good until the device is closed.

    Example:
        from emudev_core.errors import DeviceError

        class Dice:
            @hookimpl
            def emudev_region_map(self, name, size):
                raise DeviceError("a dice has no regions to map")
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_suggestions() -> Sequence[str]:
    """Rows for what the guest accessed and nobody declared, ready to be pasted into a register map.

    Called once at the end of ``emudev run --suggest``. Without an implementation there are none.

    Returns:
        Lines of Python.

    Example:
        class Dice:
            @hookimpl
            def emudev_get_suggestions(self):
                return ['Reg("REG_40", 0x40),  # read 3 times']
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_get_state() -> Iterable[Section]:
    """What the plugin shows of itself: registers, rings, filters, whatever helps to find a fault.

    Called each time that somebody looks at the device, as `emudev ctl` does, also for transports
    and backends; the rows of a section are read only if it is wanted. What an implementation raises
    is shown in its place.

    Returns:
        Sections, which `emudev_core.sections` describes; `SectionTable` keeps them.

    Example:
        from emudev_core.sections import Section

        class Dice:
            @hookimpl
            def emudev_get_state(self):
                return [Section("rolls", "the last rolls", lambda: [{"roll": 4}, {"roll": 6}])]
    """
    raise AssertionError("a specification is not called")
