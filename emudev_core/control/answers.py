"""From a request to its reply: what each one does with the devices of a registry.

An answer is a generator: it rests between two pieces of work, so that the server can give the loop
back to the data in between, and returns the reply. Knows no socket. For the loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Any, Final

import msgspec

from ..attributes import (
    ADMIN_LINK,
    ADMIN_MTU,
    LINK,
    MAC,
    MTU,
    PF_RESET,
    SPEED,
    AttributeInfo,
)
from ..device import Device
from ..errors import DeviceError, EmudevError
from ..lifecycle import State as Lifecycle
from ..names import hint
from ..queues import QueueInfo
from ..registry import Registry
from ..sections import Row, Section
from .protocol import (
    AttributeRecord,
    Attributes,
    ControlError,
    DeviceRecord,
    Devices,
    Done,
    Error,
    ErrorKind,
    GetAttributes,
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
)

__all__ = ["Refusal", "answer", "core_sections", "find_device"]

log = logging.getLogger(__name__)

Answer = Generator[None, None, Reply]

CORE: Final = "core"
#: Rows of a section that are read; a guest behind an IOMMU may have any number of mappings.
MAX_ROWS: Final = 4096


class Refusal(ControlError):
    """A request that gets an `Error`; never leaves the server.

    Args:
        kind: See `Error`.
        message: For people.
        expected: What would have been right.
        came: What came.
    """

    def __init__(self, kind: ErrorKind, message: str, expected: str = "", came: str = "") -> None:
        super().__init__(Error(kind=kind, message=message, expected=expected, came=came))

    def reply(self, id: int) -> Error:
        """As a reply."""
        return msgspec.structs.replace(self.error, id=id)


def answer(registry: Registry, request: Request) -> Answer:
    """Do what a request asks for; an `Error` is a reply, too."""
    try:
        reply = yield from _HANDLERS[type(request)](registry, request)
    except Refusal as exc:
        return exc.reply(request.id)
    except EmudevError as exc:
        return Error(id=request.id, kind="device", message=str(exc))
    except Exception as exc:
        log.exception("a control request failed: %r", request)
        message = f"{type(exc).__name__}: {exc}; the log of the process has the traceback"
        return Error(id=request.id, kind="internal", message=message)
    return reply


def find_device(registry: Registry, name: str) -> Device:
    """The device of a name.

    Raises:
        Refusal: There is none.
    """
    device = registry.find(name)
    if device is None:
        names = [one.name for one in registry]
        near = hint(name, names) or "there are no devices"
        raise Refusal("unknown", f"no device {name} ({near})", " or ".join(names), name)
    return device


# -- looking


def _list(registry: Registry, request: ListDevices) -> Answer:
    found = []
    for device in registry:
        found.append(_device_record(device))
        yield
    return Devices(id=request.id, devices=found)


def _device_record(device: Device) -> DeviceRecord:
    try:
        kind = device.get_dev_info().type
    except Exception:  # a provider that can't say so now is shown all the same
        kind = ""
    return DeviceRecord(
        name=device.name,
        provider=device.members[0].name if device.members else "",
        type=kind,
        state=device.state.value,
        address=device.address,
        backends=[member.name for member in device.backends()],
        error=device.error,
    )


def _show(registry: Registry, request: Show) -> Answer:
    device = find_device(registry, request.device)
    sections = [(CORE, section) for section in core_sections(device)]
    sections += [(member.name, section) for member, section in device.get_state()]
    told = {section.name for member, section in sections if member != CORE}
    # The core's own list of queues is for devices that have nothing better to say.
    sections = [(m, s) for m, s in sections if m != CORE or s.name not in told]
    names = [section.name for _, section in sections]
    for wanted in request.sections:
        if wanted not in names:
            raise Refusal(
                "unknown",
                f"{device.name} has no section {wanted} ({hint(wanted, names)})",
                " or ".join(dict.fromkeys(names)),
                wanted,
            )
    found = []
    for member, section in sections:
        if not request.sections or section.name in request.sections:
            yield
            found.append(_section_record(device, member, section))
    return State(id=request.id, device=device.name, sections=found)


def _section_record(device: Device, member: str, section: Section) -> SectionRecord:
    rows: list[dict[str, Any]] = []
    error = ""
    try:
        rows = [dict(row) for row in islice(section.read(), MAX_ROWS + 1)]
        msgspec.json.encode(rows)  # what is no plain value is this section's fault alone
    except Exception as exc:
        if not isinstance(exc, EmudevError):
            log.exception("%s: section %s of %s failed", device.name, section.name, member)
        rows, error = [], f"{type(exc).__name__}: {exc}"
    return SectionRecord(
        name=section.name,
        member=member,
        doc=section.doc,
        rows=rows[:MAX_ROWS],
        hex=list(section.hex),
        cut=len(rows) > MAX_ROWS,
        error=error,
    )


def core_sections(device: Device) -> list[Section]:
    """What the host knows of any device."""
    return [
        Section("device", "the device and who takes part in it", lambda: _members(device)),
        Section(
            "queues",
            "its queues and what they have counted",
            lambda: (_queue_row(info) for info in _queues(device)),
            ("base",),
        ),
        Section(
            "memory",
            "guest memory: where it is for the guest, and how it is reached",
            lambda: _memory(device),
            ("guest", "size"),
        ),
    ]


def _members(device: Device) -> Iterable[Row]:
    yield {"what": "state", "name": device.state.value, "origin": device.error}
    if device.address:
        yield {"what": "address", "name": device.address, "origin": ""}
    backends = [member.name for member in device.backends()]
    for index, member in enumerate(device.members):
        what = "provider" if index == 0 else "backend" if member.name in backends else "member"
        yield {"what": what, "name": member.name, "origin": member.origin}


def _queues(device: Device) -> Iterable[QueueInfo]:
    try:
        pairs = device.get_dev_info().max_queue_pairs
    except DeviceError:
        return
    for queue in range(2 * pairs):
        yield device.get_queue_info(queue)


def _queue_row(info: QueueInfo) -> Row:
    return {
        "queue": info.queue,
        "direction": info.direction.value,
        "enabled": info.enabled,
        "base": info.base,
        "size": info.size,
        "vector": info.vector,
        **_counts(info),
    }


def _counts(info: QueueInfo) -> dict[str, Any]:
    stats = info.kernels.stats if info.kernels is not None else None
    counted = stats() if stats is not None else None
    if counted is None:
        return {"packets": 0, "bytes": 0, "dropped": 0, "reasons": ""}
    reasons = {name: count for name, count in counted.dropped.items() if count}
    return {
        "packets": counted.packets,
        "bytes": counted.bytes,
        "dropped": sum(reasons.values()),
        "reasons": ", ".join(f"{name} {count}" for name, count in reasons.items()),
    }


def _memory(device: Device) -> Iterable[Row]:
    try:
        table = device.get_mem_table()
    except DeviceError:
        return
    for region in table.regions:
        yield {
            "guest": region.guest,
            "size": region.size,
            "access": "r" * region.readable + "w" * region.writable,
            "mapped": region.host is not None,
        }


def _stats(registry: Registry, request: Stats) -> Answer:
    devices = [find_device(registry, request.device)] if request.device else list(registry)
    rows: list[dict[str, Any]] = []
    for device in devices:
        for info in _queues(device):
            row = _queue_row(info)
            kept = ("queue", "direction", "packets", "bytes", "dropped", "reasons")
            rows.append({"device": device.name, **{key: row[key] for key in kept}})
        yield
    section = SectionRecord(
        name="stats", member=CORE, doc="what the queues have counted", rows=rows
    )
    return State(id=request.id, device=request.device, sections=[section])


# -- attributes


def _get_attributes(registry: Registry, request: GetAttributes) -> Answer:
    device = find_device(registry, request.device)
    infos = list(device.get_attributes())
    if request.name:
        infos = [_attribute(device, request.name)]
    found = []
    for info in infos:
        value: bool | int | str | None = None
        try:
            value = device.get_attr(info.name)
        except EmudevError as exc:
            if request.name:
                raise
            log.debug("%s: attribute %s: %s", device.name, info.name, exc)
        kind: Any = info.type.__name__
        found.append(
            AttributeRecord(
                name=info.name, type=kind, value=value, writable=info.writable, doc=info.doc
            )
        )
    yield
    return Attributes(id=request.id, device=device.name, attributes=found)


def _attribute(device: Device, name: str) -> AttributeInfo:
    """What is known of an attribute.

    Raises:
        Refusal: The device has none of that name.
    """
    infos = {info.name: info for info in device.get_attributes()}
    if name not in infos:
        near = hint(name, infos) or "it has none"
        message = f"{device.name} has no attribute {name} ({near})"
        raise Refusal("unknown", message, " or ".join(infos), name)
    return infos[name]


def _changed(device: Device, name: str, value: bool | int | str) -> None:
    """Set an attribute.

    Raises:
        Refusal: Unknown, read-only or of another type.
        EmudevError: The provider refused the value.
    """
    if device.state in (Lifecycle.ERROR, Lifecycle.CLOSED):
        raise Refusal("device", f"{device.name} is in state {device.state.value}: {device.error}")
    info = _attribute(device, name)
    where = f"{device.name}: attribute {name}"
    if not info.writable:
        raise Refusal("device", f"{where} is read-only", "a writable attribute", name)
    if type(value) is not info.type:
        kind = info.type.__name__
        raise Refusal("request", f"{where} takes {kind}, came {value!r}", kind, repr(value))
    device.set_attr(name, value)


def _set_attribute(registry: Registry, request: SetAttribute) -> Answer:
    device = find_device(registry, request.device)
    _changed(device, request.name, request.value)
    yield
    return Done(id=request.id, device=device.name)


# -- actions


def _set_link(registry: Registry, request: SetLink) -> Answer:
    device = find_device(registry, request.device)
    if request.state is None and request.speed is None:
        raise Refusal("request", "set-link changes nothing", "state or speed", "neither")
    if request.speed is not None:
        _changed(device, SPEED, request.speed)
    if request.state is not None:
        known = {info.name for info in device.get_attributes()}
        if ADMIN_LINK in known:
            _changed(device, ADMIN_LINK, request.state)
        elif request.state == "auto":
            message = f"{device.name} has no link that follows its backend by choice"
            raise Refusal("device", message, "up or down", "auto")
        else:
            _changed(device, LINK, request.state == "up")
    yield
    return Done(id=request.id, device=device.name)


def _reset(registry: Registry, request: Reset) -> Answer:
    device = find_device(registry, request.device)
    _pf_reset(device, silent=request.silent)
    yield
    text = "being reset" if request.silent else "reset announced to the guest"
    return Done(id=request.id, device=device.name, text=text)


def _pf_reset(device: Device, *, silent: bool = False) -> None:
    if PF_RESET not in {info.name for info in device.get_attributes()}:
        message = f"{device.name} can't be reset from outside: it has no attribute {PF_RESET}"
        raise Refusal("device", message)
    _changed(device, PF_RESET, "silent" if silent else "announced")


def _update(registry: Registry, request: Update) -> Answer:
    device = find_device(registry, request.device)
    known = {info.name for info in device.get_attributes()}
    mtu = ADMIN_MTU if ADMIN_MTU in known else MTU
    values = {MAC: request.mac, mtu: request.mtu}
    wanted = {name: value for name, value in values.items() if value is not None}
    if not wanted:
        raise Refusal("request", "update changes nothing", "mac or mtu", "neither")
    old = {name: device.get_attr(_attribute(device, name).name) for name in wanted}
    done: list[str] = []
    try:
        for name, value in wanted.items():
            _changed(device, name, value)
            done.append(name)
        if request.reset:
            _pf_reset(device)
    except Exception:
        for name in done:
            device.set_attr(name, old[name])
        raise
    yield
    when = "reset announced to the guest" if request.reset else "the guest learns it in a reset"
    return Done(id=request.id, device=device.name, text=when)


_HANDLERS: Final[dict[type, Callable[[Registry, Any], Answer]]] = {
    ListDevices: _list,
    Show: _show,
    Stats: _stats,
    GetAttributes: _get_attributes,
    SetAttribute: _set_attribute,
    SetLink: _set_link,
    Reset: _reset,
    Update: _update,
}
