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
            [TESTPMD, *eal, "--", *own],
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


@pytest.fixture
def testpmd() -> Iterator[Callable[..., Testpmd]]:
    made: list[Testpmd] = []

    def begin(*vdevs: str, arguments: Sequence[str] = (), **keys: Sequence[str]) -> Testpmd:
        made.append(Testpmd(vdevs, arguments, **keys))
        return made[-1]

    yield begin
    for process in made:
        process.kill()


@pytest.fixture
def devices(host: Host) -> Callable[..., list[Ends]]:
    """Adds devices and starts them with their links up."""

    def begin(*vdevs: str) -> list[Ends]:
        added = [host.add(vdev) for vdev in vdevs]
        host.start()
        for device in added:
            device.set_attr("link", True)
        return [Ends(device) for device in added]

    return begin


@pytest.fixture
def connected(until: Callable[..., None]) -> Callable[..., None]:
    def wait(*ends: Ends, up: bool = True) -> None:
        until(lambda: all(end.device.get_attr("carrier") is up for end in ends), 30)

    return wait


def pair_of_ports(name: str, role: str, mine: str = "", theirs: str = "") -> tuple[list, list]:
    """Two devices of a role with other keys, and the ports of testpmd that belong to them."""
    other = OTHER[role]
    own = [f"emu_memif,role={role},socket={name}{i},id={i}{mine}" for i in range(2)]
    ports = [f"net_memif{i},role={other},socket={name}{i},id={i}{theirs}" for i in range(2)]
    return own, ports


def exchange(
    host: Host, near: Ends, far: Ends, frames: Sequence[bytes], pair: int = 0, seconds: float = 10
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
            found += came
            near.receive(pair)  # a client offers its buffers by looking
            if not came:
                host.loop.turn(0.0002)
    return found


def warm_up(host: Host, near: Ends, far: Ends, pair: int = 0) -> None:
    """Send until something comes: testpmd drops what waits when forwarding starts."""
    deadline = time.monotonic() + 15
    before = far.device.get_attr("tx_packets")
    while time.monotonic() < deadline:
        near.send([frame(1, 60)], pair)
        far.receive(pair)
        near.receive(pair)
        host.loop.turn(0.01)
        if far.device.get_attr("tx_packets") != before:
            break
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        far.receive(pair)
        near.receive(pair)
        host.loop.turn(0.01)


SIZES = (60, 64, 1500, 1514)


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("kind", ["abstract", "path"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_frames_pass_testpmd_intact_both_ways(
    host: Host,
    name: str,
    tmp_path: Path,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    role: str,
    kind: str,
    queues: int,
) -> None:
    where = name if kind == "abstract" else f"{tmp_path}/s"
    keys = "" if kind == "abstract" else ",socket-abstract=no"
    own, ports = pair_of_ports(where, role, f",queues={queues}{keys}", keys)
    a, b = devices(*own)
    pmd = testpmd(*ports, arguments=[f"--rxq={queues}", f"--txq={queues}"])
    connected(a, b)
    assert str(a.device.get_attr("peer")).startswith("DPDK 2")
    pmd.say("start")
    for near, far in ((a, b), (b, a)):
        for pair in range(queues):
            warm_up(host, near, far, pair)
            for size in SIZES:
                frames = [frame(number, size) for number in range(100)]
                assert exchange(host, near, far, frames, pair) == frames
    assert a.device.get_attr("breaches") == b.device.get_attr("breaches") == 0


@pytest.mark.parametrize("role", ["server", "client"])
def test_long_frames_travel_in_chains_of_small_buffers(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    role: str,
) -> None:
    mine, theirs = (",bsize=512", "") if role == "client" else ("", ",bsize=512")
    own, ports = pair_of_ports(name, role, mine, theirs)
    a, b = devices(*own)
    pmd = testpmd(*ports)
    connected(a, b)
    pmd.say("start")
    for near, far in ((a, b), (b, a)):
        warm_up(host, near, far)
        for size in (60, 512, 513, 1514, 4000, 9000):
            frames = [frame(number, size) for number in range(100)]
            assert exchange(host, near, far, frames) == frames


@pytest.mark.parametrize("role", ["server", "client"])
def test_jumbo_frames_travel_in_chains_of_buffers_of_the_usual_size(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    role: str,
) -> None:
    own, ports = pair_of_ports(name, role)
    a, b = devices(*own)
    pmd = testpmd(*ports)
    connected(a, b)
    pmd.say("start")
    warm_up(host, a, b)
    for size in (2048, 2049, 9000):
        frames = [frame(number, size) for number in range(100)]
        assert exchange(host, a, b, frames) == frames


def test_memory_of_the_client_itself_is_mapped(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
) -> None:
    own, ports = pair_of_ports(name, "server", "", ",zero-copy=yes")
    a, b = devices(*own)
    pmd = testpmd(*ports, memory=("--no-huge", "--single-file-segments"))
    connected(a, b)
    assert len(a.device.get_mem_table().regions) >= 2
    pmd.say("start")
    for near, far in ((a, b), (b, a)):
        warm_up(host, near, far)
        for size in SIZES:
            frames = [frame(number, size) for number in range(100)]
            assert exchange(host, near, far, frames) == frames


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_sleeping_receiver_is_woken_and_a_polling_one_is_not(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    until: Callable[..., None],
    role: str,
) -> None:
    own, ports = pair_of_ports(name, role)
    a, b = devices(*own)
    rings: list[float] = []
    bell = b.device.get_db_info(1)
    pmd = testpmd(*ports)
    connected(a, b)
    pmd.say("start")
    warm_up(host, a, b)
    bell.subscribe(lambda: rings.append(time.monotonic()))
    for number in range(5):
        assert b.receive() == []  # asks for a signal: there is nothing
        for _ in range(20):
            host.loop.turn(0.005)
        rings.clear()
        assert a.send([frame(number, 64)]) == 1
        until(lambda: rings, 2)
        assert b.receive() == [frame(number, 64)]
    bell.polled = True
    assert b.receive() == []
    rings.clear()
    assert a.send([frame(9, 64)]) == 1
    for _ in range(20):
        host.loop.turn(0.005)
    assert rings == []
    assert b.receive() == [frame(9, 64)]


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_testpmd_that_is_killed_and_started_again_is_served_again(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    role: str,
) -> None:
    own, ports = pair_of_ports(name, role)
    a, b = devices(*own)
    for turn in range(2):
        # The sockets of a killed server stay in no file, so that the next one can have them.
        again = [port + (",rsize=8" if turn else "") for port in ports]
        pmd = testpmd(*again)
        connected(a, b)
        pmd.say("start")
        warm_up(host, a, b)
        frames = [frame(number, 1500) for number in range(100)]
        assert exchange(host, a, b, frames) == frames
        pmd.kill()
        connected(a, b, up=False)
        assert a.send([frame(0, 60)]) == 1  # dropped and counted: nothing waits for a peer
    assert a.device.get_attr("connects") == 2


@pytest.mark.parametrize("role", ["server", "client"])
def test_this_side_may_be_started_again_while_testpmd_runs(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    role: str,
) -> None:
    own, ports = pair_of_ports(name, role)
    a, b = devices(*own)
    pmd = testpmd(*ports)
    connected(a, b)
    pmd.say("start")
    warm_up(host, a, b)
    a.device.stop()
    a.device.start()
    if role == "server":
        # DPDK's client connects when its port starts, and never again by itself.
        pmd.say("stop", "port stop 0", "port start 0", "start")
    connected(a, b)
    warm_up(host, a, b)
    frames = [frame(number, 1500) for number in range(100)]
    assert exchange(host, a, b, frames) == frames


def test_a_client_of_dpdk_that_comes_before_the_link_is_kept(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    until: Callable[..., None],
) -> None:
    (a,) = devices(f"emu_memif,role=server,socket={name},id=0")
    a.device.set_attr("link", False)
    pmd = testpmd(f"net_memif0,role=client,socket={name},id=0")
    until(lambda: "testpmd> " in pmd.output, 30)
    assert a.device.get_attr("carrier") is False
    a.device.set_attr("link", True)
    connected(a)
    pmd.say("start")  # a lone port sends back what it gets
    warm_up(host, a, a)
    assert exchange(host, a, a, [frame(1, 64)]) == [frame(1, 64)]


def test_a_client_of_dpdk_with_more_queues_uses_those_that_there_are(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
) -> None:
    (a,) = devices(f"emu_memif,role=server,socket={name},id=0,queues=2")
    testpmd(f"net_memif0,role=client,socket={name},id=0", arguments=["--rxq=4", "--txq=4"])
    connected(a)
    assert [a.device.get_queue_info(queue).enabled for queue in range(4)] == [True] * 4


def test_a_server_of_dpdk_with_fewer_queues_gets_what_it_has_and_the_rest_is_refused(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    until: Callable[..., None],
) -> None:
    # It promises 256 rings in HELLO and then has one.
    (a,) = devices(f"emu_memif,role=client,socket={name},id=0,queues=2")
    testpmd(f"net_memif0,role=server,socket={name},id=0")
    until(lambda: "ring" in str(a.device.get_attr("status")).lower(), 30)
    assert a.device.get_attr("carrier") is False


@pytest.mark.parametrize("role", ["server", "client"])
def test_secrets_admit_and_keep_out(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    devices: Callable[..., list[Ends]],
    connected: Callable[..., None],
    until: Callable[..., None],
    role: str,
) -> None:
    other = OTHER[role]
    (a,) = devices(f"emu_memif,role={role},socket={name},id=0,secret=open-sesame")
    wrong = testpmd(f"net_memif0,role={other},socket={name},id=0,secret=open")
    until(lambda: "ecret" in str(a.device.get_attr("status")), 30)
    wrong.kill()
    testpmd(f"net_memif0,role={other},socket={name},id=0,secret=open-sesame")
    connected(a)


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_flood_is_answered_without_a_breach(
    host: Host,
    name: str,
    testpmd: Callable[..., Testpmd],
    until: Callable[..., None],
    role: str,
) -> None:
    device = host.add(f"emu_memif,role={role},socket={name},id=0")
    host.add("echo,emu=memif_emudev_0")
    host.start()
    pmd = testpmd(
        f"net_memif0,role={OTHER[role]},socket={name},id=0", arguments=["--forward-mode=flowgen"]
    )
    until(lambda: device.get_attr("carrier"), 30)
    pmd.say("start")
    until(lambda: device.get_attr("rx_packets") > 20_000, 30)
    pmd.kill()
    until(lambda: not device.get_attr("carrier"))
    assert device.get_attr("breaches") == 0
    assert device.get_attr("tx_dropped") == 0
    assert device.get_attr("tx_packets") >= device.get_attr("rx_packets")
