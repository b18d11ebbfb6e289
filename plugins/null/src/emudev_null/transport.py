"""The transport ``inproc``, the device's end: it listens to nothing and lets one client in."""

from __future__ import annotations

from typing import Protocol

from emudev_core.device import Device
from emudev_core.errors import TransportError
from emudev_core.hooks import hookimpl

__all__ = ["InprocTransport"]


class _Client(Protocol):
    """What the transport needs of its client."""

    def close(self) -> None:
        """Go away."""


class InprocTransport:
    """See the module. On the loop's thread.

    Args:
        device: The device that is served.

    Attributes:
        listening: Whether a client may come.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._client: _Client | None = None
        self.listening = False

    @hookimpl
    def emudev_listen(self) -> str:
        """Let a client come."""
        self.listening = True
        return f"inproc:{self._device.name}"

    @hookimpl
    def emudev_unlisten(self) -> bool:
        """Let the client go, and no other come."""
        self.listening = False
        if self._client is not None:
            self._client.close()
        return True

    def enter(self, client: _Client) -> None:
        """Let a client in.

        Raises:
            TransportError: The device is not started, or has a client.
        """
        if not self.listening:
            raise TransportError(f"{self._device.name} is not started: nobody listens")
        if self._client is not None:
            raise TransportError(f"{self._device.name} has a client already")
        self._client = client
        self._device.client_attached("inproc")

    def leave(self) -> None:
        """The client has gone."""
        self._client = None
        self._device.client_detached()
