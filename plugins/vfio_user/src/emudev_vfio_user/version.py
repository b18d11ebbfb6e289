"""VERSION: what both ends can do, agreed in JSON.

The server answers with a subset of what the client offered, and never with more bytes than the
request had: QEMU receives the answer into a buffer of that size.

Source: vfio-user specification, "VFIO_USER_VERSION".
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

from emudev_core.errors import DecodeError, PeerError

from .messages import DEFAULT_DATA, MAX_DATA, MAX_FDS, Version

__all__ = ["MAJOR", "MINOR", "Limits", "accept", "answer", "offer"]

MAJOR: Final = 0
MINOR: Final = 1  #: the highest minor version answered

_DEFAULT_FDS: Final = 1  # of a peer that says nothing
_DEFAULT_MAPS: Final = 65535
_PAGE: Final = 4096

_Count = Annotated[int, Meta(ge=0)]


class _Capabilities(msgspec.Struct, frozen=True, omit_defaults=True):
    """All optional."""

    max_msg_fds: Annotated[int, Meta(ge=0, le=1024)] | UnsetType = UNSET
    max_data_xfer_size: _Count | UnsetType = UNSET
    write_multiple: bool | UnsetType = UNSET
    max_dma_maps: _Count | UnsetType = UNSET
    pgsizes: _Count | UnsetType = UNSET
    twin_socket: dict[str, Any] | UnsetType = UNSET
    migration: dict[str, Any] | UnsetType = UNSET


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    capabilities: _Capabilities | UnsetType = UNSET


@attrs.frozen
class Limits:
    """What the other end takes.

    Attributes:
        max_msg_fds: Descriptors in one message.
        max_data_xfer_size: Bytes of data in one transfer.
        max_dma_maps: DMA mappings at a time.
        write_multiple: REGION_WRITE_MULTI may be used.
        minor: The minor version that was agreed on.
    """

    max_msg_fds: int = _DEFAULT_FDS
    max_data_xfer_size: int = DEFAULT_DATA
    max_dma_maps: int = _DEFAULT_MAPS
    write_multiple: bool = False
    minor: int = MINOR


def _parse(payload: bytes) -> tuple[Version, _Capabilities]:
    version = Version.unpack(payload)
    text = payload[Version.SIZE :]
    if not text:
        return version, _Capabilities()
    if text[-1] != 0:
        raise DecodeError("VERSION: the JSON text does not end with NUL")
    try:
        document = msgspec.json.decode(text.split(b"\0", 1)[0], type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError(f"VERSION: {exc}") from exc
    found = document.capabilities
    return version, _Capabilities() if isinstance(found, UnsetType) else found


def _limits(found: _Capabilities, minor: int) -> Limits:
    def value(given: int | UnsetType, default: int) -> int:
        return default if isinstance(given, UnsetType) else given

    return Limits(
        max_msg_fds=value(found.max_msg_fds, _DEFAULT_FDS),
        max_data_xfer_size=value(found.max_data_xfer_size, DEFAULT_DATA),
        max_dma_maps=value(found.max_dma_maps, _DEFAULT_MAPS),
        write_multiple=found.write_multiple is True,
        minor=minor,
    )


def accept(payload: bytes) -> tuple[Limits, bytes]:
    """The server's side: understand a request and make the answer.

    Returns:
        What the client takes, and the payload of the reply.

    Raises:
        DecodeError: The payload is too short, or its JSON is malformed.
        PeerError: The client speaks another major version.
    """
    version, found = _parse(payload)
    if version.major != MAJOR:
        raise PeerError(f"VERSION: major version {version.major}, expected {MAJOR}")
    ours: dict[str, Any] = {}
    if not isinstance(found.max_msg_fds, UnsetType):
        ours["max_msg_fds"] = min(MAX_FDS, found.max_msg_fds)
    if not isinstance(found.max_data_xfer_size, UnsetType):
        ours["max_data_xfer_size"] = min(MAX_DATA, found.max_data_xfer_size)
    if found.write_multiple is True:
        ours["write_multiple"] = True
    if not isinstance(found.max_dma_maps, UnsetType):
        ours["max_dma_maps"] = min(_DEFAULT_MAPS, found.max_dma_maps)
    if not isinstance(found.pgsizes, UnsetType) and found.pgsizes & _PAGE:
        ours["pgsizes"] = _PAGE
    # Each member is no longer than the client's own, so the answer is no longer than a request with
    # JSON. One without gets {} all the same: QEMU takes its own offer for the answer if none comes.
    text = _text({"capabilities": ours} if ours else {})
    minor = min(version.minor, MINOR)
    return _limits(found, minor), Version(MAJOR, minor).pack() + text


def offer(*, max_msg_fds: int = MAX_FDS, write_multiple: bool = True) -> bytes:
    """The client's side: the payload of the request."""
    capabilities = {
        "max_msg_fds": max_msg_fds,
        "max_data_xfer_size": MAX_DATA,
        "max_dma_maps": _DEFAULT_MAPS,
        "pgsizes": _PAGE,
        "write_multiple": write_multiple,
    }
    return Version(MAJOR, MINOR).pack() + _text({"capabilities": capabilities})


def answer(payload: bytes) -> Limits:
    """The client's side: understand the answer.

    Raises:
        DecodeError: The payload is too short, or its JSON is malformed.
        PeerError: The server answered with a version that was not offered.
    """
    version, found = _parse(payload)
    if version.major != MAJOR or version.minor > MINOR:
        raise PeerError(
            f"server answers version {version.major}.{version.minor}, offered was {MAJOR}.{MINOR}"
        )
    return _limits(found, version.minor)


def _text(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document) + b"\0"
