"""The messages of a control socket: JSON, one object a line, in both directions.

The server speaks first: a `Hello`. Each request has an ``op`` that says what it is and an ``id``
that its one reply carries back; replies say what they are by ``type``. Replies come in the order of
the requests; an `EventRecord` may come between any two lines once `Follow` was asked for.

A request that can't be done gets an `Error` and changes nothing. A line that is no request gets one
with the id 0, and the connection goes on; one that is too long ends it.

These classes are the schema: `schema` gives it as JSON Schema (``emudev ctl --schema``).
Fields may be added in a version of the protocol: readers ignore what they do not know, in replies.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from ..errors import DecodeError, EmudevError
from ..sections import Value

__all__ = [
    "MAX_LINE",
    "MTUS",
    "SPEEDS",
    "VERSION",
    "AttributeRecord",
    "Attributes",
    "ControlError",
    "DeviceRecord",
    "Devices",
    "Done",
    "Error",
    "ErrorKind",
    "EventRecord",
    "Follow",
    "GetAttributes",
    "Hello",
    "ListDevices",
    "Reply",
    "Request",
    "Reset",
    "SectionRecord",
    "SetAttribute",
    "SetLink",
    "Show",
    "State",
    "Stats",
    "Update",
    "decode_reply",
    "decode_request",
    "encode",
    "id_of",
    "schema",
]

#: Of the protocol; raised when a client of the former one would misunderstand.
VERSION: Final = 1
#: Longest line of a request, bytes, the newline included.
MAX_LINE: Final = 65536
#: Speeds that can be asked for, Mbit/s, and MTUs, bytes: the least and the most. A device may take
#: fewer.
SPEEDS: Final = (1, 400_000)
MTUS: Final = (68, 65535)

Name = Annotated[str, Meta(max_length=128)]
Id = Annotated[int, Meta(ge=0, le=2**53 - 1, description="chosen by the client, echoed")]


class _Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    id: Id


class _Reply(Struct, frozen=True, kw_only=True, tag_field="type"):
    id: Id = 0


# -- requests


class ListDevices(_Request, frozen=True, kw_only=True, tag="list"):
    """The devices of the process; answered by `Devices`."""


class Show(_Request, frozen=True, kw_only=True, tag="show"):
    """What a device and its plugins show of themselves; answered by `State`.

    Attributes:
        device: Its name.
        sections: Names of the wanted ones; empty for all.
    """

    device: Name
    sections: Annotated[list[Name], Meta(max_length=64)] = []


class Stats(_Request, frozen=True, kw_only=True, tag="stats"):
    """The counters of all queues; answered by `State` with one section, ``stats``.

    Attributes:
        device: Its name; empty for all devices.
    """

    device: Name = ""


class GetAttributes(_Request, frozen=True, kw_only=True, tag="get-attributes"):
    """Attributes with values, types and meaning; answered by `Attributes`.

    Attributes:
        device: Its name.
        name: Of the wanted one; empty for all.
    """

    device: Name
    name: Name = ""


class SetAttribute(_Request, frozen=True, kw_only=True, tag="set-attribute"):
    """Change an attribute; answered by `Done`.

    Attributes:
        device: Its name.
        name: Of the attribute.
        value: Of the attribute's type.
    """

    device: Name
    name: Name
    value: bool | int | Annotated[str, Meta(max_length=4096)]


class SetLink(_Request, frozen=True, kw_only=True, tag="set-link"):
    """Change the link that the guest sees; answered by `Done`.

    Attributes:
        device: Its name.
        state: ``auto`` lets it follow the backend; None leaves it.
        speed: Mbit/s; None leaves it.
    """

    device: Name
    state: Literal["up", "down", "auto"] | None = None
    speed: Annotated[int, Meta(ge=SPEEDS[0], le=SPEEDS[1])] | None = None


class Update(_Request, frozen=True, kw_only=True, tag="update"):
    """Change what a guest learns only in a reset, and reset it; answered by `Done`.

    Attributes:
        device: Its name.
        mac: New MAC address, ``52:54:00:12:34:56``; None leaves it.
        mtu: New largest MTU, bytes; None leaves it.
        reset: Announce and perform the reset; without it the change waits for the next one.
    """

    device: Name
    mac: Name | None = None
    mtu: Annotated[int, Meta(ge=MTUS[0], le=MTUS[1])] | None = None
    reset: bool = True


class Reset(_Request, frozen=True, kw_only=True, tag="reset"):
    """Reset the guest's function from the outside, as a PF does; answered by `Done`.

    Attributes:
        device: Its name.
        silent: Without telling the guest before.
    """

    device: Name
    silent: bool = False


class Follow(_Request, frozen=True, kw_only=True, tag="follow"):
    """Send events from now on; answered by `Done`, then by an `EventRecord` for each.

    Attributes:
        device: Its name; empty for all devices.
    """

    device: Name = ""


Request = (
    ListDevices | Show | Stats | GetAttributes | SetAttribute | SetLink | Update | Reset | Follow
)


# -- replies


class Hello(_Reply, frozen=True, kw_only=True, tag="hello"):
    """The first line of a server.

    Attributes:
        version: Of the protocol.
        emudev: Version of emudev-core.
        pid: Of the process.
    """

    version: int
    emudev: str
    pid: int


ErrorKind = Literal["permission", "busy", "request", "unknown", "device", "internal"]


class Error(_Reply, frozen=True, kw_only=True, tag="error"):
    """Why a request was not done. Nothing was changed.

    Attributes:
        kind: ``permission``: another user's socket; ``busy``: too many clients; ``request``: not
            what the protocol says; ``unknown``: a name that is not there; ``device``: the device
            can't or its provider refused; ``internal``: a fault of a plugin or of emudev, logged by
            the process.
        message: For people.
        expected: What would have been right; empty if that can't be said.
        came: What came instead; empty if nothing did.
    """

    kind: ErrorKind
    message: str
    expected: str = ""
    came: str = ""


class Done(_Reply, frozen=True, kw_only=True, tag="done"):
    """It was done.

    Attributes:
        device: The device concerned; empty for several.
        text: What happens now, for people.
    """

    device: str = ""
    text: str = ""


class DeviceRecord(Struct, frozen=True, kw_only=True):
    """One device.

    Attributes:
        name: Such as ``avf_emudev_0``.
        provider: Such as ``emu_iavf``.
        type: Of the device; empty if its provider does not say.
        state: Where it is in its life.
        address: Where it is reachable; empty if nowhere.
        backends: Names of its backends.
        error: Why it is in error; empty unless it is.
    """

    name: str
    provider: str
    type: str
    state: str
    address: str
    backends: list[str]
    error: str = ""


class Devices(_Reply, frozen=True, kw_only=True, tag="devices"):
    """All devices, in the order of allocation."""

    devices: list[DeviceRecord]


class SectionRecord(Struct, frozen=True, kw_only=True):
    """One section.

    Attributes:
        name: Its name.
        member: The plugin object that shows it, such as ``emu_iavf`` or ``tap_backend_0``; ``core``
            for what the host knows.
        doc: What it shows.
        rows: Its rows, all with the same columns.
        hex: Columns that are meant to be read as hexadecimal numbers.
        cut: There are more rows than are told.
        error: Why it can't be read; empty if it was.
    """

    name: str
    member: str
    doc: str = ""
    rows: list[dict[str, Value]] = []
    hex: list[str] = []
    cut: bool = False
    error: str = ""


class State(_Reply, frozen=True, kw_only=True, tag="state"):
    """Sections.

    Attributes:
        device: The device; empty for several.
        sections: Those asked for.
    """

    device: str
    sections: list[SectionRecord]


class AttributeRecord(Struct, frozen=True, kw_only=True):
    """One attribute.

    Attributes:
        name: Its name.
        type: Of its value.
        value: As it is now; None if it can't be read.
        writable: Whether it may be set.
        doc: Meaning, unit and range.
    """

    name: str
    type: Literal["bool", "int", "str"]
    value: bool | int | str | None
    writable: bool
    doc: str


class Attributes(_Reply, frozen=True, kw_only=True, tag="attributes"):
    """Attributes of a device."""

    device: str
    attributes: list[AttributeRecord]


class EventRecord(_Reply, frozen=True, kw_only=True, tag="event"):
    """Something happened; ``id`` is that of the `Follow`.

    Attributes:
        device: Where.
        kind: Value of an `emudev_core.events.EventKind`, such as ``link``. After ``overflow``
            events were lost: look at everything anew.
        queue: Queue or vector concerned, -1 if none.
        value: Meaning by kind.
        text: For people, or the name of a private event.
        time: Seconds since 1970, of the process' clock.
    """

    device: str
    kind: str
    queue: int
    value: int
    text: str
    time: float


Reply = Hello | Error | Done | Devices | State | Attributes | EventRecord


class ControlError(EmudevError):
    """A request that the process refused.

    Args:
        error: Its reply.

    Attributes:
        error: As given.
    """

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


_ENCODER: Final = msgspec.json.Encoder()
_REQUESTS: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_REPLIES: Final[msgspec.json.Decoder[Reply]] = msgspec.json.Decoder(Reply)
_IDS: Final = msgspec.json.Decoder(dict[str, Any])


def encode(message: Request | Reply) -> bytes:
    """A message as its line, newline included."""
    return _ENCODER.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """A client's line, without its newline.

    Raises:
        DecodeError: It is no request; the message says what was expected, and where.
    """
    request: Request = _decode(_REQUESTS, line, "a request")
    return request


def decode_reply(line: bytes) -> Reply:
    """A server's line, without its newline.

    Raises:
        DecodeError: It is no reply.
    """
    reply: Reply = _decode(_REPLIES, line, "a reply")
    return reply


def _decode(decoder: msgspec.json.Decoder[Any], line: bytes, what: str) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError(f"expected {what}: {exc}", errno=22) from exc


def id_of(line: bytes) -> int:
    """The id of a line that is no request, if it has a valid one; else 0."""
    try:
        found = _IDS.decode(line).get("id")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return found if type(found) is int and 0 <= found < 2**53 else 0


def schema() -> dict[str, Any]:
    """The protocol as JSON Schema: ``request`` and ``reply`` are what a line may be."""
    (request, reply), components = msgspec.json.schema_components(
        [Request, Reply], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"emudev control protocol, version {VERSION}",
        "version": VERSION,
        "request": request,
        "reply": reply,
        "$defs": components,
    }
