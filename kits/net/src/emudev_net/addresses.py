"""MAC addresses: as 6 bytes, as text, and which of them a port may have."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["BROADCAST", "default_mac", "is_assignable", "mac_text", "parse_mac", "parse_station"]

BROADCAST: Final = b"\xff" * 6

_PATTERN: Final = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")


def parse_mac(text: str) -> bytes:
    """The 6 bytes of an address such as ``52:54:00:12:34:56``; dashes are fine, too.

    Raises:
        ValueError: It is not one.
    """
    if not _PATTERN.fullmatch(text):
        raise ValueError(f"expected a MAC address like 52:54:00:12:34:56, came {text!r}")
    return bytes.fromhex(text.replace("-", ":").replace(":", ""))


def mac_text(mac: bytes) -> str:
    """An address as people write it."""
    return ":".join(f"{byte:02x}" for byte in mac)


def is_assignable(mac: bytes) -> bool:
    """Whether a port may have it: 6 bytes, not a group's, not all zero."""
    return len(mac) == 6 and not mac[0] & 1 and any(mac)


def parse_station(text: str) -> bytes:
    """The 6 bytes of an address that a port may have.

    Raises:
        ValueError: It is not an address, that of a group, or zero.
    """
    mac = parse_mac(text)
    if not is_assignable(mac):
        raise ValueError(f"expected the MAC address of one station, came {text!r}")
    return mac


def default_mac(name: str) -> bytes:
    """A locally administered address of one station, the same for the same device name."""
    digest = hashlib.sha256(f"emudev {name}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]
