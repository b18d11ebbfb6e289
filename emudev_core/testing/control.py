"""Tests of the control socket: a client of bytes, and a member that shows something."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from ..closing import Closing
from ..control.server import ControlServer
from ..hooks import hookimpl
from ..sections import Section, SectionTable

__all__ = ["Looker", "Wire"]


class Looker:
    """A member of a device that shows something, as a backend would.

    Attributes:
        sections: What it shows.
    """

    def __init__(self) -> None:
        self.sections = SectionTable()
        self.sections.add("taps", "what it has", lambda: [{"fd": 7, "flags": 0x1002}], ("flags",))

    @hookimpl
    def emudev_get_state(self) -> list[Section]:
        """All sections."""
        return self.sections.all()


class Wire(Closing):
    """A client of bytes, on the thread of the loop.

    Args:
        server: What it connects to.

    Attributes:
        loop: The server's.
        socket: Its own; does not block.
        data: What has come and is not taken yet.
    """

    def __init__(self, server: ControlServer) -> None:
        self.loop = server.loop
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(server.path))
        self.socket.setblocking(False)
        self.data = b""

    def turn(self, times: int = 1) -> None:
        """Turn the loop, and keep what comes."""
        for _ in range(times):
            self.loop.turn(0.01)
            with contextlib.suppress(BlockingIOError):
                self.data += self.socket.recv(1 << 20)

    def line(self) -> dict[str, Any]:
        """The next line.

        Raises:
            AssertionError: None comes.
        """
        for _ in range(500):
            head, newline, rest = self.data.partition(b"\n")
            if newline:
                self.data = rest
                found: dict[str, Any] = json.loads(head)
                return found
            self.turn()
        raise AssertionError(f"no line came, but {self.data!r}")

    def ask(self, line: bytes) -> dict[str, Any]:
        """The reply to a line."""
        self.socket.sendall(line + b"\n")
        return self.line()

    def ended(self) -> bool:
        """Whether the server closes the connection, with nothing more to say."""
        for _ in range(500):
            self.loop.turn(0.01)
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return True
            if not data:
                return True
        return False

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
