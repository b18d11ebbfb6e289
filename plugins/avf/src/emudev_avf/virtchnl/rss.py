"""Receive side scaling: key, lookup table, what is hashed and how. Source: avf.md section 4.7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emudev_net.parse import (
    KIND_IPV4,
    KIND_IPV6,
    WHAT_FRAGMENT,
    WHAT_SCTP,
    WHAT_TCP,
    WHAT_UDP,
)

from ..rss_inputs import ANY, FIELDS, RssField, RssFunction
from .base import check_vsi
from .handlers import OK, Answer, Refused, check, handler
from .limits import HENA_CAPS, RSS_KEY_SIZE
from .messages import RssHena, RssHfunc, RssKeyHead, RssLutHead
from .opcodes import Cap, Op, Status
from .proto_hdrs import HEADERS_SIZE, HeaderType, ProtoHeader, ProtoHeaders

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

#: Bytes of ADD_RSS_CFG: headers, the algorithm, 128 reserved ones.
CFG_SIZE: Final = HEADERS_SIZE + 4 + 128
#: Headers in front of the IP header, which may be named but not hashed.
LINK_HEADERS: Final = (HeaderType.ETH, HeaderType.S_VLAN, HeaderType.C_VLAN)
NETWORK_HEADERS: Final = {HeaderType.IPV4: KIND_IPV4, HeaderType.IPV6: KIND_IPV6}
TRANSPORT_HEADERS: Final = {
    HeaderType.TCP: WHAT_TCP,
    HeaderType.UDP: WHAT_UDP,
    HeaderType.SCTP: WHAT_SCTP,
}
FRAGMENT_HEADERS: Final = {
    HeaderType.IPV4: HeaderType.IPV4_FRAG,
    HeaderType.IPV6: HeaderType.IPV6_FRAG,
}
#: Fields of both: source, destination.
SELECT_SRC: Final = 1 << 0
SELECT_DST: Final = 1 << 1
#: Field of an IP header: the protocol. DPDK names it with a transport header behind it, where it is
#: the same in all frames and adds nothing.
SELECT_PROTOCOL: Final = 1 << 4


@handler(Op.CONFIG_RSS_KEY, gate=Cap.RSS_PF)
def config_rss_key(vf: Vf, payload: bytes) -> Answer:
    """52 bytes, or none to turn the hash off."""
    head = RssKeyHead.unpack(payload)
    check_vsi(head.vsi_id)
    check(head.key_len in (0, RSS_KEY_SIZE), "a key of %d bytes", head.key_len)
    key = payload[RssKeyHead.SIZE : RssKeyHead.SIZE + head.key_len]
    check(len(key) == head.key_len, "%d bytes of %d", len(key), head.key_len)
    vf.state.rss_key = key
    vf.show_rss()
    return OK


@handler(Op.CONFIG_RSS_LUT, gate=Cap.RSS_PF)
def config_rss_lut(vf: Vf, payload: bytes) -> Answer:
    """As many queues as were reported (64, or 512), or none to turn the hash off."""
    head = RssLutHead.unpack(payload)
    check_vsi(head.vsi_id)
    check(head.lut_entries in (0, vf.lut_size), "a table of %d entries", head.lut_entries)
    lut = payload[RssLutHead.SIZE : RssLutHead.SIZE + head.lut_entries]
    check(len(lut) == head.lut_entries, "%d entries of %d", len(lut), head.lut_entries)
    check(all(queue < vf.queue_pairs for queue in lut), "queues up to %d", max(lut, default=0))
    vf.state.rss_lut = lut
    vf.show_rss()
    return OK


@handler(Op.GET_RSS_HENA_CAPS, gate=Cap.RSS_PF)
def get_rss_hena_caps(vf: Vf, payload: bytes) -> Answer:
    """What SET_RSS_HENA takes."""
    return Answer(RssHena(hena=HENA_CAPS).pack())


@handler(Op.SET_RSS_HENA, gate=Cap.RSS_PF)
def set_rss_hena(vf: Vf, payload: bytes) -> Answer:
    """0 turns the hash off; rules of ADD_RSS_CFG go, too: DPDK begins with that."""
    hena = RssHena.unpack(payload).hena
    check(hena & ~HENA_CAPS == 0, "packet types %#x", hena)
    vf.state.rss_hena = hena
    vf.state.rss_rules = {}
    vf.show_rss()
    return OK


@handler(Op.CONFIG_RSS_HFUNC, gate=Cap.RSS_PF | Cap.ADV_RSS_PF)
def config_rss_hfunc(vf: Vf, payload: bytes) -> Answer:
    """The function for all packet types."""
    asked = RssHfunc.unpack(payload)
    check_vsi(asked.vsi_id)
    vf.state.rss_function = read_function(asked.rss_algorithm)
    vf.show_rss()
    return OK


def read_function(number: int) -> RssFunction:
    """A known function."""
    check(number in list(RssFunction), "hash function %d", number)
    return RssFunction(number)


@handler(Op.ADD_RSS_CFG, gate=Cap.RSS_PF | Cap.ADV_RSS_PF)
def add_rss_cfg(vf: Vf, payload: bytes) -> Answer:
    """The fields that are hashed of a packet type, in place of what was hashed of it before."""
    kind, fields, function = read_rule(payload)
    check(fields & FIELDS, "no field to hash")
    vf.state.rss_rules[kind] = int(fields | function.how)
    vf.show_rss()
    return OK


@handler(Op.DEL_RSS_CFG, gate=Cap.RSS_PF | Cap.ADV_RSS_PF)
def del_rss_cfg(vf: Vf, payload: bytes) -> Answer:
    """What SET_RSS_HENA says of the type holds again; a rule that is not there is no error."""
    kind, _, _ = read_rule(payload)
    vf.state.rss_rules.pop(kind, None)
    vf.show_rss()
    return OK


def read_rule(payload: bytes) -> tuple[int, RssField, RssFunction]:
    """The packet type, fields and function of a rule.

    Raises:
        Refused: It is for frames or fields that this device can't tell from others.
        DecodeError: It is too short, or its counts are out of range.
    """
    check(len(payload) >= CFG_SIZE, "a rule of %d bytes, it has %d", len(payload), CFG_SIZE)
    headers = ProtoHeaders.unpack(payload)
    function = read_function(
        int.from_bytes(payload[HEADERS_SIZE : HEADERS_SIZE + 4], "little", signed=True)
    )
    support(headers.raw is None and not headers.masked, "only headers with selected fields")
    # Level 1 is how DPDK says "the innermost one" of frames that are in no tunnel, too.
    support(headers.tunnel_level in (0, 1), "tunnel level %d", headers.tunnel_level)
    stack = list(headers.headers)
    while stack and stack[0].type in LINK_HEADERS:
        support(stack[0].selector == 0, "fields %#x of a link header", stack[0].selector)
        stack.pop(0)
    support(bool(stack), "frames without an IP header")
    network = stack.pop(0)
    support(network.type in NETWORK_HEADERS, "header %d, expected IPv4 or IPv6", network.type)
    base = NETWORK_HEADERS[HeaderType(network.type)]
    known = SELECT_SRC | SELECT_DST | (SELECT_PROTOCOL if stack else 0)
    fields = read_fields(network, known, RssField.SRC, RssField.DST)
    if not stack:
        return base + ANY, fields, function
    inner = stack.pop(0)
    support(not stack, "%d headers behind the transport header", len(stack))
    if inner.type == FRAGMENT_HEADERS[HeaderType(network.type)]:
        support(inner.selector == 0, "fields %#x of a fragment", inner.selector)
        return base + WHAT_FRAGMENT, fields, function
    support(inner.type in TRANSPORT_HEADERS, "header %d behind IP", inner.type)
    fields |= read_fields(inner, SELECT_SRC | SELECT_DST, RssField.SPORT, RssField.DPORT)
    return base + TRANSPORT_HEADERS[HeaderType(inner.type)], fields, function


def read_fields(header: ProtoHeader, known: int, src: RssField, dst: RssField) -> RssField:
    """Source and destination of a header, if selected."""
    support(header.selector & ~known == 0, "fields %#x of %d", header.selector, header.type)
    fields = RssField(0)
    if header.selector & SELECT_SRC:
        fields |= src
    if header.selector & SELECT_DST:
        fields |= dst
    return fields


def support(condition: bool, reason: str, *values: int) -> None:
    """Refuse the request as not supported unless `condition` holds."""
    if not condition:
        raise Refused(Status.ERR_NOT_SUPPORTED, reason % values if values else reason)
