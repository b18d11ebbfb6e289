"""A few frames that the reference driver's users send and recognise: ARP, ICMP echo, UDP."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

__all__ = ["arp_request", "checksum", "icmp_echo", "is_arp_reply", "is_echo_reply", "udp_frame"]

BROADCAST: Final = b"\xff" * 6
_IPV4: Final = b"\x08\x00"
_ARP: Final = b"\x08\x06"


def checksum(data: bytes) -> int:
    """The Internet checksum of some bytes (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4(source: IPv4Address, target: IPv4Address, protocol: int, payload: bytes) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0,
        source.packed, target.packed,
    )  # fmt: skip
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def arp_request(mac: bytes, source: IPv4Address, target: IPv4Address) -> bytes:
    """Who has `target`?"""
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    body += mac + source.packed + bytes(6) + target.packed
    return BROADCAST + mac + _ARP + body


def is_arp_reply(frame: bytes, target: IPv4Address) -> bytes | None:
    """The MAC address that a reply gives for `target`, or None if it is something else."""
    if frame[12:14] == _ARP and frame[20:22] == b"\0\2" and frame[28:32] == target.packed:
        return frame[22:28]
    return None


def icmp_echo(
    mac: bytes,
    peer: bytes,
    source: IPv4Address,
    target: IPv4Address,
    sequence: int,
    payload: bytes,
) -> bytes:
    """An ICMP echo request with all checksums in place."""
    body = struct.pack(">BBHHH", 8, 0, 0, 0xE0, sequence) + payload
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    return peer + mac + _IPV4 + _ipv4(source, target, 1, body)


def is_echo_reply(frame: bytes, sequence: int, payload: bytes) -> bool:
    """Whether this answers the request with that number and carries its payload, all sums right."""
    if frame[12:14] != _IPV4 or frame[23] != 1:
        return False
    end = 14 + int.from_bytes(frame[16:18], "big")
    message = frame[34:end]
    return (
        message[0] == 0
        and int.from_bytes(message[6:8], "big") == sequence
        and message[8:] == payload
        and checksum(message) == 0
        and checksum(frame[14:34]) == 0
    )


def udp_frame(
    mac: bytes, peer: bytes, source: IPv4Address, target: IPv4Address, size: int
) -> bytes:
    """A UDP datagram to the discard port in a frame of `size` bytes (42 at least), without FCS."""
    payload = bytes(i & 0xFF for i in range(size - 42))
    body = struct.pack(">HHHH", 9, 9, 8 + len(payload), 0) + payload
    return peer + mac + _IPV4 + _ipv4(source, target, 17, body)
