"""Kernel modules for a guest: which files a set of modules needs, uncompressed."""

from __future__ import annotations

import lzma
import posixpath
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import attrs

from .errors import LabError

__all__ = ["Module", "plan", "read"]


@attrs.frozen
class Module:
    """A module file.

    Attributes:
        name: With underscores, without a suffix.
        path: Below the folder of the kernel's modules, as ``modules.dep`` has it.
        needs: Names of the modules that have to be loaded before it, the first to load last.
    """

    name: str
    path: str
    needs: tuple[str, ...]


def plan(folder: Path, names: Iterable[str]) -> list[Module]:
    """The modules that `names` need, themselves included, each after those that it needs.

    Args:
        folder: Has ``modules.dep`` (written by depmod) and ``modules.builtin``.
        names: With dashes or underscores; what is built into the kernel needs nothing.

    Raises:
        LabError: A name that this kernel does not have.
    """
    known: dict[str, Module] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        module = Module(_name(path), path, tuple(_name(need) for need in needs.split()))
        known[module.name] = module
    builtin = {_name(path) for path in (folder / "modules.builtin").read_text().split()}
    chosen: dict[str, Module] = {}
    for name in names:
        key = name.replace("-", "_")
        if key in builtin and key not in known:
            continue
        if key not in known:
            raise LabError(f"kernel {folder.name} has no module {name}")
        for each in (*reversed(known[key].needs), key):
            chosen[each] = known[each]
    return list(chosen.values())


def read(path: Path) -> bytes:
    """The content of a module file, uncompressed."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        done = subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True)
        return done.stdout
    return data


def _name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", posixpath.basename(path)).replace("-", "_")
