"""Taking back what a client gave: memory, eventfds, and the device's state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from emudev_core.later import Later
from emudev_core.regions import ResetKind

from .dma import DmaEntry
from .steps import Procedure

if TYPE_CHECKING:
    from .session import Session

__all__ = ["take_back", "unmap"]

log = logging.getLogger(__name__)


def unmap(session: Session, entries: Sequence[DmaEntry]) -> Procedure[None]:
    """Take mappings back; memory is unmapped when the provider has let go of it.

    They leave the table together, since a client may have tens of thousands: the provider is told
    of each with the table that is left in the end. If it fails at one or is late, somebody may
    still use the addresses: they stay mapped, in `Session.limbo`, until a reset was answered. The
    others are taken back all the same, and the first failure is raised at the end.
    """
    if not entries:
        return
    session.dma.remove(entries)
    failure: Exception | None = None
    for entry in entries:
        try:
            answer = session.device.dma_unmap(session.dma.table, entry.region)
            if isinstance(answer, Later):
                yield answer
        except Exception as exc:
            session.limbo.append(entry)
            failure = failure or exc
        else:
            entry.close()
    if failure is not None:
        raise failure


def take_back(session: Session) -> Procedure[None]:
    """Take everything back; each step is done whatever the ones before came to."""
    device = session.device
    _attempt(session, session.irqs.clear)
    try:
        yield from unmap(session, session.dma.entries())
    except Exception as exc:
        _report(session, exc)
    if not session.attached:
        return  # it never came so far as to change anything
    try:
        answer = device.reset(ResetKind.CLIENT_GONE)
        if isinstance(answer, Later):
            yield answer
    except Exception as exc:
        _report(session, exc)
    else:
        # The device has let go of everything, so nobody uses these addresses any more.
        while session.limbo:
            session.limbo.pop().close()
    _attempt(session, device.client_detached)


def _attempt(session: Session, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as exc:
        _report(session, exc)


def _report(session: Session, exc: Exception) -> None:
    log.error("%s: taking back from %s: %s", session.device.name, session.client, exc)
    session.device.fail(exc, "taking a client's memory and interrupts back")
