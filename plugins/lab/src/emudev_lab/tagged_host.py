"""A host behind a VLAN tag on a TAP interface (run as a module on the host side).

    python -m emudev_lab.tagged_host tap0 --vlan 100 --address 192.168.177.1

answers ARP requests and pings to the address that come with the tag, with the tag. Kernels without
802.1Q support can be the other end of a guest's VLAN this way.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

__all__ = ["MAC", "answer"]

#: The host's MAC address, a locally administered one.
MAC: Final = bytes.fromhex("025400770177")

_ALL: Final = 0x0003  # ETH_P_ALL. Source: linux/if_ether.h
_SOL_PACKET, _AUXDATA = 263, 8  # Source: linux/socket.h, linux/if_packet.h
_AUX: Final = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VLAN_VALID: Final = 1 << 4  # TP_STATUS_VLAN_VALID
_ARP, _IPV4, _ICMP = 0x0806, 0x0800, 1


def answer(frame: bytes, address: bytes) -> bytes | None:
    """What the host answers to a frame, or None.

    Args:
        frame: From the destination address on, without a tag.
        address: The host's IPv4 address, 4 bytes.

    Returns:
        The answer, without a tag.
    """
    if len(frame) < 34:
        return None
    kind = int.from_bytes(frame[12:14])
    ethernet = frame[6:12] + MAC + frame[12:14]
    body = frame[14:]
    if kind == _ARP and body[6:8] == b"\0\1" and body[24:28] == address:
        return ethernet + body[:6] + b"\0\2" + MAC + address + body[8:18]
    if kind != _IPV4 or body[9] != _ICMP or body[16:20] != address:
        return None
    head, total = (body[0] & 0xF) * 4, int.from_bytes(body[2:4])
    icmp = bytearray(body[head:total])
    if len(icmp) < 8 or icmp[0] != 8:
        return None
    icmp[0] = 0
    icmp[2:4] = b"\0\0"
    icmp[2:4] = _checksum(bytes(icmp)).to_bytes(2)
    # Addresses change places: the sum over the header stays the same.
    return ethernet + body[:12] + address + body[12:16] + body[20:head] + bytes(icmp)


def _checksum(data: bytes) -> int:
    """The Internet checksum. Source: RFC 1071."""
    total = sum(data[0::2]) * 256 + sum(data[1::2])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _untagged(frame: bytes, auxiliary: Sequence[tuple[int, int, bytes]], vlan: int) -> bytes | None:
    """The frame without its tag if it has one with this id.

    The kernel takes the tag of a received frame off and tells it beside the frame.
    """
    for level, kind, data in auxiliary:
        if (level, kind) == (_SOL_PACKET, _AUXDATA) and len(data) >= _AUX.size:
            fields = _AUX.unpack_from(data)
            if fields[0] & _VLAN_VALID:
                return frame if fields[5] & 0xFFF == vlan else None
    if frame[12:14] == b"\x81\0" and int.from_bytes(frame[14:16]) & 0xFFF == vlan:
        return frame[:12] + frame[16:]
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says, until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interface")
    parser.add_argument("--vlan", type=int, required=True, help="id of the VLAN, 0 to 4095")
    parser.add_argument("--address", type=ipaddress.IPv4Address, required=True)
    given = parser.parse_args(arguments)
    tag = b"\x81\0" + given.vlan.to_bytes(2)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as link:
        link.bind((given.interface, _ALL))
        link.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        while True:
            frame, auxiliary, _, _ = link.recvmsg(1 << 16, 256)
            inner = _untagged(frame, auxiliary, given.vlan)
            if inner and (reply := answer(inner, given.address.packed)):
                link.send(reply[:12] + tag + reply[12:])


if __name__ == "__main__":
    main()
