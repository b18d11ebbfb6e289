"""One run from end to end: server, guest, script, and what was wrong with any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from .errors import LabError
from .guest import Guest
from .host import HostSide, Server
from .kernel_log import KernelLog
from .lab import Lab
from .qemu import Machine, Nic, drivers
from .script import Script

__all__ = ["Outcome", "Request", "run", "verdict"]


@attrs.frozen(kw_only=True)
class Request:
    """What to run, and on what.

    Attributes:
        script: What the guest does.
        vdevs: Devices and backends for an ``emudev run``; see `vdevs.fill_vdevs`.
        server: Any other server's command instead; see `vdevs.fill_command`.
        nics: NICs of the guest; default: one for each socket of the server.
        kernel: Name or version of the guest's kernel.
        variables: Variables for the script.
        smp: Processors, if not what the script says.
        mem: Memory in MiB, if not what the script says.
        timeout: Limit for the script in s, if not what the script says.
        keep: Folder for the logs; default: they are kept where they are if something was wrong.
        accel: ``tcg`` or ``kvm``.
        iommu: Whether the guest has an IOMMU, even if the script does not ask for one.
        shared: Whether the guest's memory is shared with the server.
        tap_flags: Words for ``ip tuntap add``, such as ``multi_queue``.
        strict: Whether the driver's log is checked, if not what the script says.
    """

    script: Script
    vdevs: tuple[str, ...] = ()
    server: str = ""
    nics: tuple[Nic, ...] = ()
    kernel: str = "stable"
    variables: Mapping[str, str] = attrs.field(factory=dict)
    smp: int | None = None
    mem: int | None = None
    timeout: float | None = None
    keep: Path | None = None
    accel: str = "tcg"
    iommu: bool = False
    shared: bool = True
    tap_flags: str = ""
    strict: bool | None = None


@attrs.frozen
class Outcome:
    """What came of a run.

    Attributes:
        faults: What was wrong, one text each; empty if all went well.
        results: Values of the lines ``KEY=VALUE``, the harness' own included.
        log: The messages of the guest's kernel, if it came to that.
        logs: Folder with the logs, or None if they were not kept.
    """

    faults: tuple[str, ...]
    results: Mapping[str, str]
    log: KernelLog | None
    logs: Path | None


def verdict(
    log: KernelLog, nics: Sequence[Nic], *, strict: bool, also: Iterable[str] = ()
) -> list[str]:
    """What is wrong in the log of a guest with these NICs, one text each.

    Args:
        log: The log.
        nics: The NICs, whose drivers are looked at if `strict`.
        strict: Whether a driver may log only what a healthy one does.
        also: Regular expressions of what it may log beyond that, and whatever the level.
    """
    also = tuple(also)
    faults = [f"the guest's kernel: {line}" for line in log.trouble(also)]
    if strict:
        for name in drivers(nics):
            faults += [f"unexpected from {name}: {line}" for line in log.unexpected(name, also)]
    return faults


def run(lab: Lab, request: Request, echo: Callable[[str], None]) -> Outcome:
    """Do it. Whatever happens, no process, interface or socket of the run is left.

    Args:
        lab: A lab that is prepared for the kernel.
        request: What to run.
        echo: Takes each line that the script prints, and the harness' own results.

    Raises:
        LabError: The lab is not prepared, or this is not root: nothing was started.
    """
    script = request.script
    lab.require([request.kernel], script.programs)
    kernel = lab.kernel(request.kernel)
    faults: list[str] = []
    results: dict[str, str] = {}
    log: KernelLog | None = None

    def note(key: str, value: str) -> None:
        results[key] = value
        echo(f"{key}={value}")

    host = HostSide(lab, tap_flags=request.tap_flags)
    try:
        server = _serve(host, request)
        nics = request.nics or tuple(
            Nic("vfio-user", path) for path in (server.sockets if server else ())
        )
        for name in script.helpers:
            host.helper(name)
        machine = Machine(
            nics=_connected(nics, server),
            smp=request.smp or script.smp,
            mem=request.mem or script.mem,
            accel=request.accel,
            iommu=request.iommu or script.iommu,
            shared=request.shared,
        )
        with Guest(
            host,
            kernel,
            machine,
            programs=script.programs,
            modules=(*script.modules, *script.load),
            variables=request.variables,
            echo=echo,
        ) as guest:
            note("GUEST_KERNEL", kernel.version)
            note("GUEST_BOOT_S", f"{guest.boot_seconds:.2f}")
            guest.load(script.load)
            if script.driver:
                guest.load_drivers()
            try:
                done = guest.run(script.text, timeout=request.timeout or script.timeout)
            finally:
                results.update(guest.results)
            if done.status:
                faults.append(f"{script.name} ended with status {done.status}")
            for number, each in enumerate(host.servers):
                if used := each.usage():
                    note(f"SERVER{number}_OWN_KIB", str(used.anonymous + used.file))
                    note(f"SERVER{number}_CPU_S", f"{used.cpu:.2f}")
            log = guest.close()
        strict = script.strict if request.strict is None else request.strict
        faults += verdict(log, nics, strict=strict, also=script.expect)
    except LabError as error:
        faults.append(str(error))
    except BaseException:
        host.close()
        host.clean(request.keep)
        raise
    faults += host.close()
    if faults and request.keep is None:
        return Outcome(tuple(faults), results, log, host.folder)
    host.clean(request.keep)
    return Outcome(tuple(faults), results, log, request.keep)


def _serve(host: HostSide, request: Request) -> Server | None:
    if request.vdevs:
        return host.serve_vdevs(request.vdevs)
    if request.server:
        return host.serve_command(request.server)
    return None


def _connected(nics: Sequence[Nic], server: Server | None) -> tuple[Nic, ...]:
    """The NICs, those on vfio-user without a socket on the server's sockets in turn."""
    free = iter(server.sockets if server else ())
    connected = []
    for nic in nics:
        if nic.kind == "vfio-user" and nic.socket is None:
            with contextlib.suppress(StopIteration):
                nic = attrs.evolve(nic, socket=next(free))
            if nic.socket is None:
                raise LabError("a NIC on vfio-user without a socket: name it, or have a server")
        connected.append(nic)
    return tuple(connected)
