"""The compiled loop of a flow: peek, edit, soften, push, release.

`pump` calls the kernels of both ends through their addresses, a burst at a time:

- a *fused* kernel of the source, if it has one for this sink, moves what it can by itself; the
  universal way, below, does whatever it stopped before, so neither needs to know of the other;
- a *packet function*, if the flow has one, makes another burst of what was peeked (see
  `packet_function` for its contract);
- the *software stage* stands between where the sink does not take what a packet asks for;
- what the sink has no room for stays in the source, or is dropped, as the flow was told.

A kernel that answers a negative number has failed: the loop ends, and so does every later call.
"""

from __future__ import annotations

from typing import Final

from .burst import (
    CRC32C_WANTED,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    GSO_MASK,
    OUTER_VLAN_PRESENT,
    OWN,
    ROW,
    VLAN_PRESENT,
    packet_rows,
)
from .jit import inline, queue_kernel
from .packet_function import OUT, OUT_CAPACITY
from .primitives import call3, load64, store64
from .software import needs_software, settle, soften
from .stage import S_MALFORMED, S_OUT, S_RESUME, S_RESUME_OWN, S_TAKES, STAGE_WORDS

__all__ = ["KERNELS", "OVERRUN", "look", "pump", "tell"]

# Words of a flow, behind those of its software stage.
SOURCE: Final = STAGE_WORDS + 0  #: state of the source
PEEK: Final = STAGE_WORDS + 1
RELEASE: Final = STAGE_WORDS + 2
SOURCE_NOTIFY: Final = STAGE_WORDS + 3
SINK: Final = STAGE_WORDS + 4  #: state of the sink
PUSH: Final = STAGE_WORDS + 5
SINK_NOTIFY: Final = STAGE_WORDS + 6
BURST: Final = STAGE_WORDS + 7  #: address of the burst that is peeked into
CAPACITY: Final = STAGE_WORDS + 8  #: rows that are peeked at one time
MOST: Final = STAGE_WORDS + 9  #: rows of the burst: room for a packet longer than that
FORWARD: Final = STAGE_WORDS + 10  #: the fused kernel for this sink, or 0
EDIT: Final = STAGE_WORDS + 11  #: the packet function, or 0
EDIT_WORDS: Final = STAGE_WORDS + 12  #: address of its words
DROP: Final = STAGE_WORDS + 13  #: 1 = what the sink has no room for is lost
FAILED: Final = STAGE_WORDS + 14  #: what the kernel that failed has answered, 0 = none has
HALF: Final = STAGE_WORDS + 15  #: the source's own word of an edited frame that is half moved
# Counters.
ROWS: Final = STAGE_WORDS + 16  #: rows of the source that are done
PASSES: Final = STAGE_WORDS + 17  #: calls of `pump`
SOFTENED: Final = STAGE_WORDS + 18  #: bursts that went through the software stage
BLOCKED: Final = STAGE_WORDS + 19  #: times that the sink had no room
RECEIVED: Final = STAGE_WORDS + 20  #: packets of the source that are done
SENT: Final = STAGE_WORDS + 21  #: of these, those that the sink took
DROPPED: Final = STAGE_WORDS + 22  #: those that it had no room for
REFUSED: Final = STAGE_WORDS + 23  #: those that the packet function dropped
# For waits outside of the interpreter.
PUMP: Final = STAGE_WORDS + 24  #: address of `pump`; 0 = only the interpreter may run it
RESTING: Final = STAGE_WORDS + 25  #: 1 = nobody wants to know of what the source has
BUDGET: Final = STAGE_WORDS + 26
FLOW_WORDS: Final = STAGE_WORDS + 27

#: The failure of a packet function that makes more rows than it has room for.
OVERRUN: Final = -1000

# The outcomes; `flow.Outcome`.
_FULL: Final = 1
_BUDGET: Final = 2

_REQUESTS: Final = CSUM_WANTED | CRC32C_WANTED | VLAN_PRESENT | OUTER_VLAN_PRESENT | GSO_MASK


@inline
def _notify(address: int, state: int) -> int:
    """Call a notify kernel if the end has one; negative if it failed."""
    return call3(address, state, 0, 0) if address != 0 else 0


@inline
def _wants_software(burst: int, rows: int, takes: int) -> int:
    """1 if a packet of the burst has a request that the sink does not take."""
    for i in range(rows):
        flags = load64(burst + i * ROW + FLAGS)
        if flags & FIRST and needs_software(flags, takes):
            return 1
    return 0


@inline
def _look_over(burst: int, rows: int, takes: int) -> int:
    """Twice the packets of a burst; one more if one needs the software stage."""
    packets = 0
    seen = 0
    for i in range(rows):
        flags = load64(burst + i * ROW + FLAGS)
        packets += flags & FIRST
        seen |= flags
    if seen & _REQUESTS and _wants_software(burst, rows, takes):
        return 2 * packets + 1
    return 2 * packets


@inline
def _count(burst: int, rows: int) -> int:
    """The packets of a burst."""
    packets = 0
    for i in range(rows):
        packets += load64(burst + i * ROW + FLAGS) & FIRST
    return packets


@inline
def _push_softened(flow: int, burst: int, rows: int) -> int:
    """Give a burst to the sink through the software stage.

    Returns:
        Rows of it that are done, fewer than given if there was no room; less than 0 on a failure.
    """
    done = 0
    while done < rows:
        made = soften(flow, burst + done * ROW, rows - done)
        if made < 0:  # a packet that can't be expressed: counted, left out
            done -= made
            continue
        if made == 0:
            break
        taken = call3(
            load64(flow + 8 * PUSH), load64(flow + 8 * SINK), load64(flow + 8 * S_OUT), made
        )
        if taken < 0:
            return taken
        if taken > 0:
            done += settle(flow, taken)
        if taken < made:
            break
    return done


@inline
def _packet_before(burst: int, end: int) -> int:
    """The first row of the packet that ends before row `end`."""
    row = 0
    while row < end:
        behind = row + packet_rows(burst, row, end)
        if behind >= end:
            break
        row = behind
    return row


@inline
def _source_end(made: int, row: int, rows: int) -> int:
    """The source row behind the packet that an edited one, at `row`, was made of.

    A packet function may be anybody's, so its word is taken within the burst only.
    """
    return min(max(load64(made + row * ROW + OWN), 0), rows)


@inline
def _resume_edited(flow: int, burst: int, rows: int, made: int) -> None:
    """Go on in the middle of the frame that was half moved, if it leads the edited burst, too.

    The software stage knows a frame by the own word of its first row, and edited ones have none
    that lasts.
    """
    end = _source_end(made, 0, rows)
    if load64(burst + _packet_before(burst, end) * ROW + OWN) == load64(flow + 8 * HALF):
        store64(flow + 8 * S_RESUME_OWN, load64(made + OWN))
    else:
        store64(flow + 8 * S_RESUME, 0)


@inline
def _settle_edited(flow: int, burst: int, rows: int, made: int, done: int) -> int:
    """The source rows that are done when the sink has taken some rows of the edited burst only."""
    if load64(flow + 8 * S_RESUME) != 0:
        end = _source_end(made, done, rows)
        own = load64(burst + _packet_before(burst, end) * ROW + OWN)
        store64(flow + 8 * HALF, own)
    if done == 0:
        return 0
    row = done - 1
    while row > 0 and load64(made + row * ROW + FLAGS) & FIRST == 0:
        row -= 1
    return _source_end(made, row, rows)


@inline
def _peek(flow: int, source: int, burst: int) -> int:
    """Look at the next burst of the source; a packet of more rows than a burst comes alone."""
    capacity = load64(flow + 8 * CAPACITY)
    rows = call3(load64(flow + 8 * PEEK), source, burst, capacity)
    most = load64(flow + 8 * MOST)
    if rows == 0 and capacity < most:
        rows = call3(load64(flow + 8 * PEEK), source, burst, most)
        if rows > 0:
            rows = packet_rows(burst, 0, rows)
    return rows


@queue_kernel
def pump(flow: int, _burst: int, budget: int) -> int:
    """Move packets from the flow's source to its sink.

    Args:
        flow: Address of the flow's words.
        _burst: Not used.
        budget: Rows after which to come back.

    Returns:
        A `flow.Outcome`, or what the kernel that failed has answered, less than 0.
    """
    outcome = load64(flow + 8 * FAILED)
    if outcome != 0:
        return outcome
    source = load64(flow + 8 * SOURCE)
    sink = load64(flow + 8 * SINK)
    burst = load64(flow + 8 * BURST)
    takes = load64(flow + 8 * S_TAKES)
    capacity = load64(flow + 8 * CAPACITY)
    forward = load64(flow + 8 * FORWARD)
    edit = load64(flow + 8 * EDIT)
    moved = 0
    received = 0
    sent = 0
    while True:
        if forward != 0 and load64(flow + 8 * S_RESUME) == 0:
            rows = call3(forward, source, sink, capacity)
            if rows < 0:
                outcome = rows
                break
            moved += rows
            received += rows
            sent += rows
            if moved >= budget:
                outcome = _BUDGET
                break
            if rows >= capacity:
                continue
        rows = _peek(flow, source, burst)
        if rows <= 0:
            outcome = rows
            break
        table = burst
        made = rows
        if edit != 0:
            words = load64(flow + 8 * EDIT_WORDS)
            table = load64(words + OUT)
            made = call3(edit, words, burst, rows)
            if made < 0 or made > load64(words + OUT_CAPACITY):
                outcome = made if made < 0 else OVERRUN
                break
            if made > 0 and load64(flow + 8 * S_RESUME) != 0:
                _resume_edited(flow, burst, rows, table)
        packets = _look_over(table, made, takes)
        malformed = load64(flow + 8 * S_MALFORMED)
        if packets & 1 or load64(flow + 8 * S_RESUME) != 0:
            store64(flow + 8 * SOFTENED, load64(flow + 8 * SOFTENED) + 1)
            done = _push_softened(flow, table, made)
        elif made > 0:
            done = call3(load64(flow + 8 * PUSH), sink, table, made)
        else:
            done = 0
        if done < 0:
            outcome = done
            break
        packets >>= 1
        gone = packets
        lost = 0
        finished = rows
        if done < made:
            store64(flow + 8 * BLOCKED, load64(flow + 8 * BLOCKED) + 1)
            gone = _count(table, done)
            if load64(flow + 8 * DROP) != 0:
                lost = packets - gone
                store64(flow + 8 * S_RESUME, 0)
                store64(flow + 8 * DROPPED, load64(flow + 8 * DROPPED) + lost)
                # The other side is to make room, rather than sleep until the budget is used up.
                outcome = min(_notify(load64(flow + 8 * SINK_NOTIFY), sink), 0)
            else:
                outcome = _FULL
                finished = done
                if edit != 0:
                    finished = _settle_edited(flow, burst, rows, table, done)
        sent += gone + malformed - load64(flow + 8 * S_MALFORMED)
        if edit != 0:
            gone += lost
            known = _count(burst, finished)
            store64(flow + 8 * REFUSED, load64(flow + 8 * REFUSED) + known - gone)
            received += known
        else:
            received += gone + lost
        if finished > 0:
            moved += finished
            failure = call3(load64(flow + 8 * RELEASE), source, burst, finished)
            if failure < 0:
                outcome = failure
        if outcome != 0:
            break
        if moved >= budget:
            outcome = _BUDGET
            break
    store64(flow + 8 * ROWS, load64(flow + 8 * ROWS) + moved)
    store64(flow + 8 * PASSES, load64(flow + 8 * PASSES) + 1)
    store64(flow + 8 * RECEIVED, load64(flow + 8 * RECEIVED) + received)
    store64(flow + 8 * SENT, load64(flow + 8 * SENT) + sent)
    if outcome >= 0:
        first = _notify(load64(flow + 8 * SOURCE_NOTIFY), source)
        second = _notify(load64(flow + 8 * SINK_NOTIFY), sink)
        if first < 0 or second < 0:
            outcome = min(first, second)
    if outcome < 0:
        store64(flow + 8 * FAILED, outcome)
    return outcome


@queue_kernel
def look(flow: int, _burst: int, _rows: int) -> int:
    """The shortcut of a flow: run it once.

    Returns:
        0 if its source is empty or it rests; 1 if `Flow.kick` has to be called.
    """
    if load64(flow + 8 * RESTING) != 0:
        return 0
    run = load64(flow + 8 * PUMP)
    if run == 0:
        return 1
    return 1 if call3(run, flow, 0, load64(flow + 8 * BUDGET)) != 0 else 0


@queue_kernel
def tell(word: int, _burst: int, _rows: int) -> int:
    """The shortcut of a callback that has something to do only while a word is not 0."""
    return load64(word)


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (pump, look, tell)
