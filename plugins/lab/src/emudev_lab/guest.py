"""A guest: QEMU, and the channel on which commands go in and what they print comes out.

The channel is the guest's second serial port. The harness writes ``run BASE64`` for a shell
command; the guest prints what the command prints and then ``@@END STATUS``. In between the command
may ask for something on the host with a line ``@@host COMMAND`` (and ``start``, ``stop``, ``mark``;
see ``guest_side/lib.sh``), which is answered by the output and ``@@DONE STATUS``.
"""

from __future__ import annotations

import base64
import contextlib
import re
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from .errors import CommandError, GuestError
from .host import HostSide
from .initramfs import image
from .kernel_log import KernelLog
from .lab import Kernel
from .process import Completed, Usage, spawn, stop, tail, usage
from .qemu import Machine, arguments, drivers

__all__ = ["BOOT", "Guest"]

#: Seconds that a guest has to boot: three on an idle machine.
BOOT: Final = 90.0

_CONSOLE = 60  # lines of the console in a message: an oops of the kernel is long
_POWER_OFF = 20.0  # seconds for the guest to power off
_POLL = 0.1
_RESULT = re.compile(r"([A-Z][A-Za-z0-9_]*)=(.*)$")


class Guest:
    """A guest that boots when it is made and ends with `close`; a context manager.

    All of it runs on the calling thread; QEMU dies with that thread.

    Args:
        host: The host's side, with its servers started.
        kernel: What it boots.
        machine: What it has.
        programs: Further programs for it; see `initramfs.image`.
        modules: Further kernel modules to have at hand.
        variables: Further variables for every command.
        echo: Takes each line that a command in the guest prints.
        boot: Limit for booting, s.

    Attributes:
        results: Values of the lines ``KEY=VALUE`` that commands printed, the latest of each key.
        boot_seconds: How long it took to boot, s.

    Raises:
        GuestError: It did not boot; the message has the end of its console.
    """

    def __init__(
        self,
        host: HostSide,
        kernel: Kernel,
        machine: Machine,
        *,
        programs: Sequence[str] = (),
        modules: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        echo: Callable[[str], None] | None = None,
        boot: float = BOOT,
    ) -> None:
        self.host = host
        self.kernel = kernel
        self.machine = machine
        self.results: dict[str, str] = {}
        self._echo = echo
        self._pending = b""
        self._log: KernelLog | None = None
        self._marks: dict[str, tuple[float, float, float]] = {}
        self._prelude = _prelude(kernel, machine, variables or {})
        taps = [i if nic.tap is None else nic.tap for i, nic in enumerate(machine.nics)]
        host.add_taps(max(taps, default=-1) + 1)
        number = len(list(host.folder.glob("console*.log")))
        suffix = str(number) if number else ""
        self.console = host.folder / f"console{suffix}.log"
        self._qemu_log = host.folder / f"qemu{suffix}.log"
        initramfs = image(host.lab, kernel, programs, modules)
        self._control, theirs = socket.socketpair()
        begun = time.monotonic()
        with theirs, open(self._qemu_log, "wb") as log:
            number = theirs.fileno()
            words = arguments(host.lab, machine, kernel, initramfs, self.console, number)
            self.process: subprocess.Popen[bytes] = spawn(
                [*host.namespace.enter(), *words], log=log, descriptors=[number]
            )
        try:
            deadline = begun + boot
            while self._line(deadline, "boot") != "@@READY":
                pass
        except BaseException:
            self.kill()
            raise
        self.boot_seconds = time.monotonic() - begun

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> KernelLog:
        """The messages of its kernel: now, or at the end if it is closed."""
        if self._log is not None:
            return self._log
        quiet, self._echo = self._echo, None
        try:
            log = KernelLog(self.run("dmesg -r").output)
        finally:
            self._echo = quiet
        (self.host.folder / "dmesg.log").write_text(str(log))
        return log

    def load_drivers(self) -> None:
        """Load the drivers of its NICs."""
        self.load(drivers(self.machine.nics))

    def load(self, modules: Sequence[str]) -> None:
        """Load kernel modules, which the guest has at hand."""
        for module in modules:
            self.sh(f"modprobe {shlex.quote(module)}")

    def run(self, command: str, *, timeout: float = 60.0) -> Completed:
        """Run a shell command or a whole script; it has the functions of ``guest_side/lib.sh``.

        Args:
            command: The text.
            timeout: Limit, s.

        Raises:
            GuestError: It took too long, or the guest ended; the guest is ended then.
        """
        try:
            return self._run(command, timeout)
        except BaseException:
            # Whoever is interrupted here leaves a command behind whose end nobody would await.
            self.kill()
            raise

    def _run(self, command: str, timeout: float) -> Completed:
        text = base64.b64encode(f"{self._prelude}{command}\n".encode())
        deadline = time.monotonic() + timeout
        self._send(b"run " + text + b"\n")
        lines: list[str] = []
        what = command.strip().partition("\n")[0]
        blank = False  # a blank line is held back: each marker has one before it
        while not (line := self._line(deadline, what)).startswith("@@END "):
            if line.startswith("@@"):
                self._answer(line[2:])
                blank = False
                continue
            if blank:
                self._print("", lines)
            blank = not line
            if line:
                self._print(line, lines)
        return Completed(int(line.removeprefix("@@END ")), "".join(f"{each}\n" for each in lines))

    def sh(self, command: str, *, timeout: float = 60.0) -> str:
        """Run a shell command that has to succeed; what it printed, without the last line end.

        Raises:
            CommandError: Its exit status is not 0.
            GuestError: See `run`.
        """
        completed = self.run(command, timeout=timeout)
        if completed.status:
            raise CommandError(command, completed.status, completed.output)
        return completed.output.removesuffix("\n")

    def wait_for(self, command: str, text: str, *, timeout: float = 20.0) -> str:
        """Run a shell command again and again until it prints `text`; all that it then printed.

        Raises:
            GuestError: It did not within `timeout` seconds; the message has what it printed last.
        """
        deadline = time.monotonic() + timeout
        while True:
            output = self.run(command).output
            if text in output:
                return output.removesuffix("\n")
            if time.monotonic() > deadline:
                raise GuestError(f"no {text!r} from `{command}` in {timeout} s, but: {output!r}")
            time.sleep(_POLL)

    def usage(self) -> Usage | None:
        """What QEMU uses now, or None if it has ended."""
        return usage(self.process.pid) if self.process.poll() is None else None

    def close(self) -> KernelLog:
        """Power it off in order.

        Returns:
            The messages of its kernel, from boot to end.

        Raises:
            GuestError: It does not answer or does not power off; it is ended then.
        """
        if self._log is not None:
            return self._log
        try:
            log = self.log
            self._send(b"off\n")
            try:
                self.process.wait(_POWER_OFF)
            except subprocess.TimeoutExpired:
                raise GuestError(
                    f"the guest did not power off within {_POWER_OFF:.0f} s\n{self._ends()}"
                ) from None
        finally:
            self.kill()
        self._log = log
        return log

    def kill(self) -> None:
        """End QEMU at once."""
        stop(self.process, 2.0)
        self._control.close()

    def _print(self, line: str, lines: list[str]) -> None:
        lines.append(line)
        if match := _RESULT.match(line):
            self.results[match[1]] = match[2]
        if self._echo:
            self._echo(line)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # reading tells that the guest has ended, and why
            self._control.sendall(data)

    def _line(self, deadline: float, what: str) -> str:
        """The next line from the guest."""
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestError(f"time-out of the guest: {what}\n{self._ends()}")
            if not select.select([self._control], [], [], left)[0]:
                continue
            try:
                data = self._control.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.process.wait(_POWER_OFF)
                raise GuestError(
                    f"the guest ended (QEMU's status {self.process.returncode}): {what}\n"
                    f"{self._ends()}"
                )
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def _ends(self) -> str:
        """The ends of QEMU's log and of the console, and of servers that have ended."""
        parts = [tail(self._qemu_log), tail(self.console, _CONSOLE)]
        for server in self.host.servers:
            if server.process.poll() is not None:
                parts.append(f"the server ended with status {server.process.returncode}")
                parts.append(tail(server.log))
        return "\n".join(part for part in parts if part)

    def _answer(self, request: str) -> None:
        """Do what a command in the guest asks for."""
        word, _, rest = request.partition(" ")
        done = Completed(0, "")
        if word == "host":
            done = self.host.run(rest)
        elif word == "start":
            name, _, command = rest.partition(" ")
            self.host.start(name, command)
        elif word == "stop":
            done = self.host.stop(rest)
        elif word == "mark":
            self._mark(*rest.split())
        else:
            done = Completed(127, f"unknown request {request}\n")
        output = (
            done.output if done.output.endswith("\n") or not done.output else f"{done.output}\n"
        )
        self._send(f"{output}@@DONE {done.status}\n".encode())

    def _mark(self, name: str, which: str) -> None:
        """Begin or end a period in which the use of the processor is measured."""
        mine = self.usage()
        theirs = [used.cpu for server in self.host.servers if (used := server.usage())]
        now = (time.monotonic(), mine.cpu if mine else 0.0, sum(theirs))
        if which == "begin" or name not in self._marks:
            self._marks[name] = now
            return
        then = self._marks.pop(name)
        seconds = max(now[0] - then[0], 1e-6)
        for who, index in (("QEMU", 1), ("SERVER", 2)):
            key, value = f"CPU_{name}_{who}_PCT", f"{(now[index] - then[index]) / seconds:.1%}"
            self.results[key] = value.rstrip("%")
            if self._echo:
                self._echo(f"{key}={self.results[key]}")


def _prelude(kernel: Kernel, machine: Machine, variables: Mapping[str, str]) -> str:
    """What every command starts with: variables, and the functions for scripts."""
    first = machine.nics[0].kind if machine.nics else "none"
    loaded = drivers(machine.nics[:1])
    values = {
        "HOST_IP": "192.168.77.1",
        "GUEST_IP": "192.168.77.2",
        "HOST_IP6": "fd77::1",
        "GUEST_IP6": "fd77::2",
        "NIC_KIND": first,
        "NIC_DRIVER": loaded[0] if loaded else "",
        "NIC_COUNT": str(len(machine.nics)),
        "KERNEL": kernel.version,
        **{f"TAP{number}": f"tap{number}" for number in range(len(machine.nics))},
        **variables,
    }
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())
    return f"{exports}. /guest/lib.sh\n"
