"""What the pytest fixtures hand out: the host's side, and a guest that boots when first used."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from . import script
from .errors import CommandError, LabError
from .guest import Guest
from .host import HostSide, Server
from .kernel_log import KernelLog
from .lab import Lab
from .process import Completed
from .qemu import Machine, Nic
from .run import verdict

__all__ = ["Emudev", "LazyGuest", "Options"]


@attrs.frozen(kw_only=True)
class Options:
    """The arguments of the marker ``guest``.

    Attributes:
        kernel: ``stable``, ``backports`` or a version.
        nic: A NIC of QEMU's own, such as ``e1000e``; default: what the servers serve.
        smp: Processors.
        mem: Memory, MiB.
        accel: ``tcg`` or ``kvm``.
        programs: Further programs for the guest; see `initramfs.image`.
        modules: Further kernel modules to have at hand.
        iommu: Whether it has an IOMMU, used by its kernel.
        shared: Whether its memory is shared with the servers.
        tap_flags: Words for ``ip tuntap add``, such as ``multi_queue``.
        drivers: Whether the drivers of its NICs are loaded at boot.
        tolerate: Whether trouble in the kernel's log is left to the test.
    """

    kernel: str = "stable"
    nic: str | None = None
    smp: int = 1
    mem: int = 512
    accel: str = "tcg"
    programs: Sequence[str] = ()
    modules: Sequence[str] = ()
    iommu: bool = False
    shared: bool = True
    tap_flags: str = ""
    drivers: bool = True
    tolerate: bool = False

    def fit(self, wanted: script.Script) -> Options:
        """These options, with what a script's head asks for besides."""
        return attrs.evolve(
            self,
            smp=max(self.smp, wanted.smp),
            mem=max(self.mem, wanted.mem),
            iommu=self.iommu or wanted.iommu,
            programs=(*self.programs, *wanted.programs),
            modules=(*self.modules, *wanted.modules, *wanted.load),
            drivers=self.drivers and wanted.driver,
        )


class Emudev:
    """The host's side of a test: servers, a namespace with TAPs, and the guest.

    Args:
        options: What the guest is.
        logs: Folder for the logs if the test fails; default: they stay where they are.

    Attributes:
        guest: The guest.
        side: The `HostSide` below, for what has no short form here.
    """

    def __init__(self, options: Options, logs: Path | None = None) -> None:
        self.options = options
        self.side = HostSide(Lab(), tap_flags=options.tap_flags)
        self._logs = logs
        self.guest = LazyGuest(self.side, options)
        self._guests = [self.guest]

    def __call__(self, *vdevs: str, options: Sequence[str] = ()) -> Server:
        """Start ``emudev run`` with these vdevs and wait until it is ready.

        Args:
            *vdevs: Vdev strings; ``{sock}``, ``{tap}`` and ``{dir}`` are filled in, and a device
                without a socket gets one.
            options: Further options of ``emudev run``.
        """
        return self.side.serve_vdevs(vdevs, options)

    def command(self, command: str) -> Server:
        """Start any server by a shell command and wait until its sockets listen.

        Args:
            command: Such as ``emudev testpmd --vdev emu_iavf,path={sock},id=0 ...``; ``{sock}``,
                ``{tap}`` and ``{dir}`` are filled in.
        """
        return self.side.serve_command(command)

    def another(self, *nics: Nic, variables: Mapping[str, str] | None = None) -> LazyGuest:
        """A further guest; it boots when it is first used.

        Args:
            *nics: Its NICs, such as ``Nic("vfio-user", server.sockets[1])``.
            variables: Further variables for its commands, such as its own addresses (``GUEST_IP``,
                ``GUEST_IP6``) and those of its peer (``HOST_IP``, ``HOST_IP6``).
        """
        guest = LazyGuest(self.side, self.options, nics, variables)
        self._guests.append(guest)
        return guest

    @property
    def logs(self) -> Path:
        """Folder that has the logs if the test fails."""
        return self._logs or self.side.folder

    @property
    def folder(self) -> Path:
        """Folder of the test, with its sockets and logs."""
        return self.side.folder

    def host(self, command: str, *, timeout: float = 60.0) -> str:
        """Run a shell command in the namespace; what it printed, without the last line end.

        Raises:
            CommandError: Its exit status is not 0.
        """
        return self.side.run(command, timeout=timeout, check=True).output.removesuffix("\n")

    def close(self) -> list[str]:
        """End the guests, then the servers.

        Returns:
            What was wrong with them.
        """
        faults: list[str] = []
        try:
            for guest in self._guests:
                faults += guest.finish()
        finally:
            faults += self.side.close()
        return faults

    def clean(self, *, keep: bool) -> None:
        """Remove the folder, unless its logs are to be kept."""
        if not keep or self._logs is not None:
            self.side.clean(self._logs if keep else None)


class LazyGuest:
    """A guest that boots when it is first used, on the servers that run then.

    Args:
        side: The host's side.
        options: What it is.
        nics: Its NICs; None: what `options` says, else all that servers serve when it boots.
        variables: Further variables for its commands.
    """

    def __init__(
        self,
        side: HostSide,
        options: Options,
        nics: Sequence[Nic] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._side = side
        self._options = options
        self._nics = nics
        self._variables = variables
        self._guest: Guest | None = None
        self._faults: list[str] = []
        self._expected: list[str] = []

    def boot(self) -> Guest:
        """Boot it, unless it runs already."""
        if self._guest is None:
            options = self._options
            nics = self._nics
            if nics is None and options.nic is not None:
                nics = [Nic.parse(options.nic)]
            elif nics is None:
                served = (path for server in self._side.servers for path in server.sockets)
                nics = [Nic("vfio-user", path) for path in served]
            self._side.add_taps(1)
            self._guest = Guest(
                self._side,
                self._side.lab.kernel(options.kernel),
                Machine(
                    tuple(nics),
                    smp=options.smp,
                    mem=options.mem,
                    accel=options.accel,
                    iommu=options.iommu,
                    shared=options.shared,
                ),
                programs=options.programs,
                modules=options.modules,
                variables=self._variables,
            )
            if options.drivers:
                self._guest.load_drivers()
        return self._guest

    @property
    def log(self) -> KernelLog:
        """The messages of its kernel until now."""
        return self.boot().log

    @property
    def results(self) -> dict[str, str]:
        """Values of the lines ``KEY=VALUE`` that commands printed."""
        return self.boot().results

    def sh(self, command: str, *, timeout: float = 60.0) -> str:
        """Run a shell command that has to succeed; what it printed. See `Guest.sh`."""
        return self.boot().sh(command, timeout=timeout)

    def run(self, command: str, *, timeout: float = 60.0) -> Completed:
        """Run a shell command; its status and what it printed. See `Guest.run`."""
        return self.boot().run(command, timeout=timeout)

    def wait_for(self, command: str, text: str, *, timeout: float = 20.0) -> str:
        """Run a shell command until it prints `text`. See `Guest.wait_for`."""
        return self.boot().wait_for(command, text, timeout=timeout)

    def expect(self, *messages: str) -> None:
        """Let its driver log these, regular expressions, at whatever level, from boot on."""
        self._expected += messages

    def script(self, name: str, **variables: object) -> dict[str, str]:
        """Run a guest script with these variables.

        A guest that boots for it has what the script's head asks for; one that runs already has to.

        Args:
            name: A file, or the name of a script of the lab, such as ``smoke``.
            **variables: What the script's head lists.

        Returns:
            Its results, the values of its lines ``KEY=VALUE``.

        Raises:
            CommandError: It failed.
            LabError: If it is strict, and the driver logged what a healthy one does not.
        """
        wanted = script.find(name)
        if self._guest is None:
            self._options = self._options.fit(wanted)
        guest = self.boot()
        self.expect(*wanted.expect)
        for helper in wanted.helpers:
            self._side.helper(helper)
        guest.load(wanted.load)
        sets = "".join(f"{key}={shlex.quote(str(value))}\n" for key, value in variables.items())
        guest.results.clear()
        done = guest.run(sets + wanted.text, timeout=wanted.timeout)
        if done.status:
            raise CommandError(wanted.name, done.status, done.output)
        if wanted.strict:
            nics = guest.machine.nics
            if faults := verdict(guest.log, nics, strict=True, also=self._expected):
                raise LabError("\n".join(faults))
        return dict(guest.results)

    def reboot(self) -> Guest:
        """End it in order and boot a new one, on the same servers."""
        self._faults += self._end()
        return self.boot()

    def finish(self) -> list[str]:
        """End it if it runs.

        Returns:
            What was wrong with it and with those before it.
        """
        faults, self._faults = self._faults + self._end(), []
        return faults

    def power_off(self) -> None:
        """End it in order; the next use boots a new one."""
        self._faults += self._end()

    def _end(self) -> list[str]:
        guest, self._guest = self._guest, None
        if guest is None:
            return []
        if guest.process.poll() is not None:
            guest.kill()
            return []  # whoever used it last was told
        try:
            log = guest.close()
        except LabError as error:
            return [str(error)]
        if self._options.tolerate:
            return []
        return verdict(log, guest.machine.nics, strict=False, also=self._expected)
