"""The kernel of a sink that leads nowhere."""

from __future__ import annotations

from typing import Final

from emudev_net.jit import queue_kernel

__all__ = ["KERNELS", "discard"]


@queue_kernel
def discard(_state: int, _burst: int, rows: int) -> int:
    """Take whatever comes, and drop it; the flow counts."""
    return rows


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (discard,)
