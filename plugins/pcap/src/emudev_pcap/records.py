"""How a capture is walked through, record by record, in code that can be compiled.

A *cursor* is a block of words: where the file's bytes are in memory (all of them, or a window on
them), how they are to be read, and what the record at hand is. `step` looks at one record or block
and trusts no number in it.

pcapng has state: a section has its byte order, and interfaces that are declared in it. Blocks that
change the state are passed one by one (`CHANGE`), so that whoever walks ahead can go back.

Source: draft-ietf-opsawg-pcap, sections 4 and 5; draft-ietf-opsawg-pcapng, sections 3 and 4.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.primitives import load8, load16, load32, load64, load64be, store64, swap16, swap32

from . import faults
from .formats import (
    BLOCK_ENHANCED,
    BLOCK_INTERFACE,
    BLOCK_OBSOLETE,
    BLOCK_SECTION,
    BLOCK_SIMPLE,
    BYTE_ORDER,
    BYTE_ORDER_SWAPPED,
    ETHERNET,
    MAX_BLOCK,
    MAX_CAPTURED,
    OPTION_FCS,
    OPTION_OFFSET,
    OPTION_RESOLUTION,
    PCAP,
)

__all__ = ["step"]

# Words of a cursor, as byte offsets. What the file is; not changed while kernels run.
WINDOW: Final = 8 * 0  #: address of the bytes in memory
ROOM: Final = 8 * 1  #: how many have room there
FD: Final = 8 * 2  #: where more come from; -1: all are there
FORMAT: Final = 8 * 3  #: `PCAP` or `PCAPNG`
START: Final = 8 * 4  #: offset of the first record
SIZE: Final = 8 * 5  #: of the file
TICK: Final = 8 * 6  #: pcap: ns of a unit of the fractional part of timestamps
FCS: Final = 8 * 7  #: pcap: bytes of check sequence at the end of packets
INTERFACES: Final = 8 * 8  #: pcapng: address of the section's interfaces
# Where it is.
BASE: Final = 8 * 16  #: offset in the file of the first byte in memory
FILLED: Final = 8 * 17  #: bytes in memory
HEAD: Final = 8 * 18  #: offset of the first record that is not done
BIG: Final = 8 * 19  #: 1: numbers are big endian
COUNT: Final = 8 * 20  #: pcapng: interfaces of the section
FAULT: Final = 8 * 21  #: one of `faults`, 0 if there is none
FAULT_AT: Final = 8 * 22  #: offset
FAULT_VALUE: Final = 8 * 23  #: meaning by fault
# The record at hand.
NEXT: Final = 8 * 24  #: offset behind it
DATA: Final = 8 * 25  #: address of the packet
CAPTURED: Final = 8 * 26  #: its bytes, without check sequence
WIRE: Final = 8 * 27  #: bytes that it had on the wire, without check sequence
TIME: Final = 8 * 28  #: ns since 1970, 0 if unknown
CURSOR_WORDS: Final = 32

# Words of an interface, as byte offsets.
MULTIPLY: Final = 8 * 0  #: ns = ticks * this / `DIVIDE` + `OFFSET`, if `SHIFT` is negative
DIVIDE: Final = 8 * 1
SHIFT: Final = 8 * 2  #: ticks of 2**-this seconds
OFFSET: Final = 8 * 3  #: ns
CHECK: Final = 8 * 4  #: bytes of check sequence
SNAPLEN: Final = 8 * 5  #: bytes of a packet that are kept at most, 0 without limit
INTERFACE: Final = 64  #: bytes of an entry
#: Interfaces of a section at most.
MAX_INTERFACES: Final = 1024

# What `step` answers.
END: Final = 0  #: the file ends here
PACKET: Final = 1  #: a packet
OTHER: Final = 2  #: something without meaning here; go on behind it
CHANGE: Final = 3  #: what follows is to be read differently; say so, or stop
MORE: Final = 4  #: more of the file has to be read into memory
FAULTY: Final = 5  #: see the words of the fault

_RECORD: Final = 16  #: bytes of a pcap record's header
_SECOND: Final = 1_000_000_000
#: The largest resolution 10**-n whose divisor a word can hold.
_MAX_DECIMAL: Final = 27
_MAX_BINARY: Final = 63


@inline
def _fault(cursor: int, fault: int, at: int, value: int) -> int:
    store64(cursor + FAULT, fault)
    store64(cursor + FAULT_AT, at)
    store64(cursor + FAULT_VALUE, value)
    return FAULTY


@inline
def _u16(address: int, big: int) -> int:
    value = load16(address)
    return swap16(value) if big else value


@inline
def _u32(address: int, big: int) -> int:
    value = load32(address)
    return swap32(value) if big else value


@inline
def _packet(cursor: int, data: int, captured: int, wire: int, fcs: int, time: int) -> int:
    """Note the packet at hand; its check sequence, or what was captured of it, is left out."""
    wire = max(wire, captured) - fcs
    store64(cursor + DATA, data)
    store64(cursor + CAPTURED, max(0, min(captured, wire)))
    store64(cursor + WIRE, max(0, wire))
    store64(cursor + TIME, time)
    return PACKET


@inline
def _step_pcap(cursor: int, at: int) -> int:
    """`step` for pcap."""
    size = load64(cursor + SIZE)
    loaded = load64(cursor + BASE) + load64(cursor + FILLED)
    behind = at + _RECORD
    if behind > loaded:
        if at == size:
            return END
        return MORE if behind <= size else _fault(cursor, faults.CUT, at, behind)
    big = load64(cursor + BIG)
    record = load64(cursor + WINDOW) + at - load64(cursor + BASE)
    captured = _u32(record + 8, big)
    if captured > MAX_CAPTURED:
        return _fault(cursor, faults.CAPTURED, at, captured)
    behind += captured
    if behind > loaded:
        return MORE if behind <= size else _fault(cursor, faults.CUT, at, behind)
    store64(cursor + NEXT, behind)
    time = _u32(record, big) * _SECOND + _u32(record + 4, big) * load64(cursor + TICK)
    wire = _u32(record + 12, big)
    return _packet(cursor, record + _RECORD, captured, wire, load64(cursor + FCS), time)


@inline
def _nanoseconds(interface: int, ticks: int) -> int:
    """A timestamp of an interface in ns since 1970; 0 if it is beyond the year 2262 anyway."""
    if ticks < 0:
        return 0
    shift = load64(interface + SHIFT)
    if shift >= 0:
        part = ticks & ((1 << shift) - 1)
        time = (ticks >> shift) * _SECOND
        if shift > 32:  # so that the product stays below 2**63
            part >>= shift - 32
            shift = 32
        time += part * _SECOND >> shift
    else:
        time = ticks * load64(interface + MULTIPLY)
        divide = load64(interface + DIVIDE)
        if divide != 1:
            time //= divide
    return time + load64(interface + OFFSET)


@inline
def _set_resolution(interface: int, resolution: int) -> int:
    """Take ``if_tsresol``; returns 1 if it is possible, else 0."""
    digits = resolution & 0x7F
    multiply = 1
    divide = 1
    shift = -1
    if resolution & 0x80:
        if digits > _MAX_BINARY:
            return 0
        shift = digits
    else:
        if digits > _MAX_DECIMAL:
            return 0
        for _ in range(digits, 9):
            multiply *= 10
        for _ in range(9, digits):
            divide *= 10
    store64(interface + MULTIPLY, multiply)
    store64(interface + DIVIDE, divide)
    store64(interface + SHIFT, shift)
    return 1


@inline
def _declare(cursor: int, at: int, block: int, length: int, big: int) -> int:
    """Take an interface description."""
    if length < 20:
        return _fault(cursor, faults.CONTENT, at, 20)
    link = _u16(block + 8, big)
    if link != ETHERNET:
        return _fault(cursor, faults.LINK, at, link)
    count = load64(cursor + COUNT)
    if count >= MAX_INTERFACES:
        return _fault(cursor, faults.INTERFACES, at, count + 1)
    interface = load64(cursor + INTERFACES) + count * INTERFACE
    _set_resolution(interface, 6)
    store64(interface + OFFSET, 0)
    store64(interface + CHECK, 0)
    store64(interface + SNAPLEN, _u32(block + 12, big))
    option = block + 16
    end = block + length - 4
    while option + 4 <= end:
        code = _u16(option, big)
        size = _u16(option + 2, big)
        if code == 0:
            break
        value = option + 4
        option = value + ((size + 3) & ~3)
        wrong = option > end
        if code == OPTION_RESOLUTION:
            wrong = wrong or size != 1
            if not wrong and not _set_resolution(interface, load8(value)):
                return _fault(cursor, faults.RESOLUTION, at, load8(value))
        elif code == OPTION_OFFSET:
            wrong = wrong or size != 8
            if not wrong:
                seconds = load64be(value) if big else load64(value)
                store64(interface + OFFSET, seconds * _SECOND)
        elif code == OPTION_FCS:
            wrong = wrong or size != 1
            if not wrong:
                bits = load8(value)  # the specification's own example says 4 for 4 octets
                store64(interface + CHECK, bits if bits < 8 else bits // 8)
        if wrong:
            return _fault(cursor, faults.OPTION, at, code << 16 | size)
    store64(cursor + COUNT, count + 1)
    return OTHER


@inline
def _begin_section(cursor: int, at: int, block: int, length: int, big: int) -> int:
    """Take a section header: another byte order, and no interfaces yet."""
    if length < 28:
        return _fault(cursor, faults.CONTENT, at, 28)
    major = _u16(block + 12, big)
    minor = _u16(block + 14, big)
    if major != 1 or minor not in (0, 2):
        return _fault(cursor, faults.VERSION, at, major << 16 | minor)
    store64(cursor + BIG, big)
    store64(cursor + COUNT, 0)
    return OTHER


@inline
def _enhanced(cursor: int, at: int, block: int, length: int, big: int, number: int) -> int:
    """An enhanced packet block, or an obsolete one, whose fields behind the number are the same."""
    if length < 32:
        return _fault(cursor, faults.CONTENT, at, 32)
    if number >= load64(cursor + COUNT):
        return _fault(cursor, faults.UNDECLARED, at, number)
    captured = _u32(block + 20, big)
    if captured > MAX_CAPTURED:
        return _fault(cursor, faults.CAPTURED, at, captured)
    if captured > length - 32:
        return _fault(cursor, faults.CONTENT, at, captured + 32)
    interface = load64(cursor + INTERFACES) + number * INTERFACE
    high = _u32(block + 12, big)
    # Beyond 2**63 it has no meaning as nanoseconds.
    ticks = -1 if high >> 31 else high << 32 | _u32(block + 16, big)
    return _packet(
        cursor,
        block + 28,
        captured,
        _u32(block + 24, big),
        load64(interface + CHECK),
        _nanoseconds(interface, ticks),
    )


@inline
def _simple(cursor: int, at: int, block: int, length: int, big: int) -> int:
    """A simple packet block: of interface 0, whose snap length tells what was captured."""
    if length < 16:
        return _fault(cursor, faults.CONTENT, at, 16)
    if load64(cursor + COUNT) == 0:
        return _fault(cursor, faults.UNDECLARED, at, 0)
    interface = load64(cursor + INTERFACES)
    wire = _u32(block + 8, big)
    snaplen = load64(interface + SNAPLEN)
    captured = min(wire, snaplen) if snaplen else wire
    if captured > MAX_CAPTURED:
        return _fault(cursor, faults.CAPTURED, at, captured)
    if captured > length - 16:
        return _fault(cursor, faults.CONTENT, at, captured + 16)
    return _packet(cursor, block + 12, captured, wire, load64(interface + CHECK), 0)


@inline
def _step_pcapng(cursor: int, at: int, change: int) -> int:
    """`step` for pcapng."""
    size = load64(cursor + SIZE)
    loaded = load64(cursor + BASE) + load64(cursor + FILLED)
    behind = at + 12
    if behind > loaded:
        if at == size:
            return END
        return MORE if behind <= size else _fault(cursor, faults.CUT, at, behind)
    block = load64(cursor + WINDOW) + at - load64(cursor + BASE)
    big = load64(cursor + BIG)
    kind = _u32(block, big)  # that of a section reads the same both ways
    if kind == BLOCK_SECTION:
        order = load32(block + 8)
        if order not in (BYTE_ORDER, BYTE_ORDER_SWAPPED):
            return _fault(cursor, faults.ORDER, at + 8, order)
        big = 1 if order == BYTE_ORDER_SWAPPED else 0
    length = _u32(block + 4, big)
    if length < 12 or length & 3 or length > MAX_BLOCK:
        return _fault(cursor, faults.BLOCK, at, length)
    behind = at + length
    if behind > loaded:
        return MORE if behind <= size else _fault(cursor, faults.CUT, at, behind)
    trailer = _u32(block + length - 4, big)
    if trailer != length:
        return _fault(cursor, faults.TRAILER, at, trailer)
    store64(cursor + NEXT, behind)
    if kind == BLOCK_ENHANCED:
        if length < 32:
            return _fault(cursor, faults.CONTENT, at, 32)
        return _enhanced(cursor, at, block, length, big, _u32(block + 8, big))
    if kind == BLOCK_SIMPLE:
        return _simple(cursor, at, block, length, big)
    if kind == BLOCK_OBSOLETE:
        return _enhanced(cursor, at, block, length, big, _u16(block + 8, big))
    if kind == BLOCK_INTERFACE:
        return _declare(cursor, at, block, length, big) if change else CHANGE
    if kind == BLOCK_SECTION:
        return _begin_section(cursor, at, block, length, big) if change else CHANGE
    return OTHER


@inline
def step(cursor: int, at: int, change: int) -> int:
    """Look at the record or block at an offset.

    Args:
        cursor: Address of its words. `NEXT` is set for `PACKET` and `OTHER`, and what the packet is
            for `PACKET`; the words of the fault for `FAULTY`. `HEAD` stays.
        at: Offset in the file, not before `BASE`.
        change: 1: take over what a section header or an interface description says, and answer
            `OTHER`; 0: answer `CHANGE` for these and leave the cursor as it is.
    """
    if load64(cursor + FORMAT) == PCAP:
        return _step_pcap(cursor, at)
    return _step_pcapng(cursor, at, change)
