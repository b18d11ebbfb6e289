"""The two ends of a TAP descriptor for queue kernels: their words, memory and counters."""

from __future__ import annotations

import errno
import os
from typing import Final

from emudev_core.queues import Offload, QueueKernels
from emudev_net.burst import ROW
from emudev_net.primitives import Words

from . import kernels as k

__all__ = ["ARENA", "SLOT", "TapSink", "TapSource"]

#: Bytes of the largest frame that a TAP hands out, header and one more byte to notice a cut-off
#: one: a GSO frame of 64 KiB behind its Ethernet header and two tags. A TAP's MTU is at most 65521.
SLOT: Final = 0x10000 + 14 + 2 * 4 + 250
#: Bytes of memory for frames that were read and not released: room for the largest frame always,
#: and for a burst of 256 frames of 1500 bytes.
ARENA: Final = 0x60000 + SLOT
#: Frames that are kept at most.
_KEPT: Final = 256
#: Segments of a packet at most. Source: linux/uio.h, UIO_MAXIOV.
_MAX_VECTORS: Final = 1024


class _End:
    """Words of an end, and what they count."""

    def __init__(self, fd: int, header: int) -> None:
        self._words = Words(k.WORDS)
        self._words[k.FD] = fd
        self._words[k.HEADER] = header

    @property
    def state(self) -> int:
        """Address of the words."""
        return self._words.address

    def stats(self) -> dict[str, int]:
        """Frames and bytes moved, frames dropped, and failed calls by the name of their errno."""
        words = self._words
        counts = {
            "frames": words[k.FRAMES],
            "bytes": words[k.BYTES],
            "dropped": words[k.DROPPED],
            "malformed": words[k.MALFORMED],
        }
        for number in range(k.ERRNO_WORDS):
            if words[k.ERRNOS + number]:
                name = errno.errorcode.get(number, f"errno {number}")
                counts[name] = words[k.ERRNOS + number]
        return counts


class TapSource(_End):
    """Frames that the host sends.

    Args:
        fd: Descriptor; the caller keeps it.
        header: Bytes of header in front of each frame, 0 for none.

    Attributes:
        kernels: `peek` and `release`.
    """

    def __init__(self, fd: int, header: int) -> None:
        super().__init__(fd, header)
        self._arena = Words(ARENA // 8)
        self._rows = Words(_KEPT * ROW // 8)
        words = self._words
        words[k.ARENA] = self._arena.address
        words[k.ARENA_SIZE] = ARENA
        words[k.SLOT] = SLOT
        words[k.ROWS] = self._rows.address
        words[k.CAPACITY] = _KEPT
        self.kernels = QueueKernels(self.state, k.peek, None, k.release, None)

    def discard(self) -> int:
        """Drop what waits, what was read already included; returns the number of frames.

        At most some thousands, so that a host that keeps sending does not hold this up.
        """
        words = self._words
        count = words[k.TAIL] - words[k.HEAD]
        words[k.HEAD] = words[k.TAIL] = words[k.CURSOR] = 0
        scratch = bytearray(256)  # the rest of a frame is cut off
        for _ in range(4096):
            try:
                if not os.readv(words[k.FD], [scratch]):
                    break
            except OSError:
                break
            count += 1
        words[k.DROPPED] += count
        return count


class TapSink(_End):
    """Frames for the host.

    Args:
        fd: Descriptor; the caller keeps it.
        header: Bytes of header in front of each frame, 0 for none.
        takes: What the interface takes as it is.

    Attributes:
        kernels: `push`.
    """

    def __init__(self, fd: int, header: int, takes: Offload) -> None:
        super().__init__(fd, header)
        self._vectors = Words(2 * _MAX_VECTORS)
        self._scratch = Words(k.SCRATCH_BYTES // 8)
        words = self._words
        words[k.VECTORS] = self._vectors.address
        words[k.MAX_VECTORS] = _MAX_VECTORS
        words[k.SCRATCH] = self._scratch.address
        self.kernels = QueueKernels(self.state, None, k.push, None, None, takes)
