"""``txonly``: prepared UDP packets are sent as fast as the port takes them.

All packets are the same, so one frame in memory is enough: the source shows rows that point to it
again and again. With `Options.txonly_multi_flow` there are 256 frames, which differ in the third
byte of the source address. Lengths, and segments, are those of `Options.txpkts`.

Source: testpmd, txonly.c; the header fields as recorded from DPDK 22.11.
"""

from __future__ import annotations

import ctypes
import ipaddress
import struct
from typing import Final

from emudev_core.queues import QueueKernels
from emudev_net.burst import ADDRESS, FIRST, FLAGS, LAST, LENGTH, ROW
from emudev_net.jit import queue_kernel
from emudev_net.primitives import Words, copy, load64, store64

from .parts import Part, StreamContext

__all__ = ["KERNELS", "FrameSource", "parts", "peek", "release", "udp_frame"]

# Words of the source.
_TABLE: Final = 0  #: address of its rows
_ROWS: Final = 8  #: how many: whole packets, at least as many as a burst has
_NEXT: Final = 16  #: the row that is shown first
_PACKET: Final = 24  #: rows of a packet

_FLOWS: Final = 256
#: Rows of a burst at most.
_MOST: Final = 512


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show the next packets; there is no end of them."""
    total = load64(state + _ROWS)
    at = load64(state + _NEXT)
    table = load64(state + _TABLE)
    packet = load64(state + _PACKET)
    rows = min(capacity, total)
    if packet > 1:
        rows -= rows % packet
    first = min(rows, total - at)
    copy(burst, table + at * ROW, first * ROW)
    if first < rows:
        copy(burst + first * ROW, table, (rows - first) * ROW)
    return rows


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Go on behind these."""
    at = load64(state + _NEXT) + rows
    total = load64(state + _ROWS)
    store64(state + _NEXT, at - total if at >= total else at)
    return 0


def checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes. Source: RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def udp_frame(
    size: int,
    macs: tuple[bytes, bytes],
    addresses: tuple[bytes, bytes],
    ports: tuple[int, int],
) -> bytes:
    """An Ethernet frame of `size` bytes with IPv4 and UDP headers (no UDP checksum) and zeroes.

    Args:
        size: Bytes, at least 42.
        macs: Destination and source.
        addresses: Source and destination, 4 bytes each.
        ports: Source and destination.
    """
    source, destination = addresses
    before = struct.pack(">BBHHHBB", 0x45, 0, size - 14, 0, 0, 64, 17)
    total = checksum(before + b"\0\0" + source + destination)
    ip = before + struct.pack(">H", total) + source + destination
    udp = struct.pack(">HHHH", *ports, size - 34, 0)
    return (macs[0] + macs[1] + b"\x08\x00" + ip + udp).ljust(size, b"\0")


class FrameSource:
    """A source that shows frames again and again.

    Args:
        frames: At least one, all of one length.
        segments: Bytes of each segment; their sum is that length.

    Attributes:
        kernels: `peek` and `release`.
        packet_rows: Rows of each packet.
    """

    def __init__(self, frames: list[bytes], segments: tuple[int, ...]) -> None:
        # Rows point into the memory, which is kept as long as this object.
        self._memory = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self.packet_rows = len(segments)
        times = -(-_MOST // (len(frames) * len(segments)))
        self._table = Words(8 * times * len(frames) * len(segments))
        row = 0
        for _ in range(times):
            for memory in self._memory:
                at = ctypes.addressof(memory)
                for i, length in enumerate(segments):
                    flags = (FIRST if i == 0 else 0) | (LAST if i == len(segments) - 1 else 0)
                    self._table[8 * row + ADDRESS // 8] = at
                    self._table[8 * row + LENGTH // 8] = length
                    self._table[8 * row + FLAGS // 8] = flags
                    at += length
                    row += 1
        words = self._words = Words(8)
        words[_TABLE // 8] = self._table.address
        words[_ROWS // 8] = row
        words[_PACKET // 8] = len(segments)
        self.kernels = QueueKernels(words.address, peek, None, release, None)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (peek, release)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Prepared packets to the transmit queue."""
    options = context.options
    source, destination = (ipaddress.IPv4Address(a).packed for a in options.tx_ip)
    senders = [source]
    if options.txonly_multi_flow:
        senders = [source[:2] + bytes((i,)) + source[3:] for i in range(_FLOWS)]
    macs = (context.peer, context.tx.mac)
    size = sum(options.txpkts)
    frames = [udp_frame(size, macs, (one, destination), options.tx_udp) for one in senders]
    made = FrameSource(frames, options.txpkts)
    return (
        Part(
            made.kernels,
            context.sink(),
            receives=False,
            packet_rows=made.packet_rows,
            kept=made,
        ),
    )
