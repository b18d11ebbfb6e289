"""Wire form of protocol headers: which frames a hash or a flow rule is for.

A request names a stack of headers in one of three forms: with a bit set of the fields that count
(`ProtoHeader.selector`), with a mask over each header's bytes, or as bytes of a whole frame under a
mask. The three share 2312 bytes; the count says which form it is.

Source: avf.md section 4.9 (virtchnl.h, struct virtchnl_proto_hdrs).
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from emudev_core.errors import DecodeError
from emudev_core.wire import Wire, pad, raw, s32, u8, u16, u32, wire

__all__ = ["HEADERS_SIZE", "HeaderType", "ProtoHeader", "ProtoHeaders", "RawPattern"]

#: Bytes of the whole, whatever form it has.
HEADERS_SIZE: Final = 2312
#: Most headers with a selector; a larger count means headers with masks.
MAX_HEADERS: Final = 32
#: Most headers with masks.
MAX_MASKED: Final = 16
#: Bytes of a header.
HEADER: Final = 64
#: Most bytes of a raw pattern.
MAX_RAW: Final = 1024


class HeaderType(enum.IntEnum):
    """Types of headers; other numbers are kept as they are."""

    NONE = 0
    ETH = 1
    S_VLAN = 2
    C_VLAN = 3
    IPV4 = 4
    IPV6 = 5
    TCP = 6
    UDP = 7
    SCTP = 8
    GTPU_IP = 9
    GTPU_EH = 10
    GTPU_EH_DOWN = 11
    GTPU_EH_UP = 12
    PPPOE = 13
    L2TPV3 = 14
    ESP = 15
    AH = 16
    PFCP = 17
    GTPC = 18
    ECPRI = 19
    L2TPV2 = 20
    PPP = 21
    IPV4_FRAG = 22
    IPV6_FRAG = 23
    GRE = 24


@wire(size=8)
class _Head(Wire):
    tunnel_level: int = u8("0: from the outermost header, 1: from the first inner one, ...")
    pad1: bytes = pad(3)
    count: int = u32("0: raw; 1 to 32: with selectors; 33 to 48: count - 32 with masks")


@wire(size=72)
class _Selected(Wire):
    type: int = s32("a HeaderType")
    selector: int = u32("bit set of the fields that count")
    spec: bytes = raw(HEADER, "the header in network order")


@wire(size=136)
class _Masked(Wire):
    type: int = s32("a HeaderType")
    pad1: bytes = pad(4)
    spec: bytes = raw(HEADER, "the header in network order")
    mask: bytes = raw(HEADER, "which of its bits count")


@wire(size=2 + 2 * MAX_RAW)
class _Raw(Wire):
    length: int = u16("bytes of the pattern")
    spec: bytes = raw(MAX_RAW, "the frame")
    mask: bytes = raw(MAX_RAW, "which of its bits count")


@attrs.frozen
class ProtoHeader:
    """One header of a stack.

    Attributes:
        type: A `HeaderType`, or any other number that came.
        selector: Bit set of the fields that count; 0 in the masked form.
        spec: The header in network order, 64 bytes.
        mask: Which of its bits count, 64 bytes; None in the form with selectors.
    """

    type: int
    selector: int
    spec: bytes
    mask: bytes | None = None


@attrs.frozen
class RawPattern:
    """The first bytes of a frame.

    Attributes:
        spec: The bytes, 1 to 1024.
        mask: Which of their bits count, as many.
    """

    spec: bytes
    mask: bytes


@attrs.frozen
class ProtoHeaders:
    """What a request says about frames: either headers, or a raw pattern.

    Attributes:
        tunnel_level: 0: the headers begin with the outermost one.
        headers: Outermost first; none if it is raw.
        raw: The raw pattern.
    """

    tunnel_level: int
    headers: tuple[ProtoHeader, ...]
    raw: RawPattern | None = None

    @property
    def masked(self) -> bool:
        """Whether the headers have masks."""
        return any(header.mask is not None for header in self.headers)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> ProtoHeaders:
        """Decode the 2312 bytes at `offset`.

        Raises:
            DecodeError: They are not all there, or a count or length is out of range.
        """
        if offset < 0 or len(data) - offset < HEADERS_SIZE:
            have = max(0, len(data) - offset)
            raise DecodeError(f"protocol headers need {HEADERS_SIZE} bytes, {have} came")
        head = _Head.unpack(data, offset)
        at = offset + _Head.SIZE
        if head.count == 0:
            pattern = _Raw.unpack(data, at)
            if not 1 <= pattern.length <= MAX_RAW:
                raise DecodeError(f"a raw pattern has 1 to {MAX_RAW} bytes, not {pattern.length}")
            # Linux 6.12 and 7.3 give the end of the last key of `tc u32`, not of the furthest one.
            # Bits that are set behind it are meant, or the rule would match more than it says.
            length = max(pattern.length, len(pattern.mask.rstrip(b"\0")))
            raw_pattern = RawPattern(pattern.spec[:length], pattern.mask[:length])
            return cls(head.tunnel_level, (), raw_pattern)
        if head.count <= MAX_HEADERS:
            selected = _Selected.unpack_many(data, head.count, at)
            headers = tuple(ProtoHeader(h.type, h.selector, h.spec) for h in selected)
            return cls(head.tunnel_level, headers)
        if head.count <= MAX_HEADERS + MAX_MASKED:
            masked = _Masked.unpack_many(data, head.count - MAX_HEADERS, at)
            return cls(
                head.tunnel_level, tuple(ProtoHeader(h.type, 0, h.spec, h.mask) for h in masked)
            )
        limit = MAX_HEADERS + MAX_MASKED
        raise DecodeError(f"0 to {limit} protocol headers expected, not {head.count}")

    def pack(self) -> bytes:
        """Encode it, 2312 bytes; the form follows from what is there.

        Raises:
            ValueError: Neither headers nor a raw pattern, too many, or forms that are mixed.
        """
        if self.raw is not None:
            spec, mask = self.raw.spec, self.raw.mask
            if self.headers or not 1 <= len(spec) <= MAX_RAW or len(mask) != len(spec):
                raise ValueError(f"a raw pattern has 1 to {MAX_RAW} bytes and as many of mask")
            body = _Raw(
                length=len(spec), spec=spec.ljust(MAX_RAW, b"\0"), mask=mask.ljust(MAX_RAW, b"\0")
            ).pack()
            count = 0
        elif self.masked:
            count = MAX_HEADERS + len(self.headers)
            if len(self.headers) > MAX_MASKED or any(h.mask is None for h in self.headers):
                raise ValueError(f"at most {MAX_MASKED} headers, and all with masks")
            body = b"".join(
                _Masked(type=h.type, spec=_fill(h.spec), mask=_fill(h.mask or b"")).pack()
                for h in self.headers
            )
        else:
            count = len(self.headers)
            if not 1 <= count <= MAX_HEADERS:
                raise ValueError(f"1 to {MAX_HEADERS} headers, not {count}")
            body = b"".join(
                _Selected(type=h.type, selector=h.selector, spec=_fill(h.spec)).pack()
                for h in self.headers
            )
        head = _Head(tunnel_level=self.tunnel_level, count=count).pack()
        return (head + body).ljust(HEADERS_SIZE, b"\0")


def _fill(data: bytes) -> bytes:
    """The bytes of a header, with zeroes behind them."""
    if len(data) > HEADER:
        raise ValueError(f"a header has at most {HEADER} bytes, not {len(data)}")
    return data.ljust(HEADER, b"\0")
