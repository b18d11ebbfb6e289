"""A device for tests of backends: queues that carry frames, and nothing else.

Its kernels are plain Python over the burst of the design (``int64[n, 8]``: address, length, flags
with first = 1 and last = 2). What the guest would send is put in `Port.transmit`, what it would
receive comes out in `Port.received`.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .. import attributes
from ..attributes import AttributeInfo, AttributeValue
from ..config import ProviderConfig
from ..errors import DeviceError
from ..events import Event, EventKind
from ..hooks import hookimpl
from ..memory import EMPTY_TABLE, MemoryTable
from ..names import hint
from ..queues import (
    DeviceInfo,
    Direction,
    Doorbell,
    IrqInfo,
    QueueInfo,
    QueueKernels,
    QueueStats,
    rx_queue,
    tx_queue,
)
from ..specs import ProviderContext, ProviderSpec

__all__ = ["SPEC", "Port", "PortConfig", "PythonKernel"]

_ROW = 64
_FIRST, _LAST = 1, 2


class PythonKernel:
    """A queue kernel without machine code."""

    address = 0

    def __init__(self, function: Callable[[int, int, int], int]) -> None:
        self._function = function

    def __call__(self, state: int, burst: int, rows: int, /) -> int:
        """Run it."""
        return self._function(state, burst, rows)


class PortConfig(ProviderConfig):
    """What the port can be told.

    Attributes:
        queues: Queue pairs.
        room: Frames that the guest's side holds per pair before `push` takes no more.
    """

    queues: int = 1
    room: int = 256


class _Pair:
    """The two queues of a pair."""

    def __init__(self, number: int, room: int) -> None:
        self.number = number
        self.room = room
        self.sending: deque[ctypes.Array[ctypes.c_char]] = deque()
        self.received: list[bytes] = []
        self._words = (ctypes.c_uint32 * 2)()
        base = ctypes.addressof(self._words)
        self.bells = [Doorbell(2 * number, base), Doorbell(2 * number + 1, base + 4)]
        notify = PythonKernel(lambda state, burst, rows: 0)
        self._counts = {"sent": (0, 0), "taken": (0, 0)}
        self.give = QueueKernels(
            0,
            PythonKernel(self._peek),
            None,
            PythonKernel(self._release),
            notify,
            stats=lambda: QueueStats(*self._counts["sent"]),
        )
        self.take = QueueKernels(
            0,
            None,
            PythonKernel(self._push),
            None,
            notify,
            stats=lambda: QueueStats(*self._counts["taken"]),
        )

    def _count(self, way: str, length: int) -> None:
        packets, total = self._counts[way]
        self._counts[way] = (packets + 1, total + length)

    def _peek(self, state: int, burst: int, rows: int) -> int:
        count = 0
        for frame in self.sending:
            if count == rows:
                break
            row = (ctypes.c_int64 * 8).from_address(burst + count * _ROW)
            row[:] = [ctypes.addressof(frame), len(frame), _FIRST | _LAST, 0, 0, 0, count, 0]
            count += 1
        return count

    def _release(self, state: int, burst: int, rows: int) -> int:
        for _ in range(rows):
            self._count("sent", len(self.sending.popleft()))
        return 0

    def _push(self, state: int, burst: int, rows: int) -> int:
        taken, frame = 0, b""
        for index in range(rows):
            row = (ctypes.c_int64 * 8).from_address(burst + index * _ROW)
            if row[2] & _FIRST and len(self.received) >= self.room:
                break
            frame = (b"" if row[2] & _FIRST else frame) + ctypes.string_at(row[0], row[1])
            if row[2] & _LAST:
                self.received.append(frame)
                self._count("taken", len(frame))
                taken = index + 1
        return taken


class Port:
    """See the module.

    Attributes:
        attributes: Values by name.
    """

    def __init__(self, config: PortConfig, context: ProviderContext) -> None:
        self._device = context.device
        self._pairs = [_Pair(number, config.room) for number in range(config.queues)]
        self._table = EMPTY_TABLE
        self.enabled = True
        self.attributes: dict[str, AttributeValue] = {
            attributes.LINK: False,
            attributes.SPEED: 10000,
            attributes.MAC: "52:54:00:00:00:01",
            attributes.MTU: 9000,
        }

    # -- the guest's side

    def transmit(self, frame: bytes, pair: int = 0) -> None:
        """Send a frame as the guest does, and ring."""
        one = self._pairs[pair]
        one.sending.append(ctypes.create_string_buffer(frame, len(frame)))
        one.bells[1].write(len(one.sending))

    def received(self, pair: int = 0) -> list[bytes]:
        """Take what arrived at the guest."""
        found, self._pairs[pair].received = self._pairs[pair].received, []
        return found

    def waiting(self, pair: int = 0) -> int:
        """Frames of the guest that nobody has released."""
        return len(self._pairs[pair].sending)

    def enable(self, enabled: bool) -> None:
        """Enable or disable all queues, as a driver does, and tell."""
        self.enabled = enabled
        for queue in range(2 * len(self._pairs)):
            self._device.post_event(Event(EventKind.QUEUE_STATE, queue, int(enabled)))

    # -- the device's side

    @hookimpl
    def emudev_get_dev_info(self) -> DeviceInfo:
        """Its queues."""
        return DeviceInfo(
            type="port",
            max_queue_pairs=len(self._pairs),
            max_events=4,
            vectors=1,
            doorbells=2 * len(self._pairs),
            max_frame=9018,
        )

    @hookimpl
    def emudev_get_mem_table(self) -> MemoryTable:
        """The last table; its frames live elsewhere."""
        return self._table

    @hookimpl
    def emudev_dma_map(self, table: MemoryTable) -> None:
        """Keep the table."""
        self._table = table

    @hookimpl
    def emudev_dma_unmap(self, table: MemoryTable) -> bool:
        """Keep the table."""
        self._table = table
        return True

    @hookimpl
    def emudev_get_queue_info(self, queue: int) -> QueueInfo:
        """A queue."""
        if not 0 <= queue < 2 * len(self._pairs):
            raise DeviceError(f"no queue {queue} (0 to {2 * len(self._pairs) - 1})")
        pair = self._pairs[queue // 2]
        giving = queue == tx_queue(pair.number)
        assert giving or queue == rx_queue(pair.number)
        return QueueInfo(
            queue=queue,
            direction=Direction.TX if giving else Direction.RX,
            base=0x1000 * (queue + 1),
            size=256,
            doorbell=queue,
            vector=None,
            enabled=self.enabled,
            kernels=pair.give if giving else pair.take,
        )

    @hookimpl
    def emudev_get_irq_info(self, vector: int) -> IrqInfo:
        """One vector that nobody bound."""
        if vector != 0:
            raise DeviceError(f"no vector {vector} (0)")
        return IrqInfo(0, None, lambda: None)

    @hookimpl
    def emudev_get_db_info(self, doorbell: int) -> Doorbell:
        """A queue's doorbell."""
        if not 0 <= doorbell < 2 * len(self._pairs):
            raise DeviceError(f"no doorbell {doorbell} (0 to {2 * len(self._pairs) - 1})")
        return self._pairs[doorbell // 2].bells[doorbell & 1]

    @hookimpl
    def emudev_get_attributes(self) -> Sequence[AttributeInfo]:
        """Link, speed, MAC and MTU."""
        return (
            AttributeInfo(attributes.LINK, bool, "link of the backend", writable=True),
            AttributeInfo(attributes.SPEED, int, "Mbit/s", writable=True),
            AttributeInfo(attributes.MAC, str, "address"),
            AttributeInfo(attributes.MTU, int, "largest MTU, bytes"),
        )

    @hookimpl
    def emudev_get_attr(self, name: str) -> AttributeValue:
        """A value."""
        if name not in self.attributes:
            raise DeviceError(f"no attribute {name} ({hint(name, self.attributes)})")
        return self.attributes[name]

    @hookimpl
    def emudev_set_attr(self, name: str, value: AttributeValue) -> bool:
        """Change link or speed."""
        known = {info.name: info for info in self.emudev_get_attributes()}
        if name not in known or not known[name].writable:
            raise DeviceError(f"attribute {name} can't be set")
        if type(value) is not known[name].type:
            raise DeviceError(f"{name}: expected {known[name].type.__name__}, came {value!r}")
        self.attributes[name] = value
        return True

    @hookimpl
    def emudev_save(self) -> dict[str, Any]:
        """The attributes."""
        return {"version": 1, "attributes": self.attributes}

    @hookimpl
    def emudev_restore(self, state: dict[str, Any]) -> bool:
        """The attributes."""
        self.attributes = dict(state["attributes"])
        return True


#: The provider's record; its name is ``emu_port``, over the loopback transport.
SPEC = ProviderSpec(
    name="emu_port",
    summary="Queues that carry frames, for tests",
    config=PortConfig,
    build=Port,
    transport="loopback",
)
