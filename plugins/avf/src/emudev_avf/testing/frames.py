"""Frames as bytes, with checksums, from and to the addresses of the hash's reference vectors.

Source: RFC 791, RFC 8200, RFC 9293, RFC 768; avf.md section 7.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "ADDRESSES4",
    "MAC",
    "OTHER",
    "ether",
    "finish",
    "ipv4",
    "ipv6",
    "ones_sum",
    "tcp4",
    "udp4",
]

MAC: Final = bytes.fromhex("525400770002")
OTHER: Final = bytes.fromhex("525400770001")
SOURCE4: Final = bytes([66, 9, 149, 187])
TARGET4: Final = bytes([161, 142, 100, 80])
SOURCE6: Final = bytes.fromhex("3ffe250102001fff") + bytes(7) + b"\x07"
TARGET6: Final = bytes.fromhex("3ffe250102000003") + bytes(7) + b"\x01"
#: What both add to a pseudo header.
ADDRESSES4: Final = SOURCE4 + TARGET4


def ones_sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ether(payload: bytes, kind: int = 0x0800, target: bytes = MAC, tags: bytes = b"") -> bytes:
    """An Ethernet frame from `OTHER`; `tags` are those of VLANs, 4 bytes each."""
    return target + OTHER + tags + kind.to_bytes(2, "big") + payload


def ipv4(
    payload: bytes,
    protocol: int,
    *,
    source: bytes = SOURCE4,
    target: bytes = TARGET4,
    tos: int = 0,
    ttl: int = 64,
    fragment: int = 0,
    ident: int = 1,
    bad: bool = False,
) -> bytes:
    """A packet without options; `fragment` are flags and offset, `bad` spoils the checksum."""
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(payload), ident, fragment, ttl, protocol, 0)
    value = ~ones_sum(head + source + target) & 0xFFFF ^ bad
    return head[:10] + value.to_bytes(2, "big") + source + target + payload


def ipv6(
    payload: bytes,
    protocol: int,
    *,
    source: bytes = SOURCE6,
    target: bytes = TARGET6,
    tc: int = 0,
    extension: bytes = b"",
) -> bytes:
    """A packet; `extension` are headers between IP and payload, `protocol` names the first."""
    size = len(extension) + len(payload)
    head = struct.pack(">IHBB", 0x60000000 | tc << 20, size, protocol, 64)
    return head + source + target + extension + payload


def finish(packet: bytes, addresses: bytes, protocol: int, offset: int) -> bytes:
    """A transport packet with its checksum, over pseudo header and packet (RFC 9293, 3.1)."""
    pseudo = addresses + struct.pack(">II", len(packet), protocol)
    value = ~ones_sum(pseudo + packet) & 0xFFFF
    return packet[:offset] + value.to_bytes(2, "big") + packet[offset + 2 :]


def tcp4(payload: bytes = b"", good: bool = True) -> bytes:
    """An IPv4 packet with a TCP segment, whose checksum may be wrong."""
    head = struct.pack(">HHIIBBHHH", 2794, 1766, 1, 2, 5 << 4, 0x10, 512, 0, 0)
    packet = finish(head + payload, ADDRESSES4, 6, 16)
    return ipv4(packet if good else packet[:-1] + bytes([packet[-1] ^ 1]), 6)


def udp4(payload: bytes = b"", checksum: int | None = None) -> bytes:
    """An IPv4 packet with a UDP datagram; `checksum` replaces the right one."""
    head = struct.pack(">HHHH", 2794, 1766, 8 + len(payload), 0)
    packet = finish(head + payload, ADDRESSES4, 17, 6)
    if checksum is not None:
        packet = packet[:6] + checksum.to_bytes(2, "big") + packet[8:]
    return ipv4(packet, 17)
