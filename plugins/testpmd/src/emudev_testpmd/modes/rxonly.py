"""``rxonly``: packets are received and dropped.

Its sink takes everything and looks at nothing; ``flowgen`` receives by it, too. Source: testpmd,
rxonly.c.
"""

from __future__ import annotations

from typing import Final

from emudev_core.queues import Offload, QueueKernels
from emudev_net.jit import queue_kernel
from emudev_net.primitives import Words

from .parts import Part, StreamContext

__all__ = ["KERNELS", "DISCARD", "parts", "take"]


@queue_kernel
def take(state: int, burst: int, rows: int) -> int:
    """Take all; the packets are never touched."""
    return rows


_words: Final = Words(1)  # a sink has words, if only to be told apart
_ALL: Final = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO | Offload.VLAN

#: The sink; it has no state, so any thread may use it.
DISCARD: Final = QueueKernels(_words.address, None, take, None, None, takes=_ALL)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (take,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to nowhere."""
    return (Part(context.source(), DISCARD, sends=False),)
