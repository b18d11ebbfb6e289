"""What each command does; the shell around it is `session`.

A handler gets the session and the payload. It returns the payload of the reply, alone or with
descriptors to send along, or a procedure that comes to it; `PeerError` is answered with its errno,
any other exception is the provider's fault.

Source: vfio-user specification, section of each command.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from emudev_core.errors import PeerError
from emudev_core.later import Later
from emudev_core.lifecycle import State
from emudev_core.regions import RegionFlag, ResetKind

from . import version
from .messages import (
    MAX_DATA,
    Command,
    DeviceFlags,
    DeviceInfo,
    DmaMap,
    DmaUnmap,
    IrqInfo,
    RegionAccess,
    SetIrqs,
    WriteMultiHead,
    WriteMultiRecord,
)
from .protocol import Phase, close_fds
from .regions import region_info
from .steps import Procedure
from .teardown import unmap

if TYPE_CHECKING:
    from .session import Session

__all__ = ["HANDLERS", "Answer"]

Answer = bytes | tuple[bytes, Sequence[int]]
Handler = Callable[["Session", bytes], "Answer | Procedure[Answer]"]


def _negotiate(session: Session, payload: bytes) -> bytes:
    if session.phase is not Phase.GREETING:
        raise PeerError("VERSION was agreed on already")
    try:
        limits, answer = version.accept(payload)
    except PeerError as exc:
        exc.fatal = True
        raise
    session.agreed(limits)
    return answer


def _dma_map(session: Session, payload: bytes) -> bytes:
    fds = session.take_fds()
    try:
        request = DmaMap.unpack(payload)
    except PeerError:
        close_fds(fds)
        raise
    entry = session.dma.map(request, fds)
    if entry is not None:
        session.device.dma_map(session.dma.table, entry.region)
        session.device.status_changed("memory")
    return b""


def _dma_unmap(session: Session, payload: bytes) -> Procedure[Answer]:
    request = DmaUnmap.unpack(payload)
    yield from unmap(session, session.dma.select(request))
    session.device.status_changed("memory")
    return request.pack()


def _get_info(session: Session, payload: bytes) -> bytes:
    request = DeviceInfo.unpack(payload)
    if request.argsz < DeviceInfo.SIZE:
        raise PeerError(f"argsz {request.argsz} is below {DeviceInfo.SIZE}")
    return DeviceInfo(
        argsz=DeviceInfo.SIZE,
        flags=DeviceFlags.PCI | DeviceFlags.RESET,
        num_regions=session.region_count,
        num_irqs=session.irqs.count,
    ).pack()


def _get_region_info(session: Session, payload: bytes) -> Answer:
    limit = session.limits.max_data_xfer_size
    answer, fds = region_info(session.regions, session.region_count, payload, limit)
    if fds and session.limits.max_msg_fds < 1:
        fds = []
    return answer, fds


def _get_irq_info(session: Session, payload: bytes) -> bytes:
    return session.irqs.info(IrqInfo.unpack(payload)).pack()


def _set_irqs(session: Session, payload: bytes) -> bytes:
    fds = session.take_fds()
    try:
        request = SetIrqs.unpack(payload)
    except PeerError:
        close_fds(fds)
        raise
    session.irqs.set(request, payload[SetIrqs.SIZE :], fds)
    session.device.status_changed("irqs")
    return b""


def _check_access(session: Session, access: RegionAccess, flag: RegionFlag) -> None:
    info = session.regions.get(access.region)
    where = f"region {access.region} {access.offset:#x}+{access.count:#x}"
    if session.device.state is State.ERROR:
        raise PeerError(f"{where}: the device is in error", errno=errno.EIO)
    if access.count > MAX_DATA:
        raise PeerError(f"{where}: at most {MAX_DATA:#x} bytes are transferred at once")
    if info is None or access.offset + access.count > info.size:
        size = 0 if info is None else info.size
        raise PeerError(f"{where}: the region has {size:#x} bytes")
    if not info.flags & flag:
        raise PeerError(f"{where}: the region can't be accessed this way")


def _aligned(access: RegionAccess) -> bool:
    return access.count in (1, 2, 4, 8) and access.offset % access.count == 0


def _region_read(session: Session, payload: bytes) -> bytes:
    access = RegionAccess.unpack(payload)
    _check_access(session, access, RegionFlag.READ)
    region, offset, count = access.region, access.offset, access.count
    if count == 0:
        return b""
    if _aligned(access):
        data = session.device.region_read(region, offset, count).to_bytes(count, "little")
    else:
        data = bytes(session.device.region_read_bulk(region, offset, count))
        if len(data) != count:
            raise ValueError(f"emudev_region_read_bulk gave {len(data)} bytes of {count}")
    return access.pack() + data


def _region_write(session: Session, payload: bytes) -> Answer | Procedure[Answer]:
    access = RegionAccess.unpack(payload)
    data = payload[RegionAccess.SIZE :]
    if len(data) != access.count:
        raise PeerError(f"{len(data)} bytes of data came, the count says {access.count}")
    _check_access(session, access, RegionFlag.WRITE)
    if access.count == 0:
        return b""
    later = _write(session, access, data)
    return access.pack() if later is None else _after(later, access.pack())


def _write(session: Session, access: RegionAccess, data: bytes) -> Later | None:
    """One write that was checked; what it has to wait for, if anything."""
    done: Later | bool
    if _aligned(access):
        value = int.from_bytes(data, "little")
        if access.count == 4:
            bell = session.bells.get((access.region, access.offset))
            if bell is not None and session.device.is_direct("emudev_region_write"):
                bell.write(value)
                return None
        done = session.device.region_write(access.region, access.offset, access.count, value)
    else:
        done = session.device.region_write_bulk(access.region, access.offset, data)
    return done if isinstance(done, Later) else None


def _after(later: Later, answer: bytes) -> Procedure[Answer]:
    yield later
    return answer


def _region_write_multi(session: Session, payload: bytes) -> Procedure[Answer]:
    if not session.limits.write_multiple:
        raise PeerError("REGION_WRITE_MULTI was not agreed on")
    head = WriteMultiHead.unpack(payload)
    records = WriteMultiRecord.unpack_many(payload, head.wr_cnt, WriteMultiHead.SIZE)
    wrong: PeerError | None = None
    for record in records:
        # As if they had come one by one: a record that is refused does not keep the next from it.
        access = RegionAccess(record.offset, record.region, record.count)
        try:
            if not 1 <= record.count <= len(record.data):
                raise PeerError(f"a record of {record.count} bytes, expected 1 to 8")
            _check_access(session, access, RegionFlag.WRITE)
        except PeerError as exc:
            wrong = wrong or exc
            continue
        later = _write(session, access, record.data[: record.count])
        if later is not None:
            yield later
    if wrong is not None:
        raise wrong
    return head.pack()


def _reset(session: Session, payload: bytes) -> Answer | Procedure[Answer]:
    if session.device.state is State.ERROR:
        raise PeerError("the device is in error", errno=errno.EIO)
    answer = session.device.reset(ResetKind.POWER)
    return _after(answer, b"") if isinstance(answer, Later) else b""


#: Commands that are not here are answered with EINVAL: what only a client is sent, what is
#: obsolete, and what is not implemented (IO descriptors, features, migration).
HANDLERS: Final[Mapping[int, Handler]] = {
    Command.VERSION: _negotiate,
    Command.DMA_MAP: _dma_map,
    Command.DMA_UNMAP: _dma_unmap,
    Command.GET_INFO: _get_info,
    Command.GET_REGION_INFO: _get_region_info,
    Command.GET_IRQ_INFO: _get_irq_info,
    Command.SET_IRQS: _set_irqs,
    Command.REGION_READ: _region_read,
    Command.REGION_WRITE: _region_write,
    Command.RESET: _reset,
    Command.REGION_WRITE_MULTI: _region_write_multi,
}
