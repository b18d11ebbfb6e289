"""Resets of every kind: under traffic, twice, in one another, in the middle of an exchange.

Once a reset is answered, nothing is stored in the guest's memory any more, whoever moves frames.
"""

from __future__ import annotations

import hashlib
import random
import struct
from types import SimpleNamespace

import pytest

pytest.importorskip("emudev_null", reason="the transport inproc")

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.mailbox import Mailbox
from emudev_avf.registers import MAP
from emudev_avf.resets import ResetState
from emudev_avf.virtchnl.opcodes import Op
from emudev_core import attributes
from emudev_core.hooks import hookimpl
from emudev_core.host import Host
from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_core.queues import rx_queue, tx_queue
from emudev_core.testing.contract import turn_until
from emudev_net import flow as flows
from emudev_net import worker_kernels
from emudev_net.flow import Flow
from emudev_net.jit import compile_now, jit_wanted
from emudev_net.workers import WorkerPool
from emudev_pci.guest import GuestFunction

KERNELS = (*rings.KERNELS, *flows.KERNELS, *worker_kernels.KERNELS)
RING = 512
PAIRS = 2


class Looped:
    """A backend that gives the frames of the guest back to it, by workers or on the loop."""

    def __init__(self, loop, workers):
        self.loop, self.workers = loop, workers
        self.pool = None
        self.flows = []

    @hookimpl
    def emudev_backend_started(self, device):
        if self.workers:
            self.pool = WorkerPool(self.workers, "storm", polling=False)
        for pair in range(device.get_dev_info().max_queue_pairs):
            source, sink = (device.get_queue_info(q(pair)) for q in (tx_queue, rx_queue))
            flow = Flow(self.loop, source.kernels, sink.kernels)
            if self.pool is not None:
                self.pool.workers[pair % self.workers].add(flow)
            device.get_db_info(source.doorbell).subscribe(flow.kick)
            device.get_db_info(sink.doorbell).subscribe(self.room)
            self.flows.append(flow)
        if self.pool is not None:
            self.pool.start()
            device.add_runner(self.pool)
        device.set_attr(attributes.LINK, True)

    def room(self):
        if self.pool is not None:
            self.pool.room()
        for flow in self.flows:
            flow.kick()

    @hookimpl
    def emudev_backend_event(self, device, event):
        for flow in self.flows:
            flow.kick()

    @hookimpl
    def emudev_backend_stopped(self, device):
        if self.pool is not None:
            self.pool.close()
            device.remove_runner(self.pool)
        for flow in self.flows:
            flow.close()


class Storm:
    """A device under traffic, and the driver in its guest."""

    def __init__(self, host, workers):
        compile_now(KERNELS)
        self.host = host
        self.device = host.add(f"emu_iavf,id=0,transport=inproc,queues={PAIRS}")
        self.avf = self.device.members[0].plugin
        self.device.register(Looped(host.loop, workers), "looped_0")
        host.start()
        turn_until(host, lambda: self.avf.ready, 60)
        self.boot()

    def boot(self):
        self.function = GuestFunction(self.host.connect(self.device), {0: MAP})
        self.driver = AvfDriver(self.function, queues=PAIRS, ring=RING)
        self.driver.probe()
        self.driver.open()
        self.frame = self.driver.resources.mac + bytes.fromhex("52540077000188b5") + bytes(1000)

    def burst(self, count=400):
        """Frames on all queues, of which the workers have some at any time."""
        for queue in range(PAIRS):
            ring = self.driver.tx[queue]
            for _ in range(count):
                ring.send(self.frame)
            self.driver._write("QTX_TAIL1", ring.next, queue)

    def memory(self):
        """A checksum of all memory that the device has."""
        found = hashlib.blake2b()
        for page in self.function.pages():
            found.update(page.read(0, page.size))
        return found.digest()

    def assert_at_rest(self, seconds=0.004):
        """Nothing is stored, whatever rings and turns."""
        before = self.memory()
        for queue in range(PAIRS):
            self.driver._write("QTX_TAIL1", random.randrange(RING), queue)
            self.driver._write("QRX_TAIL1", random.randrange(RING), queue)
        self.host.loop.turn(0)
        self.function.pause(seconds)
        assert self.memory() == before

    def reset_asked(self):
        """RESET_VF; over for the guest when it sees its mailbox disabled."""
        self.driver.admin.send(Op.RESET_VF)
        assert self.driver._read("VF_ARQLEN1") >> 31 == 0

    def reset_function(self):
        self.function.flr()

    def reset_device(self):
        self.function.reset()

    def reset_silent(self):
        self.avf.silent_reset()
        assert self.driver._read("VF_ARQLEN1") >> 31 == 0

    def reset_announced(self):
        self.avf.announce_reset()
        assert self.driver._read("VF_ARQLEN1") >> 31 == 1
        while self.driver._read("VF_ARQLEN1") >> 31:
            self.function.pause(0.001)
        assert self.driver._read("VFGEN_RSTAT") & 3 == 0

    def recover(self):
        self.function.enable()
        self.driver._recover()

    def pass_frames(self):
        """One frame on each queue comes back."""
        for queue in range(PAIRS):
            frame = self.frame[:60] + bytes([queue]) * 40
            self.driver.send(frame, queue=queue)
            got = []
            for _ in range(1000):
                for other in range(PAIRS):
                    got += [r.frame for r in self.driver.receive(0.001, queue=other)]
                if frame in got:
                    break
            assert frame in got


KINDS = ["asked", "function", "device", "silent", "announced"]
WORKERS = [
    0,
    pytest.param(
        2, marks=pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only")
    ),
]


@pytest.fixture(params=WORKERS)
def storm(request):
    with Host() as host:
        made = Storm(host, request.param)
        yield made
        made.function.close()
        assert made.device.error == ""


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_reset_under_traffic_nothing_is_stored_and_the_queues_come_back(storm, kind):
    choose = random.Random(kind)
    for _ in range(6):
        storm.burst()
        for _ in range(choose.randrange(4)):
            storm.host.loop.turn(0)
        getattr(storm, f"reset_{kind}")()
        storm.assert_at_rest()
        storm.recover()
        storm.pass_frames()


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_a_reset_may_follow_another_at_once(storm, first, second):
    storm.burst(50)
    getattr(storm, f"reset_{first}")()
    if second == "announced":  # not while another goes on: it announces nothing
        storm.avf.announce_reset()
    elif second == "asked":  # the mailbox is gone: nobody hears it
        storm.driver._write("VF_ATQT1", 5)
    else:
        getattr(storm, f"reset_{second}")()
    storm.assert_at_rest(0.06)  # an announced one comes in this time
    storm.recover()
    storm.pass_frames()
    assert storm.avf.resets.state is ResetState.ACTIVE


@pytest.mark.parametrize("second", ["asked", "function", "device", "silent"])
def test_a_reset_in_the_announced_interval_comes_once(storm, second):
    storm.avf.announce_reset()
    assert storm.avf.resets.state is ResetState.ANNOUNCED
    storm.burst(50)
    getattr(storm, f"reset_{second}")()
    storm.assert_at_rest(0.06)  # the announced one would come in this time
    assert storm.avf.resets.state is ResetState.ACTIVE
    storm.recover()
    storm.pass_frames()
    storm.function.pause(0.05)
    storm.pass_frames()


def test_a_client_that_leaves_in_the_announced_interval_takes_the_reset_with_it(storm):
    storm.burst(50)
    storm.avf.announce_reset()
    storm.function.close()
    storm.boot()
    storm.function.pause(0.06)
    assert storm.avf.resets.state is ResetState.ACTIVE
    storm.pass_frames()


@pytest.mark.parametrize("second", ["function", "asked", "silent", None])
def test_queues_that_were_requested_are_there_after_whichever_reset_comes_first(storm, second):
    admin = storm.driver.admin
    admin.send(Op.REQUEST_QUEUES, struct.pack("<H", 1))
    assert storm.avf.resets.state is ResetState.ANNOUNCED
    if second is not None:
        getattr(storm, f"reset_{second}")()
    else:
        while storm.driver._read("VF_ARQLEN1") >> 31:
            storm.function.pause(0.002)
    storm.assert_at_rest()
    storm.function.enable()
    storm.driver.tx, storm.driver.rx = storm.driver.tx[:1], storm.driver.rx[:1]
    storm.driver._recover()
    assert storm.driver.resources.queue_pairs == 1
    storm.function.pause(0.06)  # no second reset is left over
    assert storm.driver._read("VF_ARQLEN1") >> 31 == 1


def test_a_reset_of_the_device_forgets_the_queues_that_were_requested(storm):
    storm.driver.admin.send(Op.REQUEST_QUEUES, struct.pack("<H", 1))
    storm.reset_device()
    storm.recover()
    assert storm.driver.resources.queue_pairs == PAIRS


def test_what_is_sent_while_a_reset_is_completed_is_answered_when_the_function_is_active(storm):
    """avf.md 0, fact 9: Linux accepts 1 at probe, and begins to talk."""
    storm.reset_silent()
    storm.avf.resets.cancel()  # its clock stands still
    storm.avf.resets._due()
    assert storm.driver._read("VFGEN_RSTAT") & 3 == 1
    admin = storm.driver.admin
    admin.stop()
    admin.start()
    assert admin.request(Op.VERSION, struct.pack("<II", 1, 1)) == struct.pack("<II", 1, 1)
    assert storm.driver._read("VFGEN_RSTAT") & 3 == 2


class Resetting:
    """Memory by message whose client resets the function while it serves an access."""

    def __init__(self, memory, at):
        self.memory, self.at, self.accesses = memory, at, 0
        self.reset = lambda: None

    def _access(self):
        self.accesses += 1
        if self.accesses == self.at:
            self.reset()

    def read(self, address, size):
        self._access()
        return bytes(self.memory[address - 0x10000 : address - 0x10000 + size])

    def write(self, address, data):
        self.memory[address - 0x10000 : address - 0x10000 + len(data)] = data
        self._access()


@pytest.mark.parametrize("at", range(1, 8))
def test_a_reset_inside_any_access_of_an_exchange_leaves_a_mailbox_that_works(at):
    """A request with a payload, and its reply: nothing of them touches the rings that follow."""
    memory = bytearray(0x10000)
    channel = Resetting(memory, at)
    table = MemoryTable([MemoryRegion(0x10000, len(memory), None, channel=channel)], 1)
    registers = SimpleNamespace(
        **{
            f"VF_{ring}{part}1": 0
            for ring in ("ATQ", "ARQ")
            for part in ("H", "T", "LEN", "BAL", "BAH")
        }
    )
    later, got, raised = [], [], []
    mailbox = Mailbox(
        registers,
        lambda: table,
        lambda opcode, payload: (got.append(opcode), mailbox.post(opcode, 0, payload)),
        lambda: raised.append(1),
        later.append,
    )

    def program():
        for ring, base in (("ATQ", 0x10000), ("ARQ", 0x11000)):
            setattr(registers, f"VF_{ring}H1", 0)
            setattr(registers, f"VF_{ring}BAL1", base)
            setattr(registers, f"VF_{ring}LEN1", 0x8000_0020)
        for i in range(32):
            posted = struct.pack("<HHHHIIIIII", 0x1200, 0, 64, 0, 0, 0, 0, 0, 0, 0x14000 + 64 * i)
            memory[0x1000 + 32 * i : 0x1020 + 32 * i] = posted
        sent = struct.pack("<HHHHIIIIII", 0x3400, 0x801, 8, 0, 1, 0, 0, 0, 0, 0x12000)
        memory[:32] = sent
        registers.VF_ATQT1, registers.VF_ARQT1 = 1, 31

    def reset():
        mailbox.reset()
        for name in vars(registers):
            setattr(registers, name, 0)

    def run():
        mailbox.send_tail_written()
        while later:
            later.pop(0)()

    channel.reset = reset
    program()
    run()
    if channel.accesses >= at:  # it was reset: no head has moved, nothing is broken
        assert set(vars(registers).values()) == {0}
        assert mailbox.waiting == ()
        channel.reset = lambda: None
        got.clear()
        program()
        run()
    assert got == [1]
    assert (registers.VF_ATQH1, registers.VF_ARQH1) == (1, 1)
    assert registers.VF_ATQLEN1 == registers.VF_ARQLEN1 == 0x8000_0020
