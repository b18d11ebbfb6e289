"""Queue kernels of a TAP descriptor: frames the host sends (source), frames for the host (sink).

One system call a frame is what the kernel's interface allows; everything here stays small beside it.

The *source* reads each frame, header and all, into an arena of memory of its own and remembers a burst
row for it; `peek` shows the rows that were not released, then reads more. Frames lie one behind the
other, so that a burst of small ones stays in few pages, while each read has room for the largest frame.
The arena is used from its start again when everything was released.

The *sink* writes each packet with one ``writev``: a ``struct virtio_net_hdr`` made from the row, and the
segments where they are.

The header: u8 flags, u8 gso_type, u16 hdr_len, gso_size, csum_start, csum_offset, little endian.
Source: virtio 1.2, 5.1.6; linux/virtio_net.h; linux/drivers/net/tun.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    GSO_MASK,
    LAST,
    ROW,
)
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    copy,
    errno,
    load8,
    load16,
    load64,
    read,
    store8,
    store16,
    store64,
    writev,
)

__all__ = ["peek", "push", "release"]

# Words of both ends.
FD: Final = 0  #: descriptor
HEADER: Final = 1  #: bytes of header in front of each frame; 0 if there is none
FRAMES: Final = 2  #: moved
BYTES: Final = 3  #: moved, without headers
DROPPED: Final = 4  #: frames, for whatever reason
MALFORMED: Final = 5  #: of these, ones that can't be expressed on the other side
LAST_ERRNO: Final = 6  #: of the last call that failed, EAGAIN not counted
ERRNOS: Final = 32  #: calls that failed by errno, `ERRNO_WORDS` words; the last one counts all above
ERRNO_WORDS: Final = 160
# The source.
ARENA: Final = 8  #: address of the memory for frames
ARENA_SIZE: Final = 9  #: bytes
SLOT: Final = 10  #: bytes for the largest frame, header and one more byte included
CURSOR: Final = 11  #: where in the arena the next frame goes
ROWS: Final = 12  #: address of the rows of what was read and not released
CAPACITY: Final = 13  #: rows there
HEAD: Final = 14  #: the first row that was not released
TAIL: Final = 15  #: behind the last one
# The sink.
VECTORS: Final = 8  #: address of iovecs, 16 bytes each, the first one for the header
MAX_VECTORS: Final = 9
SCRATCH: Final = 10  #: address of `SCRATCH_BYTES` zero bytes for the header
SCRATCH_BYTES: Final = 64

WORDS: Final = ERRNOS + ERRNO_WORDS

EINTR: Final = 4
EAGAIN: Final = 11

# struct virtio_net_hdr
NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

ETHERNET: Final = 14
