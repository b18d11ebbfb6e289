"""Kernel parts that turn a transmit request into the burst's metadata: checksums, segmentation.

Header copies lie in the queue's scratch; nothing here writes to guest memory, and each header byte
is read from there once. Statuses are those of `tx_kernels.walk`.

Source: avf.md section 6.5.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    CRC32C_WANTED,
    CSUM_WANTED,
    FLAGS,
    GSO_ECN,
    GSO_SHIFT,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    LENGTH,
    ROW,
)
from emudev_net.checksum import ipv4_header_sum
from emudev_net.jit import inline
from emudev_net.primitives import copy, load8, load16be, load64, store16, store16be, store64

from .descriptors import (
    CTX_EIPLEN_MASK,
    CTX_EIPLEN_SHIFT,
    CTX_EIPT_MASK,
    CTX_L4T_CS,
    CTX_L4TUNLEN_MASK,
    CTX_L4TUNLEN_SHIFT,
    CTX_L4TUNT,
    CTX_MSS_MASK,
    CTX_MSS_SHIFT,
    CTX_TSO_LEN_MASK,
    CTX_TSO_LEN_SHIFT,
    IIPT_IPV4_CSUM,
    IIPT_IPV6,
    IIPT_NONE,
    L4T_NONE,
    L4T_SCTP,
    L4T_TCP,
    L4T_UDP,
    TX_IIPT_SHIFT,
    TX_IPLEN_MASK,
    TX_IPLEN_SHIFT,
    TX_L4LEN_MASK,
    TX_L4LEN_SHIFT,
    TX_L4T_SHIFT,
    TX_MACLEN_MASK,
    TX_MACLEN_SHIFT,
)
from .words import (
    BAD_COUNT,
    BAD_OFFLOAD,
    BAD_TUNNEL,
    P_MAX_FRAME,
    Q_PORT,
    T_CONTEXT,
    T_CONTEXT0,
    T_DATA,
    T_FLAGS,
    T_OFFLOAD,
    T_ROWS,
    T_SCRATCH_END,
    T_SCRATCH_USED,
    T_TOTAL,
)

__all__ = ["prepare_checksum", "prepare_segmentation", "put_tag"]

MIN_MSS: Final = 64  #: drivers segment in software below it
MAX_IP: Final = 65535  #: what an IP length field can say
ETHERNET: Final = 14  #: bytes of the shortest Ethernet header
ADDRESSES: Final = 12  #: bytes of both addresses
TAG: Final = 4  #: bytes of a VLAN tag

# What a step of `peek` over one packet ends with; from BAD on, a reason for dropping it.
READY: Final = 0
PARTIAL: Final = 1  #: its last descriptor is not there yet
FULL: Final = 2  #: no room in burst or scratch, but perhaps in the next burst
BAD: Final = 16


@inline
def copy_header(state: int, burst: int, row: int, capacity: int, size: int) -> int:
    """Put the first `size` bytes of the packet at `row` into the scratch, as a row of their own.

    The packet has more than `size` bytes or as many; `T_ROWS` moves with its rows.

    Returns:
        The address of the copy, 0 if there is no room in the scratch or the burst.
    """
    copied = load64(state + T_SCRATCH_USED)
    end = load64(state + T_ROWS)
    if copied + size > load64(state + T_SCRATCH_END) or end >= capacity:
        return 0
    store64(state + T_SCRATCH_USED, copied + size + 63 & ~63)
    done = 0
    source = row
    while done < size:
        at = burst + source * ROW
        address = load64(at + ADDRESS)
        length = load64(at + LENGTH)
        part = min(length, size - done)
        copy(copied + done, address, part)
        done += part
        if part < length:
            store64(at + ADDRESS, address + part)
            store64(at + LENGTH, length - part)
        else:
            source += 1
    # One row for the header, then what is left: the rows from `source` move to `row + 1`.
    if source == row:
        for i in range(end, row, -1):
            move_row(burst, i - 1, i)
    elif source > row + 1:
        for i in range(source, end):
            move_row(burst, i, i - source + row + 1)
    at = burst + row * ROW
    store64(at + ADDRESS, copied)
    store64(at + LENGTH, size)
    store64(at + FLAGS, 0)
    store64(state + T_ROWS, row + 1 + end - source)
    return copied


@inline
def move_row(burst: int, source: int, target: int) -> None:
    """Move address and length of a row; the rest is not set yet."""
    store64(burst + target * ROW + ADDRESS, load64(burst + source * ROW + ADDRESS))
    store64(burst + target * ROW + LENGTH, load64(burst + source * ROW + LENGTH))
    store64(burst + target * ROW + FLAGS, 0)


@inline
def put_tag(state: int, burst: int, row: int, capacity: int, tpid: int, tci: int) -> int:
    """Put a VLAN tag behind the addresses of the packet at `row`.

    Returns:
        1, or 0 if there is no room in the scratch or the burst.
    """
    copied = copy_header(state, burst, row, capacity, ADDRESSES)
    if copied == 0:
        return 0
    # The scratch is given in pieces of 64 bytes: there is room behind the 12.
    store16be(copied + ADDRESSES, tpid)
    store16be(copied + ADDRESSES + 2, tci)
    store64(burst + row * ROW + LENGTH, ADDRESSES + TAG)
    return 1


@inline
def prepare_segmentation(state: int, burst: int, row: int, capacity: int) -> int:
    """Turn a TSO or USO request into the burst's: lengths and checksum seed of the whole frame.

    Drivers leave the IP lengths zero and the seed without a length; avf.md 6.5.
    """
    data = load64(state + T_DATA)
    context = load64(state + T_CONTEXT)
    if load64(state + T_CONTEXT0) & (CTX_EIPT_MASK | CTX_L4TUNT):
        return BAD + BAD_TUNNEL
    kind = data >> TX_L4T_SHIFT & 3
    iipt = data >> TX_IIPT_SHIFT & 3
    mac = 2 * (data >> TX_MACLEN_SHIFT & TX_MACLEN_MASK)
    ip = 4 * (data >> TX_IPLEN_SHIFT & TX_IPLEN_MASK)
    l4_size = 4 * (data >> TX_L4LEN_SHIFT & TX_L4LEN_MASK)
    payload = context >> CTX_TSO_LEN_SHIFT & CTX_TSO_LEN_MASK
    mss = context >> CTX_MSS_SHIFT & CTX_MSS_MASK
    l4 = mac + ip
    header = l4 + l4_size
    whole = l4_size + payload
    ipv6 = iipt == IIPT_IPV6
    bad = mac < ETHERNET or mss < MIN_MSS or payload == 0
    bad = bad or load64(state + T_TOTAL) != header + payload
    bad = bad or header + min(mss, payload) > load64(load64(state + Q_PORT) + P_MAX_FRAME)
    bad = bad or not ((kind == L4T_TCP and l4_size >= 20) or (kind == L4T_UDP and l4_size == 8))
    if ipv6:
        bad = bad or ip < 40 or ip - 40 + whole > MAX_IP
    else:
        bad = bad or iipt == IIPT_NONE or ip < 20 or ip > 60 or ip + whole > MAX_IP
    if bad:
        return BAD + BAD_OFFLOAD
    copied = copy_header(state, burst, row, capacity, header)
    if copied == 0:
        return FULL if row > 0 else BAD + BAD_COUNT
    version = load8(copied + mac)
    if ipv6:
        if version >> 4 != 6:
            return BAD + BAD_OFFLOAD
        store16be(copied + mac + 4, ip - 40 + whole)
    else:
        if version != 0x40 + (ip >> 2):
            return BAD + BAD_OFFLOAD
        store16be(copied + mac + 2, ip + whole)
        restore_ipv4_checksum(copied + mac, ip)
    if kind == L4T_TCP:
        if load8(copied + l4 + 12) >> 4 != l4_size >> 2:
            return BAD + BAD_OFFLOAD
        offset = 16
        gso = GSO_TCPV6 if ipv6 else GSO_TCPV4
    else:
        store16be(copied + l4 + 4, whole)
        offset = 6
        gso = GSO_UDP_L4
    seed = load16be(copied + l4 + offset) + whole
    store16be(copied + l4 + offset, (seed & 0xFFFF) + (seed >> 16))
    flags = CSUM_WANTED
    offload = l4 | offset << 16
    if payload > mss:
        flags |= gso << GSO_SHIFT
        if kind == L4T_TCP and load8(copied + l4 + 13) & 0x80:
            flags |= GSO_ECN
        offload |= header << 32 | mss << 48
    store64(state + T_FLAGS, flags)
    store64(state + T_OFFLOAD, offload)
    return READY


@inline
def restore_ipv4_checksum(header: int, size: int) -> None:
    """Compute the checksum of an IPv4 header of `size` bytes in our own memory."""
    store16(header + 10, ipv4_header_sum(header, size))


@inline
def prepare_checksum(state: int, burst: int, row: int, capacity: int) -> int:
    """Turn checksum requests without segmentation into the burst's; avf.md 6.4 and 6.5.

    Those of a tunnel are about what is inside, and about the outer IPv4 header.
    """
    data = load64(state + T_DATA)
    kind = data >> TX_L4T_SHIFT & 3
    iipt = data >> TX_IIPT_SHIFT & 3
    total = load64(state + T_TOTAL)
    flags = 0
    offload = 0
    # Without a context descriptor its words are 0, and there is no outer header.
    tunnel = load64(state + T_CONTEXT0)
    outer = tunnel & CTX_EIPT_MASK
    if tunnel & (CTX_EIPT_MASK | CTX_L4TUNT) and (tunnel & CTX_L4T_CS or outer == IIPT_NONE):
        return BAD + BAD_TUNNEL
    if kind != L4T_NONE or iipt == IIPT_IPV4_CSUM or outer == IIPT_IPV4_CSUM:
        mac = 2 * (data >> TX_MACLEN_SHIFT & TX_MACLEN_MASK)
        if mac < ETHERNET:
            return BAD + BAD_OFFLOAD
        l3 = mac
        size = 0
        if outer != IIPT_NONE:
            size = 4 * (tunnel >> CTX_EIPLEN_SHIFT & CTX_EIPLEN_MASK)
            l3 += size + 2 * (tunnel >> CTX_L4TUNLEN_SHIFT & CTX_L4TUNLEN_MASK)
            if size < 20 or l3 > total:
                return BAD + BAD_OFFLOAD
        ip = 4 * (data >> TX_IPLEN_SHIFT & TX_IPLEN_MASK)
        l4 = l3 + ip
        if kind != L4T_NONE or iipt == IIPT_IPV4_CSUM:
            if ip < 20 or l4 > total:
                return BAD + BAD_OFFLOAD
        else:
            l4 = l3
        if kind != L4T_NONE:
            offset = 16
            field = 2
            flags = CSUM_WANTED
            if kind == L4T_UDP:
                offset = 6
            elif kind == L4T_SCTP:
                offset = 8
                field = 4
                flags = CRC32C_WANTED
            if l4 + offset + field > total:
                return BAD + BAD_OFFLOAD
            offload = l4 | offset << 16
        if iipt == IIPT_IPV4_CSUM or outer == IIPT_IPV4_CSUM:
            copied = copy_header(state, burst, row, capacity, l4)
            if copied == 0:
                return FULL if row > 0 else BAD + BAD_COUNT
            if outer == IIPT_IPV4_CSUM:
                restore_ipv4_checksum(copied + mac, size)
            if iipt == IIPT_IPV4_CSUM:
                restore_ipv4_checksum(copied + l3, ip)
    store64(state + T_FLAGS, flags)
    store64(state + T_OFFLOAD, offload)
    return READY
