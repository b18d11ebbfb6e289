"""What an AVF device shows of itself beside what every PCI function does.

Each section is a function of the device, declared by `section`; a group of requests that sets up
something of its own declares its section here, or in a module of its own that this one imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from emudev_core.queues import rx_queue, tx_queue
from emudev_core.sections import Row
from emudev_net.addresses import mac_text

from .flow_rules import Fate, FlowRule, RuleKind
from .queues import Ring, RxRing
from .rss_inputs import RssFunction
from .virtchnl.opcodes import Cap

if TYPE_CHECKING:
    from .device import AvfDevice

__all__ = ["SECTIONS", "add_sections", "section"]

Read = Callable[["AvfDevice"], Iterator[Row]]


@attrs.frozen
class _Declared:
    name: str
    doc: str
    read: Read
    hex: tuple[str, ...]


#: Every section, in the order in which it is shown.
SECTIONS: Final[list[_Declared]] = []


def section(name: str, doc: str, hex: tuple[str, ...] = ()) -> Callable[[Read], Read]:
    """Declare a section; see `emudev_core.sections.Section`."""

    def declare(read: Read) -> Read:
        SECTIONS.append(_Declared(name, doc, read, hex))
        return read

    return declare


def add_sections(device: AvfDevice) -> None:
    """Add them to a device's table; `vectors` takes the place of the PCI kit's."""
    for one in SECTIONS:
        device.sections.add(one.name, one.doc, partial(one.read, device), one.hex)


@section("vf", "the virtual function: what was granted, and how it stands", ("caps",))
def _vf(device: AvfDevice) -> Iterator[Row]:
    vf = device.vf
    yield {
        "link": vf.link,
        "backend_link": device.backend_link,
        "admin_link": device.admin_link,
        "kernels_ready": device.ready,
        "speed_mbits": vf.speed,
        "reset": device.resets.state.value,
        "mac": mac_text(vf.lasting.mac),
        "configured_mac": mac_text(vf.mac),
        "mtu": vf.mtu,
        "virtchnl": f"{vf.lasting.major}.{vf.lasting.minor}",
        "caps": vf.state.caps,
        "cap_names": " ".join(cap.name or hex(cap) for cap in Cap(vf.state.caps)),
        "queue_pairs": vf.queue_pairs,
        "most_queue_pairs": vf.most_pairs,
        "vectors": vf.max_vectors,
        "running": vf.running,
    }


@section("queues", "rings as the guest has set them up, and what they have counted", ("base",))
def _queues(device: AvfDevice) -> Iterator[Row]:
    for pair, (rx, tx) in enumerate(zip(device.port.rx, device.port.tx, strict=True)):
        yield _ring(rx_queue(pair), "rx", rx)
        yield _ring(tx_queue(pair), "tx", tx)


def _ring(queue: int, direction: str, ring: Ring) -> Row:
    counted = ring.stats()
    reasons = {name: count for name, count in counted.dropped.items() if count}
    return {
        "queue": queue,
        "direction": direction,
        "state": "stopped" if ring.stopped else "on" if ring.enabled else "off",
        "base": ring.base,
        "length": ring.length,
        "head": ring.head,
        "tail": ring.doorbell.value,
        "vector": ring.vector,
        "buffer": ring.buffer_size if isinstance(ring, RxRing) else 0,
        "timestamps": ring.stamped if isinstance(ring, RxRing) else False,
        "packets": counted.packets,
        "bytes": counted.bytes,
        "dropped": sum(reasons.values()),
        "reasons": ", ".join(f"{name} {count}" for name, count in reasons.items()),
    }


@section("vectors", "interrupt vectors; throttles in units of 2 µs")
def _vectors(device: AvfDevice) -> Iterator[Row]:
    for vector in device.port.vectors:
        yield {
            "vector": vector.index,
            "enabled": vector.enabled,
            "pending": vector.pending,
            "deliverable": vector.bound,
            "signals": vector.signals,
            "held": vector.held,
            "throttles": " ".join(map(str, vector.intervals)),
        }


@section("filters", "MAC addresses whose frames the guest receives, and its promiscuous modes")
def _filters(device: AvfDevice) -> Iterator[Row]:
    state = device.vf.state
    for bit, name in ((1, "unicast"), (2, "multicast")):
        if state.promiscuous & bit:
            yield {"what": "promiscuous", "value": name}
    for address in sorted(state.addresses):
        what = "multicast" if address[0] & 1 else "unicast"
        yield {"what": what, "value": mac_text(address)}


@section("vlans", "VLAN ids by ethertype of their tag, and what happens to tags", ("ethertype",))
def _vlans(device: AvfDevice) -> Iterator[Row]:
    vlan = device.vf.state.vlan
    for tpid, ids in sorted(vlan.outer.items()):
        yield {"what": "accepted", "ethertype": tpid, "value": _ranges(ids)}
    if vlan.inner:
        yield {"what": "accepted-inner", "ethertype": 0x8100, "value": _ranges(vlan.inner)}
    yield {"what": "unfiltered", "ethertype": None, "value": f"{int(vlan.unfiltered):#x}"}
    yield {"what": "strip", "ethertype": vlan.strip or None, "value": "on" if vlan.strip else "off"}
    inner = "on" if vlan.strip_inner else "off"
    yield {"what": "strip-inner", "ethertype": 0x8100, "value": inner}
    yield {"what": "insert", "ethertype": vlan.insert, "value": "by descriptor"}


def _ranges(numbers: set[int]) -> str:
    """Numbers in few words: ``1-4 7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


@section("rss", "how received frames are spread over queues", ("hena",))
def _rss(device: AvfDevice) -> Iterator[Row]:
    state = device.vf.state
    try:
        function = RssFunction(state.rss_function).name.lower()
    except ValueError:
        function = str(state.rss_function)
    yield {
        "function": function,
        "hena": state.rss_hena,
        "key": state.rss_key.hex(),
        "table_size": len(state.rss_lut),
        "table": " ".join(map(str, state.rss_lut)),
        "rules": " ".join(f"{kind}:{fields:#x}" for kind, fields in state.rss_rules.items()),
    }


@section("rules", "flow rules, oldest first, with the frames that they decided about")
def _rules(device: AvfDevice) -> Iterator[Row]:
    for rule in device.vf.state.rules:
        yield {
            "kind": RuleKind(rule.kind).name.lower(),
            "id": rule.id,
            "priority": rule.priority,
            "match": _match_text(rule),
            "action": _action_text(rule),
            "hits": device.port.rule_hits(rule.kind, rule.id),
        }


def _match_text(rule: FlowRule) -> str:
    match = rule.match
    parts = []
    if match.facts_mask:
        parts.append(f"facts {match.facts:#x}/{match.facts_mask:#x}")
    if match.tags_mask:
        parts.append(f"tags {match.tags:#x}/{match.tags_mask:#x}")
    parts += [f"{f.anchor}+{f.offset} {f.value:#x}/{f.mask:#x}" for f in match.fields]
    return ", ".join(parts) or "all"


def _action_text(rule: FlowRule) -> str:
    action = rule.action
    fate = Fate(action.fate)
    text = fate.name.lower()
    if fate is Fate.QUEUE:
        text += f" {action.queue}"
    elif fate is Fate.SPREAD:
        text += f" {action.queue}-{action.queue + action.count - 1}"
    return text if action.mark is None else f"{text}, mark {action.mark:#x}"


@section("classes", "traffic classes and limits of what may be sent, kbit/s; 0: no limit")
def _classes(device: AvfDevice) -> Iterator[Row]:
    vf = device.vf
    for number, channel in enumerate(vf.lasting.channels):
        queues = f"{channel.offset}-{channel.offset + channel.count - 1}"
        yield {"what": f"class {number}", "queues": queues, "rate": channel.rate}
    for queue, rate in sorted(vf.state.queue_rates.items()):
        yield {"what": "queue", "queues": str(queue), "rate": rate}


@section("virtchnl", "the last messages of the mailbox, oldest first")
def _virtchnl(device: AvfDevice) -> Iterator[Row]:
    return device.history.rows()


@section("counters", "all counters: those of GET_STATS, and of the mailbox")
def _counters(device: AvfDevice) -> Iterator[Row]:
    counted: dict[str, Any] = device.port.stats()._asdict()
    counted |= {
        "rx_filtered": device.port.filtered,
        "rule_drops": device.port.rule_drops,
        "mailbox_requests": device.mailbox.requests,
        "mailbox_refused": device.mailbox.refused + device.dispatcher.refused,
        "mailbox_dropped": device.mailbox.dropped,
        "mailbox_waiting": len(device.mailbox.waiting),
    }
    for name, value in counted.items():
        yield {"name": name, "value": value}
