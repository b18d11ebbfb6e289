"""From a request to its reply: exactly one, with the request's opcode, whatever came.

Source: avf.md sections 0 (fact 2), 4.1, 4.2 and 4.3.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from emudev_core.errors import DecodeError

from . import base, channels, fdir, filters, flow_subscription, large, ptp, qos, queues, rss, vlan
from .handlers import HANDLERS, Answer, Refused
from .opcodes import Status

if TYPE_CHECKING:
    from ..history import History
    from ..vf import Vf

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

#: The modules whose handlers are served; importing them has declared the handlers.
GROUPS = (base, queues, large, filters, vlan, rss, qos, ptp, fdir, flow_subscription, channels)


class Dispatcher:
    """Answers the requests of one VF. For the loop's thread.

    Args:
        vf: The VF; its `outside` sends the replies.
        history: Told of requests and refusals, if there is one.

    Attributes:
        refused: Requests that got a negative status.
    """

    def __init__(self, vf: Vf, history: History | None = None) -> None:
        self._vf = vf
        self._history = history
        self.refused = 0

    def receive(self, opcode: int, payload: bytes) -> None:
        """Take a request and answer it.

        Args:
            opcode: Any number of 32 bits.
            payload: At most 4096 bytes.
        """
        if self._history is not None:
            self._history.request(opcode, len(payload))
        try:
            answer = self._answer(opcode, payload)
        except DecodeError as exc:
            self._refuse(opcode, Status.ERR_PARAM, str(exc))
        except Refused as exc:
            self._refuse(opcode, exc.status, str(exc))
        else:
            if not answer.silent:
                self._vf.outside.send(opcode, Status.SUCCESS, answer.payload)
            if answer.then is not None:
                answer.then()

    def _answer(self, opcode: int, payload: bytes) -> Answer:
        handler = HANDLERS.get(opcode)
        if handler is None:
            raise Refused(Status.ERR_NOT_SUPPORTED, "not implemented")
        if handler.gate not in self._vf.caps:
            raise Refused(Status.ERR_NOT_SUPPORTED, f"needs {handler.gate!r}, which is not granted")
        return handler.function(self._vf, payload)

    def _refuse(self, opcode: int, status: Status, reason: str) -> None:
        self.refused += 1
        if self._history is not None:
            self._history.refuse(reason)
        log.debug("virtchnl request %d refused with %d: %s", opcode, status, reason)
        self._vf.outside.send(opcode, status, b"")
