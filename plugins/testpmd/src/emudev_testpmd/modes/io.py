"""``io``: packets go on as they are; nobody looks into them, and metadata goes with them."""

from __future__ import annotations

from typing import Final

from emudev_net.jit import Kernel

from .parts import Part, StreamContext

__all__ = ["KERNELS", "parts"]


#: The kernels of this mode, for `compile_all`.
KERNELS: Final[tuple[Kernel, ...]] = ()


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    return (Part(context.source(), context.sink()),)
