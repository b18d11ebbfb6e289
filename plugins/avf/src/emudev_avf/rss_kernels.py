"""The hash of a received frame, and the queue that it chooses.

Nearly all hashes are Toeplitz over both addresses, with or without ports: those go straight from
the frame through the tables of the key. For anything else the input is put together first, in the
words behind the table: fields that do not count are zero and stay where they are, so that a hash of
some fields is the same wherever the others come from.

Source: avf.md section 7; the symmetric transformation is that of Linux, Documentation/networking/
scaling.rst, "Symmetric-XOR".
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.parse import OUT_KIND, OUT_L3, OUT_L4
from emudev_net.primitives import load8, load16, load32, load32be, load64, store16, store32, store64
from emudev_net.rss import hash_frame, toeplitz

from .rx_pieces import F_HEADER_COPY, F_PARSED
from .words import (
    ON,
    P_RSS_INPUTS,
    P_RSS_KEY,
    P_RSS_LUT,
    P_RSS_MASK,
    P_RX_COUNT,
    P_RX_QUEUES,
    Q_ENABLED,
    QUEUE_WORDS,
)

__all__ = ["INPUT_WORDS", "choose_queue", "hash_of"]

# Words of the table, as `rss_inputs` has them.
ADDRESSES: Final = 2
SRC: Final = 4
DST: Final = 8
SPORT: Final = 16
DPORT: Final = 32
SYMMETRIC: Final = 64
XOR: Final = 128
TABLE_BYTES: Final = 8 * 64
#: Words behind the table, for an input of up to 36 bytes.
INPUT_WORDS: Final = 5


@inline
def put_addresses(at: int, source: int, size: int, inputs: int) -> None:
    """Put those of two addresses that count into an input, 4 bytes at a time.

    Args:
        at: Of the input.
        source: Of the source address, which the destination follows.
        size: Bytes of one.
        inputs: Which count.
    """
    part = 0
    while part < size:
        src = load32(source + part) if inputs & SRC else 0
        dst = load32(source + size + part) if inputs & DST else 0
        if inputs & SYMMETRIC and inputs & SRC and inputs & DST:
            src ^= dst
            dst = src
        store32(at + part, src)
        store32(at + size + part, dst)
        part += 4


@inline
def put_ports(at: int, source: int, inputs: int) -> None:
    """Put those of two ports that count into an input."""
    src = load16(source) if inputs & SPORT else 0
    dst = load16(source + 2) if inputs & DPORT else 0
    if inputs & SYMMETRIC and inputs & SPORT and inputs & DPORT:
        src ^= dst
        dst = src
    store16(at, src)
    store16(at + 2, dst)


@inline
def hash_selected(key: int, inputs: int, frame: int, parsed: int, at: int) -> int:
    """The hash of the fields that count.

    Args:
        key: Tables of the key.
        inputs: Which fields, and how.
        frame: Address of the frame's headers.
        parsed: Address of what the parser found.
        at: Address of room for the input.
    """
    l3 = load64(parsed + 8 * OUT_L3)
    l4 = load64(parsed + 8 * OUT_L4)
    for i in range(INPUT_WORDS):
        store64(at + 8 * i, 0)
    size = 8
    if load8(frame + l3) >> 4 == 6:
        size = 32
        put_addresses(at, frame + l3 + 8, 16, inputs)
    else:
        put_addresses(at, frame + l3 + 12, 4, inputs)
    if inputs & (SPORT | DPORT) and l4 != 0:
        put_ports(at + size, frame + l4, inputs)
        size += 4
    if inputs & XOR == 0:
        return toeplitz(key, 0, at, size)
    value = 0
    part = 0
    while part < size:
        value ^= load32be(at + part)
        part += 4
    return value


@inline
def hash_of(port: int, frame: int) -> int:
    """The hash of a parsed frame, 32 bits, or -1 if it is not hashed."""
    key = load64(port + P_RSS_KEY)
    if key == 0:
        return -1
    table = load64(port + P_RSS_INPUTS)
    parsed = frame + F_PARSED
    inputs = load64(table + 8 * (load64(parsed + 8 * OUT_KIND) & 63))
    if inputs == 0:
        return -1
    if inputs <= ADDRESSES:
        return hash_frame(key, frame + F_HEADER_COPY, parsed, inputs & 1)
    return hash_selected(key, inputs, frame + F_HEADER_COPY, parsed, table + TABLE_BYTES)


@inline
def choose_queue(port: int, value: int) -> int:
    """Address of the words of the queue for a hash (-1: none), or 0 if it is not enabled."""
    index = 0
    if value >= 0:
        index = load64(load64(port + P_RSS_LUT) + 8 * (value & load64(port + P_RSS_MASK)))
    if index >= load64(port + P_RX_COUNT):
        return 0
    queue = load64(port + P_RX_QUEUES) + 8 * QUEUE_WORDS * index
    if load64(queue + Q_ENABLED) != ON:
        return 0
    return queue
