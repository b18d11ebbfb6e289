"""How the words behind testpmd's arguments are read; the prompt reads the same words.

Every function takes the text and answers the value, or raises `ValueError` with what was expected
and what came; who calls it says where.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from emudev_net.addresses import parse_mac

from .options import Topology

__all__ = [
    "address",
    "cpu_list",
    "cpu_mask",
    "natural",
    "numbers",
    "pair",
    "peer",
    "port_list",
    "port_mask",
    "seconds",
    "topology",
    "udp_ports",
]

_T = TypeVar("_T")


def natural(text: str) -> int:
    """A number from 0, decimal or ``0x``."""
    word = text.strip()
    if re.fullmatch(r"\d+", word):
        return int(word)
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", word):
        return int(word, 16)
    raise ValueError(f"expected a number from 0, came {text!r}")


def seconds(text: str) -> float:
    """A time above 0; 0 is none."""
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise ValueError(f"expected seconds, came {text!r}")
    value = float(text)
    return int(value) if value.is_integer() else value


def numbers(text: str) -> tuple[int, ...]:
    """Numbers and commas: ``64,128``."""
    return tuple(natural(word) for word in text.split(","))


def _mask(text: str, what: str) -> int:
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    if not re.fullmatch(r"[0-9a-fA-F]+", digits):
        raise ValueError(f"expected a hexadecimal mask of {what}, came {text!r}")
    mask = int(digits, 16)
    if mask == 0:
        raise ValueError(f"expected a mask that names {what}, came {text!r}")
    return mask


def port_mask(text: str) -> int:
    """A mask of ports in hexadecimal digits, with or without ``0x``."""
    return _mask(text, "ports")


def cpu_mask(text: str) -> tuple[int, ...]:
    """A mask of CPUs in hexadecimal digits: their numbers."""
    mask = _mask(text, "CPUs")
    return tuple(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def _ranges(text: str, what: str) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if match is None:
            raise ValueError(f"expected {what} such as 0,2-3, came {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 4095:
            raise ValueError(f"expected {what} such as 0,2-3, came {word!r} in it")
        found.update(dict.fromkeys(range(first, last + 1)))
    return tuple(found)


def port_list(text: str) -> tuple[int, ...]:
    """Ports in order: ``0,2-3``."""
    return _ranges(text, "ports")


def cpu_list(text: str) -> tuple[int, ...]:
    """CPUs in order: ``0,2-3``; an lcore that is given a CPU, ``1@3``, counts as that CPU."""
    if "(" in text:
        raise ValueError(f"expected CPUs such as 0,2-3: sets of CPUs are not known, came {text!r}")
    words = [word.rpartition("@")[2] for word in text.split(",")]
    return _ranges(",".join(words), "CPUs")


def topology(text: str) -> Topology:
    """How ports are joined."""
    known = [one.value for one in Topology]
    if text not in known:
        raise ValueError(f"expected one of {', '.join(known)}, came {text!r}")
    return Topology(text)


def address(text: str) -> bytes:
    """A MAC address."""
    return parse_mac(text)


def pair(text: str, what: str, read: Callable[[str], _T]) -> tuple[_T, _T]:
    """Two words with a comma between them."""
    words = text.split(",")
    if len(words) != 2:
        raise ValueError(f"expected two {what} with a comma between them, came {text!r}")
    return read(words[0]), read(words[1])


def peer(text: str) -> tuple[int, bytes]:
    """A port and the address behind it: ``0,52:54:00:12:34:56``."""
    port, _, mac = text.partition(",")
    if not mac:
        raise ValueError(f"expected PORT,MAC, came {text!r}")
    return natural(port), parse_mac(mac)


def udp_ports(text: str) -> tuple[int, int]:
    """Source and destination port; one is both."""
    if "," not in text:
        return natural(text), natural(text)
    return pair(text, "ports", natural)
