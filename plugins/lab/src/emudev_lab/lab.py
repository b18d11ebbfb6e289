"""The lab's cache folder: a Debian tree whose programs run on this machine, and guest kernels.

The programs of the tree are started through the tree's own dynamic loader, not in a chroot, so that
a path (a socket, a log) means the same to them as to everybody else and nothing has to be mounted.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from .errors import LabError

__all__ = ["DPDK", "KERNELS", "Kernel", "Lab", "default_folder"]

#: Names of the guest kernels: Debian stable's, and that of its backports.
KERNELS: Final = ("stable", "backports")

#: DPDK's testpmd, which guests have only where the lab was prepared with it.
DPDK: Final = "dpdk-testpmd"

#: Programs of the tree that commands on the host side find in their PATH.
HOST_PROGRAMS: Final = ("ip", "ping", "arping", "ethtool", "iperf3", "tcpdump")

_LINKS = 20  # more symbolic links than this in a row are a loop


def default_folder() -> Path:
    """Folder of the lab: ``$EMUDEV_LAB``, else ``~/.cache/emudev/lab``."""
    return Path(os.environ.get("EMUDEV_LAB") or "~/.cache/emudev/lab").expanduser().absolute()


@attrs.frozen
class Kernel:
    """A guest kernel.

    Attributes:
        version: What ``uname -r`` says in the guest.
        image: The bootable image.
        modules: The folder with ``modules.dep``.
    """

    version: str
    image: Path
    modules: Path


class Lab:
    """The cache folder, prepared or not; nothing is read until it is asked for.

    Args:
        folder: The cache folder; default `default_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or default_folder()).absolute()
        self.root = self.folder / "root"
        self.kernels = self.folder / "kernels"
        self.loader = self.root / "usr/lib64/ld-linux-x86-64.so.2"
        self.libraries_folder = self.root / "usr/lib/x86_64-linux-gnu"

    def missing(self, kernels: Sequence[str] = (), programs: Sequence[str] = ()) -> str:
        """What keeps the lab from booting `kernels`, one line with the remedy; empty if nothing.

        Args:
            kernels: Names or versions of guest kernels.
            programs: Further programs that the guests need.
        """
        steps = ["qemu", "guest", *(f"kernel_{name}" for name in kernels if name in KERNELS)]
        if DPDK in programs:
            steps.append("dpdk")
        for step in steps:
            if not (self.folder / "stamps" / step).exists():
                options = " --dpdk yes" if step == "dpdk" else ""
                return (
                    f"no guest lab in {self.folder} ({step} is missing): run `emudev lab "
                    f"prepare{options}` as root on Debian 12 or newer"
                )
        return ""

    def require(self, kernels: Sequence[str] = (), programs: Sequence[str] = ()) -> None:
        """Raise `LabError` unless the lab is prepared for these; see `missing`."""
        if missing := self.missing(kernels, programs):
            raise LabError(missing)

    def kernel(self, name: str) -> Kernel:
        """A guest kernel by name (``stable``, ``backports``) or by version."""
        folder = (self.kernels / name).resolve()
        if not (folder / "vmlinuz").exists():
            known = sorted(path.name for path in self.kernels.glob("[!.]*")) or ["none"]
            raise LabError(f"no guest kernel {name} in {self.kernels} (there: {', '.join(known)})")
        version = folder.name
        return Kernel(version, folder / "vmlinuz", folder / "lib/modules" / version)

    def find(self, name: str) -> str:
        """Path inside the tree, such as ``/usr/bin/ping``, of a program of that name."""
        for folder in ("/usr/sbin", "/usr/bin"):
            if os.path.lexists(self.root / f"{folder}/{name}".lstrip("/")):
                return f"{folder}/{name}"
        raise LabError(f"no program {name} in {self.root}: run `emudev lab prepare`")

    def resolve(self, path: str) -> str:
        """The path inside the tree that `path` names once symbolic links are followed there."""
        for _ in range(_LINKS):
            here = self.root / path.lstrip("/")
            if not here.is_symlink():
                return path
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(here)))
        raise LabError(f"a loop of symbolic links at {self.root}{path}")

    def command(self, name: str) -> list[str]:
        """The arguments that start a program of the tree here; append the program's own."""
        return self._load(self.resolve(self.find(name)), ["--argv0", name])

    def libraries(self, path: str) -> list[str]:
        """Paths inside the tree of the shared libraries that a file of it needs, all levels."""
        real = self.resolve(path)
        with open(self.root / real.lstrip("/"), "rb") as file:
            if file.read(4) != b"\x7fELF":
                return []
        done = subprocess.run(self._load(real, ["--list"]), capture_output=True, text=True)
        if "not found" in done.stdout:
            raise LabError(f"libraries of {real} are missing in the tree:\n{done.stdout}")
        prefix = f"{self.root}/"
        found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)
        return ["/" + item.removeprefix(prefix) for item in found if item.startswith(prefix)]

    def tools(self) -> Path:
        """A folder for PATH with the tree's network programs, made if it is not there."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name in HOST_PROGRAMS:
            text = f'#!/bin/sh\nexec {shlex.join(self.command(name))} "$@"\n'
            tool = folder / name
            if not tool.exists() or tool.read_text() != text:
                draft = folder / f".{name}.{os.getpid()}"
                draft.write_text(text)
                draft.chmod(0o755)
                draft.rename(tool)
        return folder

    def _load(self, real: str, options: list[str]) -> list[str]:
        if not self.loader.exists():
            self.require()
            raise LabError(f"{self.loader} is missing: run `emudev lab prepare --again`")
        program = str(self.root / real.lstrip("/"))
        libraries = ["--library-path", str(self.libraries_folder)]
        return [str(self.loader), *libraries, *options, program]
