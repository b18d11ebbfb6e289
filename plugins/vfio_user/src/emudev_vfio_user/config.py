"""What a user says about a vfio-user socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from emudev_core.config import Claim, TransportConfig

__all__ = ["VfioUserConfig"]


class VfioUserConfig(TransportConfig):
    """Keys of the vfio_user transport in a provider's vdev string."""

    path: Annotated[
        str,
        Meta(
            min_length=1,
            description="socket that QEMU connects to: a path of at most 107 bytes, or fd:NAME for "
            "an inherited listening socket",
        ),
    ]
    mode: Annotated[
        str,
        Meta(
            pattern="^[0-7]{3,4}$",
            examples=["0660"],
            description="permissions of the socket file, octal; a client needs to write to connect",
        ),
    ] = "0600"

    def __post_init__(self) -> None:
        """Check the path.

        Raises:
            ValueError: It can't be a socket's address.
        """
        from emudev_core.sockets import check_address

        check_address(self.path)

    def claims(self) -> Iterable[Claim]:
        """The socket: a device has one of its own."""
        if self.path.startswith("fd:"):
            return (Claim(f"the inherited descriptor {self.path.removeprefix('fd:')}", "path"),)
        return (Claim.file(self.path, "path"),)

    @property
    def file_mode(self) -> int:
        """`mode` as a number."""
        return int(self.mode, 8)
