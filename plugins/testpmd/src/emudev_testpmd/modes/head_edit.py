"""Packet functions that change the head of each packet, or drop it."""

from __future__ import annotations

from collections.abc import Callable

from emudev_net.burst import FLAGS, ROW, packet_rows
from emudev_net.jit import Kernel, queue_kernel
from emudev_net.packet_function import copy_head, emit, head_size
from emudev_net.primitives import load64

from .headers import ETHERNET

__all__ = ["edit_heads"]


def edit_heads(mode: str, change: Callable[[int, int, int, int], int]) -> Kernel:
    """The packet function of a mode; frames that are no whole Ethernet header are dropped.

    Args:
        mode: Its name, for that of the kernel.
        change: A function marked `inline`: given the state, the address and the bytes of a copy of
            the head, and the packet's flags, it changes the copy; 0 drops the packet.
    """

    def edit(state: int, burst: int, rows: int) -> int:
        row = 0
        out = 0
        while row < rows:
            end = row + packet_rows(burst, row, rows)
            size = head_size(burst, row, end)
            if size >= ETHERNET:
                head = copy_head(state, burst, row, end, size)
                if change(state, head, size, load64(burst + row * ROW + FLAGS)) != 0:
                    out = emit(state, burst, row, end, out, head, size, size)
            row = end
        return out

    edit.__qualname__ = f"edit of {mode}"
    return queue_kernel(edit)
