"""The descriptors of a TAP interface: attach, agree on how frames look, carrier, queues.

What must be known about /dev/net/tun:

- The first descriptor that is attached sets IFF_VNET_HDR and the other flags, whatever a persistent
  interface had before; but it must agree with it on IFF_MULTI_QUEUE (else EINVAL). A further one
  gets what the first chose, without a word: so the flags are read back (TUNGETIFF; it can't tell
  IFF_NO_PI, whose bit is IFF_NOFILTER there: netlink can).
- Size and byte order of the header, the offloads and the send buffer belong to the interface, not
  to a descriptor. They outlive who set them, so they are set again, unless others are attached and
  rely on them.
- Attaching raises the carrier (unless IFF_NO_CARRIER asks not to); TUNSETCARRIER changes it.
- A detached queue of a multi-queue interface (TUNSETQUEUE) gets no frames and forgets those that
  wait; it can still be written to.

Source: linux/drivers/net/tun.c, linux/if_tun.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
from typing import Final, Literal

import attrs

from emudev_core.errors import BackendError, ConfigError
from emudev_core.queues import Offload

from .config import TapConfig
from .links import Link

__all__ = ["HEADER", "Plan", "Tap", "plan"]

log = logging.getLogger(__name__)

_DEVICE: Final = "/dev/net/tun"

# Source: linux/if_tun.h; the numbers are those of x86, Arm and RISC-V
TUNSETIFF: Final = 0x400454CA
TUNGETFEATURES: Final = 0x800454CF
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETIFF: Final = 0x800454D2
TUNSETSNDBUF: Final = 0x400454D4
TUNGETVNETHDRSZ: Final = 0x800454D7
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETQUEUE: Final = 0x400454D9
TUNSETVNETLE: Final = 0x400454DC
TUNSETCARRIER: Final = 0x400454E2

IFF_TAP: Final = 0x0002
IFF_NO_CARRIER: Final = 0x0040
IFF_MULTI_QUEUE: Final = 0x0100
IFF_ATTACH_QUEUE: Final = 0x0200
IFF_DETACH_QUEUE: Final = 0x0400
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_TUN_EXCL: Final = 0x8000

TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

#: Bytes of ``struct virtio_net_hdr``.
HEADER: Final = 10

_IFREQ: Final = struct.Struct("=16sH22x")
_INT: Final = struct.Struct("=i")
_UNLIMITED: Final = 2**31 - 1


@attrs.frozen
class Plan:
    """How to attach.

    Attributes:
        exists: The interface is there; else it is created.
        multi_queue: IFF_MULTI_QUEUE.
        queues: Descriptors to attach.
        shared: Others are attached: what belongs to the interface stays as it is.
    """

    exists: bool
    multi_queue: bool
    queues: int
    shared: bool


def plan(config: TapConfig, link: Link | None, pairs: int, *, again: bool = False) -> Plan:
    """Decide how to attach to an interface.

    Args:
        config: What the user said.
        link: The interface of that name, or None.
        pairs: Queue pairs of the device, at least 1.
        again: The interface was lost and came back: ``create=yes`` does not refuse it.

    Raises:
        ConfigError: The interface is missing, or there when it must not be, or not what is needed.
        BackendError: Another program uses it in a way that can't be joined.
    """
    name = config.iface
    if config.queues is not None and config.queues > pairs:
        raise ConfigError(
            f"{config.queues} queues for a device with {pairs} queue pairs",
            where="tap_backend: queues",
            hint=f"1 to {pairs}",
        )
    if link is None:
        if config.create == "no":
            raise ConfigError(
                f"there is no interface {name} and create=no",
                where="tap_backend: iface",
                hint=f"ip tuntap add {name} mode tap",
            )
        queues = config.queues or pairs
        return Plan(exists=False, multi_queue=queues > 1, queues=queues, shared=False)
    if not link.is_tap:
        raise ConfigError(
            f"{name} is no TAP interface but {link.described}", where="tap_backend: iface"
        )
    assert link.tun is not None
    if config.create == "yes" and not again:
        raise ConfigError(
            f"interface {name} exists and create=yes",
            where="tap_backend: create",
            hint="create=auto uses it",
        )
    if config.queues is not None and config.queues > 1 and not link.tun.multi_queue:
        raise ConfigError(
            f"{config.queues} queues, but interface {name} has one",
            where="tap_backend: queues",
            hint=f"ip tuntap add {name} mode tap multi_queue",
        )
    if link.tun.attached and link.tun.packet_info:
        raise BackendError(
            f"interface {name}: another program is attached that wants packet information"
            " (no IFF_NO_PI), which is not supported"
        )
    queues = config.queues or (pairs if link.tun.multi_queue else 1)
    return Plan(
        exists=True,
        multi_queue=link.tun.multi_queue,
        queues=queues,
        shared=link.tun.attached > 0,
    )


def _open() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = {
            errno.ENOENT: "load the module tun",
            errno.ENODEV: "load the module tun",
            errno.EACCES: "this user may not open it",
            errno.EPERM: "this user may not open it",
        }.get(error.errno or 0, "")
        raise BackendError(
            f"can't open {_DEVICE}: {error.strerror}" + (f" ({hint})" if hint else "")
        ) from error


def _get(fd: int, request: int) -> int:
    answer: int = _INT.unpack(fcntl.ioctl(fd, request, bytes(_INT.size)))[0]
    return answer


def _set(fd: int, request: int, value: int) -> None:
    fcntl.ioctl(fd, request, _INT.pack(value))


def _attach(fd: int, name: str, wanted: Plan, flags: int) -> None:
    """TUNSETIFF, with its errors in words."""
    try:
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            hint = (
                "it belongs to another user; CAP_NET_ADMIN is needed"
                if wanted.exists
                else "CAP_NET_ADMIN is needed to create it"
            )
            why = f"not permitted ({hint}, or a TAP made for this user: ip tuntap add {name}"
            why += " mode tap user NAME)"
        elif error.errno == errno.EBUSY:
            why = "another program is attached to it, or it was made meanwhile"
        elif error.errno == errno.EINVAL:
            why = "it is no TAP, or was made anew with another number of queues meanwhile"
        elif error.errno == errno.E2BIG:
            why = f"it can't take {wanted.queues} queues more"
        else:
            why = f"{error.strerror}"
        verb = "attach to" if wanted.exists else "create"
        raise BackendError(f"can't {verb} interface {name}: {why}") from error


class Tap:
    """Attached descriptors of one TAP interface; owns them.

    Made by `Tap.open`. All methods are for the loop's thread.

    Attributes:
        name: Name when it was attached.
        fds: Descriptors, one a queue, non-blocking.
        header: Bytes of header in front of each frame; 0 without IFF_VNET_HDR.
        takes: What frames written to it may still want done.
    """

    def __init__(self, name: str, fds: list[int], header: int, takes: Offload) -> None:
        self.name = name
        self.fds = fds
        self.header = header
        self.takes = takes
        self._detached: set[int] = set()

    @classmethod
    def open(
        cls,
        name: str,
        wanted: Plan,
        *,
        vnet_hdr: Literal["auto", "on", "off"] = "auto",
        sndbuf: int | None = None,
    ) -> Tap:
        """Attach `wanted.queues` descriptors, creating the interface if it is not there.

        The carrier is off afterwards.

        Raises:
            BackendError: The host refused, or the interface is used in a way that can't be joined.
        """
        fds: list[int] = []
        try:
            for _ in range(wanted.queues):
                fds.append(_open())
                flags = IFF_TAP | IFF_NO_PI
                if vnet_hdr != "off":
                    flags |= IFF_VNET_HDR
                if wanted.multi_queue:
                    flags |= IFF_MULTI_QUEUE
                if not wanted.exists and len(fds) == 1:
                    flags |= IFF_TUN_EXCL
                with contextlib.suppress(OSError):
                    flags |= _get(fds[-1], TUNGETFEATURES) & IFF_NO_CARRIER
                _attach(fds[-1], name, wanted, flags)
            header = cls._agree(fds[0], name, vnet_hdr)
            takes = cls._set_up(fds[0], header, sndbuf, wanted.shared)
            if header:
                header = _get(fds[0], TUNGETVNETHDRSZ)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise BackendError(f"interface {name}: {error.strerror}") from error
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        tap = cls(name, fds, header, takes)
        tap.set_carrier(False)
        return tap

    @staticmethod
    def _agree(fd: int, name: str, vnet_hdr: str) -> int:
        """Read back what the interface really does; the size of the header, 0 if there is none."""
        flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))[1]
        has = bool(flags & IFF_VNET_HDR)
        if has and vnet_hdr == "off":
            raise BackendError(
                f"interface {name}: vnet_hdr=off, but another program is attached with IFF_VNET_HDR"
            )
        if not has and vnet_hdr == "on":
            raise BackendError(
                f"interface {name}: vnet_hdr=on, but another program is attached without"
                " IFF_VNET_HDR"
            )
        if not has and vnet_hdr == "auto":
            log.info("%s: without IFF_VNET_HDR; checksums and segments are done here", name)
        return HEADER if has else 0

    @staticmethod
    def _set_up(fd: int, header: int, sndbuf: int | None, shared: bool) -> Offload:
        """Set what belongs to the interface; what it takes."""
        if shared:  # others rely on what is set; what a kernel always takes is left
            return Offload.CSUM | Offload.TSO4 | Offload.TSO6 if header else Offload.NONE
        _set(fd, TUNSETSNDBUF, _UNLIMITED if sndbuf is None else sndbuf)
        if not header:
            _set_offload(fd, 0)  # an earlier owner's, whose large frames would come without header
            return Offload.NONE
        _set(fd, TUNSETVNETHDRSZ, header)
        with contextlib.suppress(OSError):  # before Linux 4.0: the host's order, nearly always this
            _set(fd, TUNSETVNETLE, 1)
        takes = Offload.CSUM | Offload.TSO4 | Offload.TSO6
        base = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
        try:
            _set_offload(fd, base | TUN_F_USO4 | TUN_F_USO6)
            takes |= Offload.USO
        except OSError:  # before Linux 6.2
            _set_offload(fd, base)
        return takes

    def set_carrier(self, on: bool) -> None:
        """Say whether somebody is at the other end of the wire (TUNSETCARRIER)."""
        try:
            _set(self.fds[0], TUNSETCARRIER, int(on))
        except OSError as error:  # gone meanwhile, or before Linux 5.0
            log.debug("%s: carrier %s: %s", self.name, on, error.strerror)

    def alive(self) -> bool:
        """Whether the interface still exists, in whatever namespace."""
        try:
            fcntl.ioctl(self.fds[0], TUNGETIFF, bytes(_IFREQ.size))
        except OSError:
            return False
        return True

    def set_queue(self, queue: int, attached: bool) -> None:
        """Let a queue of a multi-queue interface take part or not; queue 0 always does.

        The frames that wait in a queue are dropped when it is detached; it may still be written to.
        """
        if queue == 0 or attached == (queue not in self._detached):
            return
        flag = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
        try:
            fcntl.ioctl(self.fds[queue], TUNSETQUEUE, _IFREQ.pack(b"", flag))
        except OSError as error:
            log.debug("%s: queue %d %s: %s", self.name, queue, attached, error.strerror)
            return
        if attached:
            self._detached.discard(queue)
        else:
            self._detached.add(queue)

    def close(self) -> None:
        """Close the descriptors; an interface that is not persistent goes with the last one."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)


def _set_offload(fd: int, flags: int) -> None:
    """TUNSETOFFLOAD takes its flags as the argument itself."""
    fcntl.ioctl(fd, TUNSETOFFLOAD, flags)
