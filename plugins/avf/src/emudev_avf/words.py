"""The int64 words that the kernels of the AVF data plane work on, and what each of them means.

A port has one block of words, each queue and each interrupt vector another. Kernels get the
address of a queue's block and find the port's through it. The numbers are byte offsets in a block;
what the control side writes, what kernels write, and the doorbell lie on different cache lines.
"""

from __future__ import annotations

from typing import Final

# A queue: written by the control side.
Q_ENABLED: Final = 8 * 0  #: `OFF`, `ON`, or `STOPPED` by the kernel after a guest's fault
Q_LENGTH: Final = 8 * 1  #: descriptors in the ring
Q_RING: Final = 8 * 2  #: guest address of the ring
#: the ring's address in this process if one writable region holds it all, else 0
Q_RING_HOST: Final = 8 * 3
Q_PORT: Final = 8 * 4  #: address of the port's words
Q_VECTOR: Final = 8 * 5  #: interrupt vector, or -1
#: grows with each enable and disable, 16 bits; stale rows do not complete anything
Q_EPOCH: Final = 8 * 6
Q_INDEX: Final = 8 * 7  #: number of the queue among those of its direction
Q_TAIL: Final = 8 * 8  #: a doorbell: the guest's tail in the low 32 bits
#: address of the memory table: the port's, or that of a mirror (`message_rings`)
Q_MEMORY: Final = 8 * 14
#: address of the tail: that of `Q_TAIL`, or of memory that clients map, or in a mirror
Q_DOORBELL: Final = 8 * 15
# A queue: written by kernels.
Q_HEAD: Final = 8 * 16  #: next descriptor of the device
Q_BYTES: Final = 8 * 17
Q_UNICAST: Final = 8 * 18
Q_MULTICAST: Final = 8 * 19
Q_BROADCAST: Final = 8 * 20
Q_FAR: Final = 8 * 22  #: 1 = it has met a buffer that only messages may reach
Q_REASONS: Final = 8 * 24  #: frames dropped by reason, `DROP_REASONS` words
# A transmit queue.
T_SCRATCH: Final = 8 * 40  #: address of 64 zero bytes, then the header copies
T_SCRATCH_END: Final = 8 * 41
T_SCRATCH_USED: Final = 8 * 42  #: where the next header copy goes
T_NEXT: Final = 8 * 43  #: results of a walk over a packet: the descriptor behind it,
T_ROWS: Final = 8 * 44  #: the row behind its last one,
T_TOTAL: Final = 8 * 45  #: its bytes,
T_DATA: Final = 8 * 46  #: qword 1 of its first data descriptor,
T_CONTEXT: Final = 8 * 47  #: qword 1 of its context descriptor, 0 without,
T_CONTEXT0: Final = 8 * 48  #: and qword 0
T_FLAGS: Final = 8 * 49  #: the burst's flags of the packet
T_OFFLOAD: Final = 8 * 50  #: and its offload word
T_BUCKET: Final = 8 * 51  #: address of the limit of this queue's rate, 0 without
T_DROPS: Final = 8 * 53  #: frames dropped, for whatever reason
T_CLASS_BUCKET: Final = 8 * 52  #: address of the limit that it shares with others, 0 without
# A receive queue.
R_BUFFER_SIZE: Final = 8 * 40  #: bytes of each posted buffer
R_MAX_PACKET: Final = 8 * 41  #: longest frame, bytes
R_KEEP_CRC: Final = 8 * 42  #: 1 = append the frame check sequence
R_RXDID: Final = 8 * 43  #: number of its flexible descriptor format, 0 for the legacy one
R_FULL_SINCE: Final = 8 * 44  #: when a frame first found too few buffers, ns; 0: the last fitted
R_LOST: Final = 8 * 45  #: frames that were for the guest and lost: unicast, multicast, broadcast
#: 1 = its descriptors say when frames came; only with formats that have room for that
R_STAMPED: Final = 8 * 13
QUEUE_WORDS: Final = 56

#: Reasons for which a transmitted packet is dropped, the order of the words from `Q_REASONS`.
TX_REASONS: Final = (
    "tail",  # the tail is not below the ring's length; the queue stops
    "type",  # a descriptor that is neither data nor context
    "context",  # a context descriptor in the middle of a packet, or a second one
    "length",  # an empty buffer, or a frame that is too short or too long
    "address",  # a buffer outside readable guest memory
    "offload",  # header lengths, segment size or payload that do not fit the frame
    "count",  # more descriptors than a packet can have
    "dummy",  # the guest asked for it not to be sent
    "tunnel",  # segmentation, or an outer UDP checksum, of a tunnel: not offered
)
BAD_TAIL: Final = 0
BAD_TYPE: Final = 1
BAD_CONTEXT: Final = 2
BAD_LENGTH: Final = 3
BAD_ADDRESS: Final = 4
BAD_OFFLOAD: Final = 5
BAD_COUNT: Final = 6
DUMMY: Final = 7
BAD_TUNNEL: Final = 8

#: Reasons for which a received frame is dropped.
RX_REASONS: Final = (
    "tail",  # the tail is not below the ring's length; the queue stops
    "full",  # the guest has posted too few buffers
    "length",  # longer than max_pkt_size, or than five buffers
    "address",  # a posted buffer outside writable guest memory
    "source",  # the frame is too short, in too many pieces, or its checksum request impossible
    # These are no faults:
    "filtered",  # its address is not one of the guest's
    "vlan-filtered",  # its VLAN is not
    "rule",  # a flow rule drops it
    "disabled",  # the queue that it is for is not enabled
)
RX_BAD_TAIL: Final = 0
RX_FULL: Final = 1
RX_LENGTH: Final = 2
RX_ADDRESS: Final = 3
RX_SOURCE: Final = 4
RX_FILTERED: Final = 5
RX_VLAN_FILTERED: Final = 6
RX_RULE: Final = 7
RX_DISABLED: Final = 8

OFF: Final = 0
ON: Final = 1
STOPPED: Final = 2

# A port.
P_DUE: Final = 8 * 0  #: vectors that transmit queues want signalled, a bit set; atomics only
P_VECTORS: Final = 8 * 1  #: address of the first vector's words
P_MEMORY: Final = 8 * 2  #: address of the memory table
P_MAX_FRAME: Final = 8 * 3  #: longest frame that is transmitted, bytes
P_INSERT_TPID: Final = 8 * 4  #: of a tag in L2TAG1
P_INSERT_TPID2: Final = 8 * 5  #: of one in L2TAG2 alone
P_INSERT_OUTER: Final = 8 * 6  #: of one in L2TAG2 outside of one in L2TAG1
P_RX_ENABLED: Final = 8 * 8  #: number of enabled receive queues
P_RX_COUNT: Final = 8 * 9  #: number of receive queues
P_RX_QUEUES: Final = 8 * 10  #: address of the first receive queue's words
P_MACS: Final = 8 * 11  #: address of the table of accepted addresses
P_PROMISCUOUS: Final = 8 * 12  #: bit 0 unicast, bit 1 multicast
P_VLANS: Final = 8 * 13  #: address of the bit sets of accepted VLAN ids, 0 accepts all
P_STRIP: Final = 8 * 14  #: a `TagPlace`: of an outer tag, or the only one
P_STRIP_INNER: Final = 8 * 7  #: a `TagPlace`: of a second tag, 0x8100
P_STRIP_TPID: Final = 8 * 15
P_RSS_KEY: Final = 8 * 16  #: address of the hash table of the key, 0 = no hash
P_RSS_LUT: Final = 8 * 17  #: address of the words of the lookup table, or 0
P_RSS_INPUTS: Final = 8 * 18  #: address of the table of what is hashed, by kind; with room behind
P_CRC_TABLE: Final = 8 * 19  #: address of a `crc_table`: of the frame check sequence
P_SCRATCH: Final = 8 * 20  #: address of the receive side's scratch
P_RSS_MASK: Final = 8 * 21  #: words of the lookup table less one; a power of two less one
P_RULES: Final = 8 * 22  #: address of the table of flow rules, 0 without any
P_CLASS0: Final = 8 * 23  #: receive queues of traffic class 0, 0 without classes
P_CRC32C_TABLE: Final = 8 * 28  #: address of a `crc_table`: of SCTP's checksum
#: vector that asks for messages (`Port.wake`), 0 if no memory is reached by them
P_FAR: Final = 8 * 25
P_LISTENER: Final = 8 * 26  #: least time between two interrupts of a guest that only listens, ns
# Written by kernels.
P_HOLD: Final = 8 * 24  #: why the last push stopped short, a `HOLD_*`
P_RULE_DROPS: Final = 8 * 27  #: frames that a flow rule has dropped
P_LOCK: Final = 8 * 32  #: 1 while a push is at it: any of them may deliver to any receive queue
P_RX_DUE: Final = 8 * 33  #: vectors that receive queues want signalled; set by the push at it
P_UNANSWERED: Final = 8 * 34  #: paced frames that were delivered since the guest last sent one
# Held interrupts: written by the control side, then by kernels.
P_TIMER: Final = 8 * 40  #: their timerfd plus one; 0: there is none, and none is held
P_VECTOR_COUNT: Final = 8 * 41  #: number of vectors
P_ARMED: Final = 8 * 48  #: what the timerfd is set to, ns, 0 = it is not set; atomics only
P_DRAIN: Final = 8 * 49  #: where the timerfd is read to
P_RETRY: Final = 8 * 50  #: when a frame that waits for buffers is to be tried again, ns, or 0
P_PACED: Final = 8 * 51  #: 1 = a push has left frames until the guest enables its vector
PORT_WORDS: Final = 56

HOLD_NONE: Final = 0
HOLD_DISABLED: Final = 1  #: no receive queue is enabled
HOLD_FULL: Final = 2  #: the guest has posted too few buffers
HOLD_PACED: Final = 3  #: it has not enabled its interrupt since it was given many frames

# A vector: a cache line for what changes with each interrupt, one for the control side.
VECTOR_WORDS: Final = 24
V_STATE: Final = 8 * 0
V_SIGNALS: Final = 8 * 1  #: signals sent
V_ERRORS: Final = 8 * 2  #: eventfds that could not be written
V_LAST: Final = 8 * 3  #: when it last fired, ns of the monotonic clock
V_HELD: Final = 8 * 4  #: times that an event was held
V_SEEN: Final = 8 * 5  #: `V_ENABLES` at the last push
V_GIVEN: Final = 8 * 6  #: frames that were delivered since, of those that are paced
V_PATIENCE: Final = 8 * 7  #: how long the others wait at most, ns; 0: none waits
V_PORT: Final = 8 * 8  #: address of the port's words, 0 = there is none
V_ITR: Final = 8 * 9  #: throttles 0, 1 and 2, ns
V_RX_EVENT: Final = 8 * 12  #: the bits that an event of its receive queues sets in its state
V_TX_EVENT: Final = 8 * 13  #: and one of its transmit queues
V_ENABLES: Final = 8 * 14  #: times that the guest has enabled it since a reset
V_GRANT: Final = 8 * 15  #: frames that it is given for one enabling; written by kernels
V_CONTROL: Final = 8 * 16  #: what was written to its control register last
