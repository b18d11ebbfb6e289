"""Debian below the lab: this machine's apt, and a tree of another release with its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final

from .errors import LabError

__all__ = ["RELEASE", "Tree", "check_machine", "install_here", "mirror"]

#: The release of the tree: the first whose backports have a QEMU with vfio-user-pci.
RELEASE: Final = "trixie"

_OLDEST: Final = 12  # Debian's major version whose debootstrap and keyring know the release

#: Runs in a mount namespace of its own, so that nothing stays mounted, whatever happens.
_CHROOT: Final = """
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev"
exec chroot "$0" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin \
    DEBIAN_FRONTEND=noninteractive "$@"
"""

_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy")

_DPKG_CONF: Final = """\
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
force-unsafe-io
"""


def check_machine() -> None:
    """Raise `LabError` unless this is Debian 12 or newer on x86-64, and we are root."""
    release: dict[str, str] = {}
    for line in _text(Path("/etc/os-release")).splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    found = release.get("PRETTY_NAME", "an unknown system")
    version = release.get("VERSION_ID", "")
    # Testing and unstable have no number; they are newer than any that has.
    old = version.isdecimal() and int(version) < _OLDEST
    if release.get("ID") != "debian" or old or os.uname().machine != "x86_64":
        raise LabError(
            f"the lab is prepared on Debian {_OLDEST} or newer on x86_64; this is {found} on "
            f"{os.uname().machine}"
        )
    if os.geteuid() != 0:
        raise LabError("the lab is prepared by root (it makes a Debian tree): run this as root")


def install_here(packages: Sequence[str], log: IO[bytes]) -> None:
    """Install packages on this machine, with fresh package lists if the present ones do not do."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    if done.returncode:
        _run(["apt-get", "update"], log)
        subprocess.run(command, stdout=log, stderr=log, env=environment, check=True)


def mirror(log: IO[bytes]) -> str:
    """Address of the Debian archive that this machine's apt uses, without a slash at the end."""
    form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    for _ in range(2):
        text = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True).stdout
        # The security archive has the same origin and another label.
        if found := re.search(r"^Debian Debian (\S+?)/?$", text, re.MULTILINE):
            return found[1]
        _run(["apt-get", "update"], log)  # origins are known once lists are there
    raise LabError("this machine's apt sources name no Debian archive (see `apt-get indextargets`)")


class Tree:
    """A Debian tree below a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, log: IO[bytes]) -> None:
        """Make it anew, with this machine's mirror and apt settings."""
        address = mirror(log)
        shutil.rmtree(self.root, ignore_errors=True)
        options = ["--variant=minbase"]
        if address.startswith("https:"):
            options.append("--include=ca-certificates")
        _run(["debootstrap", *options, RELEASE, str(self.root), address], log)
        apt = self.root / "etc/apt"
        sources = (f"deb {address} {suite} main\n" for suite in (RELEASE, f"{RELEASE}-backports"))
        (apt / "sources.list").write_text("".join(sources))
        settings = subprocess.run(
            ["apt-config", "dump"], stdout=subprocess.PIPE, stderr=log, text=True, check=True
        ).stdout.splitlines()
        # How this machine reaches the archive: proxies, timeouts, clocks; not where its files are.
        # A program that detects proxies is not in the tree.
        wanted = re.compile(
            r"Acquire::(https?|Retries|Check|ForceIPv)(?!.*Auto-?Detect)[\w:.-]* \"[^\"]+\";$"
        )
        (apt / "apt.conf.d/90machine").write_text(
            "".join(f"{line}\n" for line in settings if wanted.match(line))
        )
        for name in ("hosts", "resolv.conf"):
            if text := _text(Path("/etc", name)):
                (self.root / "etc" / name).write_text(text)
        (self.root / "etc/dpkg/dpkg.cfg.d/lab").write_text(_DPKG_CONF)
        policy = self.root / "usr/sbin/policy-rc.d"  # no package may start a service
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        self.run(["apt-get", "update"], log)

    def run(self, command: Sequence[str], log: IO[bytes]) -> None:
        """Run a command in the tree, with /proc and /dev for it alone."""
        _run([*self._enter(), *command], log)

    def install(self, packages: Iterable[str], log: IO[bytes], *, backports: bool = False) -> None:
        """Install packages, from the release or from its backports."""
        self.run([*_install(backports), *packages], log)

    def download(
        self, package: str, folder: str, log: IO[bytes], *, backports: bool = False
    ) -> list[Path]:
        """Download a package and those that it needs and the tree has not.

        Args:
            package: Its name.
            folder: Where to, inside the tree.
            log: Takes what apt prints.
            backports: From the release's backports.

        Returns:
            The files, as paths on this machine.
        """
        place = self.root / folder.lstrip("/")
        (place / "partial").mkdir(parents=True, exist_ok=True)
        options = ["--download-only", "-o", f"Dir::Cache::Archives={folder}"]
        self.run([*_install(backports), *options, package], log)
        return sorted(place.glob("*.deb"))

    def _enter(self) -> list[str]:
        private = ["unshare", "--mount", "--propagation", "private"]
        proxies = [f"{name}={os.environ[name]}" for name in _PROXIES if name in os.environ]
        return [*private, "sh", "-c", _CHROOT, str(self.root), *proxies]


def _install(backports: bool) -> list[str]:
    suite = f"{RELEASE}-backports" if backports else RELEASE
    return ["apt-get", "install", "-y", "--no-install-recommends", "-t", suite]


def _run(command: Sequence[str], log: IO[bytes]) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
