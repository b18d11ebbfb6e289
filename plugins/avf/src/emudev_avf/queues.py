"""The control side of one transmit or receive queue. Source: avf.md sections 0, 4.5 and 6.1."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emudev_core.queues import Doorbell, QueueStats
from emudev_net.primitives import Words

from .descriptors import RX_SIZE, RXDID_LEGACY, RXDIDS, RXDIDS_WITH_TIME, TX_SIZE
from .words import (
    OFF,
    ON,
    P_MEMORY,
    Q_BROADCAST,
    Q_BYTES,
    Q_DOORBELL,
    Q_ENABLED,
    Q_EPOCH,
    Q_FAR,
    Q_HEAD,
    Q_INDEX,
    Q_LENGTH,
    Q_MEMORY,
    Q_MULTICAST,
    Q_PORT,
    Q_REASONS,
    Q_RING,
    Q_RING_HOST,
    Q_TAIL,
    Q_UNICAST,
    Q_VECTOR,
    QUEUE_WORDS,
    R_BUFFER_SIZE,
    R_FULL_SINCE,
    R_KEEP_CRC,
    R_MAX_PACKET,
    R_RXDID,
    R_STAMPED,
    RX_REASONS,
    STOPPED,
    T_SCRATCH,
    T_SCRATCH_END,
    T_SCRATCH_USED,
    TX_REASONS,
)

if TYPE_CHECKING:
    from .message_rings import MessageQueue
    from .rings import Port

__all__ = ["MAX_RING", "Ring", "RxRing", "TxRing"]

#: Words for 64 zero bytes and the header copies of one burst.
TX_SCRATCH_WORDS: Final = 8 + 2048
#: Most descriptors of a ring; avf.md 4.5.
MAX_RING: Final = 8160


class Ring:
    """What both directions have in common.

    Attributes:
        index: Number among the queues of this direction.
        doorbell: The tail; a write is latched whatever the state of the queue (avf.md 0, fact 5).
        state: Address of the queue's words.

    Args:
        port: Whose.
        words: Those of all queues of a direction.
        index: Number among them.
        doorbell: Id of its doorbell.
        tail: Address of the doorbell's word; 0: among the queue's words.
        on_polled: See `Doorbell`.
    """

    SIZE: int  # bytes of a descriptor
    REASONS: tuple[str, ...]

    def __init__(
        self,
        port: Port,
        words: Words,
        index: int,
        doorbell: int,
        tail: int = 0,
        on_polled: Callable[[bool], None] | None = None,
    ) -> None:
        self._port = port
        self._words = words
        self._at = index * QUEUE_WORDS
        self.index = index
        self.state = words.address + 8 * self._at
        self.doorbell = Doorbell(doorbell, tail or self.state + Q_TAIL, on_polled=on_polled)
        self._set(Q_DOORBELL, self.doorbell.address)
        self._set(Q_PORT, port.words.address)
        self._set(Q_INDEX, index)
        self._vector: int | None = None
        self._set(Q_VECTOR, -1)

    def _get(self, word: int) -> int:
        return self._words[self._at + word // 8]

    def _set(self, word: int, value: int) -> None:
        self._words[self._at + word // 8] = value

    def _forget_tail(self) -> None:
        ctypes.c_uint32.from_address(self.doorbell.address).value = 0

    @property
    def base(self) -> int:
        """Guest address of the ring, 0 if not configured."""
        return self._get(Q_RING)

    @property
    def length(self) -> int:
        """Descriptors in the ring, 0 if not configured."""
        return self._get(Q_LENGTH)

    @property
    def enabled(self) -> bool:
        """Whether the guest has enabled it (also if it stopped at a fault)."""
        return self._get(Q_ENABLED) != OFF

    @property
    def stopped(self) -> bool:
        """Whether a fault of the guest stopped it: a tail beyond the ring."""
        return self._get(Q_ENABLED) == STOPPED

    @property
    def vector(self) -> int | None:
        """The interrupt vector it is mapped to."""
        return self._vector

    @property
    def head(self) -> int:
        """The next descriptor that the guest gets back."""
        mirrored = self._mirrored()
        return self._get(Q_HEAD) if mirrored is None else mirrored.stored

    @property
    def next(self) -> int:
        """The next descriptor of the kernels; before it may be some that are being stored."""
        return self._get(Q_HEAD)

    def _mirrored(self) -> MessageQueue | None:
        messages = self._port.messages
        return None if messages is None else messages.queue(self)

    @property
    def drops(self) -> dict[str, int]:
        """Frames dropped, by reason; they only grow."""
        return {name: self._get(Q_REASONS + 8 * i) for i, name in enumerate(self.REASONS)}

    def stats(self) -> QueueStats:
        """What the queue has counted; any thread."""
        packets = self._get(Q_UNICAST) + self._get(Q_MULTICAST) + self._get(Q_BROADCAST)
        return QueueStats(packets, self._get(Q_BYTES), self.drops)

    def _configure(self, base: int, length: int) -> None:
        self.disable()
        if length and not (0 < length <= MAX_RING and 0 <= base < 1 << 63):
            raise ValueError(
                f"a ring has 1 to {MAX_RING} descriptors and lies below 2**63, "
                f"not {length} at {base:#x}"
            )
        self._set(Q_RING, base if length else 0)
        self._set(Q_LENGTH, length if base else 0)
        self._set(Q_HEAD, 0)
        self.locate()

    @property
    def asks(self) -> bool:
        """Whether a kernel has met a buffer that only messages may reach."""
        return self._get(Q_FAR) != 0

    def locate(self, *, look: bool = False) -> None:
        """Look the ring up in the port's memory table; done at each change of the table.

        Args:
            look: Have it mirrored if it is enabled and only messages reach it, or a buffer of it.
        """
        messages = self._port.messages
        if messages is not None and look and self.enabled:
            mirrored = messages.look(self, buffers=self.asks)
            if mirrored is not None:
                self._set(Q_FAR, 0)
                if self._get(Q_RING_HOST) != mirrored.ring_address:
                    # What was shown of the ring itself is not to complete anything.
                    self._set(Q_EPOCH, self._get(Q_EPOCH) + 1 & 0xFFFF)
                self._set(Q_RING_HOST, mirrored.ring_address)
                self._set(Q_MEMORY, mirrored.table_address)
                self._set(Q_DOORBELL, mirrored.tail_address)
                self._set(Q_VECTOR, self._port.wake.index)
                return
        self._set(Q_MEMORY, self._port.words[P_MEMORY // 8])
        self._set(Q_DOORBELL, self.doorbell.address)
        self._set(Q_VECTOR, -1 if self._vector is None else self._vector)
        host = 0
        size = self.length * self.SIZE
        region = self._port.memory.find(self.base, size) if size else None
        if region is not None and region.host is not None and region.readable and region.writable:
            host = region.host + self.base - region.guest
        self._set(Q_RING_HOST, host)

    def enable(self, head: int = 0) -> bool:
        """Start with the latched tail, at head 0 or where a saved queue was.

        Returns:
            False if the ring is not configured, or `head` is not in it.
        """
        if not 0 <= head < self.length:
            return False
        with self._port.paused():
            self._set(Q_EPOCH, self._get(Q_EPOCH) + 1 & 0xFFFF)
            self._set(Q_HEAD, head)
            self._enabled(ON)
            self.locate(look=True)
        return True

    def disable(self) -> None:
        """Stop: no kernel touches ring or buffers when this returns."""
        with self._port.paused():
            self._enabled(OFF)
            self._set(Q_EPOCH, self._get(Q_EPOCH) + 1 & 0xFFFF)
            self._set(Q_FAR, 0)
            if self._port.messages is not None:
                self._port.messages.drop(self)
            self.locate()

    def _enabled(self, value: int) -> None:
        """Store it, whatever it was."""
        self._set(Q_ENABLED, value)

    def map_vector(self, vector: int | None) -> None:
        """Set the vector that its interrupts go to; kept over configure and disable (fact 6)."""
        self._vector = vector
        if self._mirrored() is None:
            self._set(Q_VECTOR, -1 if vector is None else vector)

    def reset(self) -> None:
        """Forget everything but the counters."""
        self.disable()
        self._forget_tail()
        self.map_vector(None)
        self._set(Q_RING, 0)
        self._set(Q_LENGTH, 0)
        self._set(Q_RING_HOST, 0)
        self._set(Q_HEAD, 0)


class TxRing(Ring):
    """A transmit ring: frames from the guest."""

    SIZE = TX_SIZE
    REASONS = TX_REASONS

    def __init__(
        self,
        port: Port,
        words: Words,
        index: int,
        doorbell: int,
        tail: int = 0,
        on_polled: Callable[[bool], None] | None = None,
    ) -> None:
        super().__init__(port, words, index, doorbell, tail, on_polled)
        self._scratch = Words(TX_SCRATCH_WORDS)
        self._set(T_SCRATCH, self._scratch.address)
        self._set(T_SCRATCH_USED, self._scratch.address + 64)
        self._set(T_SCRATCH_END, self._scratch.address + 8 * TX_SCRATCH_WORDS)

    def configure(self, base: int, length: int) -> None:
        """Set up the ring, disabled, head 0 and tail 0.

        Unlike a receive tail (avf.md 0, fact 5), one that was latched before means nothing: Linux
        writes none when it opens a ring anew, and after a reset or `ip link set down` the last one
        of the old ring may still be there. Seen with Linux 6.12 at `ethtool -G` under load: one
        read descriptors that nobody had written, or found the tail outside the smaller ring.

        Args:
            base: Guest address; 0 leaves it unconfigured.
            length: Descriptors, 1 to 8160; 0 leaves it unconfigured.

        Raises:
            ValueError: Out of range.
        """
        self._configure(base, length)
        self._forget_tail()

    def set_bucket(self, word: int, address: int) -> None:
        """Set a limit of its rate; see `shaper.Limits`."""
        self._set(word, address)


class RxRing(Ring):
    """A receive ring: frames to the guest."""

    SIZE = RX_SIZE
    REASONS = RX_REASONS

    @property
    def buffer_size(self) -> int:
        """Bytes of each posted buffer."""
        return self._get(R_BUFFER_SIZE)

    @property
    def flexible(self) -> bool:
        """Whether write-backs have one of the flexible formats."""
        return self._get(R_RXDID) != 0

    @property
    def stamped(self) -> bool:
        """Whether write-backs say when frames came."""
        return self._get(R_STAMPED) != 0

    def _enabled(self, value: int) -> None:
        """Count it, too: a queue that stopped at a fault is enabled still."""
        self._port.count_receiving(int(value != OFF) - int(self.enabled))
        self._set(R_FULL_SINCE, 0)
        super()._enabled(value)

    def configure(
        self,
        base: int,
        length: int,
        buffer_size: int,
        max_packet: int,
        crc_disable: bool = False,
        rxdid: int = RXDID_LEGACY,
        timestamps: bool = False,
    ) -> None:
        """Set up the ring, disabled, head 0.

        Args:
            base: Guest address; 0 leaves it unconfigured.
            length: Descriptors, 1 to 8160; 0 leaves it unconfigured.
            buffer_size: Bytes of each posted buffer, 1 to 16383 (what the write-back can say).
            max_packet: Longest frame, bytes; longer ones are dropped.
            crc_disable: Deliver the frame check sequence.
            rxdid: Format of the write-back, one of `RXDIDS`; 0 is the legacy one, too.
            timestamps: Say when frames came, if the format is one of `RXDIDS_WITH_TIME`.

        Raises:
            ValueError: Out of range.
        """
        if rxdid and rxdid not in RXDIDS:
            raise ValueError(f"{rxdid} is not one of the descriptor formats {sorted(RXDIDS)}")
        if length and not 0 < buffer_size < 1 << 14:
            raise ValueError(f"a buffer has 1 to 16383 bytes, not {buffer_size}")
        self._configure(base, length)
        self._set(R_BUFFER_SIZE, buffer_size)
        self._set(R_MAX_PACKET, max_packet)
        self._set(R_KEEP_CRC, int(crc_disable))
        self._set(R_RXDID, 0 if rxdid == RXDID_LEGACY else rxdid)
        self._set(R_STAMPED, int(timestamps and rxdid in RXDIDS_WITH_TIME))

    def reset(self) -> None:
        """Forget everything but the counters."""
        super().reset()
        self._set(R_STAMPED, 0)
