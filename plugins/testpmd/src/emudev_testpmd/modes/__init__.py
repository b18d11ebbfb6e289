"""The forwarding modes: what each makes of a stream.

A mode is a function that makes the *parts* of a stream: for most a source, a sink and perhaps a
packet function between them; ``flowgen`` has two parts, since it receives and sends regardless of
each other. `parts_of` chooses by name; each mode has a module of its own, imported when it is
chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from emudev_core.queues import QueueKernel
from emudev_net import flow, worker_kernels

from .parts import Part, StreamContext

__all__ = ["MODULES", "Part", "StreamContext", "kernels_of", "kernels_of_mode", "parts_of"]

#: Module of each mode; a name of `options.MODES` may be no name for a module.
MODULES: Final[Mapping[str, str]] = {
    "io": "io",
    "mac": "mac",
    "macswap": "macswap",
    "rxonly": "rxonly",
    "txonly": "txonly",
    "csum": "csum",
    "icmpecho": "icmpecho",
    "flowgen": "flowgen",
    "5tswap": "fivetuple",
}


def _module(mode: str) -> Any:
    return importlib.import_module(f"{__name__}.{MODULES[mode]}")


def parts_of(mode: str, context: StreamContext) -> tuple[Part, ...]:
    """The parts of a stream.

    Args:
        mode: One of `options.MODES`.
        context: What the stream joins.

    Raises:
        LifecycleError: A queue is not set up.
    """
    made: tuple[Part, ...] = _module(mode).parts(context)
    return made


def kernels_of_mode(mode: str) -> list[QueueKernel]:
    """What runs in a mode whatever the ports are: to be compiled before there are streams."""
    return [*flow.KERNELS, *worker_kernels.KERNELS, *_module(mode).KERNELS]


def kernels_of(parts: Iterable[Part]) -> list[QueueKernel]:
    """All kernels that run for these parts, those of flows and workers included."""
    found: dict[QueueKernel, None] = dict.fromkeys((*flow.KERNELS, *worker_kernels.KERNELS))
    for part in parts:
        source, sink = part.source, part.sink
        ends = (source.peek, source.release, source.notify, sink.push, sink.notify)
        found.update(dict.fromkeys(kernel for kernel in ends if kernel is not None))
        if sink.kind in source.forward:
            found[source.forward[sink.kind]] = None
        if part.edit is not None:
            found[part.edit.kernel] = None
    return list(found)
