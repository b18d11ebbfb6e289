"""Kernel parts of receive that hand descriptors to the guest, in the format of the queue.

What is known of a frame is put together as the legacy write-back has it (`F_QWORD0` to `F_QWORD3`);
a queue with a flexible format has those words taken apart and put together again, so that the
legacy one, which Linux uses, pays one comparison. In all formats the word with DD is qword 1, and
is stored last.

All frames of a push have one time, read for the first of them whose queue is to say it: they were
there when it began.

Source: avf.md sections 4.10, 6.7 to 6.9.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.parse import KIND_IPV4, KIND_IPV6, OUT_KIND, OUT_L3, OUT_L4, WHAT_TCP
from emudev_net.primitives import (
    load16be,
    load64,
    realtime_ns,
    shift_right64,
    store64,
    store64_release,
)

from .descriptors import (
    FLEX_CRCP,
    FLEX_DD,
    FLEX_EIPE,
    FLEX_EOF,
    FLEX_IPE,
    FLEX_L2TAG1P,
    FLEX_L2TAG2P,
    FLEX_L4E,
    FLEX_PTYPE_SHIFT,
    FLEX_RSS_VALID,
    FLEX_RXE,
    FLEX_TIME_VALID,
    FLEX_UMBCAST_SHIFT,
    FLEX_XTRMD4_VALID,
    FLEX_XTRMD5_VALID,
    RX_CRCP,
    RX_DD,
    RX_EOF,
    RX_ERR_EIPE,
    RX_ERR_IPE,
    RX_ERR_L4E,
    RX_ERR_RXE,
    RX_EXT_L2TAG2P,
    RX_FLTSTAT_RSS,
    RX_L2TAG1P,
    RX_L3L4P,
    RX_PBUF_SHIFT,
    RX_PTYPE_SHIFT,
    RX_UMBCAST_SHIFT,
    RXDID_AUX_IP_OFFSET,
    RXDID_AUX_IPV4,
    RXDID_AUX_IPV6,
    RXDID_AUX_IPV6_FLOW,
    RXDID_AUX_TCP,
    RXDID_AUX_VLAN,
    RXDID_OVS_1,
    RXDID_OVS_2,
)
from .ring_memory import mark_received
from .rx_pieces import (
    F_ENTRIES,
    F_FLOW,
    F_HEADER_COPY,
    F_LENGTH,
    F_NEED,
    F_PARSED,
    F_PTYPE,
    F_QWORD0,
    F_QWORD1,
    F_QWORD2,
    F_QWORD3,
    F_SHIFT,
    F_TCIS,
    F_TIME,
)
from .words import Q_HEAD, Q_LENGTH, R_BUFFER_SIZE, R_RXDID, R_STAMPED

__all__ = ["reject", "write_back"]

TPID_OUTER: Final = 0x88A8
#: An auxiliary word of `RXDID_AUX_IP_OFFSET` that says nothing.
AUX_NOTHING: Final = 0xFFFF


@inline
def advance(queue: int, count: int) -> None:
    """Move the head, and have the queue's vector raised."""
    head = load64(queue + Q_HEAD) + count
    length = load64(queue + Q_LENGTH)
    store64(queue + Q_HEAD, head - length if head >= length else head)
    mark_received(queue)


@inline
def reject(queue: int, frame: int, count: int) -> None:
    """Complete the next `count` descriptors as frames with an error and without data.

    The last of them has an address that can't be written: whoever posted it gets it back.
    """
    rxdid = load64(queue + R_RXDID)
    last = RX_DD | RX_EOF | RX_ERR_RXE
    if rxdid != 0:
        last = FLEX_DD | FLEX_EOF | FLEX_RXE
    for i in range(count):
        entry = load64(frame + F_ENTRIES + 8 * i)
        store64(entry, rxdid)
        store64(entry + 16, 0)
        store64(entry + 24, 0)
        store64_release(entry + 8, last)
    advance(queue, count)


@inline
def flex_status(legacy: int) -> int:
    """Status and errors of a legacy qword 1 as the flexible formats have them."""
    status = legacy & (RX_DD | RX_EOF | RX_L3L4P)  # these have the same places in both
    if legacy & (RX_ERR_RXE | RX_ERR_IPE | RX_ERR_L4E | RX_ERR_EIPE):
        if legacy & RX_ERR_RXE:
            status |= FLEX_RXE
        if legacy & RX_ERR_IPE:
            status |= FLEX_IPE
        if legacy & RX_ERR_L4E:
            status |= FLEX_L4E
        if legacy & RX_ERR_EIPE:
            status |= FLEX_EIPE
    if legacy & RX_CRCP:
        status |= FLEX_CRCP
    if legacy & RX_FLTSTAT_RSS == RX_FLTSTAT_RSS:
        status |= FLEX_RSS_VALID
    if legacy & RX_L2TAG1P:
        status |= FLEX_L2TAG1P
    return status


@inline
def auxiliary(rxdid: int, frame: int) -> int:
    """What a format brings along of the headers: two words of 16 bits, bits 32 and 33 if they are.

    Words of headers are in the order of the frame, as numbers.
    """
    header = frame + F_HEADER_COPY
    kind = load64(frame + F_PARSED + 8 * OUT_KIND)
    l3 = header + load64(frame + F_PARSED + 8 * OUT_L3)
    if rxdid == RXDID_AUX_IP_OFFSET:
        if kind < KIND_IPV4:
            return AUX_NOTHING | AUX_NOTHING << 16
        return l3 - header + load64(frame + F_SHIFT) | AUX_NOTHING << 16
    if rxdid == RXDID_AUX_VLAN:
        tags = load64(frame + F_TCIS)
        count = tags & 0xFFFF
        outer = tags >> 32 & 0xFFFF
        if count > 1:
            return outer | shift_right64(tags, 48) << 16 | 3 << 32
        if count == 0:
            return 0
        if tags >> 16 & 0xFFFF == TPID_OUTER:
            return outer | 1 << 32
        return outer << 16 | 2 << 32
    if rxdid == RXDID_AUX_IPV4:
        if kind < KIND_IPV4 or kind >= KIND_IPV6:
            return 0
        return load16be(l3 + 8) | load16be(l3) << 16 | 3 << 32
    if rxdid == RXDID_AUX_TCP:
        if kind < KIND_IPV4 or kind & 0xF != WHAT_TCP:
            return 0
        return load16be(header + load64(frame + F_PARSED + 8 * OUT_L4) + 12) | 1 << 32
    if kind < KIND_IPV6:
        return 0
    if rxdid == RXDID_AUX_IPV6:
        return load16be(l3 + 6) | load16be(l3) << 16 | 3 << 32
    if rxdid == RXDID_AUX_IPV6_FLOW:
        return load16be(l3 + 2) | load16be(l3) << 16 | 3 << 32
    return 0


@inline
def time_of_push(frame: int) -> int:
    """The low 32 bits of when the frame came, ns of the clock that PTP_GET_TIME reads."""
    time = load64(frame + F_TIME)
    if time == 0:
        time = realtime_ns()
        store64(frame + F_TIME, time)
    return time & 0xFFFF_FFFF


@inline
def write_back_flex(queue: int, frame: int, rxdid: int) -> None:
    """Hand the descriptors of a delivered frame to the guest in a flexible format."""
    need = load64(frame + F_NEED)
    size = load64(queue + R_BUFFER_SIZE)
    left = load64(frame + F_LENGTH)
    common = rxdid | load64(frame + F_PTYPE) << FLEX_PTYPE_SHIFT
    for i in range(need - 1):
        entry = load64(frame + F_ENTRIES + 8 * i)
        store64(entry, common | size << 32)
        store64(entry + 16, 0)
        store64(entry + 24, 0)
        store64_release(entry + 8, FLEX_DD)
        left -= size
    entry = load64(frame + F_ENTRIES + 8 * need - 8)
    qword0 = load64(frame + F_QWORD0)
    legacy = load64(frame + F_QWORD1)
    qword2 = load64(frame + F_QWORD2)
    value = 0
    if legacy & RX_FLTSTAT_RSS == RX_FLTSTAT_RSS:
        value = shift_right64(qword0, 32)
    flow = load64(frame + F_FLOW)
    if RXDID_OVS_1 <= rxdid <= RXDID_OVS_2:
        swap = value
        value = flow
        flow = swap
    status1 = 0
    if rxdid >= RXDID_AUX_VLAN:
        aux = auxiliary(rxdid, frame)
        flow |= (aux & 0xFFFF_FFFF) << 32
        if aux >> 32 & 1:
            status1 |= FLEX_XTRMD4_VALID
        if aux >> 33 & 1:
            status1 |= FLEX_XTRMD5_VALID
    if load64(queue + R_STAMPED) != 0:
        flow |= time_of_push(frame) << 32
        status1 |= FLEX_TIME_VALID
    if qword2 & RX_EXT_L2TAG2P:
        status1 |= FLEX_L2TAG2P | shift_right64(qword2, 48) << 48
    cast = legacy >> RX_UMBCAST_SHIFT & 3
    store64(entry, common | cast << FLEX_UMBCAST_SHIFT | left << 32)
    store64(entry + 16, status1)
    store64(entry + 24, flow)
    status = flex_status(legacy | RX_DD | RX_EOF) | (qword0 >> 16 & 0xFFFF) << 16
    store64_release(entry + 8, status | value << 32)
    advance(queue, need)


@inline
def write_back(queue: int, frame: int) -> None:
    """Hand the descriptors of a delivered frame to the guest, in ring order."""
    rxdid = load64(queue + R_RXDID)
    if rxdid != 0:
        write_back_flex(queue, frame, rxdid)
        return
    need = load64(frame + F_NEED)
    size = load64(queue + R_BUFFER_SIZE)
    left = load64(frame + F_LENGTH)
    common = RX_DD | load64(frame + F_PTYPE) << RX_PTYPE_SHIFT
    for i in range(need - 1):
        entry = load64(frame + F_ENTRIES + 8 * i)
        store64(entry, 0)
        store64(entry + 16, 0)
        store64(entry + 24, 0)
        store64_release(entry + 8, common | size << RX_PBUF_SHIFT)
        left -= size
    entry = load64(frame + F_ENTRIES + 8 * need - 8)
    store64(entry, load64(frame + F_QWORD0))
    store64(entry + 16, load64(frame + F_QWORD2))
    store64(entry + 24, load64(frame + F_QWORD3))
    last = common | RX_EOF | left << RX_PBUF_SHIFT | load64(frame + F_QWORD1)
    store64_release(entry + 8, last)
    advance(queue, need)
