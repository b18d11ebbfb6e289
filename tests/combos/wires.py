"""The application of combinations with ports: flows between a device's port and another port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emudev_core.host import Host

__all__ = ["Wire", "as_port"]


def as_port(backend: object) -> Any:
    """The backend as a port, or None if it is none, or nothing here knows of ports."""
    try:
        from emudev_net.port import Port
    except ImportError:
        return None
    return backend if isinstance(backend, Port) else None


class Wire:
    """Flows both ways between two ports, woken by what arrives.

    Args:
        host: Their host.
        front: The port over the device; it is started at once, so that its guest has a link.
        back: Where its frames go; started by `join`.
    """

    def __init__(self, host: Host, front: Any, back: Any) -> None:
        self._host = host
        self._front = front
        self.back = back
        self._undo: list[Callable[[], None]] = []
        front.configure(1, 1)
        front.start()

    def join(self) -> None:
        """Let frames pass; again does nothing."""
        if self._undo:
            return
        self.back.configure(1, 1)
        self.back.start()
        for source, sink in ((self._front, self.back), (self.back, self._front)):
            self._flow(source, sink)

    def _flow(self, source: Any, sink: Any) -> None:
        from emudev_net.flow import Flow
        from emudev_net.port import PortEventKind

        flow = Flow(self._host.loop, source.rx_queue(0), sink.tx_queue(0))

        def restart(event: Any) -> None:
            if event.kind in (PortEventKind.RESET, PortEventKind.QUEUE_STATE):
                flow.restart()

        self._undo += [
            flow.close,
            source.subscribe_rx(0, flow.kick),
            sink.subscribe_tx(0, flow.kick),
            source.subscribe(restart),
        ]
        flow.kick()

    def close(self) -> None:
        """Move nothing more, and close both ports."""
        for undo in self._undo:
            undo()
        self._front.close()
        self.back.close()
