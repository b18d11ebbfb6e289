"""What the transport shows of itself: the socket and its client, guest memory, interrupts.

For `emudev ctl show`. Everything is read when somebody asks; nothing is counted for it while
messages are served.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core.sections import Row, Section, Value

from .version import MAJOR

if TYPE_CHECKING:
    from .server import Server

__all__ = ["RANGES", "server_sections"]

#: Ranges of guest memory that are shown; the core's section `memory` has all.
RANGES: Final = 16

#: Columns of what is known with a client alone.
_SESSION: Final = (
    "seconds",
    "phase",
    "version",
    "max_msg_fds",
    "max_data_xfer_size",
    "max_dma_maps",
    "write_multiple",
    "sent_bytes",
    "unsent_bytes",
)

#: By index of the group. Source: Linux, include/uapi/linux/vfio.h, VFIO_PCI_*_IRQ_INDEX.
_GROUPS: Final = ("INTx", "MSI", "MSI-X", "ERR", "REQ")


def server_sections(server: Server) -> list[Section]:
    """The sections of a server; without a client only the first one has rows."""
    return [
        Section("vfio-user", "the socket, its client and what that takes", partial(_ends, server)),
        Section("dma", "guest memory in sum, and accesses to it by message", partial(_dma, server)),
        Section(
            "dma-ranges",
            f"the first {RANGES} ranges of guest memory, and how they are reached",
            partial(_ranges, server),
            ("guest", "size"),
        ),
        Section("irqs", "interrupts and the vectors with an eventfd", partial(_irqs, server)),
    ]


def _ends(server: Server) -> Iterator[Row]:
    session, peer = server.session, server.peer
    row: dict[str, Value] = {
        "socket": server.path,
        "listening": server.listening,
        "clients": server.clients,
        "refused": server.refused,
        "connected": session is not None,
        "pid": None if peer is None else peer.pid,
        "uid": None if peer is None else peer.uid,
        **dict.fromkeys(_SESSION),
    }
    if session is not None:
        sent, unsent = session.sent
        row |= {
            "seconds": round(time.monotonic() - server.since, 3),
            "phase": session.phase.value,
            "sent_bytes": sent,
            "unsent_bytes": unsent,
        }
        if session.attached:
            limits = session.limits
            row |= {
                "version": f"{MAJOR}.{limits.minor}",
                "max_msg_fds": limits.max_msg_fds,
                "max_data_xfer_size": limits.max_data_xfer_size,
                "max_dma_maps": limits.max_dma_maps,
                "write_multiple": limits.write_multiple,
            }
    yield row


def _dma(server: Server) -> Iterator[Row]:
    session = server.session
    if session is None:
        return
    table, channel = session.dma, session.channel
    yield {
        "ranges": len(table),
        "by_message": table.table.by_message,
        "mapped_bytes": table.mapped_bytes,
        "message_bytes": table.message_bytes,
        "kept_after_unmap": len(session.limbo),
        "generation": table.table.generation,
        "reads": channel.reads,
        "read_bytes": channel.read_bytes,
        "writes": channel.writes,
        "written_bytes": channel.written_bytes,
        "failed_writes": channel.failed_writes,
        "outstanding": channel.outstanding,
        "waiting": channel.waiting,
        "left_bytes": channel.queued,
        "largest": channel.chunk,
    }


def _ranges(server: Server) -> Iterator[Row]:
    session = server.session
    if session is None:
        return
    for entry in session.dma.entries(RANGES):
        region = entry.region
        yield {
            "guest": region.guest,
            "size": region.size,
            "access": "r" * region.readable + "w" * region.writable,
            "reached": "mapped" if entry.mapping is not None else "by message",
            "faults": None if entry.guard is None else entry.guard.faults,
        }
    more = len(session.dma) - RANGES
    if more > 0:
        how = f"{more} more: see memory"
        yield {"guest": None, "size": None, "access": "", "reached": how, "faults": None}


def _irqs(server: Server) -> Iterator[Row]:
    session = server.session
    if session is None:
        return
    bound: dict[int, list[int]] = {}
    for index, vector in session.irqs.bound():
        bound.setdefault(index, []).append(vector)
    for index in range(session.irqs.count):
        group = session.irqs.groups.get(index)
        vectors = sorted(bound.get(index, ()))
        yield {
            "group": index,
            "name": _GROUPS[index] if index < len(_GROUPS) else "",
            "vectors": 0 if group is None else group.count,
            "bound": len(vectors),
            "which": _number_text(vectors),
        }


def _number_text(numbers: list[int]) -> str:
    """Ascending numbers in few words: ``1-4 7``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
