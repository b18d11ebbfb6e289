"""The kernels of the backend ``echo``: a sink that turns frames around and gives them back.

The sink's `push` looks at each packet of the guest, makes the answer's headers in a slot of its own
(the guest's buffers are never changed), lets the rest be where it is, and pushes that into the
guest's receive queue: compiled, without a copy of its own.

- ARP requests are answered for every address, except probes and announcements (RFC 5227): a guest
  that looks for duplicates must not find one. The same for IPv6 neighbour solicitations (RFC 4861),
  except those of duplicate address detection (RFC 4862).
- ICMP and ICMPv6 echo requests become replies.
- Of other IP packets the addresses are swapped, and the ports of UDP, so that a socket hears its
  own echo; IP packets to groups are dropped, since a guest takes some of them for a duplicate of
  itself.
- Of all other frames the MAC addresses are swapped.

Swapping does not change the Internet checksum, complete or not.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    LAST,
    LENGTH,
    OFFLOAD,
    OUTER_VLAN_PRESENT,
    ROW,
    VLAN_PRESENT,
    packet_rows,
)
from emudev_net.checksum import fold, gather, pseudo_header_sum, sum16
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    call3,
    copy,
    load8,
    load16,
    load16be,
    load32,
    load64,
    store8,
    store16,
    store16be,
    store32,
    store32be,
    store64,
)

__all__ = ["notify", "push"]

# Words of the sink.
ACTIVE: Final = 0  #: 1 while the receive queue is enabled; else everything is dropped
MAC: Final = 1  #: the six bytes of our own address, at the start of this word
RX_STATE: Final = 2  #: of the receive queue
RX_PUSH: Final = 3  #: its push kernel
RX_NOTIFY: Final = 4  #: its notify kernel, or 0
OUT: Final = 5  #: address of the burst that is made
SLOTS: Final = 6  #: address of `SLOT` bytes for each packet
NOTES: Final = 7  #: address of `NOTE` bytes for each row of the burst
FRAMES: Final = 8  #: answered or sent back
DROPPED: Final = 9  #: others
WORDS: Final = 16

SLOT: Final = 128  #: all headers of interest, tags included, bytes
PACKETS: Final = 256  #: packets of a burst that is made
OUT_ROWS: Final = 1024  #: rows of it
# A note on a row that was made: what is done when it was taken.
NOTE: Final = 32  #: bytes
NOTE_ROWS: Final = 0
NOTE_FRAMES: Final = 8
NOTE_DROPPED: Final = 16

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IPV6: Final = 0x86DD
ETHERTYPE_VLAN: Final = 0x8100
ETHERTYPE_QINQ: Final = 0x88A8
ICMP: Final = 1
UDP: Final = 17
ICMPV6: Final = 58
ECHO_REQUEST: Final = 8
ECHO_REQUEST_V6: Final = 128
ECHO_REPLY_V6: Final = 129
SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136


@inline
def _swap_mac(frame: int, mac: int) -> None:
    """Send a frame back to where it came from; from `mac` if it went to a group."""
    to_high = load32(frame)
    to_low = load16(frame + 4)
    copy(frame, frame + 6, 6)
    if to_high & 1:
        copy(frame + 6, mac, 6)
    else:
        store32(frame + 6, to_high)
        store16(frame + 10, to_low)


@inline
def _change_type(message: int, new: int, flags: int) -> None:
    """Change the type of an ICMP message and its checksum. Source: RFC 1624, equation 3.

    Where the checksum is still to be completed, its field does not cover the type yet.
    """
    before = load16be(message)
    store8(message, new)
    if flags & CSUM_WANTED == 0:
        total = (~load16be(message + 2) & 0xFFFF) + (~before & 0xFFFF) + load16be(message)
        store16be(message + 2, ~fold(total) & 0xFFFF)


@inline
def _answer_arp(frame: int, arp: int, size: int, mac: int) -> int:
    """Answer an ARP request; returns the bytes that stay, 0 if it gets no answer."""
    body = frame + arp
    if size < arp + 28 or load16be(body) != 1 or load16be(body + 2) != ETHERTYPE_IPV4:
        return 0
    if load16be(body + 4) != 0x0604 or load16be(body + 6) != 1:
        return 0
    sender = load32(body + 14)
    target = load32(body + 24)
    if sender == 0 or sender == target:
        return 0
    store16be(body + 6, 2)
    copy(body + 18, body + 8, 6)
    store32(body + 24, sender)
    copy(body + 8, mac, 6)
    store32(body + 14, target)
    copy(frame, frame + 6, 6)
    copy(frame + 6, mac, 6)
    return size


@inline
def _answer_solicitation(frame: int, ip: int, mac: int) -> int:
    """Make a neighbour advertisement; returns minus its bytes, 0 if it gets no answer."""
    header = frame + ip
    message = header + 40
    if load64(header + 8) == 0 and load64(header + 16) == 0:
        return 0
    copy(header + 24, header + 8, 16)
    copy(header + 8, message + 8, 16)
    store16be(header + 4, 32)
    store8(message, ADVERTISEMENT)
    store8(message + 1, 0)
    store16(message + 2, 0)
    store32be(message + 4, 0x60000000)  # solicited, override
    store16be(message + 24, 0x0201)  # option: target link-layer address, 8 bytes
    copy(message + 26, mac, 6)
    total = pseudo_header_sum(header, 6, ICMPV6, 32) + sum16(message, 32)
    store16(message + 2, ~fold(total) & 0xFFFF)
    copy(frame, frame + 6, 6)
    copy(frame + 6, mac, 6)
    return -(ip + 72)


@inline
def _swap_ports(at: int) -> None:
    """Swap the ports of a UDP header."""
    port = load16(at)
    store16(at, load16(at + 2))
    store16(at + 2, port)


@inline
def _turn_ipv4(frame: int, ip: int, size: int, flags: int, mac: int) -> int:
    """Send an IPv4 packet back; returns the bytes that stay, 0 to drop it."""
    header = frame + ip
    length = 4 * (load8(header) & 15)
    if size < ip + 20 or load8(header) >> 4 != 4 or length < 20 or load8(frame) & 1:
        return 0
    source = load32(header + 12)
    store32(header + 12, load32(header + 16))
    store32(header + 16, source)
    protocol = load8(header + 9)
    first = load16be(header + 6) & 0x1FFF == 0
    message = header + length
    if first and protocol == ICMP and size >= ip + length + 4 and load8(message) == ECHO_REQUEST:
        _change_type(message, 0, flags)
    elif first and protocol == UDP and size >= ip + length + 4:
        _swap_ports(message)
    _swap_mac(frame, mac)
    return size


@inline
def _turn_ipv6(frame: int, ip: int, size: int, flags: int, mac: int) -> int:
    """Send an IPv6 packet back; as `_turn_ipv4`, or minus the bytes of an answer."""
    header = frame + ip
    if size < ip + 40 or load8(header) >> 4 != 6:
        return 0
    protocol = load8(header + 6)
    message = header + 40
    if protocol == ICMPV6 and size >= ip + 64 and load8(message) == SOLICITATION:
        return _answer_solicitation(frame, ip, mac) if load8(header + 7) == 255 else 0
    if load8(frame) & 1:
        return 0
    high = load64(header + 8)
    low = load64(header + 16)
    copy(header + 8, header + 24, 16)
    store64(header + 24, high)
    store64(header + 32, low)
    if protocol == ICMPV6 and size >= ip + 44 and load8(message) == ECHO_REQUEST_V6:
        _change_type(message, ECHO_REPLY_V6, flags)
    elif protocol == UDP and size >= ip + 44:
        _swap_ports(message)
    _swap_mac(frame, mac)
    return size


@inline
def turn(frame: int, size: int, flags: int, mac: int) -> int:
    """Turn the start of a frame around, in place.

    Args:
        frame: Address of its first `size` bytes, with room for `SLOT`.
        size: Bytes, at most `SLOT`.
        flags: Flags of its first row.
        mac: Address of our own MAC address.

    Returns:
        `size` if the rest of the frame follows; minus the bytes of an answer that is whole; 0 to
        drop it.
    """
    if size < 14:
        return 0
    at = 12
    kind = load16be(frame + at)
    while (kind == ETHERTYPE_VLAN or kind == ETHERTYPE_QINQ) and at < 20:  # noqa: SIM109 - kernels know no tuples
        at += 4
        if at + 2 > size:
            return 0
        kind = load16be(frame + at)
    at += 2
    if kind == ETHERTYPE_ARP:
        return _answer_arp(frame, at, size, mac)
    if kind == ETHERTYPE_IPV4:
        return _turn_ipv4(frame, at, size, flags, mac)
    if kind == ETHERTYPE_IPV6:
        return _turn_ipv6(frame, at, size, flags, mac)
    _swap_mac(frame, mac)
    return size


@inline
def _append(out: int, made: int, burst: int, row: int, count: int, slot: int, kept: int) -> int:
    """Add a turned packet to the burst that is made; returns its rows.

    Args:
        out: Address of the burst.
        made: Rows that it has.
        burst: Address of the burst with the packet of the guest.
        row: The packet's first row.
        count: Its rows.
        slot: Address of the turned start.
        kept: See `turn`; not 0.
    """
    first = out + made * ROW
    copy(first, burst + row * ROW, ROW)
    flags = load64(first + FLAGS)
    store64(first + ADDRESS, slot)
    if kept < 0:
        store64(first + LENGTH, -kept)
        store64(first + FLAGS, flags & (VLAN_PRESENT | OUTER_VLAN_PRESENT) | FIRST | LAST)
        store64(first + OFFLOAD, 0)
        return 1
    store64(first + LENGTH, kept)
    store64(first + FLAGS, flags & ~LAST)
    at = first
    skip = kept
    for i in range(row, row + count):
        size = load64(burst + i * ROW + LENGTH)
        if skip >= size:
            skip -= size
            continue
        at += ROW
        store64(at + ADDRESS, load64(burst + i * ROW) + skip)
        store64(at + LENGTH, size - skip)
        store64(at + FLAGS, 0)
        skip = 0
    store64(at + FLAGS, load64(at + FLAGS) | LAST)
    return (at - first) // ROW + 1


@inline
def _count(state: int, frames: int, dropped: int) -> None:
    """Add to the counters."""
    store64(state + 8 * FRAMES, load64(state + 8 * FRAMES) + frames)
    store64(state + 8 * DROPPED, load64(state + 8 * DROPPED) + dropped)


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Turn packets around; returns the rows that were taken, whether sent back or dropped.

    Fewer than given: the receive queue has no room.
    """
    active = load64(state + 8 * ACTIVE)
    mac = state + 8 * MAC
    out = load64(state + 8 * OUT)
    slots = load64(state + 8 * SLOTS)
    notes = load64(state + 8 * NOTES)
    done = 0
    while done < rows:
        at = done
        made = 0
        frames = 0
        dropped = 0
        while at < rows and frames < PACKETS:
            count = packet_rows(burst, at, rows)
            if made + count + 1 > OUT_ROWS:
                break
            slot = slots + frames * SLOT
            kept = 0
            if active != 0:
                size = gather(burst, at, count, 0, slot, SLOT)
                kept = turn(slot, size, load64(burst + at * ROW + FLAGS), mac)
            if kept == 0:
                dropped += 1
            else:
                made += _append(out, made, burst, at, count, slot, kept)
                frames += 1
            at += count
            if kept != 0:
                note = notes + (made - 1) * NOTE
                store64(note + NOTE_ROWS, at)
                store64(note + NOTE_FRAMES, frames)
                store64(note + NOTE_DROPPED, dropped)
        if at == done:  # more rows than any burst has
            at += packet_rows(burst, at, rows)
            dropped += 1
        taken = 0
        if made > 0:
            taken = call3(load64(state + 8 * RX_PUSH), load64(state + 8 * RX_STATE), out, made)
        if taken < made:
            if taken > 0:
                note = notes + (taken - 1) * NOTE
                _count(state, load64(note + NOTE_FRAMES), load64(note + NOTE_DROPPED))
                done = load64(note + NOTE_ROWS)
            return done
        _count(state, frames, dropped)
        done = at
    return done


@queue_kernel
def notify(state: int, _burst: int, _rows: int) -> int:
    """Raise what the receive queue's interrupts are due."""
    address = load64(state + 8 * RX_NOTIFY)
    if address != 0:
        call3(address, load64(state + 8 * RX_STATE), 0, 0)
    return 0
