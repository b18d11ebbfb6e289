"""The host's side of a run: a folder for logs and sockets, a namespace with TAPs, servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from .errors import CommandError, LabError
from .lab import Lab
from .namespace import Namespace
from .process import Completed, Usage, spawn, stop, tail, usage
from .vdevs import Filled, fill_command, fill_vdevs, tap

__all__ = ["MTU", "HostSide", "Server", "emudev_command"]

#: MTU of a TAP interface unless told otherwise, so that jumbo frames are a matter of the guest.
MTU: Final = 9000

_READY = 30.0  # seconds until a server has to listen: a cold start compiles
_POLL = 0.02


def emudev_command() -> list[str]:
    """The arguments that start ``emudev`` in this Python environment."""
    program = Path(sys.executable).with_name("emudev")
    if program.exists():
        return [str(program)]
    return [sys.executable, "-P", "-m", "emudev_core.cli"]


class Server:
    """A process that serves devices on sockets; `HostSide.serve` starts one.

    Attributes:
        process: The process.
        sockets: The sockets that it listens on.
        log: What it printed on standard error (and on standard output, unless it is an emudev).
        output: What it printed on standard output.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], sockets: Sequence[Path], log: Path, output: Path
    ) -> None:
        self.process = process
        self.sockets = tuple(sockets)
        self.log = log
        self.output = output
        self._stopped = False

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    def usage(self) -> Usage | None:
        """What it uses now, or None if it has ended."""
        return usage(self.pid) if self.process.poll() is None else None

    def await_ready(self, *, line: bool) -> None:
        """Wait until it listens on all its sockets and, if `line`, has printed a line.

        Raises:
            LabError: It ended, or it took too long.
        """
        deadline = time.monotonic() + _READY
        while True:
            if self.process.poll() is not None:
                self._stopped = True  # told here, not once more by `stop`
                status = self.process.returncode
                raise LabError(f"the server ended with status {status}:\n{tail(self.log)}".rstrip())
            waiting = [str(path) for path in self.sockets if not self._listens(path)]
            if line and b"\n" not in self.output.read_bytes():
                waiting.append("a line on standard output")
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise LabError(
                    f"the server is not ready after {_READY:.0f} s, still without "
                    f"{', '.join(waiting)}:\n{tail(self.log)}".rstrip()
                )
            time.sleep(_POLL)

    def stop(self) -> list[str]:
        """End it with SIGTERM.

        Returns:
            What it did wrong: another exit status than 0, sockets left behind, no end in time.
        """
        if self._stopped:
            return []
        self._stopped = True
        polite = stop(self.process)
        status = self.process.returncode
        faults = []
        if not polite:
            faults.append("the server did not end within 5 s of SIGTERM")
        elif status:
            faults.append(f"the server ended with status {status}")
        faults += [f"the server left {path}" for path in self.sockets if path.exists()]
        return faults

    def _listens(self, path: Path) -> bool:
        """Whether a socket is bound there and listens; nothing connects to find out."""
        try:
            table = Path(f"/proc/{self.pid}/net/unix").read_text()
        except OSError:
            return False
        # Columns: address, references, protocol, flags, type, state, inode, path. 0x10000 in the
        # flags: it accepts connections. Source: Linux, net/unix/af_unix.c, unix_seq_show.
        rows = (row.split(maxsplit=7) for row in table.splitlines()[1:])
        name = str(path)
        return any(len(row) == 8 and row[7] == name and int(row[3], 16) & 0x10000 for row in rows)


class HostSide:
    """A folder, a namespace with a TAP for each NIC, and the processes in it; a context manager.

    The host's end of TAP N has the addresses 192.168.(77 + N).1/24 and fd77:N::1/64; the guest's
    end has .2 and ::2.

    Args:
        lab: A prepared lab.
        tap_flags: Words for ``ip tuntap add`` of each TAP, such as ``multi_queue vnet_hdr``.

    Raises:
        LabError: Not root, or no network namespaces.
    """

    def __init__(self, lab: Lab, *, tap_flags: str = "") -> None:
        if os.geteuid() != 0:
            raise LabError("guests need TAP interfaces and a network namespace: run this as root")
        self.lab = lab
        self.tap_flags = tap_flags
        self.servers: list[Server] = []
        self._helpers: dict[str, subprocess.Popen[bytes]] = {}
        self._taps = 0
        path = [str(lab.tools()), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        self._environment = {**os.environ, "PATH": ":".join(path), "PYTHONUNBUFFERED": "1"}
        self.namespace = Namespace()
        # Short, since the path of a socket has to fit 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="emudev-lab-"))
        try:
            self.run("ip link set lo up", check=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HostSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_taps(self, count: int, mtu: int = MTU, *, flags: str | None = None) -> None:
        """Make TAP interfaces until there are `count`, with addresses and set up.

        Args:
            count: How many there shall be.
            mtu: Their MTU, bytes.
            flags: Words for ``ip tuntap add``; default: those of this side.
        """
        flags = self.tap_flags if flags is None else flags
        for number in range(self._taps, count):
            name = tap(number)
            self.run(
                f"ip tuntap add dev {name} mode tap {flags} && ip link set {name} mtu {mtu} up &&"
                f" ip address add 192.168.{77 + number}.1/24 dev {name} &&"
                f" ip address add fd77:{number}::1/64 dev {name} nodad",
                check=True,
            )
            self._taps = number + 1

    def run(self, command: str, *, timeout: float = 60.0, check: bool = False) -> Completed:
        """Run a shell command in the namespace.

        Args:
            command: The command.
            timeout: Limit, s; it has status 124 if it takes longer.
            check: Whether another status than 0 raises `CommandError`.
        """
        with tempfile.TemporaryFile() as file:
            process = self._spawn(["/bin/sh", "-c", command], file)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                status = 124
            finally:
                stop(process, 0.5)
            file.seek(0)
            output = file.read().decode(errors="replace")
        completed = Completed(status if status >= 0 else 128 - status, output)
        if check and completed.status:
            raise CommandError(command, completed.status, output)
        return completed

    def start(self, name: str, command: str) -> None:
        """Start a shell command in the background; its log is ``NAME.log`` in the folder."""
        self.stop(name)
        with open(self.folder / f"{name}.log", "wb") as log:
            self._helpers[name] = self._spawn(["/bin/sh", "-c", f"exec {command}"], log)

    def stop(self, name: str) -> Completed:
        """End what `start` started; its status, and what it printed."""
        process = self._helpers.pop(name, None)
        if process is None:
            return Completed(127, "")
        stop(process, 2.0)
        status = process.returncode
        output = (self.folder / f"{name}.log").read_text(errors="replace")
        return Completed(status if status >= 0 else 128 - status, output)

    def helper(self, name: str) -> None:
        """Start one of `script.HELPERS` unless it runs already."""
        if name == "iperf3":
            for port in (5201, 5202):
                if f"iperf3-{port}" not in self._helpers:
                    self.start(f"iperf3-{port}", f"iperf3 -s -p {port}")
        elif name not in self._helpers:
            self.start(name, f"{sys.executable} -P -m emudev_lab.{name}")

    def serve_vdevs(self, vdevs: Sequence[str], options: Sequence[str] = ()) -> Server:
        """Start ``emudev run`` with these vdevs and wait until it is ready.

        Args:
            vdevs: Vdev strings; see `vdevs.fill_vdevs`.
            options: Further options of ``emudev run``.
        """
        filled = fill_vdevs(vdevs, self.folder)
        words = [word for vdev in filled.texts for word in ("--vdev", vdev)]
        return self._serve([*emudev_command(), "run", *words, *options], filled, line=True)

    def serve_command(self, command: str) -> Server:
        """Start any server by a shell command and wait until its sockets listen.

        Args:
            command: The command; see `vdevs.fill_command`. The shell is replaced by it.
        """
        filled = fill_command(command, self.folder)
        return self._serve(["/bin/sh", "-c", f"exec {filled.texts[0]}"], filled, line=False)

    def close(self) -> list[str]:
        """End everything that runs here and remove the namespace; the folder stays (see `clean`).

        Returns:
            What the servers did wrong; see `Server.stop`.
        """
        faults = [fault for server in self.servers for fault in server.stop()]
        self.servers.clear()
        for process in self._helpers.values():
            stop(process, 2.0)
        self._helpers.clear()
        self.namespace.close()
        return faults

    def clean(self, keep: Path | None = None) -> None:
        """Remove the folder, its logs copied to `keep` before if that is given."""
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in (*self.folder.glob("*.log"), *self.folder.glob("*.out")):
                shutil.copy(log, keep)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _serve(self, arguments: Sequence[str], filled: Filled, *, line: bool) -> Server:
        self.add_taps(filled.taps)
        number = len(self.servers)
        log = self.folder / f"server{number}.log"
        output = self.folder / f"server{number}.out" if line else log
        with contextlib.ExitStack() as files:
            errors = files.enter_context(open(log, "wb"))
            words = files.enter_context(open(output, "wb")) if line else errors
            process = spawn(
                [*self.namespace.enter(), *arguments],
                log=words,
                errors=errors,
                environment=self._environment,
            )
        server = Server(process, filled.sockets, log, output)
        self.servers.append(server)
        server.await_ready(line=line)
        return server

    def _spawn(self, arguments: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [*self.namespace.enter(), *arguments]
        return spawn(command, log=log, environment=self._environment)
