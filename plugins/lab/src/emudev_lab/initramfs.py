"""The image that a guest boots: programs of the tree, their libraries, modules, the guest's side.

One image serves every script: what a script does comes later, through the control channel. Images
are cached by what is in them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final

from . import kernel_modules
from .cpio import Archive
from .errors import LabError
from .lab import Kernel, Lab

__all__ = ["MODULES", "PROGRAMS", "image"]

#: Programs that every guest has, beside busybox.
PROGRAMS: Final = (
    "arping", "bridge", "dash", "ethtool", "ip", "iperf3", "lspci", "ping", "setpci", "tcpdump",
)  # fmt: skip

#: Modules that every guest has at hand; none is loaded by itself.
MODULES: Final = ("iavf", "e1000e", "igb", "virtio_net", "8021q", "pktgen")

_FOLDERS: Final = ("proc", "sys", "dev", "tmp", "run", "root", "guest", "busybox", "usr/lib64")
_KEPT: Final = 6  # images in the cache; the oldest go


def image(
    lab: Lab, kernel: Kernel, programs: Iterable[str] = (), modules: Iterable[str] = ()
) -> Path:
    """The image with `PROGRAMS` and `MODULES` and these further ones; built unless it is cached.

    Args:
        lab: A prepared lab.
        kernel: The kernel that shall boot it.
        programs: Names of programs of the tree, or globs of its files (``/usr/lib/*/x.so``).
        modules: Names of kernel modules.
    """
    programs = sorted({*PROGRAMS, *programs})
    modules = sorted({*MODULES, *modules})
    stamps = sorted((lab.folder / "stamps").iterdir())
    parts = [kernel.version, *programs, "--", *modules, "--"]
    parts += [f"{stamp.name} {stamp.stat().st_mtime_ns}" for stamp in stamps]
    parts += [_guest_side(name) for name in ("init", "lib.sh")]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    cache = lab.folder / "images"
    cache.mkdir(exist_ok=True)
    path = cache / f"{key}.cpio"
    if path.exists():
        os.utime(path)
        return path
    draft = cache / f".{key}.{os.getpid()}"
    draft.write_bytes(_build(lab, kernel, programs, modules))
    draft.rename(path)
    for old in sorted(cache.glob("*.cpio"), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def _guest_side(name: str) -> str:
    return (resources.files("emudev_lab") / "guest_side" / name).read_text()


def _build(lab: Lab, kernel: Kernel, programs: list[str], modules: list[str]) -> bytes:
    archive = Archive()
    for folder in _FOLDERS:
        archive.folder(folder)
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.link(name, f"usr/{name}")
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3, 0o666)
    archive.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
    archive.file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644)
    archive.file("init", _guest_side("init"))
    archive.file("guest/lib.sh", _guest_side("lib.sh"), 0o644)
    archive.file("busybox/busybox", (lab.root / "usr/bin/busybox").read_bytes())
    # dash, not busybox's shell: that one runs its own applets where programs are wanted.
    archive.link("usr/bin/sh", "dash")
    wanted = [path for name in programs for path in _paths(lab, name)]
    libraries = {library for path in wanted for library in lab.libraries(path)}
    # Loaded by name when a thread is cancelled (iperf3), so that no program lists it.
    libraries.add("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1")
    loader = "/" + str(lab.loader.relative_to(lab.root))
    for path in (*wanted, *sorted(libraries), loader):
        real = lab.resolve(path)
        archive.file(real, (lab.root / real.lstrip("/")).read_bytes())
        if real != path:
            archive.link(path, real)
    # Flat and uncompressed, so that the guest has little to do.
    home = f"usr/lib/modules/{kernel.version}"
    lines = []
    for module in kernel_modules.plan(kernel.modules, modules):
        content = kernel_modules.read(kernel.modules / module.path)
        archive.file(f"{home}/{module.name}.ko", content, 0o644)
        needs = " ".join(f"{need}.ko" for need in module.needs)
        lines.append(f"{module.name}.ko: {needs}\n")
    archive.file(f"{home}/modules.dep", "".join(lines), 0o644)
    return archive.build()


def _paths(lab: Lab, name: str) -> list[str]:
    """Paths inside the tree of a program, or of the files that a glob matches."""
    if not name.startswith("/"):
        return [lab.find(name)]
    found = [path for path in sorted(lab.root.glob(name.lstrip("/"))) if not path.is_dir()]
    if not found:
        raise LabError(f"nothing in {lab.root} matches {name}")
    return [f"/{path.relative_to(lab.root)}" for path in found]
