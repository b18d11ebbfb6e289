"""``csum``: each frame goes to the peer of the port that sends it, with its checksums made anew.

The IPv4 header checksum is always computed here. Those of UDP, TCP and SCTP are computed here, or
asked of the port by the burst's flags (`Options.csum_hw`): then the flow computes them if the port
does not take the request. Wrong ones that came in are counted. Tags are looked behind; IPv6
extension headers and tunnels are not; a UDP checksum of zero (none) stays.

Requests that a packet already has: one to be segmented keeps them, since its checksum is computed
behind; a checksum that is still to be completed is completed here, or stays a request.

Deviations: SCTP's checksum is computed (testpmd 22.11 stores zero); only the bytes that the IP
header counts are summed, not what pads the frame; above IP, fragments are left alone (testpmd
stores checksums into them as if they were whole).

Source: testpmd, csumonly.c; RFC 768, 791, 793, 1071, 9260.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    CRC32C_WANTED,
    CSUM_BAD,
    CSUM_GOOD,
    CSUM_WANTED,
    FLAGS,
    GSO_MASK,
    LENGTH,
    OFFLOAD,
    ROW,
    frame_length,
    offload_word,
    packet_rows,
)
from emudev_net.checksum import (
    CRC32C_TABLE,
    crc_more,
    crc_rows,
    fold,
    ipv4_header_sum,
    pseudo_header_sum,
    sum16,
)
from emudev_net.jit import inline, queue_kernel
from emudev_net.packet_function import (
    OWN_WORDS,
    PacketFunction,
    copy_head,
    emit,
    head_size,
    out_row,
)
from emudev_net.primitives import (
    copy,
    load8,
    load16,
    load16be,
    load32,
    load64,
    store16,
    store32,
    store64,
)

from .headers import ETHERNET, IPV4, IPV6, SCTP, TCP, UDP, ethertype_at, ipv4_header
from .parts import Part, StreamContext, pack_addresses

__all__ = ["KERNELS", "edit", "parts"]

# Own words.
_ADDRESSES: Final = OWN_WORDS  #: 12 bytes of addresses as they start a frame
_BAD_IP: Final = OWN_WORDS + 16
_BAD_L4: Final = OWN_WORDS + 24
_HARDWARE: Final = OWN_WORDS + 32  #: bits of protocols whose checksum is asked of the port
_CRC: Final = OWN_WORDS + 40  #: address of the CRC-32C table
# A packet that is being looked at.
_L4: Final = OWN_WORDS + 48  #: offset of the transport header
_L4_SIZE: Final = OWN_WORDS + 56  #: its bytes and those behind it
_PROTOCOL: Final = OWN_WORDS + 64
_VERSION: Final = OWN_WORDS + 72
_IP: Final = OWN_WORDS + 80  #: offset of the IP header
_WORDS: Final = 11

_HARD_UDP: Final = 1
_HARD_TCP: Final = 2
_HARD_SCTP: Final = 4


@inline
def _find(state: int, head: int, size: int, total: int) -> int:
    """Find the transport header of a frame, and mend the IPv4 header on the way; 1 if there is one.

    Args:
        state: The function's words; the result is among them.
        head: Address of the first bytes.
        size: How many they are.
        total: Bytes of the frame.
    """
    at = ethertype_at(head, size)
    if at == 0:
        return 0
    kind = load16be(head + at)
    ip = at + 2
    if kind == IPV4:
        length = ipv4_header(head, ip, size)
        if length == 0:
            return 0
        if fold(sum16(head + ip, length)) != 0xFFFF:
            store64(state + _BAD_IP, load64(state + _BAD_IP) + 1)
        store16(head + ip + 10, ipv4_header_sum(head + ip, length))
        if load16be(head + ip + 6) & 0x3FFF:  # a fragment, the first included
            return 0
        store64(state + _VERSION, 4)
        store64(state + _PROTOCOL, load8(head + ip + 9))
        inside = load16be(head + ip + 2) - length
    elif kind == IPV6 and ip + 40 <= size and load8(head + ip) >> 4 == 6:
        length = 40
        store64(state + _VERSION, 6)
        store64(state + _PROTOCOL, load8(head + ip + 6))
        inside = load16be(head + ip + 4)
    else:
        return 0
    if inside < 8 or ip + length + inside > total:
        return 0
    store64(state + _IP, ip)
    store64(state + _L4, ip + length)
    store64(state + _L4_SIZE, inside)
    return 1


@inline
def _rest_sum(burst: int, row: int, end: int, start: int, size: int) -> int:
    """Folded sum of `size` bytes of a packet from offset `start` on."""
    total = 0
    done = 0
    skip = start
    for i in range(row, end):
        have = load64(burst + i * ROW + LENGTH)
        if skip >= have:
            skip -= have
            continue
        part = min(have - skip, size - done)
        if part <= 0:
            break
        value = fold(sum16(load64(burst + i * ROW + ADDRESS) + skip, part))
        if done & 1:
            value = value >> 8 | (value & 0xFF) << 8
        total += value
        done += part
        skip = 0
    return fold(total)


@inline
def _count_bad(state: int, flags: int, wrong: int) -> None:
    """Count a checksum that came in wrong, unless it was known to be right, or to come later."""
    if flags & CSUM_BAD or (wrong and flags & (CSUM_WANTED | CRC32C_WANTED | CSUM_GOOD) == 0):
        store64(state + _BAD_L4, load64(state + _BAD_L4) + 1)


@inline
def _sctp(state: int, burst: int, row: int, head: int, size: int) -> int:
    """Make the checksum of SCTP anew, or ask for it; returns flags to set."""
    l4 = load64(state + _L4)
    length = load64(state + _L4_SIZE)
    if length < 12 or l4 + 12 > size:
        return 0
    flags = load64(burst + row * ROW + FLAGS)
    before = load32(head + l4 + 8)
    store32(head + l4 + 8, 0)
    if load64(state + _HARDWARE) & _HARD_SCTP:
        return CRC32C_WANTED
    table = load64(state + _CRC)
    near = min(size - l4, length)
    crc = crc_more(table, 0xFFFFFFFF, head + l4, near)
    crc = crc_rows(table, crc, burst, row, l4 + near, length - near) ^ 0xFFFFFFFF
    store32(head + l4 + 8, crc)
    _count_bad(state, flags, 1 if crc != before else 0)
    return CSUM_GOOD


@inline
def _internet(
    state: int, burst: int, row: int, end: int, head: int, size: int, field: int, hard: int
) -> int:
    """Make the checksum of UDP or TCP anew, or ask for it; returns flags to set.

    Args:
        state: The function's words.
        burst: Address of the source's burst.
        row: The packet's first row.
        end: The row behind it.
        head: Address of the first bytes.
        size: How many they are.
        field: Offset of the checksum in the transport header.
        hard: Bit of the protocol among those that are asked of the port.
    """
    l4 = load64(state + _L4)
    length = load64(state + _L4_SIZE)
    if field + 2 > length or l4 + field + 2 > size:
        return 0
    flags = load64(burst + row * ROW + FLAGS)
    before = load16(head + l4 + field)
    if field == 6 and before == 0:  # UDP without
        return 0
    asked = load64(state + _HARDWARE) & hard
    if asked and flags & CSUM_WANTED:
        return 0
    ip = head + load64(state + _IP)
    pseudo = pseudo_header_sum(ip, load64(state + _VERSION), load64(state + _PROTOCOL), length)
    if asked:
        store16(head + l4 + field, pseudo)
        return CSUM_WANTED
    store16(head + l4 + field, 0)
    near = min(size - l4, length)
    rest = _rest_sum(burst, row, end, l4 + near, length - near)
    if near & 1:
        rest = rest >> 8 | (rest & 0xFF) << 8
    value = ~fold(pseudo + fold(sum16(head + l4, near)) + rest) & 0xFFFF
    if field == 6 and value == 0:
        value = 0xFFFF
    store16(head + l4 + field, value)
    # As ones' complement numbers zero and all ones are one.
    _count_bad(state, flags, 1 if value != before and value ^ before != 0xFFFF else 0)
    return CSUM_GOOD


@inline
def _transport(state: int, burst: int, row: int, end: int, head: int, size: int) -> int:
    """Make the checksum above IP anew, or ask for it; returns flags to set: 0 if left alone."""
    protocol = load64(state + _PROTOCOL)
    if protocol == UDP:
        return _internet(state, burst, row, end, head, size, 6, _HARD_UDP)
    if protocol == TCP:
        return _internet(state, burst, row, end, head, size, 16, _HARD_TCP)
    if protocol == SCTP:
        return _sctp(state, burst, row, head, size)
    return 0


@inline
def _mark(state: int, made: int, flags: int) -> None:
    """Tell behind which request, or verified checksum, a packet goes on."""
    row = out_row(state, made)
    before = load64(row + FLAGS) & ~(CSUM_WANTED | CRC32C_WANTED | CSUM_GOOD | CSUM_BAD)
    store64(row + FLAGS, before | flags)
    offset = 0
    if flags & CSUM_WANTED:
        offset = 6 if load64(state + _PROTOCOL) == UDP else 16
    elif flags & CRC32C_WANTED:
        offset = 8
    if offset:
        store64(row + OFFLOAD, offload_word(load64(state + _L4), offset, 0, 0))
    else:
        store64(row + OFFLOAD, 0)


@queue_kernel
def edit(state: int, burst: int, rows: int) -> int:
    """Set the addresses and make checksums anew; a frame without addresses is dropped."""
    row = 0
    out = 0
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        size = head_size(burst, row, end)
        if size >= ETHERNET:
            head = copy_head(state, burst, row, end, size)
            copy(head, state + _ADDRESSES, 12)
            flags = 0
            if _find(state, head, size, frame_length(burst, row, end - row)):
                segmented = load64(burst + row * ROW + FLAGS) & GSO_MASK
                if segmented == 0:
                    flags = _transport(state, burst, row, end, head, size)
            made = out
            out = emit(state, burst, row, end, out, head, size, size)
            if flags and out > made:
                _mark(state, made, flags)
        row = end
    return out


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    asked = context.options.csum_hw.get(context.stream.tx_port, frozenset())
    bits = {"udp": _HARD_UDP, "tcp": _HARD_TCP, "sctp": _HARD_SCTP}
    function = PacketFunction(edit, [0] * _WORDS)
    function[0], function[1] = pack_addresses(context.peer, context.tx.mac)
    function[(_HARDWARE - OWN_WORDS) // 8] = sum(bits.get(layer, 0) for layer in asked)
    function[(_CRC - OWN_WORDS) // 8] = CRC32C_TABLE.address
    return (
        Part(
            context.source(),
            context.sink(),
            function,
            bad_ip=(_BAD_IP - OWN_WORDS) // 8,
            bad_l4=(_BAD_L4 - OWN_WORDS) // 8,
        ),
    )
