"""MAC addresses: as 6 bytes, as text, and which of them a port may have."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["BROADCAST", "is_assignable", "mac_text", "parse_mac"]

BROADCAST: Final = b"\xff" * 6

_PATTERN: Final = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")


def parse_mac(text: str) -> bytes:
    """The 6 bytes of an address such as ``52:54:00:12:34:56``; dashes are fine, too.

    Raises:
        ValueError: It is not one.
    """
    if not _PATTERN.fullmatch(text):
        raise ValueError(f"expected an address like 52:54:00:12:34:56, came {text!r}")
    return bytes.fromhex(text.replace("-", ":").replace(":", ""))


def mac_text(mac: bytes) -> str:
    """An address as people write it."""
    return ":".join(f"{byte:02x}" for byte in mac)


def is_assignable(mac: bytes) -> bool:
    """Whether a port may have it: 6 bytes, not a group's, not all zero."""
    return len(mac) == 6 and not mac[0] & 1 and any(mac)
