"""QEMU's command line for a guest: the machine and its NICs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from .errors import LabError
from .lab import Kernel, Lab
from .vdevs import tap

__all__ = ["KINDS", "Machine", "Nic", "arguments", "drivers"]

#: Kinds of NIC, and the guest's driver for each.
KINDS: Final = {
    "vfio-user": "iavf",
    "e1000e": "e1000e",
    "igb": "igb",
    "virtio": "virtio_net",
    "none": "",
}

_FIRST_SLOT: Final = 4  # on the root bus; NIC N is device 4 + N, function 0

# What the guest's kernel is told: no delays, nothing random in addresses and names, no mitigations
# (they cost much under emulation). A panic ends QEMU.
_KERNEL: Final = (
    "console=ttyS0 loglevel=5 panic=-1 oops=panic nokaslr mitigations=off net.ifnames=0 "
    "random.trust_cpu=1 tsc=reliable no_timer_check"
)

# Each device has an address space of its own, and a mapping that the guest makes is told at once:
# whoever serves a device outside of QEMU has to hear of it before it is used.
_IOMMU: Final = "intel-iommu,caching-mode=on"


@attrs.frozen
class Nic:
    """A NIC of the guest.

    Attributes:
        kind: One of `KINDS`: a device on a vfio-user socket, or a NIC of QEMU's own.
        socket: The socket, for ``vfio-user``.
        tap: Number of the TAP interface behind a NIC of QEMU's own; None: the NIC's number.
        mac: MAC address of a NIC of QEMU's own; empty: one by its number.
    """

    kind: str
    socket: Path | None = None
    tap: int | None = None
    mac: str = ""

    @classmethod
    def parse(cls, text: str) -> Nic:
        """A NIC from ``KIND`` or ``vfio-user:SOCKET``."""
        kind, _, path = text.partition(":")
        if kind not in KINDS or (path and kind != "vfio-user"):
            raise LabError(f"no NIC {text}: expected one of {', '.join(KINDS)} or vfio-user:SOCKET")
        return cls(kind, Path(path).absolute() if path else None)


@attrs.frozen
class Machine:
    """What a guest has.

    Attributes:
        nics: Its NICs.
        smp: Processors.
        mem: Memory, MiB.
        accel: ``tcg`` or ``kvm``.
        iommu: Whether it has an IOMMU (VT-d) and its kernel uses it.
        shared: Whether its memory is shared with the servers, which can map it then; without, they
            can reach it by messages only.
        properties: Further properties of each vfio-user device, as JSON values.
        options: Further options of QEMU.
    """

    nics: tuple[Nic, ...] = ()
    smp: int = 1
    mem: int = 512
    accel: str = "tcg"
    iommu: bool = False
    shared: bool = True
    properties: tuple[tuple[str, object], ...] = ()
    options: tuple[str, ...] = ()


def drivers(nics: Sequence[Nic]) -> list[str]:
    """Kernel modules that drive these NICs, each once."""
    return list(dict.fromkeys(driver for nic in nics if (driver := KINDS[nic.kind])))


def arguments(
    lab: Lab, machine: Machine, kernel: Kernel, image: Path, console: Path, control: int
) -> list[str]:
    """All of QEMU's arguments, the program first.

    Args:
        lab: Whose QEMU it is.
        machine: What the guest has.
        kernel: What it boots.
        image: Its initramfs.
        console: File for the guest's first serial port.
        control: Inherited descriptor of a stream socket: the guest's second serial port.
    """
    # Without KVM, `rep movsb` costs a translated instruction a byte; a processor that does not
    # call it fast makes the guest's kernel copy in words.
    cpu = "host" if machine.accel == "kvm" else "max,-erms,-fsrm,-la57"
    board, memory = "q35", []
    if machine.shared:
        board = "q35,memory-backend=mem"
        memory = ["-object", f"memory-backend-memfd,id=mem,size={machine.mem}M,share=on"]
    append = f"{_KERNEL} intel_iommu=on" if machine.iommu else _KERNEL
    words = [
        *lab.command("qemu-system-x86_64"),
        *("-L", str(lab.root / "usr/share/qemu"), "-L", str(lab.root / "usr/share/seabios")),
        *("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-machine", board, "-accel", _accelerator(machine), "-cpu", cpu),
        *("-smp", str(machine.smp), "-m", str(machine.mem), *memory),
        *("-kernel", str(kernel.image), "-initrd", str(image), "-append", append),
        # Before the NICs: it takes only those that come after it.
        *(("-device", _IOMMU) if machine.iommu else ()),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=control,fd={control}", "-serial", "chardev:control"),
    ]
    for number, nic in enumerate(machine.nics):
        words += _nic(number, nic, machine)
    return [*words, *machine.options]


def _accelerator(machine: Machine) -> str:
    """What runs the guest's processors.

    In software several of them take turns in one thread. In threads of their own one sometimes runs
    what the kernel has patched meanwhile on another, and the guest ends with "Oops: int3".
    """
    if machine.accel == "tcg" and machine.smp > 1:
        return "tcg,thread=single"
    return machine.accel


def _nic(number: int, nic: Nic, machine: Machine) -> list[str]:
    place: dict[str, object] = {"bus": "pcie.0", "addr": f"{_FIRST_SLOT + number:#x}"}
    if nic.kind == "none":
        return []
    if nic.kind == "vfio-user":
        device = {
            "driver": "vfio-user-pci",
            "id": f"nic{number}",
            "socket": {"type": "unix", "path": str(nic.socket)},
            **place,
            **dict(machine.properties),
        }
        return ["-device", json.dumps(device)]
    device = {
        "driver": "virtio-net-pci" if nic.kind == "virtio" else nic.kind,
        "id": f"nic{number}",
        "netdev": f"net{number}",
        "mac": nic.mac or f"52:54:00:77:00:{2 + number:02x}",
        "romfile": "",
        **place,
    }
    interface = tap(number if nic.tap is None else nic.tap)
    backend = f"tap,id=net{number},ifname={interface},script=no,downscript=no,vhost=off"
    return ["-netdev", backend, "-device", json.dumps(device)]
