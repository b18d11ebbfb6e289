"""Small frames into a TAP interface at a steady rate (run as a module on the host side).

    python -m emudev_lab.blast tap0 --rate 50000 --seconds 3

prints how many frames it sent. They are broadcasts of a local experimental EtherType, so that
neither end needs an address, and no stack answers them.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["blast", "frame"]

#: EtherType of the frames. Source: IEEE 802, Local Experimental Ethertype 1.
ETHERTYPE: Final = 0x88B5
_SLICE: Final = 0.001  # seconds: how often the rate is looked at


def frame(size: int = 60) -> bytes:
    """A broadcast frame of `size` bytes, 14 or more, without its FCS."""
    head = b"\xff" * 6 + bytes.fromhex("525400770101") + ETHERTYPE.to_bytes(2)
    return head.ljust(size, b"\x5a")


def blast(send: Callable[[bytes], object], rate: int, seconds: float, size: int = 60) -> int:
    """Send frames.

    Args:
        send: Takes a frame; raises BlockingIOError or OSError (ENOBUFS) if there is no room.
        rate: Frames a second.
        seconds: For how long.
        size: Bytes of a frame.

    Returns:
        How many were taken.
    """
    data = frame(size)
    sent = tried = 0
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        due = int(passed * rate)
        while tried < due:
            tried += 1
            try:
                send(data)
            except OSError:  # the queue of the interface is full: this one is lost
                continue
            sent += 1
        time.sleep(_SLICE)
    return sent


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interface")
    parser.add_argument("--rate", type=int, default=50000, help="frames a second")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=60, help="bytes of a frame, without its FCS")
    given = parser.parse_args(arguments)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((given.interface, 0))
        sender.setblocking(False)
        sent = blast(sender.send, given.rate, given.seconds, given.size)
    sys.stdout.write(f"{sent}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
