"""Placeholders in what starts a server: sockets, TAP interfaces and the folder of the run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from .errors import LabError

__all__ = ["Filled", "fill_command", "fill_vdevs", "tap"]

_PLACEHOLDER = re.compile(r"\{([a-z]+)(\d*)\}")


@attrs.frozen
class Filled:
    """Text with its placeholders filled in.

    Attributes:
        texts: The texts.
        sockets: Sockets that the server will make, one a NIC.
        taps: How many TAP interfaces are needed, at least one.
    """

    texts: tuple[str, ...]
    sockets: tuple[Path, ...]
    taps: int


def tap(number: int) -> str:
    """Name of a TAP interface on the host side."""
    return f"tap{number}"


def fill_vdevs(vdevs: Sequence[str], folder: Path) -> Filled:
    """Vdev strings with ``{sock}``, ``{sock1}``..., ``{tap}``, ``{tap1}``..., ``{dir}`` filled in.

    A device (``emu_...``) that names no socket and no transport gets the next ``path={sock}``.
    """
    texts = []
    number = 0
    for vdev in vdevs:
        driver, *keys = vdev.split(",")
        if driver.startswith("emu_"):
            named = {key.partition("=")[0] for key in keys} & {"path", "socket", "transport"}
            texts.append(vdev if named else f"{vdev},path={{sock{number}}}")
            number += 1
        else:
            texts.append(vdev)
    return _fill(texts, folder, str)


def fill_command(command: str, folder: Path) -> Filled:
    """A shell command with the same placeholders filled in, quoted for the shell."""
    return _fill([command], folder, shlex.quote)


def _fill(texts: Sequence[str], folder: Path, quote: Callable[[str], str]) -> Filled:
    sockets: dict[int, Path] = {}
    taps = 1

    def value(match: re.Match[str]) -> str:
        nonlocal taps
        kind, number = match[1], int(match[2] or 0)
        if kind == "sock":
            sockets[number] = folder / f"nic{number}.sock"
            return quote(str(sockets[number]))
        if kind == "tap":
            taps = max(taps, number + 1)
            return tap(number)
        if kind == "dir" and not match[2]:
            return quote(str(folder))
        raise LabError(f"unknown placeholder {match[0]} (known: {{sock}}, {{tap}}, {{dir}})")

    filled = tuple(_PLACEHOLDER.sub(value, text) for text in texts)
    return Filled(filled, tuple(sockets[number] for number in sorted(sockets)), taps)
