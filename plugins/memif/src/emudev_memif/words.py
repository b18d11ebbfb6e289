"""The int64 words that the memif kernels work on, the format of a ring, and what they mean.

Each queue has one block of words for the whole life of its device; kernels get its address. The
numbers are byte offsets. What the control side writes and what kernels write lie on different cache
lines. Offsets of the ring and of a descriptor are memif's (memif.md sections 3.2 and 3.3).
"""

from __future__ import annotations

from typing import Final

# -- shared memory

COOKIE: Final = 0x03E31F20  #: u32 at the start of a ring
RING_FLAGS: Final = 4  #: u16, written by the receiver of the packets
RING_HEAD: Final = 6  #: u16, written by the client
RING_TAIL: Final = 64  #: u16, written by the server
RING_HEADER: Final = 128  #: bytes in front of the descriptors
MASK_INT: Final = 1  #: a flag of a ring: the receiver needs no eventfd
DESCRIPTOR: Final = 16  #: bytes of a descriptor
NEXT: Final = 1  #: a flag of a descriptor: the packet goes on in the next one
MIN_LOG2: Final = 1
MAX_LOG2: Final = 14
REGIONS: Final = 256  #: entries of the region table; further indices are unknown regions

#: What must be 0 in a descriptor's first 32 bits on the fast way: NEXT, and a region from 256 on.
UNUSUAL: Final = NEXT | 0xFF00_0000

# -- a queue: written by the control side

Q_STATE: Final = 8 * 0  #: `OFF`, `ON`, or `BROKEN` by a kernel
Q_RING: Final = 8 * 1  #: address of the ring
Q_MASK: Final = 8 * 2  #: slots - 1
Q_REGIONS: Final = 8 * 3  #: address of the region table: base and size, `REGIONS` pairs
Q_MAX_FRAME: Final = 8 * 4  #: longest frame, bytes
Q_KICK: Final = 8 * 5  #: the ring's eventfd, or -1
Q_FAULT: Final = 8 * 6  #: the eventfd that tells the device of a broken peer
Q_POLLED: Final = 8 * 7  #: 1 = who peeks looks by itself, the peer is never asked to signal
Q_EPOCH: Final = 8 * 8  #: grows with each attach and detach, 31 bits; stale rows complete nothing
Q_BUFFERS: Final = 8 * 9  #: client: address of the buffer of slot 0
Q_STRIDE: Final = 8 * 10  #: client: bytes from buffer to buffer
Q_CAPACITY: Final = 8 * 11  #: client: bytes of a buffer
Q_OFFSET: Final = 8 * 12  #: client: offset of the buffer of slot 0 in its region
Q_REGION: Final = 8 * 13  #: client: index of that region

# -- a queue: written by kernels

Q_CURSOR: Final = 8 * 16  #: next slot of this side, 16 bits, free running: the truth about it
Q_ARMED: Final = 8 * 17  #: 1 = MASK_INT is clear, the peer signals
Q_DUE: Final = 8 * 18  #: 1 = notify has to look whether the peer wants a signal
Q_HELD: Final = 8 * 19  #: 1 = the last push stopped for want of room
Q_HEAD: Final = 8 * 20  #: client that receives: the head that it stored last
Q_FAULT_REASON: Final = 8 * 21  #: why it is `BROKEN`: an index of `FAULTS`
Q_SHOWN_ROWS: Final = 8 * 22  #: what the last peek showed: rows,
Q_SHOWN_BYTES: Final = 8 * 23  #: bytes,
Q_SHOWN_PACKETS: Final = 8 * 24  #: and packets
Q_PACKETS: Final = 8 * 25
Q_BYTES: Final = 8 * 26
Q_REASONS: Final = 8 * 27  #: packets dropped by reason, one word each of `REASONS`
# Results of a walk over a packet that is not of the usual kind.
W_SLOTS: Final = 8 * 34  #: slots that it took
W_BYTES: Final = 8 * 35  #: its bytes
W_ROWS: Final = 8 * 36  #: rows of the burst that it took
W_ROW: Final = 8 * 37  #: where its next byte is: address of the row,
W_START: Final = 8 * 38  #: and byte of the segment
QUEUE_WORDS: Final = 40

OFF: Final = 0
ON: Final = 1
BROKEN: Final = 2  #: the peer broke a rule that leaves nothing to go on with

#: Why packets are dropped, in the order of the words from `Q_REASONS`.
REASONS: Final = (
    "link",  # pushed while no peer is connected
    "length",  # no bytes, fewer than an Ethernet header, above max frame, or beyond the peer's ring
    "region",  # from the peer: a region that does not exist
    "bounds",  # from the peer: a buffer that goes beyond its region, or beyond what was offered
    "chain",  # from the peer: NEXT on the last descriptor that it published
    "segments",  # from the peer: more segments than the burst has rows
    "buffer",  # towards the peer: it posted a buffer that does not exist
)
DROP_LINK: Final = 0
DROP_LENGTH: Final = 1
DROP_REGION: Final = 2
DROP_BOUNDS: Final = 3
DROP_CHAIN: Final = 4
DROP_SEGMENTS: Final = 5
DROP_BUFFER: Final = 6

#: Why a queue is `BROKEN`.
FAULTS: Final = (
    "",
    "the peer's head is beyond the ring",
    "the peer's tail is beyond what it was offered",
)
FAULT_HEAD: Final = 1
FAULT_TAIL: Final = 2

#: Shortest frame that is taken from a peer: an Ethernet header.
MIN_FRAME: Final = 14
