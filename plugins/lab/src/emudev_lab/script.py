"""Guest scripts: where they are, and what they ask for in their heads.

A script says what it needs in comments, one word and its values in each: ``# guest: timeout 120``.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Final

import attrs

from emudev_core.names import hint

from .errors import LabError

__all__ = ["HELPERS", "Script", "find", "names", "parse"]

#: Servers that a script can have on the host side.
HELPERS: Final = ("iperf3", "transfer")

_NUMBERS: Final = ("smp", "mem", "timeout")
_FLAGS: Final = ("nodriver", "strict", "iommu")
_LINE = re.compile(r"^# guest:[ \t]*(\S*)[ \t]*(.*)$", re.MULTILINE)


@attrs.frozen
class Script:
    """A guest script.

    Attributes:
        name: For messages.
        text: What the guest's shell runs.
        programs: Further programs of the tree, or globs of its files.
        modules: Further kernel modules, to have at hand.
        load: Kernel modules to load before it runs.
        helpers: Servers to start on the host side; see `HELPERS`.
        driver: Whether the NIC's driver is loaded before it runs (``nodriver`` says no).
        strict: Whether the driver may log only what a healthy one does (``strict``).
        expect: Regular expressions of lines that a strict script makes the driver log besides.
        iommu: Whether the guest has an IOMMU (``iommu``).
        smp: Processors of the guest.
        mem: Memory of the guest, MiB.
        timeout: Limit for the script, s.
    """

    name: str
    text: str
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    driver: bool = True
    strict: bool = False
    expect: tuple[str, ...] = ()
    iommu: bool = False
    smp: int = 1
    mem: int = 512
    timeout: int = 120


def parse(text: str, name: str = "script") -> Script:
    """A script from its text.

    Raises:
        LabError: A line ``# guest:`` that is not understood.
    """
    lists: dict[str, list[str]] = {"programs": [], "modules": [], "load": [], "helpers": []}
    numbers: dict[str, int] = {}
    flags: set[str] = set()
    expect: list[str] = []
    known = [*lists, *_NUMBERS, *_FLAGS, "expect"]
    for word, rest in _LINE.findall(text):
        values = rest.split()
        where = f"{name}: '# guest: {word} {rest}'".rstrip()
        if word in lists:
            lists[word] += values
        elif word in _NUMBERS:
            if len(values) != 1 or not values[0].isdecimal() or int(values[0]) < 1:
                raise LabError(f"{where}: expected one number from 1")
            numbers[word] = int(values[0])
        elif word in _FLAGS:
            flags.add(word)
        elif word == "expect":
            expect.append(_expression(rest.strip(), where))
        else:
            raise LabError(f"{where}: unknown word ({hint(word, known)})")
    if unknown := set(lists["helpers"]) - set(HELPERS):
        raise LabError(f"{name}: no helper {sorted(unknown)[0]} (known: {', '.join(HELPERS)})")
    default = Script("", "")
    return Script(
        name=name,
        text=text,
        programs=tuple(lists["programs"]),
        modules=tuple(lists["modules"]),
        load=tuple(lists["load"]),
        helpers=tuple(lists["helpers"]),
        driver="nodriver" not in flags,
        strict="strict" in flags,
        expect=tuple(expect),
        iommu="iommu" in flags,
        smp=numbers.get("smp", default.smp),
        mem=numbers.get("mem", default.mem),
        timeout=numbers.get("timeout", default.timeout),
    )


def _expression(text: str, where: str) -> str:
    """The text, if it is a regular expression and not an empty one."""
    try:
        re.compile(text)
    except re.error as error:
        raise LabError(f"{where}: no regular expression: {error}") from error
    if not text:
        raise LabError(f"{where}: expected a regular expression")
    return text


def names() -> list[str]:
    """Names of the scripts that come with the lab, such as ``smoke.sh``."""
    folder = resources.files("emudev_lab") / "scripts"
    return sorted(item.name for item in folder.iterdir() if item.name.endswith(".sh"))


def find(name: str) -> Script:
    """A script by the path of a file, or by the name of one that comes with the lab.

    Raises:
        LabError: There is none.
    """
    path = Path(name)
    if path.is_file():
        return parse(path.read_text(), path.name)
    shipped = {**{each.removesuffix(".sh"): each for each in names()}, **{n: n for n in names()}}
    if name not in shipped:
        raise LabError(f"no script {name}: neither a file nor one of {', '.join(names())}")
    text = (resources.files("emudev_lab") / "scripts" / shipped[name]).read_text()
    return parse(text, shipped[name])
