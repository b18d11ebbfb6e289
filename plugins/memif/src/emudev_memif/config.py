"""What users say about a memif interface: DPDK's device arguments, and some that it lacks.

Source: memif.md 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from emudev_core.config import Claim, ProviderConfig
from emudev_net.addresses import parse_station

__all__ = ["MAX_PAIRS", "MemifConfig"]

MAX_PAIRS: Final = 16
_SECRET: Final = 23  #: bytes of a secret; the field has 24, and a NUL ends it


class MemifConfig(ProviderConfig):
    """Keys of ``emu_memif``. The number of the device is that of the interface."""

    role: Annotated[
        Literal["client", "server", "slave", "master"],
        Meta(description="client (slave) connects and makes the memory, server (master) listens"),
    ] = "client"
    socket: Annotated[
        str,
        Meta(
            min_length=1,
            description="abstract name or path of the control socket, at most 107 bytes; a server "
            "also takes fd:NAME, an inherited listening socket",
        ),
    ] = "/run/memif.sock"
    socket_abstract: Annotated[
        bool,
        Meta(description="socket is an abstract name, slashes included; no file appears"),
    ] = field(default=True, name="socket-abstract")
    memif_id: Annotated[
        Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] | None,
        Meta(description="interface id that pairs the two ends; unset: the device's own id"),
    ] = field(default=None, name="memif-id")
    queues: Annotated[int, Meta(ge=1, le=MAX_PAIRS, description="queue pairs")] = 1
    rsize: Annotated[
        int, Meta(ge=1, le=14, description="log2 of a ring's size; only the client's counts")
    ] = 10
    bsize: Annotated[
        int,
        Meta(
            ge=64,
            le=65535,
            description="size of a packet buffer; only the client's counts",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = 2048
    mtu: Annotated[
        int,
        Meta(
            ge=68,
            le=65513,
            description="largest MTU; frames of 22 bytes more are taken, in chains if need be",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = 9702
    mac: Annotated[
        str,
        Meta(
            description="MAC address, such as 52:54:00:12:34:56; a stable local one made of the "
            "device's name if empty"
        ),
    ] = ""
    secret: Annotated[
        str,
        Meta(description="what a client has to know, at most 23 bytes; empty admits any client"),
    ] = ""
    zero_copy: Annotated[
        bool,
        Meta(description="only no: a server takes zero-copy clients anyway, a client copies once"),
    ] = field(default=False, name="zero-copy")
    mode: Annotated[
        str,
        Meta(
            pattern="^[0-7]{3,4}$",
            description="permissions of the socket file, octal; a client needs to write to connect",
        ),
    ] = "0600"
    owner_uid: Annotated[
        int, Meta(ge=-1, le=0xFFFF_FFFE, description="owner of the socket file; -1 leaves it")
    ] = field(default=-1, name="owner-uid")
    owner_gid: Annotated[
        int, Meta(ge=-1, le=0xFFFF_FFFE, description="group of the socket file; -1 leaves it")
    ] = field(default=-1, name="owner-gid")
    memory_limit: Annotated[
        int,
        Meta(
            ge=1,
            le=16_777_216,
            description="memory that a client may share with a server in all",
            extra_json_schema={"unit": "MiB"},
        ),
    ] = field(default=65536, name="memory-limit")
    unsealed: Annotated[
        Literal["warn", "refuse"],
        Meta(description="what a server does with memory that the client can still truncate"),
    ] = "warn"

    def __post_init__(self) -> None:
        """Check what depends on more than one key.

        Raises:
            ValueError: The message names the key.
        """
        from .sockets import Address

        try:
            Address(self.socket, self.socket_abstract).check()
        except ValueError as exc:
            raise ValueError(f"socket: {exc}") from None
        if self.mac:
            try:
                parse_station(self.mac)
            except ValueError as exc:
                raise ValueError(f"mac: {exc}") from None
        if len(self.secret.encode()) > _SECRET or "\0" in self.secret:
            raise ValueError(f"secret: it has at most {_SECRET} bytes, and no NUL among them")
        if self.zero_copy:
            raise ValueError(
                "zero-copy: a server takes zero-copy clients without being told; a client copies "
                "each packet once, into buffers of its own (zero-copy=no)"
            )
        if self.serves and self.socket_abstract and (self.owner_uid, self.owner_gid) != (-1, -1):
            raise ValueError(
                "owner-uid, owner-gid: an abstract socket has no file; add socket-abstract=no"
            )

    @property
    def serves(self) -> bool:
        """Whether it is a server."""
        return self.role in ("server", "master")

    def claims(self) -> Iterable[Claim]:
        """A server's socket, which several memif interfaces share."""
        if not self.serves:
            return ()
        if self.socket.startswith("fd:"):
            name = self.socket.removeprefix("fd:")
            return (Claim(f"the inherited descriptor {name}", "socket", "memif"),)
        if self.socket_abstract:
            return (Claim(f"the abstract socket {self.socket}", "socket", "memif"),)
        return (Claim.file(self.socket, "socket", "memif"),)
