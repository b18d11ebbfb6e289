"""The entry points of installed distributions, found without reading more than is needed.

`importlib.metadata` parses each distribution's metadata as an e-mail, which costs a start of
``emudev`` 30 ms; here only the few lines that are needed are read. Folders on ``sys.path`` are
looked at directly; for anything else there (a zip file), `importlib.metadata` is asked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Final

import attrs

__all__ = ["EntryPoint", "entry_points"]

_INFO: Final = (".dist-info", ".egg-info")


@attrs.frozen
class EntryPoint:
    """One line of a distribution's ``entry_points.txt``.

    Attributes:
        name: Left of the equals sign.
        value: Right of it, ``module`` or ``module:attribute``.
        distribution: The distribution's name.
        version: Its version.
    """

    name: str
    value: str
    distribution: str
    version: str

    @property
    def module(self) -> str:
        """The module's name."""
        return self.value.partition(":")[0].strip()

    def load(self) -> object:
        """Import the module, and fetch the attribute if one is named."""
        from importlib import import_module

        found: object = import_module(self.module)
        for part in filter(None, self.value.partition(":")[2].strip().split(".")):
            found = getattr(found, part)
        return found


def entry_points(group: str) -> Iterator[EntryPoint]:
    """The entry points of a group; of distributions listed twice, those of the first.

    An editable install may be found in two folders, or a folder be on ``sys.path`` twice.
    """
    seen: set[str] = set()
    for name, version, text in _distributions(group):
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key not in seen:
            seen.add(key)
            for point, value in _lines(text, group):
                yield EntryPoint(point, value, name, version)


def _lines(text: str, group: str) -> Iterator[tuple[str, str]]:
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == group and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            # Extras ("module [extra]") are a promise of the installer's, not ours.
            yield name.strip(), value.partition("[")[0].strip()


def _distributions(group: str) -> Iterator[tuple[str, str, str]]:
    """Name, version and entry points of each distribution with the group."""
    for entry in dict.fromkeys(sys.path):
        try:
            names = sorted(n for n in os.listdir(entry or ".") if n.endswith(_INFO))
        except NotADirectoryError:
            yield from _slowly(entry, group)
            continue
        except OSError:
            continue
        for folder in names:
            path = os.path.join(entry or ".", folder)
            text = _read(path, "entry_points.txt")
            if group not in text:
                continue
            name, version = _identity(path, folder)
            yield name, version, text


def _identity(path: str, folder: str) -> tuple[str, str]:
    head = _read(path, "METADATA") or _read(path, "PKG-INFO")
    found = {"name": folder.partition("-")[0], "version": "unknown"}
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            break  # the end of the head
        if key.lower() in found and value.strip():
            found[key.lower()] = value.strip()
    return found["name"], found["version"]


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _slowly(entry: str, group: str) -> Iterator[tuple[str, str, str]]:
    from importlib.metadata import distributions

    for distribution in distributions(path=[entry]):
        text = distribution.read_text("entry_points.txt") or ""
        if group in text:
            yield distribution.metadata["Name"], distribution.version, text
