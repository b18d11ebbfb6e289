"""What both roles have in common: how a device and its end of the socket talk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from .layout import Layout, RingPlace

__all__ = ["End", "Peer", "Rings", "User", "program"]


@attrs.frozen
class Peer:
    """Who is at the other end, for people.

    Attributes:
        program: Name of its program, as it says.
        interface: Name of its interface, as it says.
        process: What the kernel says of it.
    """

    program: str = ""
    interface: str = ""
    process: str = ""

    def __str__(self) -> str:
        named = ", ".join(part for part in (self.interface, self.program) if part)
        return f"{named} ({self.process})" if named else self.process


@attrs.frozen
class Rings:
    """Mapped rings, as `RingSet.attach` takes them; memory and eventfds stay the end's.

    Attributes:
        regions: Address in this process and size of each region, by index.
        c2s, s2c: Where the rings are, by index.
        c2s_fds, s2c_fds: Their eventfds.
        layout: The client's own; None at a server.
    """

    regions: Sequence[tuple[int, int]]
    c2s: Sequence[RingPlace]
    s2c: Sequence[RingPlace]
    c2s_fds: Sequence[int]
    s2c_fds: Sequence[int]
    layout: Layout | None = None


class User(Protocol):
    """What an end asks of its device. All on the loop's thread.

    Attributes:
        pairs: Rings in each direction.
        secret: What a client has to know, or says.
        name: Of the interface, for the peer and for people.
    """

    pairs: int
    secret: bytes
    name: str

    def check_region(self, fd: int, size: int, before: int) -> None:
        """See `protocol.Interface`."""

    def check_ring(self, fd: int) -> None:
        """See `protocol.Interface`."""

    @property
    def wanted(self) -> bool:
        """Whether the interface is up: frames would go somewhere."""

    def went_up(self, rings: Rings, peer: Peer) -> None:
        """Use the rings from now on.

        Raises:
            PeerError: It can't.
        """

    def went_down(self, reason: str) -> bool:
        """Use them no more: nothing touches memory and eventfds when this returns.

        Returns:
            False if somebody may still use them: then they are kept until the device is closed.
        """

    def refused(self, reason: str) -> None:
        """A connection ended before it was up; `reason` is for people."""


class End(Protocol):
    """One side of a socket, for one device. All on the loop's thread."""

    def open(self) -> str:
        """Begin; answers where, for people.

        Raises:
            ConfigError: The address can't be used.
            TransportError: It is in use, or the system refused.
        """

    def update(self) -> None:
        """`User.wanted` has changed: let a peer in, or let it go."""

    def disconnect(self, reason: str) -> None:
        """Let the peer go and tell it why; it may come again."""

    def close(self) -> None:
        """Let the peer go, and end; `open` may follow."""

    def release(self) -> None:
        """Give back what `User.went_down` said is still in use; it is not any more."""


def program() -> str:
    """The name of this program, as a peer is told."""
    from emudev_core._version import __version__

    return f"emudev {__version__}"
