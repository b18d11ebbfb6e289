r"""memif peers by hand, over a real socket: what an interface meets in tests.

Messages are built of numbers, not by `wire`, and rings are walked by `plain_peer`, so that a
mistake does not repeat itself. Nothing here waits without turning somebody's loop: `turn` is called
with the seconds that it may take, such as ``host.loop.turn``.

    with MemifClient(host.loop.turn, b"\0/run/memif.sock", id=0) as client:
        client.send([b"..."])
        client.receive()                     # -> [b"..."]

`records` has every message of the control socket, `ends` both ends of the protocol without a
socket, `steps` what tests of servers do again and again.

Source: memif.md.
"""

from . import records
from .peers import MemifClient, MemifServer
from .records import HandMade

__all__ = ["HandMade", "MemifClient", "MemifServer", "records"]
