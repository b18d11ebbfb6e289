"""``io``: packets go on as they are; nobody looks into them, and metadata goes with them."""

from __future__ import annotations

from .parts import Part, StreamContext

__all__ = ["parts"]


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    return (Part(context.source(), context.sink()),)
