"""A program's end of a control socket.

    with Client.connect() as control:
        for device in control.devices():
            print(device.name, device.state)
        control.set_link("avf_emudev_0", state="down")
        for event in control.follow("avf_emudev_0"):
            print(event.kind, event.value)

Blocks; not for the thread of a loop. Errors of the process are `ControlError`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from ..closing import Closing
from ..errors import TransportError
from .places import found_sockets, runtime_folder
from .protocol import (
    VERSION,
    AttributeRecord,
    Attributes,
    ControlError,
    DeviceRecord,
    Devices,
    Done,
    Error,
    EventRecord,
    Follow,
    GetAttributes,
    Hello,
    ListDevices,
    Reply,
    Request,
    Reset,
    SectionRecord,
    SetAttribute,
    SetLink,
    Show,
    State,
    Stats,
    Update,
    decode_reply,
    encode,
)

__all__ = ["Client", "ControlError"]

R = TypeVar("R", bound=Reply)

#: Seconds that a reply may take.
TIMEOUT = 10.0

_WHY: Final = {
    errno.EACCES: "permission denied: only the owner of the process and root may connect",
    errno.ECONNREFUSED: "no process listens there",
    errno.ENOENT: "no such socket: is its process running?",
}


class Client(Closing):
    """See the module.

    Args:
        peer: A connected socket, owned by this from now on.

    Attributes:
        hello: What the process said of itself.

    Raises:
        ControlError: It lets nobody in.
        TransportError: It speaks another protocol, or another version of it.
    """

    def __init__(self, peer: socket.socket) -> None:
        self._socket = peer
        self._in = bytearray()
        self._id = 0
        try:
            hello = self._receive()
            if isinstance(hello, Error):
                raise ControlError(hello)
            if not isinstance(hello, Hello) or hello.version != VERSION:
                raise TransportError(
                    f"expected control protocol version {VERSION}, came "
                    f"{getattr(hello, 'version', hello)}"
                )
        except BaseException as exc:
            peer.close()
            if isinstance(exc, OSError):
                raise TransportError(f"the process did not greet: {exc}") from exc
            raise
        self.hello = hello

    @classmethod
    def connect(
        cls, path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT
    ) -> Client:
        """Connect to a process.

        Args:
            path: Its socket; None: the only process of this user.
            timeout: Seconds that a reply may take.

        Raises:
            TransportError: Nobody is there, or several are and none was named.
            ControlError: It lets nobody in.
        """
        if path is None:
            found = found_sockets()
            if len(found) != 1:
                names = ", ".join(map(str, found)) or f"none in {runtime_folder()}"
                raise TransportError(f"expected one process with a control socket, found: {names}")
            path = found[0]
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(timeout)
        try:
            peer.connect(str(Path(path)))
        except OSError as exc:
            peer.close()
            why = _WHY.get(exc.errno or 0) or exc.strerror or exc
            raise TransportError(f"control socket {path}: {why}") from exc
        return cls(peer)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    # -- requests

    def devices(self) -> list[DeviceRecord]:
        """The devices of the process."""
        return self._ask(Devices, ListDevices(id=self._next())).devices

    def show(self, device: str, *sections: str) -> list[SectionRecord]:
        """What a device shows of itself; all sections, or those that are named."""
        wanted = Show(id=self._next(), device=device, sections=[*sections])
        return self._ask(State, wanted).sections

    def stats(self, device: str = "") -> list[dict[str, Any]]:
        """The counters of the queues of a device, or of all, a row each."""
        return self._ask(State, Stats(id=self._next(), device=device)).sections[0].rows

    def attributes(self, device: str, name: str = "") -> list[AttributeRecord]:
        """The attributes of a device, or the one that is named."""
        wanted = GetAttributes(id=self._next(), device=device, name=name)
        return self._ask(Attributes, wanted).attributes

    def set_attribute(self, device: str, name: str, value: bool | int | str) -> Done:
        """Change an attribute."""
        wanted = SetAttribute(id=self._next(), device=device, name=name, value=value)
        return self._ask(Done, wanted)

    def set_link(
        self,
        device: str,
        *,
        state: Literal["up", "down", "auto"] | None = None,
        speed: int | None = None,
    ) -> Done:
        """Change the link that the guest sees; speed in Mbit/s."""
        wanted = SetLink(id=self._next(), device=device, state=state, speed=speed)
        return self._ask(Done, wanted)

    def reset(self, device: str, *, silent: bool = False) -> Done:
        """Reset the guest's function from outside."""
        return self._ask(Done, Reset(id=self._next(), device=device, silent=silent))

    def update(
        self, device: str, *, mac: str | None = None, mtu: int | None = None, reset: bool = True
    ) -> Done:
        """Change MAC address or largest MTU, and reset the guest so that it learns them."""
        wanted = Update(id=self._next(), device=device, mac=mac, mtu=mtu, reset=reset)
        return self._ask(Done, wanted)

    def follow(self, device: str = "") -> Iterator[EventRecord]:
        """The events of a device, or of all, from the call on, for as long as the process lives.

        The connection is good for nothing else from then on.
        """
        self._ask(Done, Follow(id=self._next(), device=device))
        self._socket.settimeout(None)
        return self._events()

    def _events(self) -> Iterator[EventRecord]:
        while True:
            try:
                reply = self._receive()
            except ConnectionError:
                return
            if isinstance(reply, EventRecord):
                yield reply

    def _next(self) -> int:
        self._id += 1
        return self._id

    def _ask(self, kind: type[R], request: Request) -> R:
        try:
            self._socket.sendall(_line(request))
            reply = self._receive()
        except TimeoutError as exc:
            raise TransportError("the process did not answer in time") from exc
        except OSError as exc:
            raise TransportError(f"the process has closed the connection: {exc}") from exc
        if isinstance(reply, Error):
            raise ControlError(reply)
        if not isinstance(reply, kind) or reply.id != request.id:
            raise TransportError(f"expected {kind.__name__} to request {request.id}, came {reply}")
        return reply

    def _receive(self) -> Reply:
        while b"\n" not in self._in:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("end of the stream")
            self._in += data
        line, _, rest = self._in.partition(b"\n")
        self._in = bytearray(rest)
        return decode_reply(bytes(line))


def _line(request: Request) -> bytes:
    """A request as its line; what no line can hold is refused as the process would do it."""
    try:
        return encode(request)
    except UnicodeEncodeError as exc:  # bytes of a command line that are no text
        message = f"expected text, came {exc.object!r}"
        refusal = Error(id=request.id, kind="request", message=message, expected="UTF-8")
        raise ControlError(refusal) from exc
