"""Against DPDK's own testpmd: both roles on both sides, over every kind of socket and ring.

testpmd forwards between two net_memif ports (``io``), each joined to a device here; frames are put
into one device and taken from the other, byte for byte. No backend takes part: the queues' kernels
are called from here, so that what happens is up to the test.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from emudev_core.device import Device
from emudev_core.host import Host
from emudev_core.queues import QueueKernels, rx_queue, tx_queue
from emudev_net.burst import Burst

TESTPMD = shutil.which("dpdk-testpmd")
pytestmark = pytest.mark.skipif(TESTPMD is None, reason="dpdk-testpmd is not installed (dpdk-dev)")

_numbers = itertools.count()
AT_ONCE = 25
OTHER = {"server": "client", "client": "server"}


class Testpmd:
    """A testpmd with a prompt.

    Args:
        vdevs: What follows ``--vdev=``.
        arguments: Its own, behind ``--``.
        memory: Arguments of the EAL for its memory.
    """

    __test__ = False

    def __init__(
        self,
        vdevs: Sequence[str],
        arguments: Sequence[str] = (),
        memory: Sequence[str] = ("--no-huge",),
    ) -> None:
        assert TESTPMD is not None
        prefix = f"emudev{os.getpid()}_{next(_numbers)}"
        eal = [*memory, "--no-pci", "-m", "256", "--no-telemetry", f"--file-prefix={prefix}"]
        eal += [f"--vdev={vdev}" for vdev in vdevs]
        own = ["--no-mlockall", "--total-num-mbufs=16384", "-i", *arguments]
        self.output = ""
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", TESTPMD, *eal, "--", *own],  # answers come when they are given
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := self._process.stdout.read1():  # type: ignore[attr-defined]
            self.output += data.decode(errors="replace")

    def say(self, *commands: str) -> None:
        """Type commands."""
        assert self._process.stdin is not None
        for command in commands:
            self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it without a word. A second call does nothing."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._reader.join()
            self._process.stdin.close()
            assert self._process.stdout is not None
            self._process.stdout.close()


class Ends:
    """The queues of a device, called from here."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._burst = Burst(256)

    def _kernels(self, queue: int) -> QueueKernels:
        kernels = self.device.get_queue_info(queue).kernels
        assert kernels is not None
        return kernels

    def send(self, frames: Sequence[bytes], pair: int = 0) -> int:
        """Push frames; answers how many were taken, one row each."""
        kernels = self._kernels(rx_queue(pair))
        assert kernels.push is not None
        assert kernels.notify is not None
        burst = Burst.of(frames)
        taken = kernels.push(kernels.state, burst.address, burst.count)
        kernels.notify(kernels.state, 0, 0)
        return taken

    def receive(self, pair: int = 0) -> list[bytes]:
        """Take what is there."""
        kernels = self._kernels(tx_queue(pair))
        assert kernels.peek is not None
        assert kernels.release is not None
        rows = kernels.peek(kernels.state, self._burst.address, 256)
        frames = [packet.data for packet in self._burst.packets(rows)]
        if rows:
            kernels.release(kernels.state, self._burst.address, rows)
        return frames


def frame(number: int, size: int) -> bytes:
    """A frame that differs from any other of another number, in every place."""
    body = bytes((number + 7 * i) % 251 for i in range(size - 14))
    return bytes.fromhex("020000000001 020000000002 88b5") + body


#: What `Rig.warm_up` sends: may come late on a busy machine, and is no frame of a test then.
WARMER = frame(1, 60).replace(bytes.fromhex("88b5"), bytes.fromhex("88b6"), 1)


class Rig:
    """Devices of a host, and programs of DPDK that join them.

    Args:
        host: The host.
        name: A socket's, of one's own.
    """

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self._programs: list[Testpmd] = []

    def devices(self, *vdevs: str) -> list[Ends]:
        """Add devices and start them with their links up."""
        added = [self.host.add(vdev) for vdev in vdevs]
        self.host.start()
        for device in added:
            device.set_attr("link", True)
        return [Ends(device) for device in added]

    def testpmd(self, *vdevs: str, arguments: Sequence[str] = (), **keys: Sequence[str]) -> Testpmd:
        """Start a testpmd, see there; it ends with the test."""
        self._programs.append(Testpmd(vdevs, arguments, **keys))
        return self._programs[-1]

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Turn the loop until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.host.loop.turn(0.005)

    def wait(self, *ends: Ends, up: bool = True) -> None:
        """Wait until devices have a peer, or none."""
        self.until(lambda: all(end.device.get_attr("carrier") is up for end in ends))

    def wait_for_loss(self, pmd: Testpmd) -> None:
        """Wait until testpmd knows that the peer of its first port has gone.

        A port that is started again before that finds itself connected, and tries nothing.
        """

        def is_down() -> bool:
            before = len(pmd.output)
            pmd.say("show port info 0")
            self.until(lambda: "Link status: " in pmd.output[before:])
            self.until(lambda: "Link speed: " in pmd.output[before:])
            return "Link status: down" in pmd.output[before:]

        self.until(is_down)

    def pair(self, role: str, mine: str = "", theirs: str = "") -> tuple[Ends, Ends, list[str]]:
        """Two devices of a role with other keys, and the ports of testpmd that belong to them."""
        own = [f"emu_memif,role={role},socket={self.name}{i},id={i}{mine}" for i in range(2)]
        a, b = self.devices(*own)
        other = f"role={OTHER[role]},socket={self.name}"
        return a, b, [f"net_memif{i},{other}{i},id={i}{theirs}" for i in range(2)]

    def join(
        self, role: str, mine: str = "", theirs: str = "", **keys: Sequence[str]
    ) -> tuple[Ends, Ends, Testpmd]:
        """The same with a testpmd that forwards between them."""
        a, b, ports = self.pair(role, mine, theirs)
        return a, b, self.forward(a, b, ports, **keys)

    def forward(self, a: Ends, b: Ends, ports: list[str], **keys: Sequence[str]) -> Testpmd:
        """Start a testpmd that forwards between two ports of `pair`."""
        pmd = self.testpmd(*ports, **keys)
        self.wait(a, b)
        pmd.say("start")
        return pmd

    def check(self, near: Ends, far: Ends, sizes: Sequence[int], pair: int = 0) -> None:
        """A hundred frames of each size pass intact."""
        for size in sizes:
            frames = [frame(number, size) for number in range(100)]
            assert self.exchange(near, far, frames, pair) == frames

    def exchange(
        self, near: Ends, far: Ends, frames: Sequence[bytes], pair: int = 0, seconds: float = 10
    ) -> list[bytes]:
        """Send frames into one device and take them from the other, some at a time.

        testpmd drops what finds no room, so there are never more under way than any ring takes.
        """
        found: list[bytes] = []
        deadline = time.monotonic() + seconds
        for at in range(0, len(frames), AT_ONCE):
            waiting, expected = list(frames[at : at + AT_ONCE]), min(at + AT_ONCE, len(frames))
            while len(found) < expected and time.monotonic() < deadline:
                if waiting:
                    del waiting[: near.send(waiting, pair)]
                came = far.receive(pair)
                found += [each for each in came if each != WARMER]
                near.receive(pair)  # a client offers its buffers by looking
                if not came:
                    self.host.loop.turn(0.0002)
        return found

    def warm_up(self, near: Ends, far: Ends, pair: int = 0) -> None:
        """Send until something comes: testpmd drops what waits when forwarding starts."""
        deadline = time.monotonic() + 15
        before = far.device.get_attr("tx_packets")
        while time.monotonic() < deadline:
            near.send([WARMER], pair)
            far.receive(pair)
            near.receive(pair)
            self.host.loop.turn(0.01)
            if far.device.get_attr("tx_packets") != before:
                break
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            far.receive(pair)
            near.receive(pair)
            self.host.loop.turn(0.01)

    def close(self) -> None:
        """End the programs."""
        for program in self._programs:
            program.kill()


@pytest.fixture
def rig(host: Host, name: str) -> Iterator[Rig]:
    made = Rig(host, name)
    yield made
    made.close()


SIZES = (60, 64, 1500, 1514)


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("kind", ["abstract", "path"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_frames_pass_testpmd_intact_both_ways(
    rig: Rig, tmp_path: Path, role: str, kind: str, queues: int
) -> None:
    keys = ""
    if kind == "path":
        rig.name, keys = f"{tmp_path}/s", ",socket-abstract=no"
    arguments = [f"--rxq={queues}", f"--txq={queues}"]
    a, b, _ = rig.join(role, f",queues={queues}{keys}", keys, arguments=arguments)
    assert str(a.device.get_attr("peer")).startswith("DPDK 2")
    for near, far in ((a, b), (b, a)):
        for pair in range(queues):
            rig.warm_up(near, far, pair)
            rig.check(near, far, SIZES, pair)
    assert a.device.get_attr("breaches") == b.device.get_attr("breaches") == 0


@pytest.mark.parametrize("role", ["server", "client"])
def test_long_frames_travel_in_chains_of_small_buffers(rig: Rig, role: str) -> None:
    mine, theirs = (",bsize=512", "") if role == "client" else ("", ",bsize=512")
    a, b, _ = rig.join(role, mine, theirs)
    for near, far in ((a, b), (b, a)):
        rig.warm_up(near, far)
        rig.check(near, far, (60, 512, 513, 1514, 4000, 9000))


@pytest.mark.parametrize("role", ["server", "client"])
def test_jumbo_frames_travel_in_chains_of_buffers_of_the_usual_size(rig: Rig, role: str) -> None:
    a, b, _ = rig.join(role)
    rig.warm_up(a, b)
    rig.check(a, b, (2048, 2049, 9000))


def test_memory_of_the_client_itself_is_mapped(rig: Rig) -> None:
    memory = ("--no-huge", "--single-file-segments")
    a, b, _ = rig.join("server", "", ",zero-copy=yes", memory=memory)
    assert len(a.device.get_mem_table().regions) >= 2
    for near, far in ((a, b), (b, a)):
        rig.warm_up(near, far)
        rig.check(near, far, SIZES)


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_sleeping_receiver_is_woken_and_a_polling_one_is_not(rig: Rig, role: str) -> None:
    a, b, _ = rig.join(role)
    rings: list[float] = []
    bell = b.device.get_db_info(1)
    rig.warm_up(a, b)
    bell.subscribe(lambda: rings.append(time.monotonic()))
    for number in range(5):
        assert b.receive() == []  # asks for a signal: there is nothing
        for _ in range(20):
            rig.host.loop.turn(0.005)
        rings.clear()
        assert a.send([frame(number, 64)]) == 1
        rig.until(lambda: rings, 2)
        assert b.receive() == [frame(number, 64)]
    bell.polled = True
    assert b.receive() == []
    rings.clear()
    assert a.send([frame(9, 64)]) == 1
    for _ in range(20):
        rig.host.loop.turn(0.005)
    assert rings == []
    assert b.receive() == [frame(9, 64)]


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_testpmd_that_is_killed_and_started_again_is_served_again(rig: Rig, role: str) -> None:
    a, b, ports = rig.pair(role)
    for turn in range(2):
        # The sockets of a killed server stay in no file, so that the next one can have them.
        pmd = rig.forward(a, b, [port + (",rsize=8" if turn else "") for port in ports])
        rig.warm_up(a, b)
        rig.check(a, b, [1500])
        pmd.kill()
        rig.wait(a, b, up=False)
        assert a.send([frame(0, 60)]) == 1  # dropped and counted: nothing waits for a peer
    assert a.device.get_attr("connects") == 2


@pytest.mark.parametrize("role", ["server", "client"])
def test_this_side_may_be_started_again_while_testpmd_runs(rig: Rig, role: str) -> None:
    a, b, pmd = rig.join(role)
    rig.warm_up(a, b)
    a.device.stop()
    a.device.start()
    if role == "server":
        # DPDK's client connects when its port starts, and never again by itself.
        rig.wait_for_loss(pmd)
        pmd.say("stop", "port stop 0", "port start 0", "start")
    rig.wait(a, b)
    rig.warm_up(a, b)
    rig.check(a, b, [1500])


def test_a_client_of_dpdk_that_comes_before_the_link_is_kept(rig: Rig) -> None:
    (a,) = rig.devices(f"emu_memif,role=server,socket={rig.name},id=0")
    a.device.set_attr("link", False)
    pmd = rig.testpmd(f"net_memif0,role=client,socket={rig.name},id=0")
    rig.until(lambda: "testpmd> " in pmd.output)
    assert a.device.get_attr("carrier") is False
    a.device.set_attr("link", True)
    rig.wait(a)
    pmd.say("start")  # a lone port sends back what it gets
    rig.warm_up(a, a)
    assert rig.exchange(a, a, [frame(1, 64)]) == [frame(1, 64)]


def test_a_client_of_dpdk_with_more_queues_uses_those_that_there_are(rig: Rig) -> None:
    (a,) = rig.devices(f"emu_memif,role=server,socket={rig.name},id=0,queues=2")
    rig.testpmd(f"net_memif0,role=client,socket={rig.name},id=0", arguments=["--rxq=4", "--txq=4"])
    rig.wait(a)
    assert [a.device.get_queue_info(queue).enabled for queue in range(4)] == [True] * 4


def test_a_server_of_dpdk_with_fewer_queues_gets_what_it_has_and_the_rest_is_refused(
    rig: Rig,
) -> None:
    # It promises 256 rings in HELLO and then has one.
    (a,) = rig.devices(f"emu_memif,role=client,socket={rig.name},id=0,queues=2")
    rig.testpmd(f"net_memif0,role=server,socket={rig.name},id=0")
    rig.until(lambda: "ring" in str(a.device.get_attr("status")).lower())
    assert a.device.get_attr("carrier") is False


@pytest.mark.parametrize("role", ["server", "client"])
def test_secrets_admit_and_keep_out(rig: Rig, role: str) -> None:
    port = f"net_memif0,role={OTHER[role]},socket={rig.name},id=0"
    (a,) = rig.devices(f"emu_memif,role={role},socket={rig.name},id=0,secret=open-sesame")
    wrong = rig.testpmd(f"{port},secret=open")
    rig.until(lambda: "ecret" in str(a.device.get_attr("status")))
    wrong.kill()
    rig.testpmd(f"{port},secret=open-sesame")
    rig.wait(a)


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_flood_is_answered_without_a_breach(rig: Rig, role: str) -> None:
    device = rig.host.add(f"emu_memif,role={role},socket={rig.name},id=0")
    rig.host.add("echo,emu=memif_emudev_0")
    rig.host.start()
    port = f"net_memif0,role={OTHER[role]},socket={rig.name},id=0"
    pmd = rig.testpmd(port, arguments=["--forward-mode=flowgen"])
    rig.until(lambda: device.get_attr("carrier"))
    pmd.say("start")
    rig.until(lambda: device.get_attr("rx_packets") > 20_000)
    pmd.kill()
    rig.until(lambda: not device.get_attr("carrier"), 3)
    assert device.get_attr("breaches") == 0
    assert device.get_attr("tx_dropped") == 0
    assert device.get_attr("tx_packets") >= device.get_attr("rx_packets")
