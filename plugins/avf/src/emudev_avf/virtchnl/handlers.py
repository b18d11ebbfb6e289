"""How the answer to a request is declared: handlers by opcode, their gates, answers, refusals.

    @handler(Op.CONFIG_RSS_KEY, gate=Cap.RSS_PF)
    def config_rss_key(vf: Vf, payload: bytes) -> Answer:
        ...
        return OK

A handler checks everything before it changes anything: a refused request leaves the VF as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from emudev_core.wire import Wire

from .opcodes import Cap, Op, Status

if TYPE_CHECKING:
    from ..vf import Vf

__all__ = ["HANDLERS", "OK", "SILENT", "Answer", "Handler", "Refused", "check", "elements"]

W = TypeVar("W", bound=Wire)


class Refused(Exception):
    """A request that gets a negative status; never leaves the dispatcher.

    Args:
        status: The status.
        reason: For the log.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@attrs.frozen
class Answer:
    """What a request that succeeded gets.

    Attributes:
        payload: Of the reply.
        silent: There is no reply (RESET_VF, REQUEST_QUEUES).
        then: Called after the reply was sent.
    """

    payload: bytes = b""
    silent: bool = False
    then: Callable[[], None] | None = None


#: A reply without payload.
OK: Final = Answer()
#: No reply.
SILENT: Final = Answer(silent=True)

#: No capability is needed.
NO_GATE: Final = Cap(0)

Function = Callable[["Vf", bytes], Answer]


@attrs.frozen
class Handler:
    """The handler of an opcode.

    Attributes:
        function: Given the VF and the payload; raises `Refused` or `DecodeError`.
        gate: Capability that must have been granted, or none.
    """

    function: Function
    gate: Cap = NO_GATE


#: Filled by the modules of the groups when `dispatch` imports them.
HANDLERS: Final[dict[int, Handler]] = {}


def handler(op: Op, *, gate: Cap = NO_GATE) -> Callable[[Function], Function]:
    """Declare the handler of an opcode.

    Raises:
        ValueError: At import, if there is one already.
    """

    def register(function: Function) -> Function:
        if op in HANDLERS:
            raise ValueError(f"{op.name} has two handlers")
        HANDLERS[op] = Handler(function, gate)
        return function

    return register


def check(condition: Any, reason: str, *values: Any) -> None:
    """Refuse the request as ERR_PARAM unless `condition` holds.

    Args:
        condition: What must be true.
        reason: What was expected, with %-places.
        values: What came.
    """
    if not condition:
        raise Refused(Status.ERR_PARAM, reason % values if values else reason)


def elements(kind: type[W], payload: bytes, count: int, offset: int) -> list[W]:
    """The row of elements behind a head.

    Longer payloads are fine: both drivers send one element more than they count (avf.md 4.2).

    Raises:
        Refused: None at all.
        DecodeError: They are not all there.
    """
    check(count > 0, "%s: a row of none", kind.__name__)
    return kind.unpack_many(payload, count, offset)
