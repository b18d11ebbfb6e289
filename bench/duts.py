"""The programs that are compared: `emudev testpmd` and DPDK's `dpdk-testpmd`, as processes.

Both forward with one thread, which polls on core 1; whatever else they do runs on core 0, beside
the peer.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from emudev_core.closing import Closing

PEER_CORE: Final = 0
DUT_CORE: Final = 1
LIMIT: Final = 30.0

_numbers = itertools.count()


def missing() -> str:
    """Why the comparison can't be made here, or nothing."""
    if shutil.which("dpdk-testpmd") is None:
        return "dpdk-testpmd is not installed (Debian's dpdk-dev)"
    if not {PEER_CORE, DUT_CORE} <= os.sched_getaffinity(0):
        return f"cores {PEER_CORE} and {DUT_CORE} are needed"
    return ""


def dpdk_version() -> str:
    """The version of Debian's package, or nothing."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "dpdk"], capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else ""


class Program(Closing):
    """A process whose output is read, and that is typed to; ended with the context.

    Args:
        command: Its words.
        interactive: It has a prompt; else its input is empty.
    """

    def __init__(self, command: Sequence[str], *, interactive: bool) -> None:
        self.command = list(command)
        self.output = ""
        self._more = threading.Condition()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while data := os.read(stream.fileno(), 65536):
            with self._more:
                self.output += data.decode(errors="replace")
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def until(self, text: str, begin: int = 0, limit: float = LIMIT) -> str:
        """Wait for a text in the output from `begin` on; answers what is there from there on.

        Raises:
            RuntimeError: It ended, or was silent for too long.
        """
        deadline = time.monotonic() + limit
        with self._more:
            while text not in self.output[begin:]:
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    raise RuntimeError(
                        f"no {text!r} from {' '.join(self.command)}:\n{self.output[-2000:]}"
                    )
                self._more.wait(min(left, 0.2))
            return self.output[begin:]

    def say(self, command: str, answer: str = "testpmd> ") -> str:
        """Type a command; answers what is printed up to a text."""
        stream: IO[bytes] | None = self.process.stdin
        assert stream is not None
        begin = len(self.output)
        stream.write(command.encode() + b"\n")
        stream.flush()
        return self.until(answer, begin)

    def close(self) -> None:
        """End it: in order, or at once if it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(3)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Dpdk(Program):
    """DPDK's testpmd, forwarding when this is made.

    Args:
        vdevs: What follows ``--vdev=``.
        mode: Of forwarding.
        core: Of the thread that forwards.
        size: Bytes of the packets that it makes.
        eal: Further arguments of the EAL.
        own: Further arguments behind ``--``.
    """

    def __init__(
        self,
        vdevs: Sequence[str],
        mode: str,
        *,
        core: int = DUT_CORE,
        size: int = 64,
        eal: Sequence[str] = (),
        own: Sequence[str] = (),
    ) -> None:
        prefix = f"emudev{os.getpid()}_{next(_numbers)}"
        # Its statistics go through a buffer that a pipe does not empty; its prompt does not.
        command = [
            "stdbuf",
            "-oL",
            "dpdk-testpmd",
            "--no-huge",
            "--no-pci",
            "-m",
            "512",
            "--no-telemetry",
        ]
        # The prompt shares core 0 with the peer; it sleeps.
        command += [f"--file-prefix={prefix}", f"--lcores=0@{PEER_CORE},1@{core}", *eal]
        command += [f"--vdev={vdev}" for vdev in vdevs]
        command += ["--", "--no-mlockall", "--total-num-mbufs=16384", "-i"]
        command += [f"--forward-mode={mode}", f"--txpkts={size}", "--disable-link-check", *own]
        super().__init__(command, interactive=True)
        self.until("testpmd> ")
        self.say("start")

    def rates(self, direction: str) -> float:
        """Packets a second since this was asked last, of all ports: ``Rx`` or ``Tx``."""
        shown = self.say("show port stats all")
        return sum(map(float, re.findall(rf"{direction}-pps: +(\d+)", shown)))


class Emudev(Program):
    """`emudev testpmd`, forwarding when this is made.

    Args:
        devices: Vdev strings of devices; each gets a port.
        names: Names of these devices.
        mode: Of forwarding.
        size: Bytes of the packets that it makes.
        own: Further arguments behind ``--``.
    """

    def __init__(
        self,
        devices: Sequence[str],
        names: Sequence[str],
        mode: str,
        *,
        size: int = 64,
        own: Sequence[str] = (),
    ) -> None:
        command = [sys.executable, "-m", "emudev_core.cli", "testpmd"]
        command += ["-l", f"{PEER_CORE},{DUT_CORE}"]
        for number, (device, name) in enumerate(zip(devices, names, strict=True)):
            command += ["--vdev", device, "--vdev", f"net_avfbe,id={number},emu={name}"]
        command += ["--", f"--forward-mode={mode}", f"--txpkts={size}", "--stats-period", "1000"]
        super().__init__([*command, "--disable-link-check", *own], interactive=False)
        self.until("ready")


def memif_ports(program: str, folder: Path, count: int) -> tuple[list[str], list[str]]:
    """Vdev strings of memif servers, and names of the devices.

    Args:
        program: ``emudev`` or ``dpdk``.
        folder: For their sockets, ``m0.sock`` and so on.
        count: How many.
    """
    driver = "emu_memif" if program == "emudev" else "net_memif"
    vdevs, names = [], []
    for number in range(count):
        place = f"socket={folder}/m{number}.sock,socket-abstract=no,role=server"
        # An interface id of its own for each; the far end says it.
        head = f"{driver},id={number}" if program == "emudev" else f"{driver}{number},id={number}"
        vdevs.append(f"{head},{place}")
        names.append(f"memif_emudev_{number}")
    return vdevs, names


def start_dut(
    program: str, folder: Path, count: int, mode: str, size: int, own: Sequence[str] = ()
) -> Program:
    """Start one of the two with memif servers."""
    vdevs, names = memif_ports(program, folder, count)
    if program == "emudev":
        return Emudev(vdevs, names, mode, size=size, own=own)
    return Dpdk(vdevs, mode, size=size, own=own)
