"""What a guest's kernel said: its messages, trouble among them, and a driver's own lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

__all__ = ["EXPECTED", "KernelLog", "Message"]

_LINE = re.compile(r"^<(\d+)>\[\s*(\d+\.\d+)(?:\][^]]*)?\] ?(.*)$")
_ERROR: Final = 3  # error, and below it critical, alert, emergency

#: Text that means that the kernel itself is unhappy, at whatever level it says so.
_TROUBLE = re.compile(
    r"BUG: |WARNING: |Oops: |Kernel panic|Call Trace|NETDEV WATCHDOG|transmit queue \d+ timed out"
    r"|soft lockup|hard LOCKUP|self-detected stall|detected stalls|blocked for more than"
    r"|general protection|KASAN: |UBSAN: |DMAR: .*[Ff]ault|[Uu]nable to handle|nobody cared"
)

_ETH = r"(?: eth\d+)?"
#: Lines that a healthy driver writes, with the driver's name and PCI address taken off.
#: Source: avf.md 9.2; the first three are of the kernel, under the driver's name.
EXPECTED: Final[Mapping[str, tuple[str, ...]]] = {
    "iavf": (
        r"enabling device \(0000 -> 000[0-9]\)",
        r"\S+: renamed from \S+",
        r"Copyright \(c\) .*",
        r"Intel\(R\) Ethernet Adaptive Virtual Function Network Driver",
        r"Multiqueue Enabled: Queue pair count = \d+",
        r"Multiqueue Disabled: Queue pair count = 1",
        r"MAC address: (?:[0-9a-f]{2}:){5}[0-9a-f]{2}",
        r"GRO is enabled",
        # Linux 7.x, of a device that offers no clock; at level notice.
        r"Device does not have PTP clock support",
        r"NIC Link is Up Speed is \d+ [GM]bps Full Duplex",
    ),
}


@attrs.frozen
class Message:
    """One message of the kernel.

    Attributes:
        level: 0 (emergency) to 7 (debug); 3 is error.
        time: Since boot, s.
        text: The message.
    """

    level: int
    time: float
    text: str


class KernelLog:
    """The messages of a kernel.

    Args:
        text: What ``dmesg -r`` printed; lines of another form are left out.
    """

    def __init__(self, text: str) -> None:
        found = (_LINE.match(line) for line in text.replace("\r", "").splitlines())
        self.messages: tuple[Message, ...] = tuple(
            Message(int(match[1]) & 7, float(match[2]), match[3]) for match in found if match
        )

    def __iter__(self) -> Iterator[Message]:
        """The messages, the oldest first."""
        return iter(self.messages)

    def __contains__(self, text: str) -> bool:
        """Whether a message contains `text`."""
        return any(text in message.text for message in self.messages)

    def __str__(self) -> str:
        return "".join(f"<{m.level}>[{m.time:12.6f}] {m.text}\n" for m in self.messages)

    def trouble(self, also: Iterable[str] = ()) -> list[str]:
        """Messages of level error or worse, and those that report a fault of the kernel.

        Args:
            also: Regular expressions of a driver's messages that are right here, whatever their
                level: ``Hardware reset detected`` of iavf is an error where nobody meant it.
        """
        allowed = "|".join(f"(?:{each})" for each in also)
        fine = re.compile(rf"\w+ [0-9a-f:.]+{_ETH}: (?:{allowed})") if allowed else None
        return [
            m.text
            for m in self.messages
            if (m.level <= _ERROR or _TROUBLE.search(m.text))
            and not (fine and fine.fullmatch(m.text))
        ]

    def of(self, driver: str) -> list[str]:
        """The driver's messages, without its name, PCI address and interface in front."""
        prefix = re.compile(rf"{driver}(?: [0-9a-f:.]+{_ETH})?: (.*)")
        found = (prefix.match(message.text) for message in self.messages)
        return [match[1] for match in found if match]

    def unexpected(self, driver: str, also: Iterable[str] = ()) -> list[str]:
        """The driver's messages that a healthy one does not write.

        Args:
            driver: A name of `EXPECTED`; of any other driver, everything is expected.
            also: Regular expressions of further messages that are right here.
        """
        if driver not in EXPECTED:
            return []
        allowed = re.compile("|".join((*EXPECTED[driver], *also)))
        return [text for text in self.of(driver) if not allowed.fullmatch(text)]
