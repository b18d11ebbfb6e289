"""The helper ``transfer``: TCP transfers to compare byte for byte (run as a module, port 7000).

A connection starts with one line: ``put N`` (N bytes follow; their SHA-256 is answered), ``get N``
(N bytes of a fixed pseudo-random stream are sent) or ``sum N`` (the SHA-256 of those is answered).
"""

from __future__ import annotations

import hashlib
import random
import socket
import socketserver
from collections.abc import Iterator
from typing import Final

__all__ = ["PORT", "stream"]

PORT: Final = 7000
_BLOCK: Final = random.Random(0xE31).randbytes(1 << 20)
_PART: Final = 1 << 18
_SILENCE: Final = 60.0  # seconds until a connection on which nothing happens is given up


def stream(size: int) -> Iterator[bytes]:
    """The first `size` bytes of the fixed stream, in pieces."""
    while size > 0:
        piece = _BLOCK[: min(size, len(_BLOCK))]
        yield piece
        size -= len(piece)


class _Handler(socketserver.StreamRequestHandler):
    timeout = _SILENCE

    def handle(self) -> None:
        word, _, number = self.rfile.readline(64).decode().partition(" ")
        size = int(number)
        if word == "get":
            for piece in stream(size):
                self.wfile.write(piece)
            return
        digest = hashlib.sha256()
        if word == "sum":
            for piece in stream(size):
                digest.update(piece)
        elif word == "put":
            while size > 0 and (piece := self.rfile.read1(min(size, _PART))):
                digest.update(piece)
                size -= len(piece)
        self.wfile.write(digest.hexdigest().encode() + b"\n")


class _Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # takes IPv4 too: the kernel's default for a wildcard address
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with _Server(("::", PORT), _Handler) as server:
        server.serve_forever()
