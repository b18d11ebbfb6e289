"""Filling the lab's folder: a Debian tree with QEMU and the guests' programs, and guest kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from .debian import RELEASE, Tree, check_machine, install_here
from .errors import LabError
from .lab import Lab
from .steps import Step, Steps

__all__ = ["prepare", "qemu_version"]

#: Programs that preparing needs of this machine, and the packages that have them.
_HERE: Final = {"debootstrap": "debootstrap", "unshare": "util-linux", "dpkg-deb": "dpkg"}

_QEMU: Final = ("qemu-system-x86",)
_GUEST: Final = (
    "busybox-static", "dash", "ethtool", "iperf3", "iproute2", "iputils-arping", "iputils-ping",
    "kmod", "pciutils", "tcpdump",
)  # fmt: skip

# The libraries and drivers of testpmd; the program itself is in a package that depends on every
# static library, so it is unpacked alone.
_DPDK: Final = (
    "librte-net-iavf25", "librte-net-e1000-25", "librte-net-virtio25", "librte-mempool-ring25",
    "librte-bus-pci25", "librte-bus-vdev25", "librte-bitratestats25", "librte-bpf25",
    "librte-cmdline25", "librte-crypto-scheduler25", "librte-gro25", "librte-gso25",
    "librte-latencystats25", "librte-metrics25", "librte-net-bnxt25", "librte-net-bond25",
    "librte-net-dpaa25", "librte-net-i40e25", "librte-net-ice25", "librte-net-ixgbe25",
    "librte-net-mlx5-25", "librte-pcapng25", "librte-pdump25", "ibverbs-providers", "libbsd0",
    "libelf1t64", "libjansson4", "libpcap0.8t64",
)  # fmt: skip


def prepare(
    lab: Lab, kernels: Sequence[str], *, dpdk: bool, again: bool, say: Callable[[str], None]
) -> None:
    """Make what of the lab is not there yet.

    Args:
        lab: Its folder need not exist.
        kernels: Names of the guest kernels to have.
        dpdk: Whether to have DPDK's testpmd for guests.
        again: Forget what is there and make everything anew.
        say: Takes lines about the progress.

    Raises:
        LabError: The machine is none that it can be made on, or a step failed.
    """
    check_machine()
    steps = Steps(lab.folder, say)
    tree = Tree(lab.root)
    with steps.locked():
        if again:
            for stamp in (lab.folder / "stamps").iterdir():
                stamp.unlink()
        for step in _steps(lab, tree, kernels, dpdk):
            steps.run(step)


def qemu_version(lab: Lab) -> str:
    """The first line of the lab's ``qemu-system-x86_64 --version``."""
    command = [*lab.command("qemu-system-x86_64"), "--version"]
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


def _steps(lab: Lab, tree: Tree, kernels: Sequence[str], dpdk: bool) -> list[Step]:
    needed = [package for program, package in _HERE.items() if not shutil.which(program)]

    def host(log: IO[bytes]) -> None:
        if needed:
            # The keyring comes with it: an old one does not know the release.
            install_here([*needed, "debian-archive-keyring"], log)

    def qemu(log: IO[bytes]) -> None:
        tree.install(_QEMU, log, backports=True)
        command = [*lab.command("qemu-system-x86_64"), "-M", "none", "-device", "help"]
        devices = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True).stdout
        if '"vfio-user-pci"' not in devices:
            raise LabError(f"{qemu_version(lab) or 'this QEMU'} has no vfio-user-pci")

    def kernel(name: str) -> Step:
        return Step(
            f"kernel_{name}",
            f"guest kernel {name}",
            RELEASE,
            lambda log: _kernel(lab, tree, name, log),
            after="root",
        )

    steps = [
        Step("host", "programs of this machine", " ".join(needed), host),
        Step("root", f"Debian {RELEASE} tree", RELEASE, tree.make),
        Step("qemu", "QEMU", " ".join(_QEMU), qemu, after="root"),
        Step(
            "guest",
            "programs for guests",
            " ".join(_GUEST),
            lambda log: tree.install(_GUEST, log),
            after="qemu",
        ),
        *(kernel(name) for name in kernels),
    ]
    if dpdk:
        key = " ".join(_DPDK)
        steps.append(Step("dpdk", "DPDK", key, lambda log: _dpdk(lab, tree, log), after="guest"))
    return steps


def _kernel(lab: Lab, tree: Tree, name: str, log: IO[bytes]) -> None:
    """Unpack a kernel beside the tree: installing it would build images that nobody boots."""
    draft = lab.kernels / f".{name}"
    packages = f"/var/cache/lab-{name}"
    for old in (draft, tree.root / packages.lstrip("/")):
        shutil.rmtree(old, ignore_errors=True)
    draft.mkdir(parents=True)
    for package in tree.download("linux-image-amd64", packages, log, backports=name == "backports"):
        # Of all that it needs, what is built from the kernel's source: the image and the modules,
        # in one package or in several.
        source = subprocess.run(
            ["dpkg-deb", "--field", str(package), "Source", "Package"],
            stdout=subprocess.PIPE, stderr=log, text=True, check=True,
        ).stdout  # fmt: skip
        if re.search(r"^Source: linux(-signed-amd64)?( |$)", source, re.MULTILINE):
            subprocess.run(["dpkg-deb", "-x", str(package), str(draft)], stderr=log, check=True)
    shutil.rmtree(tree.root / packages.lstrip("/"))
    if not (draft / "lib").exists():
        (draft / "lib").symlink_to("usr/lib")
    versions = [path.name for path in (draft / "lib/modules").iterdir()]
    if len(versions) != 1:
        raise LabError(f"expected modules of one kernel, found {versions or 'none'}")
    version = versions[0]
    images = (f"boot/vmlinuz-{version}", f"lib/modules/{version}/vmlinuz")
    (draft / "vmlinuz").symlink_to(next(path for path in images if (draft / path).exists()))
    depmod = lab.command("depmod")
    subprocess.run([*depmod, "-b", str(draft), version], stdout=log, stderr=log, check=True)
    place = lab.kernels / version
    shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)
    link = lab.kernels / f".link-{name}"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    link.rename(lab.kernels / name)


def _dpdk(lab: Lab, tree: Tree, log: IO[bytes]) -> None:
    tree.install(_DPDK, log)
    place = Path("var/cache/lab-dpdk")
    folder = tree.root / place
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tree.run(["sh", "-c", f"cd /{place} && apt-get download dpdk-dev"], log)
    package = next(folder.glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "x")], stderr=log, check=True)
    shutil.copy2(folder / "x/usr/bin/dpdk-testpmd", tree.root / "usr/bin")
    shutil.rmtree(folder)
    lab.libraries("/usr/bin/dpdk-testpmd")  # says which are missing
