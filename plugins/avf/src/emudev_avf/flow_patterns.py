"""From the protocol headers of a request to the match of a flow rule.

Each header of the stack demands that its protocol is there, and bits of it. A header that can't be
found at a known place of a frame (those inside tunnels), or a field that is not known, makes the
pattern unsupported; the request is refused then, and no rule matches more than it says.

Source: avf.md section 4.9; RFC 791, 8200, 9293, 768, 9260, 2516, 3931, 4303, 4302; 3GPP TS 29.281,
38.415, 29.244, 29.274; eCPRI 2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from .flow_rules import Anchor, Fact, Match, MatchBuilder, PatternError
from .virtchnl.proto_hdrs import HeaderType, ProtoHeader, ProtoHeaders

__all__ = ["build_match"]

# Ethertypes, IP protocols and UDP ports.
IPV4, IPV6, PPPOE, ECPRI = 0x0800, 0x86DD, 0x8864, 0xAEFE
TCP, UDP, GRE, ESP, AH, L2TPV3, SCTP = 6, 17, 47, 50, 51, 115, 132
PORT_GTPU, PORT_GTPC, PORT_PFCP, PORT_L2TP, PORT_ESP = 2152, 2123, 8805, 1701, 4500
UDP_HEADER: Final = 8


@attrs.frozen
class _Layout:
    """What is known of a type of header.

    Attributes:
        size: Bytes of it that can be matched.
        fields: For each bit of the selector: offset, mask.
    """

    size: int
    fields: Mapping[int, tuple[int, bytes]]


def _bytes(*fields: tuple[int, int]) -> dict[int, tuple[int, bytes]]:
    """Fields of whole bytes: offset, size."""
    return {bit: (offset, b"\xff" * size) for bit, (offset, size) in enumerate(fields)}


def _prefixes() -> dict[int, tuple[int, bytes]]:
    """The prefixes of IPv6 addresses: source and destination for each length, from bit 5."""
    found = {}
    for i, bits in enumerate((32, 40, 48, 56, 64, 96)):
        found[5 + 2 * i] = (8, b"\xff" * (bits // 8))
        found[6 + 2 * i] = (24, b"\xff" * (bits // 8))
    return found


_PORTS: Final = ((0, 2), (2, 2))
LAYOUTS: Final[Mapping[int, _Layout]] = {
    HeaderType.ETH: _Layout(14, _bytes((6, 6), (0, 6), (12, 2))),
    HeaderType.S_VLAN: _Layout(4, {0: (0, b"\x0f\xff")}),
    HeaderType.C_VLAN: _Layout(4, {0: (0, b"\x0f\xff")}),
    HeaderType.IPV4: _Layout(
        20, {**_bytes((12, 4), (16, 4), (1, 1), (8, 1), (9, 1), (10, 2)), 2: (1, b"\xfc")}
    ),
    HeaderType.IPV6: _Layout(
        40,
        {**_bytes((8, 16), (24, 16), (0, 2), (7, 1), (6, 1)), 2: (0, b"\x0f\xf0"), **_prefixes()},
    ),
    HeaderType.TCP: _Layout(20, _bytes(*_PORTS, (16, 2))),
    HeaderType.UDP: _Layout(8, _bytes(*_PORTS, (6, 2))),
    HeaderType.SCTP: _Layout(12, _bytes(*_PORTS, (8, 4))),
    HeaderType.GTPU_IP: _Layout(8, _bytes((4, 4))),
    # Without the byte in front that is the extension's length.
    HeaderType.GTPU_EH: _Layout(2, {0: (0, b"\xf0"), 1: (1, b"\x3f")}),
    HeaderType.GTPU_EH_DOWN: _Layout(2, {0: (1, b"\x3f")}),
    HeaderType.GTPU_EH_UP: _Layout(2, {0: (1, b"\x3f")}),
    HeaderType.PPPOE: _Layout(6, _bytes((2, 2))),
    HeaderType.L2TPV3: _Layout(4, _bytes((0, 4))),
    HeaderType.ESP: _Layout(8, _bytes((0, 4))),
    HeaderType.AH: _Layout(12, _bytes((4, 4))),
    HeaderType.PFCP: _Layout(16, {0: (0, b"\x01"), 1: (4, b"\xff" * 8)}),
    HeaderType.GTPC: _Layout(8, _bytes((4, 4))),
    HeaderType.ECPRI: _Layout(8, _bytes((1, 1), (4, 2))),
    HeaderType.L2TPV2: _Layout(8, {0: (4, b"\xff\xff"), 1: (6, b"\xff\xff")}),
    HeaderType.IPV4_FRAG: _Layout(20, _bytes((4, 2))),
    HeaderType.IPV6_FRAG: _Layout(8, _bytes((4, 4))),
    HeaderType.GRE: _Layout(4, {}),
}

_TYPES_OF_UDP: Final = {
    HeaderType.GTPU_IP: PORT_GTPU,
    HeaderType.GTPC: PORT_GTPC,
    HeaderType.PFCP: PORT_PFCP,
    HeaderType.L2TPV2: PORT_L2TP,
}
_TAGS: Final = {0x8100: Fact.C_TAGGED, 0x88A8: Fact.S_TAGGED}
_TRANSPORTS: Final = {
    HeaderType.TCP: TCP,
    HeaderType.UDP: UDP,
    HeaderType.SCTP: SCTP,
    HeaderType.L2TPV3: L2TPV3,
    HeaderType.GRE: GRE,
}


def build_match(headers: ProtoHeaders) -> Match:
    """What frames the headers of a request mean.

    Raises:
        PatternError: The device can't tell these frames.
    """
    if headers.raw is not None:
        if headers.tunnel_level:
            raise PatternError("a raw pattern begins with the frame")
        builder = MatchBuilder()
        builder.octets(Anchor.RAW, 0, headers.raw.spec, headers.raw.mask)
        return builder.build()
    if headers.tunnel_level:
        raise PatternError("headers inside a tunnel can't be matched")
    stack = _Stack()
    for i, header in enumerate(headers.headers):
        stack.add(header, last=i == len(headers.headers) - 1)
    return stack.builder.build()


class _Stack:
    """Headers as they come, outermost first.

    Attributes:
        builder: What they demand.
    """

    def __init__(self) -> None:
        self.builder = MatchBuilder()
        self._below: list[int] = []  # types before the one at hand

    def add(self, header: ProtoHeader, *, last: bool) -> None:
        """Take the next header; `last` if nothing follows."""
        layout = LAYOUTS.get(header.type)
        if layout is None:
            raise PatternError(f"headers of type {header.type} can't be matched")
        spec, mask = _bits(header, layout)
        if header.type == HeaderType.ETH and not last and not any(spec[12:14]):
            # DPDK selects the type of fragments and leaves it to the next header to say it.
            mask = mask[:12] + bytes(2)
        place = self._PLACES[HeaderType(header.type)]
        place(self, HeaderType(header.type), spec, mask)
        self._below.append(header.type)

    @property
    def _last(self) -> int:
        return self._below[-1] if self._below else HeaderType.NONE

    def _after(self, kind: HeaderType, *allowed: HeaderType) -> None:
        if self._last not in allowed:
            raise PatternError(f"{kind.name} can't be matched behind type {self._last}")

    # -- layer 2

    def _eth(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._after(kind, HeaderType.NONE)
        self.builder.octets(Anchor.FRAME, 0, spec[:12], mask[:12])
        self._ethertype(spec[12:14], mask[12:14])

    def _ethertype(self, spec: bytes, mask: bytes) -> None:
        """That behind the tags, wherever in the stack it is said."""
        bits, value = int.from_bytes(mask, "big"), int.from_bytes(spec, "big")
        if bits == 0xFFFF and value in _TAGS:
            self.builder.fact(_TAGS[value], 1)
        else:
            self.builder.fact(Fact.ETHERTYPE, value, bits)

    def _vlan(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._after(kind, HeaderType.NONE, HeaderType.ETH, HeaderType.S_VLAN)
        if self._last == kind:
            raise PatternError("two S-VLANs can't be matched")
        tci, bits = int.from_bytes(spec[:2], "big"), int.from_bytes(mask[:2], "big")
        # DPDK calls the only tag of a frame so, too.
        self.builder.tag(kind == HeaderType.S_VLAN, tci, bits)
        if self._last == HeaderType.S_VLAN:
            self.builder.fact(Fact.S_TAGGED, 1)
        self._ethertype(spec[2:4], mask[2:4])

    def _of_frame(self, kind: HeaderType, ethertype: int) -> None:
        self._after(kind, HeaderType.NONE, HeaderType.ETH, HeaderType.S_VLAN, HeaderType.C_VLAN)
        self.builder.fact(Fact.ETHERTYPE, ethertype)

    def _pppoe(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._of_frame(kind, PPPOE)
        self.builder.octets(Anchor.L3, 0, spec, mask)

    # -- layer 3

    def _ip(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        version = 4 if kind == HeaderType.IPV4 else 6
        self._of_frame(kind, IPV4 if version == 4 else IPV6)
        self.builder.fact(Fact.IP_VERSION, version)
        # The protocol is asked of the parser, which finds it behind IPv6 extensions, too.
        at = 9 if version == 4 else 6
        self.builder.fact(Fact.PROTOCOL, spec[at], mask[at])
        mask = mask[:at] + b"\0" + mask[at + 1 :]
        self.builder.octets(Anchor.L3, 0, spec, mask)

    def _fragment(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        v4 = kind == HeaderType.IPV4_FRAG
        self._after(kind, HeaderType.IPV4 if v4 else HeaderType.IPV6)
        self.builder.fact(Fact.FRAGMENT, 1)
        if not v4:
            self.builder.octets(Anchor.L3, 6, b"\x2c", b"\xff")  # nothing between the headers
        self.builder.octets(Anchor.L3, 0 if v4 else 40, spec, mask)

    # -- layer 4

    def _transport(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._over_ip(kind, _TRANSPORTS[kind])
        self.builder.octets(Anchor.L4, 0, spec, mask)

    def _over_ip(self, kind: HeaderType, protocol: int) -> None:
        self._after(kind, HeaderType.IPV4, HeaderType.IPV6, HeaderType.NONE)
        self.builder.fact(Fact.PROTOCOL, protocol)
        self.builder.fact(Fact.FRAGMENT, 0)
        self.builder.fact(Fact.HAS_L4, 1)

    def _over_udp(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._after(kind, HeaderType.UDP)
        self._port(_TYPES_OF_UDP[kind])
        if kind == HeaderType.L2TPV2 and mask.strip(b"\0"):
            # The session id comes two bytes later if the header has a length.
            long = b"\x40" if mask[6:].strip(b"\0") else b"\0"
            self.builder.octets(Anchor.L4, UDP_HEADER, long, b"\x40")
        self.builder.octets(Anchor.L4, UDP_HEADER, spec, mask)

    def _port(self, number: int) -> None:
        self.builder.octets(Anchor.L4, 2, number.to_bytes(2, "big"), b"\xff\xff")

    def _gtpu_extension(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._after(kind, HeaderType.GTPU_IP)
        # The first extension, a PDU session container: 0x85 behind the optional fields.
        self.builder.octets(Anchor.L4, UDP_HEADER, b"\x04", b"\x04")
        self.builder.octets(Anchor.L4, UDP_HEADER + 11, b"\x85", b"\xff")
        if kind != HeaderType.GTPU_EH:
            direction = b"\x10" if kind == HeaderType.GTPU_EH_UP else b"\0"
            self.builder.octets(Anchor.L4, UDP_HEADER + 13, direction, b"\xf0")
        self.builder.octets(Anchor.L4, UDP_HEADER + 13, spec, mask)

    def _esp(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        if self._last == HeaderType.UDP:
            self._port(PORT_ESP)
            self.builder.octets(Anchor.L4, UDP_HEADER, spec, mask)
            return
        self._over_ip(kind, ESP)
        self.builder.octets(Anchor.L4, 0, spec, mask)

    def _ah(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        self._after(kind, HeaderType.IPV4, HeaderType.IPV6)
        if self._last == HeaderType.IPV4:
            self._over_ip(kind, AH)
            self.builder.octets(Anchor.L4, 0, spec, mask)
        else:  # which the parser takes for an extension
            self.builder.octets(Anchor.L3, 6, bytes([AH]), b"\xff")
            self.builder.octets(Anchor.L3, 40, spec, mask)

    def _ecpri(self, kind: HeaderType, spec: bytes, mask: bytes) -> None:
        if self._last == HeaderType.UDP:
            self.builder.octets(Anchor.L4, UDP_HEADER, spec, mask)
            return
        self._of_frame(kind, ECPRI)
        self.builder.octets(Anchor.L3, 0, spec, mask)

    _PLACES: Final[Mapping[HeaderType, Callable[[_Stack, HeaderType, bytes, bytes], None]]] = {
        HeaderType.ETH: _eth,
        HeaderType.S_VLAN: _vlan,
        HeaderType.C_VLAN: _vlan,
        HeaderType.PPPOE: _pppoe,
        HeaderType.IPV4: _ip,
        HeaderType.IPV6: _ip,
        HeaderType.IPV4_FRAG: _fragment,
        HeaderType.IPV6_FRAG: _fragment,
        **dict.fromkeys(_TRANSPORTS, _transport),
        **dict.fromkeys(_TYPES_OF_UDP, _over_udp),
        HeaderType.GTPU_EH: _gtpu_extension,
        HeaderType.GTPU_EH_DOWN: _gtpu_extension,
        HeaderType.GTPU_EH_UP: _gtpu_extension,
        HeaderType.ESP: _esp,
        HeaderType.AH: _ah,
        HeaderType.ECPRI: _ecpri,
    }


def _bits(header: ProtoHeader, layout: _Layout) -> tuple[bytes, bytes]:
    """The header's bytes and their mask, from either form.

    Raises:
        PatternError: Fields, or bytes, that are not known.
    """
    if header.mask is not None:
        if header.mask[layout.size :].strip(b"\0"):
            raise PatternError(f"more than {layout.size} bytes of a header of type {header.type}")
        return header.spec[: layout.size], header.mask[: layout.size]
    mask = bytearray(layout.size)
    for bit in range(32):
        if header.selector >> bit & 1:
            if bit not in layout.fields:
                raise PatternError(f"field {bit} of a header of type {header.type}")
            offset, field = layout.fields[bit]
            for i, octet in enumerate(field, offset):
                mask[i] |= octet
    return header.spec[: layout.size], bytes(mask)
