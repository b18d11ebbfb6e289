"""Network interfaces over rtnetlink: what they are, when they change, and how to change them.

Always netlink, never /sys: the process may run in another network namespace than the one whose /sys
it sees. A namespace is chosen when a socket is made, so everything here means the namespace of the
thread that called.

Reading and listening are done here, on a plain socket: they belong to the start of every device and
to the process' loop, while importing pyroute2 takes a quarter of a second and brings a loop of its
own. Changes (seldom, and only if asked for) are pyroute2's. Netlink speaks the host's byte order,
which is little endian wherever this runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final, Literal

import attrs

from emudev_core.errors import BackendError, DecodeError
from emudev_core.loop import Loop
from emudev_core.wire import Wire, pad, s32, u8, u16, u32, wire

__all__ = [
    "Link",
    "LinkChange",
    "LinkMonitor",
    "TunFacts",
    "change_link",
    "find_link",
    "parse_changes",
]

log = logging.getLogger(__name__)

# Source: linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_tun.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTMGRP_LINK: Final = 1
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
NLA_TYPE_MASK: Final = 0x3FFF
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINKINFO: Final = 18
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_TUN_TYPE: Final = 3
IFLA_TUN_PI: Final = 4
IFLA_TUN_VNET_HDR: Final = 5
IFLA_TUN_PERSIST: Final = 6
IFLA_TUN_MULTI_QUEUE: Final = 7
IFLA_TUN_NUM_QUEUES: Final = 8
IFLA_TUN_NUM_DISABLED_QUEUES: Final = 9
RTEXT_FILTER_SKIP_STATS: Final = 8
IFF_UP: Final = 1
ENODEV: Final = 19
ENOBUFS: Final = 105

#: Most bytes of one datagram of netlink that are looked at. Source: NLMSG_GOODSIZE is below it.
_DATAGRAM: Final = 65536


@wire(size=16)
class NetlinkHeader(Wire):
    """Start of every netlink message. Source: linux/netlink.h, ``struct nlmsghdr``."""

    length: int = u32("header and payload, bytes")
    type: int = u16("what it is, such as RTM_NEWLINK")
    flags: int = u16("NLM_F_REQUEST and others", default=0)
    sequence: int = u32("chosen by the asker, repeated in the answer", default=0)
    port: int = u32("address of the socket that asked", default=0)


@wire(size=16)
class InterfaceHeader(Wire):
    """Start of a message about an interface. Source: linux/rtnetlink.h, ``struct ifinfomsg``."""

    family: int = u8("AF_UNSPEC; AF_BRIDGE in what a bridge says about its port", default=0)
    hole: bytes = pad(1)
    kind: int = u16("hardware type, ARPHRD_*", default=0)
    index: int = s32("number of the interface in its namespace", default=0)
    flags: int = u32("IFF_*", default=0)
    change: int = u32("which flags are meant", default=0)


@attrs.frozen
class TunFacts:
    """What the kernel says about a TUN or TAP interface.

    Attributes:
        type: ``tap`` or ``tun``.
        multi_queue: Several descriptors may be attached.
        vnet_hdr: Frames have a ``struct virtio_net_hdr`` in front, by whoever attached last.
        packet_info: Frames have a ``struct tun_pi`` in front.
        persist: It stays when nobody is attached.
        attached: Descriptors attached now, the detached ones of multi-queue included.
    """

    type: Literal["tap", "tun"]
    multi_queue: bool = False
    vnet_hdr: bool = False
    packet_info: bool = False
    persist: bool = False
    attached: int = 0


@attrs.frozen
class Link:
    """A network interface at some moment.

    Attributes:
        index: Number in its namespace; a new interface of the same name has another one.
        name: Name.
        up: Administratively up (IFF_UP).
        mtu: Bytes.
        kind: The kernel's word for its kind, such as ``tun`` or ``veth``; empty for hardware.
        tun: Set if `kind` is ``tun``.
    """

    index: int
    name: str
    up: bool
    mtu: int
    kind: str = ""
    tun: TunFacts | None = None

    @property
    def is_tap(self) -> bool:
        """Whether it is a TAP interface."""
        return self.tun is not None and self.tun.type == "tap"

    @property
    def described(self) -> str:
        """What it is, for messages."""
        if self.tun is not None:
            return f"a {self.tun.type.upper()} interface"
        return f"an interface of kind {self.kind}" if self.kind else "hardware or loopback"


@attrs.frozen
class LinkChange:
    """What a monitor saw.

    Attributes:
        link: The interface, as it is now or as it was.
        gone: It was deleted, or moved to another namespace.
    """

    link: Link
    gone: bool


def _attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Walk netlink attributes; a cut-off one ends the walk."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("<HH", data, at)
        if length < 4 or at + length > len(data):
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _text(value: memoryview) -> str:
    return bytes(value).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(value: memoryview) -> int:
    return int.from_bytes(value, "little")


def _tun_facts(data: memoryview) -> TunFacts:
    found = {kind: _number(value) for kind, value in _attributes(data)}
    return TunFacts(
        type="tap" if found.get(IFLA_TUN_TYPE) == 2 else "tun",
        multi_queue=bool(found.get(IFLA_TUN_MULTI_QUEUE)),
        vnet_hdr=bool(found.get(IFLA_TUN_VNET_HDR)),
        packet_info=bool(found.get(IFLA_TUN_PI)),
        persist=bool(found.get(IFLA_TUN_PERSIST)),
        attached=found.get(IFLA_TUN_NUM_QUEUES, 0) + found.get(IFLA_TUN_NUM_DISABLED_QUEUES, 0),
    )


def _link(payload: memoryview) -> Link | None:
    """The interface that a message is about; None if a bridge speaks about its port."""
    head = InterfaceHeader.unpack(payload)
    if head.family != socket.AF_UNSPEC:
        return None
    name, mtu, kind, tun = "", 0, "", None
    for attribute, value in _attributes(payload[InterfaceHeader.SIZE :]):
        if attribute == IFLA_IFNAME:
            name = _text(value)
        elif attribute == IFLA_MTU:
            mtu = _number(value)
        elif attribute == IFLA_LINKINFO:
            info = dict(_attributes(value))
            if IFLA_INFO_KIND in info:
                kind = _text(info[IFLA_INFO_KIND])
            if kind == "tun" and IFLA_INFO_DATA in info:
                tun = _tun_facts(info[IFLA_INFO_DATA])
    return Link(head.index, name, bool(head.flags & IFF_UP), mtu, kind, tun)


def _messages(data: bytes) -> Iterator[tuple[NetlinkHeader, memoryview]]:
    view = memoryview(data)
    at = 0
    while at + NetlinkHeader.SIZE <= len(view):
        head = NetlinkHeader.unpack(view, at)
        if head.length < NetlinkHeader.SIZE or at + head.length > len(view):
            raise DecodeError(f"netlink message of {head.length} bytes in {len(view) - at}")
        yield head, view[at + NetlinkHeader.SIZE : at + head.length]
        at += (head.length + 3) & ~3


def parse_changes(data: bytes) -> list[LinkChange]:
    """What one datagram of the link group says.

    Raises:
        DecodeError: It does not hold whole messages.
    """
    changes = []
    for head, payload in _messages(data):
        if head.type in (RTM_NEWLINK, RTM_DELLINK):
            link = _link(payload)
            if link is not None:
                changes.append(LinkChange(link, head.type == RTM_DELLINK))
    return changes


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _query(name: str) -> bytes:
    body = (
        InterfaceHeader().pack()
        + _attribute(IFLA_IFNAME, name.encode() + b"\0")
        + _attribute(IFLA_EXT_MASK, struct.pack("<I", RTEXT_FILTER_SKIP_STATS))
    )
    head = NetlinkHeader(
        length=NetlinkHeader.SIZE + len(body), type=RTM_GETLINK, flags=NLM_F_REQUEST, sequence=1
    )
    return head.pack() + body


def _netlink(groups: int = 0) -> socket.socket:
    try:
        made = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            made.bind((0, groups))
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise BackendError(f"no netlink socket: {error.strerror}") from error
    return made


def find_link(name: str) -> Link | None:
    """The interface of a name in this thread's network namespace, or None.

    Raises:
        BackendError: Netlink refused for another reason than that there is none.
    """
    with _netlink() as asked:
        asked.settimeout(5)
        try:
            asked.send(_query(name))
            data = asked.recv(_DATAGRAM)
        except OSError as error:
            raise BackendError(f"interface {name}: netlink does not answer: {error}") from error
    for head, payload in _messages(data):
        if head.type == NLMSG_ERROR:
            number = -struct.unpack_from("<i", payload)[0]
            if number == ENODEV:
                return None
            raise BackendError(f"interface {name}: netlink answers {os.strerror(number)}")
        if head.type == RTM_NEWLINK:
            return _link(payload)
    raise BackendError(f"interface {name}: netlink answered something else")


def change_link(index: int, *, name: str, mtu: int | None = None, up: bool | None = None) -> None:
    """Change an interface of this thread's network namespace; blocks for the kernel's answer.

    Args:
        index: Its number.
        name: Its name, for messages.
        mtu: New MTU, bytes; None leaves it.
        up: New administrative state; None leaves it.

    Raises:
        BackendError: The kernel refused; most often CAP_NET_ADMIN is missing.
    """
    from pyroute2 import IPRoute  # a quarter of a second: only when something is to be changed
    from pyroute2.netlink.exceptions import NetlinkError

    wanted: dict[str, int | str] = {}
    if mtu is not None:
        wanted["mtu"] = mtu
    if up is not None:
        wanted["state"] = "up" if up else "down"
    if not wanted:
        return
    words = ", ".join(f"{key} {value}" for key, value in wanted.items())
    try:
        with IPRoute() as route:
            route.link("set", index=index, **wanted)
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        why = os.strerror(number or 0)
        hint = " (CAP_NET_ADMIN is needed)" if number == 1 else ""
        raise BackendError(f"interface {name}: can't set {words}: {why}{hint}") from error


class LinkMonitor:
    """Tells about interfaces of the namespace in which it was made, on the loop's thread.

    Args:
        loop: Watches the socket.
        changed: Called with each change, in order.
        lost: Called when the kernel had to drop messages: ask again what you must know.

    Raises:
        BackendError: No netlink socket could be made.
    """

    def __init__(
        self, loop: Loop, changed: Callable[[LinkChange], None], lost: Callable[[], None]
    ) -> None:
        self._changed = changed
        self._lost = lost
        self._socket = _netlink(RTMGRP_LINK)
        self._socket.setblocking(False)
        self._watch = loop.watch(self._socket.fileno(), self._readable)

    def _readable(self, _: int) -> None:
        while self._socket.fileno() >= 0:  # a change may have closed this
            try:
                data = self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == ENOBUFS:
                    self._lost()
                    continue
                log.warning("netlink: %s", error)
                return
            try:
                changes = parse_changes(data)
            except DecodeError as error:
                log.warning("netlink: %s", error)
                continue
            for change in changes:
                self._changed(change)

    def skip(self) -> None:
        """Forget what waits: `find_link` is asked next, and knows better."""
        with contextlib.suppress(OSError):
            while self._socket.recv(_DATAGRAM):
                pass

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        if self._socket.fileno() >= 0:
            self._watch.close()
            self._socket.close()
