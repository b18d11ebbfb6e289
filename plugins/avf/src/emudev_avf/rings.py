"""The data plane of an AVF port: everything that its kernels need, in words, and the control of it.

A `Port` owns the words of one device: its queues, vectors, filters and hash. The control plane
configures it; backends get `QueueKernels` and move frames. All methods are for the loop's thread.
Kernels may run on others, those of one queue on one at a time: what they look at changes within
`Port.paused` only.

Source: avf.md sections 2.3, 2.4, 4.5 to 4.7, 6 and 7.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple

from emudev_core.memory import EMPTY_TABLE, MemoryTable
from emudev_core.queues import Offload, QueueKernels
from emudev_net.checksum import CRC32C_TABLE, crc_table
from emudev_net.jit import Compilation, compile_all, jit_wanted
from emudev_net.memory import KernelTable
from emudev_net.primitives import Words
from emudev_net.rss import ToeplitzTable

from . import rx_kernels, tx_kernels
from .filters import mac_table, vlan_tables
from .flow_rules import FlowRule, RuleKind
from .flow_tables import RuleTable
from .interrupts import (
    change_vector,
    control_alone,
    control_vector,
    fire_alone,
    fire_held,
    notify,
)
from .queues import RxRing, TxRing
from .rss_inputs import rss_table
from .rss_kernels import INPUT_WORDS
from .rx_pieces import SCRATCH_WORDS
from .shaper import Limits
from .tails import MappedTails
from .vectors import Vector
from .virtchnl.limits import LARGE_LUT_SIZE, RSS_KEY_SIZE, RSS_LUT_SIZE
from .words import (
    P_CLASS0,
    P_CRC32C_TABLE,
    P_CRC_TABLE,
    P_DUE,
    P_FAR,
    P_HOLD,
    P_INSERT_OUTER,
    P_INSERT_TPID,
    P_INSERT_TPID2,
    P_LISTENER,
    P_MACS,
    P_MAX_FRAME,
    P_MEMORY,
    P_PACED,
    P_PROMISCUOUS,
    P_RSS_INPUTS,
    P_RSS_KEY,
    P_RSS_LUT,
    P_RSS_MASK,
    P_RULE_DROPS,
    P_RULES,
    P_RX_COUNT,
    P_RX_DUE,
    P_RX_ENABLED,
    P_RX_QUEUES,
    P_SCRATCH,
    P_STRIP,
    P_STRIP_INNER,
    P_STRIP_TPID,
    P_UNANSWERED,
    P_VECTOR_COUNT,
    P_VECTORS,
    P_VLANS,
    PORT_WORDS,
    Q_BROADCAST,
    Q_BYTES,
    Q_MULTICAST,
    Q_REASONS,
    Q_UNICAST,
    QUEUE_WORDS,
    R_LOST,
    RX_FILTERED,
    RX_VLAN_FILTERED,
    T_DROPS,
    VECTOR_WORDS,
)

if TYPE_CHECKING:
    from .message_rings import MessagePlane

__all__ = ["Hold", "Port", "RxRing", "Stats", "TagPlace", "TxRing"]

#: Longest frame by default: the max_mtu that avf.md 4.5 recommends to report.
MAX_FRAME: Final = 9728
#: Ethertype of the tags that are stripped and inserted unless others are set: 802.1Q.
TPID: Final = 0x8100
#: Ethertype of an outer tag unless another is set: 802.1ad.
TPID_SERVICE: Final = 0x88A8

#: All kernels of the data plane; vectors first, since the mailbox needs them early.
KERNELS: Final = (
    change_vector,
    notify,
    fire_held,
    control_vector,
    control_alone,
    fire_alone,
    tx_kernels.release,
    tx_kernels.peek,
    rx_kernels.push,
)


class TagPlace(enum.IntEnum):
    """Where a VLAN tag travels that is stripped from a received frame."""

    NONE = 0  #: it stays in the frame
    L2TAG1 = 1
    L2TAG2 = 2  #: L2TAG2_2 of the write-back


class Hold(enum.IntEnum):
    """Why the last push took fewer frames than it was given."""

    NONE = 0
    DISABLED = 1  #: no receive queue is enabled
    FULL = 2  #: the guest has posted too few buffers in the only queue
    PACED = 3  #: it has not enabled its interrupt since it was given many frames (`pacing`)


class Stats(NamedTuple):
    """The counters of GET_STATS, in its order; they only grow. Source: avf.md 4.5.

    Received frames are counted whether they were discarded or not: DPDK's iavf takes `rx_discards`
    from the sum of the three kinds.
    """

    rx_bytes: int
    rx_unicast: int
    rx_multicast: int
    rx_broadcast: int
    rx_discards: int
    rx_unknown_protocol: int
    tx_bytes: int
    tx_unicast: int
    tx_multicast: int
    tx_broadcast: int
    tx_discards: int
    tx_errors: int


def total(words: Words, word: int) -> int:
    """The sum of a word of all queues of a direction."""
    return sum(words[i + word // 8] for i in range(0, len(words), QUEUE_WORDS))


class Port:
    """The data plane of one device.

    Args:
        queue_pairs: 1 to 256.
        vectors: Interrupt vectors, vector 0 included; at most 63.
        max_frame: Longest frame that is transmitted, bytes.
        paused: Makes a context within which no kernel of this port runs (`Device.paused`).
        tails: Where the transmit tails are if clients map them; the caller's.
        on_polled: Told when the user of a transmit queue begins to poll, or no longer does.
        rx_usecs_high: Least time between two interrupts of a guest that only listens, µs.

    Attributes:
        rx: The receive rings.
        tx: The transmit rings.
        vectors: The interrupt vectors.
        words: What the queues share.
        memory: The memory table in use.
        wake: One vector more, which tells `messages` what kernels have done.
        messages: Serves the rings in memory that only messages reach; without it nothing does.
        limits: Of what the transmit queues may send.
        paused: As given.
    """

    def __init__(
        self,
        queue_pairs: int,
        vectors: int,
        *,
        max_frame: int = MAX_FRAME,
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
        tails: MappedTails | None = None,
        on_polled: Callable[[bool], None] | None = None,
        rx_usecs_high: int = 0,
    ) -> None:
        if not 1 <= vectors <= 63:
            raise ValueError(f"a port has 1 to 63 vectors, not {vectors}")
        self.paused = paused
        self._mapped = tails  # kept as long as kernels may look at them
        self.words = Words(PORT_WORDS)
        self._rx_words = Words(queue_pairs * QUEUE_WORDS)
        self._tx_words = Words(queue_pairs * QUEUE_WORDS)
        self._vector_words = Words((vectors + 1) * VECTOR_WORDS)
        self._scratch = Words(SCRATCH_WORDS)
        self._crc_table = crc_table(0xEDB88320)  # IEEE 802.3, reflected
        self.memory = EMPTY_TABLE
        self._key = b""
        self._closed = False
        self._tables: dict[int, object] = {}  # those that kernels look at
        self._rule_hits: dict[tuple[RuleKind, int], Words] = {}
        self.rx: list[RxRing] = []
        self.tx: list[TxRing] = []
        self.vectors = [
            Vector(self._vector_words, i, paused, self.words.address) for i in range(vectors)
        ]
        self.wake = Vector(self._vector_words, vectors, paused)
        self.messages: MessagePlane | None = None
        words = self.words
        words[P_VECTORS // 8] = self._vector_words.address
        words[P_VECTOR_COUNT // 8] = vectors
        words[P_RX_QUEUES // 8] = self._rx_words.address
        words[P_RX_COUNT // 8] = queue_pairs
        words[P_SCRATCH // 8] = self._scratch.address
        words[P_CRC_TABLE // 8] = self._crc_table.address
        words[P_CRC32C_TABLE // 8] = CRC32C_TABLE.address
        words[P_MAX_FRAME // 8] = max_frame
        words[P_LISTENER // 8] = 1000 * rx_usecs_high
        self.set_memory(EMPTY_TABLE)
        self._restore_defaults()
        for i in range(queue_pairs):
            self.rx.append(RxRing(self, self._rx_words, i, queue_pairs + i))
            place = 0 if tails is None else tails.tail(i)
            self.tx.append(TxRing(self, self._tx_words, i, i, place, on_polled))
        self.limits = Limits(self.tx, paused)

    def _swap(
        self, word: int, table: Words | KernelTable | ToeplitzTable | RuleTable | None
    ) -> None:
        """Point kernels to another table, and let the former one go."""
        with self.paused():
            self.words[word // 8] = 0 if table is None else table.address
            self._tables[word] = table

    def _restore_defaults(self) -> None:
        self.set_macs(set(), set())
        self.set_promiscuous(False, False)
        self.set_vlan_filter(None)
        self.set_vlan_offload()
        self.set_rss(b"", b"", 0)
        self.set_rules([])
        self.set_classes(0)

    def count_receiving(self, change: int) -> None:
        """Count one enabled receive queue more (1) or less (-1); the rings call it."""
        self.words[P_RX_ENABLED // 8] += change

    def set_memory(self, table: MemoryTable) -> None:
        """Use another memory table: no kernel touches what is not in it when this returns."""
        with self.paused():
            self.memory = table
            former = self._tables.get(P_MEMORY)
            assert former is None or isinstance(former, KernelTable)
            self._swap(P_MEMORY, KernelTable(table, former))
            self.words[P_FAR // 8] = 0
            if self.messages is not None and table.by_message:
                self.messages.open()
                self.words[P_FAR // 8] = self.wake.index
            for ring in (*self.rx, *self.tx):
                ring.locate(look=True)

    def set_macs(self, unicast: Iterable[bytes], multicast: Iterable[bytes]) -> None:
        """Set the addresses whose frames are received; broadcast always is."""
        self._swap(P_MACS, mac_table({*unicast, *multicast}))

    def set_promiscuous(self, unicast: bool, multicast: bool) -> None:
        """Receive all unicast (and, with it, all VLANs), or all multicast frames."""
        self.words[P_PROMISCUOUS // 8] = int(unicast) | int(multicast) << 1

    def set_vlan_filter(
        self,
        vids: Iterable[int] | None,
        service: Iterable[int] | None = None,
        other: Iterable[int] | None = None,
        inner: Iterable[int] | None = None,
    ) -> None:
        """Set the VLAN ids whose tagged frames are received; None receives all.

        Args:
            vids: Of outer tags 0x8100, those that are alone included.
            service: Of outer tags 0x88A8.
            other: Of outer tags 0x9100.
            inner: Of tags behind an outer one.
        """
        self._swap(P_VLANS, vlan_tables(vids, service, other, inner))

    def set_vlan_offload(
        self,
        strip: TagPlace = TagPlace.NONE,
        inner: TagPlace = TagPlace.NONE,
        *,
        strip_tpid: int = TPID,
        insert_tpids: tuple[int, int, int] = (TPID, TPID, TPID_SERVICE),
    ) -> None:
        """Set where the tags of a received frame go, and which tags are inserted.

        That tags are inserted can't be set: a descriptor that asks for one gets it (avf.md 4.6).

        Args:
            strip: Where the outer tag goes, if its ethertype is `strip_tpid`.
            inner: Where the inner tag goes, if its ethertype is 0x8100.
            strip_tpid: Ethertype of the outer tag.
            insert_tpids: Ethertypes of a tag in L2TAG1, of one in L2TAG2 alone, and of one in
                L2TAG2 outside of one in L2TAG1.
        """
        words = self.words
        with self.paused():
            words[P_STRIP // 8], words[P_STRIP_INNER // 8] = int(strip), int(inner)
            words[P_STRIP_TPID // 8] = strip_tpid
            first, alone, outer = insert_tpids
            words[P_INSERT_TPID // 8] = first
            words[P_INSERT_TPID2 // 8] = alone
            words[P_INSERT_OUTER // 8] = outer

    def set_rss(
        self,
        key: bytes,
        lut: bytes,
        hena: int,
        rules: Mapping[int, int] | None = None,
        function: int = 0,
    ) -> None:
        """Set the hash: it is off (hash invalid, queue 0) without key, table or enabled types.

        Args:
            key: 52 bytes, or empty; all zero is off, too.
            lut: 64 or 512 queue numbers, or empty.
            hena: The packet types that are hashed; avf.md 7.
            rules: What is hashed of some packet types, before `hena`; see `rss_inputs`.
            function: A `RssFunction`.

        Raises:
            ValueError: Another length, or no such function.
        """
        sizes = (0, RSS_LUT_SIZE, LARGE_LUT_SIZE)
        if len(key) not in (0, RSS_KEY_SIZE) or len(lut) not in sizes:
            raise ValueError(
                f"RSS takes {RSS_KEY_SIZE} bytes of key and {RSS_LUT_SIZE} or "
                f"{LARGE_LUT_SIZE} of table, "
                f"not {len(key)} and {len(lut)}"
            )
        table = None
        if lut:
            table = Words(len(lut))
            for i, queue in enumerate(lut):
                table[i] = queue
        on = table is not None and any(key)
        wanted = rss_table(hena, rules, function)
        inputs = Words(len(wanted) + INPUT_WORDS)
        for kind, fields in enumerate(wanted):
            inputs[kind] = fields
        with self.paused():
            self._swap(P_RSS_LUT, table)
            self.words[P_RSS_MASK // 8] = max(len(lut), 1) - 1
            if key != self._key or not on:
                self._key = key if on else b""
                self._swap(P_RSS_KEY, ToeplitzTable(key) if on else None)
            self._swap(P_RSS_INPUTS, inputs)

    def set_rules(self, rules: Sequence[FlowRule]) -> None:
        """Set the flow rules, oldest first; those that stay go on counting.

        Args:
            rules: As `flow_rules.check_rules` wants them.
        """
        names = [(rule.kind, rule.id) for rule in rules]
        hits = {name: self._rule_hits.get(name) or Words(1) for name in names}
        table = RuleTable(rules, [hits[name].address for name in names]) if rules else None
        self._swap(P_RULES, table)
        self._rule_hits = hits

    def rule_hits(self, kind: RuleKind, number: int) -> int:
        """Frames that a rule has decided about; 0 for one that is not there."""
        hits = self._rule_hits.get((kind, number))
        return 0 if hits is None else hits[0]

    @property
    def rule_drops(self) -> int:
        """Received frames that flow rules have dropped."""
        return self.words[P_RULE_DROPS // 8]

    def set_classes(self, queues: int) -> None:
        """Keep frames without a flow rule in the first `queues` receive queues; 0: in all."""
        self.words[P_CLASS0 // 8] = queues

    def map_queue(
        self, rx: bool, queue: int, vector: int | None, throttle: int | None = None
    ) -> None:
        """Map a queue's interrupts to a vector (CONFIG_IRQ_MAP).

        Args:
            rx: Whether it is a receive queue.
            queue: Its number in that direction.
            vector: None for none.
            throttle: Which one of the vector's all its queues of that direction use from now on;
                `interrupts.NO_ITR`: none; None: as before.
        """
        (self.rx if rx else self.tx)[queue].map_vector(vector)
        if vector is not None and throttle is not None:
            self.vectors[vector].throttle_queues(rx, throttle)

    def look_on(self) -> None:
        """Have backends push again what pacing has left; in vain if it is still to wait."""
        if self.words[P_PACED // 8]:
            self.words[P_PACED // 8] = 0
            self.rx[0].doorbell.ring()

    @property
    def hold(self) -> Hold:
        """Why the last push stopped short."""
        return Hold(self.words[P_HOLD // 8])

    @property
    def filtered(self) -> int:
        """Received frames that were not for this port."""
        words = (RX_FILTERED, RX_VLAN_FILTERED)
        return sum(total(self._rx_words, Q_REASONS + 8 * word) for word in words)

    def stats(self) -> Stats:
        """The counters of GET_STATS."""
        rx, tx = self._rx_words, self._tx_words
        lost = [total(rx, R_LOST + 8 * cast) for cast in range(3)]
        return Stats(
            rx_bytes=total(rx, Q_BYTES),
            rx_unicast=total(rx, Q_UNICAST) + lost[0],
            rx_multicast=total(rx, Q_MULTICAST) + lost[1],
            rx_broadcast=total(rx, Q_BROADCAST) + lost[2],
            rx_discards=sum(lost),
            rx_unknown_protocol=0,
            tx_bytes=total(tx, Q_BYTES),
            tx_unicast=total(tx, Q_UNICAST),
            tx_multicast=total(tx, Q_MULTICAST),
            tx_broadcast=total(tx, Q_BROADCAST),
            tx_discards=0,
            tx_errors=total(tx, T_DROPS),
        )

    def reset(self) -> None:
        """Forget all that a reset clears (avf.md 2.4); eventfds, memory table and counters stay.

        No kernel touches guest memory when this returns, until a queue is enabled again.
        """
        with self.paused():
            for ring in (*self.rx, *self.tx):
                ring.reset()
            for vector in self.vectors:
                vector.reset()
            self.words[P_DUE // 8] = 0
            self.words[P_RX_DUE // 8] = 0
            self.words[P_UNANSWERED // 8] = 0
            self.limits.clear()
            self._restore_defaults()

    def close(self) -> None:
        """Stop everything and let go of guest memory and doorbells; the words stay readable."""
        if self._closed:
            return
        self._closed = True
        self.reset()
        for vector in self.vectors:
            vector.bind(None)
        self.set_memory(EMPTY_TABLE)
        for ring in (*self.rx, *self.tx):
            ring.doorbell.close()
        self.limits.close()

    # -- kernels

    def kernels(self, queue: int) -> QueueKernels:
        """The kernels of a queue: number 2p is the receive, 2p + 1 the transmit queue of pair p.

        A push to any receive queue delivers to the queue that the hash chooses. An interrupt that a
        push or release makes due is raised by the next notify of any queue of the port.
        """
        pair = queue >> 1
        if queue & 1:
            return QueueKernels(
                state=self.tx[pair].state,
                peek=tx_kernels.peek,
                push=None,
                release=tx_kernels.release,
                notify=notify,
                stats=self.tx[pair].stats,
            )
        return QueueKernels(
            state=self.rx[pair].state,
            peek=None,
            push=rx_kernels.push,
            release=None,
            notify=notify,
            takes=Offload.CSUM | Offload.CRC32C | Offload.VLAN,
            stats=self.rx[pair].stats,
        )

    @property
    def ready(self) -> bool:
        """Whether the kernels are as fast as they get: compiled, unless nothing compiles."""
        return not jit_wanted() or all(kernel.address for kernel in KERNELS)

    def compile(
        self,
        done: Callable[[Exception | None], None] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Compilation:
        """Compile the kernels in a thread of their own, or load them from the cache.

        Args:
            done: Called when they are, with None, or with what went wrong; on that thread, or on
                this one if nothing is to be compiled. Hand it to the loop with
                `Loop.call_threadsafe`.
            progress: Told in words what is done when it takes longer, on that thread.

        Returns:
            What can be cancelled and waited for.
        """
        return compile_all(KERNELS, done, progress)
