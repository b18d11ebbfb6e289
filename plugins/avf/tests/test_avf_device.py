"""The device as a guest sees it: configuration space, registers in driver order, interrupts."""

import os
import struct

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.device import AvfDevice
from emudev_core.errors import DeviceError
from emudev_core.events import EventChannel, EventKind
from emudev_core.loop import Loop
from emudev_core.memory import MemoryTable
from emudev_core.queues import Direction
from emudev_core.regions import ResetKind
from emudev_core.registry import Registry
from emudev_core.specs import ProviderContext

ATQH, ATQT, ATQLEN, ARQH, ARQLEN = 0x6400, 0x8400, 0x6800, 0x7400, 0x8000
RSTAT, ICR01, ICR0_ENA1, DYN_CTL01, DYN_CTLN1 = 0x8800, 0x4800, 0x5000, 0x5C00, 0x3800
LINUX_CAPS = 0x1ABD8CF9
CONFIG, MSIX = 7, 2
MAC = bytes.fromhex("525400770002")


class Machine:
    """A device, its loop, guest memory, eventfds, and a driver's hands."""

    def __init__(self, memory, mailer, **keys):
        config = AvfConfig(**{"queues": 2, "mac": "52:54:00:77:00:02", **keys})
        self.loop = Loop(spin=0)
        registry = Registry(self.loop)
        self.device = registry.allocate("avf_emudev_0", "a test")
        context = ProviderContext(device=self.device, loop=self.loop, registry=registry)
        self.avf = AvfDevice(config, context)
        self.device.register(self.avf, "provider", "test 1.0")
        self.device.configure(config)
        self.until(lambda: self.avf.ready, 60)
        self.device.start()
        self.memory = memory
        self.events = []
        self.channel = EventChannel()
        self.device.subscribe_event(self.channel)
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.avf.vectors]
        self.mail = mailer(memory, self.read, self.write)

    def plug(self):
        """What a client does before the driver runs: memory, vectors, bus mastering."""
        self.device.dma_map(self.memory.table, self.memory.region)
        for vector, fd in enumerate(self.fds):
            self.device.irq_bound(MSIX, vector, fd)
        self.master(True)
        return self

    def master(self, on):
        self.device.region_write(CONFIG, 4, 2, 0x0402 | (4 if on else 0))

    def read(self, offset):
        return self.device.region_read(0, offset, 4)

    def write(self, offset, value):
        self.device.region_write(0, offset, 4, value)

    def signals(self, vector):
        try:
            return os.eventfd_read(self.fds[vector])
        except BlockingIOError:
            return 0

    def turns(self, seconds):
        """Let the loop run for a time."""
        done = []
        self.loop.call_later(seconds, lambda: done.append(1))
        while not done:
            self.loop.turn(0.1)

    def until(self, condition, seconds=5.0):
        done = []
        timer = self.loop.call_later(seconds, lambda: done.append(1))
        while not condition():
            assert not done, "it did not happen in time"
            self.loop.turn(0.01)
        timer.cancel()

    def drain(self):
        return list(self.channel.drain())

    def probe(self, caps=LINUX_CAPS):
        """Steps 1 to 6 of avf.md 5.1."""
        assert self.read(RSTAT) & 3 in (1, 2)
        self.mail.start()
        assert self.mail.request(1, struct.pack("<II", 1, 1))[0] == 0
        status, data = self.mail.request(3, struct.pack("<I", caps))
        assert status == 0
        self.write(DYN_CTL01, 0x19)
        self.write(ICR0_ENA1, 1 << 30)
        return data

    def open(self, pairs=1):
        """`ip link set up` of avf.md 5.1, up to ENABLE_QUEUES."""
        self.write(0x2000, 511)
        self.write(DYN_CTLN1, 0x19)
        message = struct.pack("<HHI", 1, pairs, 0)
        for queue in range(pairs):
            ring = self.memory.take(512 * 32)
            message += struct.pack("<HHHHQQ", 1, queue, 512, 0, ring, 0)
            ring = self.memory.take(512 * 32)
            message += struct.pack(
                "<HHIHHIIBBBBQiI", 1, queue, 512, 0, 0, 1536, 9728, 0, 0, 0, 0, ring, 0, 0
            )
        assert self.mail.request(6, message)[0] == 0
        mask = (1 << pairs) - 1
        self.mail.send(8, struct.pack("<HHII", 1, 0, mask, mask))
        return self.mail.receive()

    def close(self):
        self.device.close()
        for fd in self.fds:
            os.close(fd)
        self.loop.close()


@pytest.fixture
def make(guest_memory, mailer):
    made = []

    def make(**keys):
        made.append(Machine(guest_memory, mailer, **keys))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make):
    return make().plug()


def link(speed, up):
    return (17, 0, struct.pack("<iIBxxxi", 1, speed, up, 0))


# -- configuration space, avf.md 1


def config(machine, offset, size):
    return machine.device.region_read(CONFIG, offset, size)


def test_identity_is_that_of_an_adaptive_virtual_function(machine):
    assert config(machine, 0, 4) == 0x1889_8086
    assert config(machine, 8, 4) >> 8 == 0x02_0000
    assert config(machine, 0x3D, 1) == 0  # no INTx
    assert config(machine, 0x0E, 1) == 0
    assert config(machine, 6, 2) & 0x10
    assert len(machine.device.region_read_bulk(CONFIG, 0, 4096)) == 4096


@pytest.mark.parametrize(("bar", "size"), [(0, 0x2_0000), (3, 0x4000)])
def test_bars_0_and_3_are_64_bit_prefetchable_and_size_themselves(machine, bar, size):
    at = 0x10 + 4 * bar
    assert config(machine, at, 4) & 0xF == 0xC
    machine.device.region_write(CONFIG, at, 4, 0xFFFF_FFFF)
    machine.device.region_write(CONFIG, at + 4, 4, 0xFFFF_FFFF)
    low, high = config(machine, at, 4), config(machine, at + 4, 4)
    assert (high << 32 | low & ~0xF) + size == 1 << 64
    assert machine.device.get_regions()[bar].size == size


def test_capabilities_lie_where_they_were_proved(machine):
    """avf.md 1: pointer 0x70, MSI-X there, PCIe at 0xA0, DevCap 0x10008001 with FLR."""
    assert config(machine, 0x34, 1) == 0x70
    assert config(machine, 0x70, 1) == 0x11
    assert config(machine, 0x72, 2) & 0x7FF == 2  # table size less one: 2 pairs, 3 vectors
    assert config(machine, 0x74, 4) == 0x0003
    assert config(machine, 0x78, 4) == 0x2003
    assert config(machine, 0x71, 1) == 0xA0
    assert config(machine, 0xA0, 1) == 0x10
    assert config(machine, 0xA4, 4) & 0x1000_8000 == 0x1000_8000


def test_there_is_a_vector_for_each_queue_pair_and_one_for_the_mailbox(make):
    for queues in (1, 16):
        machine = make(queues=queues)
        assert machine.device.get_irq_groups()[MSIX].count == queues + 1
        assert machine.device.get_dev_info().vectors == queues + 1


# -- mailbox and bring-up


def test_probe_in_the_order_that_was_observed(machine):
    """avf.md 9.3 and quirk 25: one reply a request, ATQH, ARQH, ICR01, one eventfd signal."""
    machine.mail.start()
    machine.mail.send(1, struct.pack("<II", 1, 1))
    assert machine.read(ATQH) == 1
    assert machine.read(ARQH) == 1
    assert machine.signals(0) == 0
    assert machine.read(ICR01) == 0x4000_0001
    assert machine.read(ICR01) == 0
    machine.write(DYN_CTL01, 0x19)
    assert machine.signals(0) == 0
    machine.write(ICR0_ENA1, 1 << 30)
    assert machine.signals(0) == 1
    assert machine.mail.receive() == [(1, 0, struct.pack("<II", 1, 1))]


def test_resources_name_the_configured_address_and_size(machine):
    data = machine.probe()
    assert struct.unpack_from("<HHHH", data) == (1, 2, 3, 9728)
    assert data[30:36] == MAC


def test_the_default_address_is_local_and_stable(make):
    first, second = make(mac=""), make(mac="")
    address = first.device.get_attr("mac")
    assert address == second.device.get_attr("mac")
    assert int(address[:2], 16) & 3 == 2


def test_nothing_is_read_or_written_before_bus_mastering(machine, guest_memory):
    """avf.md 1: DMA before the bit is set is a device bug."""
    machine.master(False)
    machine.mail.start()
    before = guest_memory.read(guest_memory.base, 0x10000)
    machine.mail.fill(1, struct.pack("<II", 1, 1))
    filled = guest_memory.read(guest_memory.base, 0x10000)
    machine.mail.ring()
    assert filled != before
    assert guest_memory.read(guest_memory.base, 0x10000) == filled
    assert machine.avf.port.memory.regions == ()
    machine.master(True)
    assert machine.avf.port.memory.regions != ()


def test_fact_5_tails_are_latched_before_anything_is_configured(machine):
    """Fact 5 and quirk 6."""
    machine.write(0x2000, 511)
    machine.write(0x0000, 0)
    machine.write(0x2004, 7)
    assert machine.avf.port.rx[0].doorbell.value == 511
    assert machine.avf.port.rx[1].doorbell.value == 7
    assert machine.read(0x2000) == 511


def test_tails_of_queues_that_are_not_there_are_ignored(machine):
    for queue in range(2, 16):
        machine.write(4 * queue, 100)
        machine.write(0x2000 + 4 * queue, 100)
    assert [ring.doorbell.value for ring in (*machine.avf.port.tx, *machine.avf.port.rx)] == [0] * 4


def test_doorbells_are_declared_for_the_transport(machine):
    windows = machine.device.get_regions()[0].doorbells
    assert sorted((w.offset, w.stride) for w in windows) == [(0, 4), (0x2000, 4)]
    for window, rings in zip(
        sorted(windows, key=lambda w: w.offset),
        (machine.avf.port.tx, machine.avf.port.rx),
        strict=True,
    ):
        assert list(window.doorbells[:2]) == [ring.doorbell for ring in rings]


def test_fact_8_the_link_comes_up_by_an_event_after_the_reply(machine):
    """Fact 8."""
    machine.device.set_attr("link", True)
    machine.probe()
    assert machine.open() == [(8, 0, b""), link(25_000, 1)]
    assert machine.device.get_attr("carrier") is True


def test_a_device_without_backend_runs_with_its_link_down(machine):
    machine.probe()
    assert machine.open() == [(8, 0, b"")]
    assert machine.device.get_attr("carrier") is False


def test_the_guest_is_told_when_the_backend_changes_link_or_speed(machine):
    machine.probe()
    machine.open()
    for name, value, sent in (
        ("link", True, [link(25_000, 1)]),
        ("speed", 10_000, [link(10_000, 1)]),
        ("speed", 10_000, []),
        ("link", False, [link(0, 0)]),
        ("link", False, []),
    ):
        machine.device.set_attr(name, value)
        assert machine.mail.receive() == sent


def test_the_link_is_down_while_the_device_is_stopped(machine):
    machine.device.set_attr("link", True)
    machine.probe()
    machine.open()
    machine.mail.receive()
    machine.device.stop()
    assert machine.mail.receive() == [link(0, 0)]
    machine.device.start()
    assert machine.mail.receive() == [link(25_000, 1)]


# -- interrupts, avf.md 2.3


def test_fact_7_an_event_while_the_vector_is_disabled_fires_once_at_the_enable(machine):
    """Fact 7 and quirk 15: latched with INTENA = 0, whichever register comes last."""
    for first, second in (
        ((DYN_CTL01, 0x19), (ICR0_ENA1, 1 << 30)),
        ((ICR0_ENA1, 1 << 30), (DYN_CTL01, 0x1B)),
    ):
        machine.device.reset(ResetKind.FUNCTION)
        machine.master(True)
        machine.mail.start()
        machine.mail.send(1, struct.pack("<II", 1, 1))
        machine.mail.send(3, struct.pack("<I", LINUX_CAPS))
        machine.write(*first)
        assert machine.signals(0) == 0
        machine.write(*second)
        assert machine.signals(0) == 1
        machine.write(DYN_CTL01, 0x19)
        assert machine.signals(0) == 0


def test_a_vector_fires_once_for_each_enable(machine):
    """avf.md 2.3: INTENA is cleared when the interrupt is sent."""
    machine.probe()
    machine.signals(0)
    machine.write(DYN_CTL01, 0x19)
    for _ in range(3):
        machine.mail.send(15, struct.pack("<HHII", 1, 0, 0, 0))
    assert machine.signals(0) == 1
    machine.write(DYN_CTL01, 0x19)
    assert machine.signals(0) == 1
    machine.write(DYN_CTL01, 0x19)
    assert machine.signals(0) == 0


def test_quirk_16_an_event_without_eventfd_waits_for_one(machine):
    """Quirk 16: QEMU takes the vectors away and brings them back one by one."""
    machine.probe()
    machine.signals(0)
    machine.write(DYN_CTL01, 0x19)
    machine.device.irq_bound(MSIX, 0, None)
    machine.mail.send(15, struct.pack("<HHII", 1, 0, 0, 0))
    assert machine.signals(0) == 0
    machine.device.irq_bound(MSIX, 0, machine.fds[0])
    assert machine.signals(0) == 1


def test_a_software_interrupt_fires_its_vector(machine):
    """avf.md 6.11: INTENA | SWINT_TRIG | SW_ITR_INDX_ENA | ITR_INDX 3."""
    machine.write(DYN_CTLN1 + 4, 0x0100_001D)
    assert machine.signals(2) == 1
    assert machine.signals(1) == 0
    machine.write(DYN_CTL01, 0x5)  # needs no cause enable
    assert machine.signals(0) == 1


def test_controls_of_vectors_that_are_not_there_are_ignored(machine):
    for vector in range(2, 16):
        machine.write(DYN_CTLN1 + 4 * vector, 0x5)
    assert [machine.signals(v) for v in range(3)] == [0, 0, 0]


def test_irq_info_triggers_by_the_rules_of_the_device(machine):
    info = machine.device.get_irq_info(1)
    assert info.fd == machine.fds[1]
    info.trigger()
    assert machine.signals(1) == 0
    machine.write(DYN_CTLN1, 0x19)
    assert machine.signals(1) == 1
    with pytest.raises(DeviceError, match="no vector 3"):
        machine.device.get_irq_info(3)


# -- resets


def test_fact_9_a_requested_reset_shows_itself_and_ends_active(machine):
    """Facts 4 and 9: ARQLEN.ENABLE reads 0 before RSTAT is 2, with no message exchanged."""
    machine.probe()
    machine.open()
    machine.mail.fill(2)
    machine.mail.fill(15, struct.pack("<HHII", 1, 0, 0, 0))
    machine.mail.ring()
    assert machine.read(ARQLEN) == 0
    assert machine.read(RSTAT) & 3 == 0
    seen = []

    def active():
        seen.append(machine.read(RSTAT) & 3)
        return seen[-1] == 2

    machine.until(active)
    assert {0, 2} <= set(seen)
    assert machine.read(ARQLEN) == 0
    machine.mail.start()  # quirk 11: no VERSION
    status, data = machine.mail.request(3, struct.pack("<I", LINUX_CAPS))
    assert (status, len(data)) == (0, 36)


def test_a_tail_write_while_the_mailbox_is_disabled_is_ignored(machine):
    """avf.md 5.1, rmmod: the driver may write ATQT after the reset."""
    machine.probe()
    machine.mail.send(2)
    machine.write(ATQT, 9)
    machine.turns(0.05)
    machine.write(ATQT, 12)
    assert machine.read(ATQH) == 0


@pytest.mark.parametrize("kind", list(ResetKind))
def test_fact_9_every_reset_of_the_function_is_active_at_once(machine, kind):
    """Fact 9 and avf.md 1: guest vfio-pci resets the function several times, each ready at once."""
    machine.probe()
    machine.open()
    for _ in range(5):
        assert machine.device.reset(kind) is True
        assert machine.read(RSTAT) & 3 == 2
        assert machine.read(ARQLEN) == machine.read(ATQLEN) == 0
        assert machine.read(0x2000) == 0
        assert machine.device.get_queue_info(0).size == 0


def test_function_level_reset_by_the_pcie_capability(machine):
    """avf.md 1: DevCtl, bit 15; reads back 0."""
    machine.probe()
    machine.device.region_write(CONFIG, 0xA8, 2, 0xA010)
    assert config(machine, 0xA8, 2) >> 15 == 0
    assert machine.read(ARQLEN) == 0
    assert machine.read(RSTAT) & 3 == 2


def test_quirk_12_the_guests_own_address_outlives_vf_and_function_resets_only(machine):
    """Quirk 12."""
    own = bytes.fromhex("020000000005")
    machine.probe()
    machine.mail.request(10, struct.pack("<HH", 1, 1) + own + b"\1\0")
    machine.device.reset(ResetKind.FUNCTION)
    machine.master(True)
    assert machine.probe()[30:36] == own
    machine.device.reset(ResetKind.POWER)
    machine.master(True)
    assert machine.probe()[30:36] == MAC


def test_an_announced_reset_is_told_first(machine):
    """avf.md 5.2: EVENT 2 with severity 255, then the reset."""
    machine.probe()
    machine.open()
    machine.device.set_attr("pf_reset", "announced")
    assert machine.mail.receive() == [(17, 0, struct.pack("<iIIi", 2, 0, 0, 255))]
    assert machine.read(RSTAT) & 3 == 2
    assert machine.read(ARQLEN) >> 31
    machine.until(lambda: machine.read(RSTAT) & 3 == 0)
    assert machine.read(ARQLEN) == 0
    machine.until(lambda: machine.read(RSTAT) & 3 == 2)


def test_a_silent_reset_is_only_seen_in_the_registers(machine):
    machine.probe()
    machine.open()
    machine.device.set_attr("pf_reset", "silent")
    assert machine.read(ARQLEN) == 0
    machine.until(lambda: machine.read(RSTAT) & 3 == 2)
    assert machine.read(ICR01) == 0


def test_quirk_24_a_request_for_queues_resets_with_the_new_number(machine):
    """Quirk 24: RESET_IMPENDING instead of a reply."""
    machine.probe()
    machine.mail.send(29, struct.pack("<H", 1))
    assert [r[0] for r in machine.mail.receive()] == [17]
    machine.until(lambda: machine.read(RSTAT) & 3 == 0)
    machine.until(lambda: machine.read(RSTAT) & 3 == 2)
    machine.mail.start()
    data = machine.mail.request(3, struct.pack("<I", LINUX_CAPS))[1]
    assert struct.unpack_from("<HHH", data) == (1, 1, 3)


def test_after_a_reset_nothing_is_stored_in_guest_memory(machine, guest_memory):
    machine.device.set_attr("link", True)
    machine.probe()
    machine.open()
    machine.write(0x7000, 0)  # takes the buffers back: events wait
    machine.device.set_attr("link", False)
    machine.device.reset(ResetKind.FUNCTION)
    before = guest_memory.read(guest_memory.base, 0x100000)
    machine.device.set_attr("link", True)
    machine.write(0x7000, 31)
    machine.turns(0.01)
    assert guest_memory.read(guest_memory.base, 0x100000) == before


def test_a_latched_interrupt_does_not_outlive_a_reset(machine):
    machine.mail.start()
    machine.mail.send(1, struct.pack("<II", 1, 1))
    machine.device.reset(ResetKind.FUNCTION)
    machine.master(True)
    machine.write(DYN_CTL01, 0x19)
    machine.write(ICR0_ENA1, 1 << 30)
    assert machine.signals(0) == 0


# -- backends


def test_queue_info_says_what_the_guest_configured(machine):
    machine.probe()
    before = machine.device.get_queue_info(1)
    assert (before.direction, before.size, before.enabled) == (Direction.TX, 0, False)
    machine.mail.request(7, struct.pack("<H6H", 1, 1, 2, 1, 1, 0, 1))
    machine.open()
    info = machine.device.get_queue_info(0)
    assert (info.direction, info.size, info.enabled, info.vector) == (Direction.RX, 512, True, 2)
    assert machine.device.get_db_info(info.doorbell) is machine.avf.port.rx[0].doorbell
    with pytest.raises(DeviceError, match="no queue 4"):
        machine.device.get_queue_info(4)
    with pytest.raises(DeviceError, match="no doorbell 4"):
        machine.device.get_db_info(4)


def test_dev_info_and_doorbell_region(machine):
    info = machine.device.get_dev_info()
    assert (info.type, info.max_queue_pairs, info.doorbells) == ("avf", 2, 4)
    assert info.max_frame == 9702 + 22
    address = machine.device.region_map("doorbells", 4)
    assert address == machine.device.get_db_info(0).address
    with pytest.raises(DeviceError, match="known: doorbells"):
        machine.device.region_map("registers", 4)


def test_events_tell_a_backend_what_it_has_to_look_at(machine):
    machine.drain()
    machine.device.set_attr("link", True)
    machine.probe()
    machine.open()
    machine.mail.request(14, struct.pack("<HH", 1, 3))
    kinds = [(e.kind, e.queue, e.value) for e in machine.drain()]
    assert (EventKind.LINK, -1, 1) in kinds
    assert (EventKind.QUEUE_STATE, 0, 1) in kinds
    assert (EventKind.QUEUE_STATE, 1, 1) in kinds
    assert (EventKind.FILTER, -1, 0) in kinds
    machine.device.reset(ResetKind.FUNCTION)
    assert EventKind.RESET in [e.kind for e in machine.drain()]


@pytest.mark.parametrize(("caps", "told"), [(LINUX_CAPS, 10_000), (LINUX_CAPS & ~0x80, 0x08)])
def test_a_driver_gets_a_link_event_with_a_speed_that_was_set(machine, caps, told):
    """virtchnl.h: Mbit/s with VIRTCHNL_VF_CAP_ADV_LINK_SPEED (0x80), else a flag of the speed."""
    machine.device.set_attr("link", True)
    machine.probe(caps=caps)
    machine.open()
    machine.mail.receive()
    machine.device.set_attr("speed", 10_000)
    machine.loop.turn(0)
    assert machine.mail.receive() == [(17, 0, struct.pack("<IIBxxxI", 1, told, 1, 0))]
    machine.device.set_attr("speed", 10_000)
    machine.loop.turn(0)
    assert machine.mail.receive() == []


def test_attributes_are_listed_and_checked(machine):
    listed = {info.name: info for info in machine.device.get_attributes()}
    assert {"link", "speed", "mac", "mtu", "promiscuous", "caps", "rx_bytes", "tx_errors"} <= {
        *listed
    }
    for name, info in listed.items():
        assert type(machine.device.get_attr(name)) is info.type, name
        assert info.doc
    granted = struct.unpack_from("<I", machine.probe(), 8)
    assert (machine.device.get_attr("caps"),) == granted
    assert machine.device.get_attr("mtu") == 9702
    for name, value in (
        ("mtu", 1500),
        ("admin_mtu", 9703),
        ("admin_mtu", 67),
        ("admin_link", "sideways"),
        ("speed", 0),
        ("mac", "nonsense"),
        ("link", 1),
        ("pf_reset", "x"),
    ):
        with pytest.raises(DeviceError, match=name):
            machine.device.set_attr(name, value)
    machine.device.set_attr("mac", "52:54:00:00:00:09")
    machine.mail.stop()
    assert machine.probe()[30:36] == bytes.fromhex("525400000009")


def test_unmapped_memory_does_not_reach_the_data_plane_any_more(machine):
    """Quirk 20: regions come and go while the guest boots."""
    table = MemoryTable([], generation=2)
    assert machine.device.dma_unmap(table, machine.memory.region) is True
    assert machine.avf.port.memory is table


# -- hash of a guest without RSS_PF (avf.md 7)

HENA, HKEY, HLUT = 0xC400, 0xCC00, 0xD000


def test_a_row_of_hash_registers_is_applied_once(machine, monkeypatch):
    machine.probe(caps=LINUX_CAPS & ~0x80000)
    calls = []
    set_rss = machine.avf.port.set_rss
    monkeypatch.setattr(machine.avf.port, "set_rss", lambda *a: (calls.append(a), set_rss(*a)))
    for word in range(13):
        machine.write(HKEY + 4 * word, 0x01010101 * (word + 1))
    for word in range(16):
        machine.write(HLUT + 4 * word, 0x01000100)
    machine.write(HENA, 0x8000_0000)
    assert calls == []
    machine.loop.turn()
    key = b"".join(bytes([word + 1]) * 4 for word in range(13))
    assert calls == [(key, bytes([0, 1, 0, 1] * 16), 0x8000_0000, {}, 0)]


def test_a_device_is_saved_with_the_hash_that_was_just_written(machine):
    machine.probe(caps=LINUX_CAPS & ~0x80000)
    machine.write(HKEY, 7)
    machine.device.save()
    assert machine.avf.vf.state.rss_key == b"\7" + bytes(51)


def test_a_reset_takes_back_a_hash_that_was_just_written(machine):
    machine.probe(caps=LINUX_CAPS & ~0x80000)
    machine.write(HENA, 1)
    machine.device.reset(ResetKind.FUNCTION)
    machine.loop.turn()
    assert machine.avf.vf.state.rss_hena == 0x8000_7E1F_8000_0000


# -- saving


def test_a_saved_device_goes_on_in_another_one(machine, make):
    machine.device.set_attr("link", True)
    machine.probe()
    machine.mail.request(7, struct.pack("<H6H", 1, 1, 1, 1, 1, 0, 1))
    machine.mail.request(10, struct.pack("<HH", 1, 1) + MAC + b"\1\0")
    machine.mail.request(
        52, struct.pack("<HHI", 1, 1, 0) + struct.pack("<8xHHHH16x", 5, 0, 0x8100, 0)
    )
    machine.open()
    machine.write(0x0000, 3)
    machine.mail.receive()
    saved = machine.device.save()
    other = make()
    other.device.stop()
    other.device.restore(saved)
    other.device.start()
    other.device.dma_map(machine.memory.table, machine.memory.region)
    assert other.device.save() == saved
    assert other.avf.port.rx[0].enabled
    assert other.avf.port.rx[0].doorbell.value == 511
    assert other.avf.port.tx[0].doorbell.value == 3
    assert other.avf.port.rx[0].vector == 1
    mail = machine.mail
    mail.read, mail.write = other.read, other.write
    assert mail.request(15, struct.pack("<HHII", 1, 0, 0, 0))[0] == 0


def test_a_device_with_256_enabled_queues_is_saved_and_goes_on(make):
    """Bit sets of 256 queues fit no integer of a saved record."""
    machine = make(queues=256).plug()
    machine.probe(caps=0xBE0BC7E1)
    machine.mail.send(29, struct.pack("<H", 256))
    machine.until(lambda: machine.read(ARQLEN) >> 31 == 0)
    machine.until(lambda: machine.read(RSTAT) == 2)
    machine.mail.start()
    status, data = machine.mail.request(3, struct.pack("<I", 0xBE0BC7E1))
    assert (status, struct.unpack_from("<HH", data, 2)) == (0, (256, 63))
    rings = machine.memory.take(2 * 32 * 32)
    for first in range(0, 256, 32):
        message = struct.pack("<HHI", 1, 32, 0)
        for queue in range(first, first + 32):
            message += struct.pack("<HHHHQQ", 1, queue, 32, 0, rings, 0)
            message += struct.pack(
                "<HHIHHIIBBBBQiI", 1, queue, 32, 0, 0, 1536, 9728, 0, 1, 0, 0, rings + 1024, 0, 0
            )
        assert machine.mail.request(6, message)[0] == 0
    every = struct.pack("<HHHH", 1, 0, 2, 0) + struct.pack("<iHH", 0, 0, 256)
    assert machine.mail.request(107, every + struct.pack("<iHH", 1, 0, 256))[0] == 0
    machine.write(0x23FC, 31)
    saved = machine.device.save()
    other = make(queues=256)
    other.device.stop()
    other.device.restore(saved)
    other.device.start()
    assert other.device.save() == saved
    assert all(ring.enabled for ring in (*other.avf.port.rx, *other.avf.port.tx))
    assert other.avf.port.rx[255].doorbell.value == 31


@pytest.mark.parametrize("queues", [1, 3])
def test_a_device_of_another_size_is_not_taken(machine, make, queues):
    from emudev_core.errors import DecodeError

    saved = machine.device.save()
    other = make(queues=queues)
    other.device.stop()
    before = other.device.save()
    with pytest.raises(DecodeError):
        other.device.restore(saved)
    assert other.device.save() == before


@pytest.mark.parametrize(
    "change",
    [
        {"rss_key": b"short"},
        {"rss_lut": b"short"},
        {"rx": {0: {"base": 1 << 63, "length": 32, "buffer_size": 2048}}},
        {"rx": {0: {"base": 4096, "length": 9000, "buffer_size": 2048}}},
        {"rx": {0: {"base": 4096, "length": 32, "buffer_size": 1 << 20}}},
        {"rss_hena": 1 << 70},
        {"rx_vectors": {0: 99}},
        {"tx_vectors": {0: -1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_values_that_no_guest_can_have_set_are_not_taken(machine, change):
    from emudev_core.errors import DecodeError

    machine.device.stop()
    before = machine.device.save()
    state = machine.avf.emudev_save()
    bad = {**state["device"], "state": {**state["device"]["state"], **change}}
    with pytest.raises(DecodeError):
        machine.avf.emudev_restore({**state, "device": bad})
    assert machine.device.save() == before


def test_what_the_user_has_set_is_saved_and_goes_on(machine, make):
    new = bytes.fromhex("52540000000a")
    for name, value in (
        ("admin_link", "up"),
        ("speed", 10_000),
        ("admin_mtu", 1500),
        ("mac", "52:54:00:00:00:0a"),
    ):
        machine.device.set_attr(name, value)
    saved = machine.device.save()
    other = make()
    other.device.stop()
    other.drain()
    other.device.restore(saved)
    assert other.device.save() == saved
    assert not other.device.get_attr("carrier"), "it is stopped"
    other.device.start()
    links = [event for event in other.drain() if event.kind is EventKind.LINK]
    assert [(event.value, event.text) for event in links] == [(1, "10000 Mbit/s")]
    other.plug()
    data = other.probe()
    # virtchnl_vf_resource: max_mtu in bytes 6 and 7, with the 26 bytes of Ethernet header, two VLAN
    # tags and FCS that iavf takes off; the MAC address of the one VSI from 30 on.
    assert struct.unpack_from("<H", data, 6) == (1526,)
    assert data[30:36] == new
    other.device.reset(ResetKind.POWER)
    assert other.avf.vf.lasting.mac == new


def test_a_mac_address_that_waits_for_a_reset_still_does_so_after_it_was_saved(machine, make):
    machine.probe()
    machine.device.set_attr("mac", "52:54:00:00:00:0a")
    other = make()
    other.device.stop()
    other.device.restore(machine.device.save())
    # The guest sets its old one again before the reset, as its primary address (type 1).
    other.device.start()
    other.device.dma_map(machine.memory.table, machine.memory.region)
    mail = machine.mail
    mail.read, mail.write = other.read, other.write
    assert mail.request(10, struct.pack("<HH", 1, 1) + MAC + b"\1\0")[0] == 0
    assert other.avf.vf.lasting.mac == MAC
    other.device.reset(ResetKind.FUNCTION)
    assert other.avf.vf.lasting.mac == bytes.fromhex("52540000000a")


def test_what_the_user_has_not_set_is_that_of_the_device_that_goes_on(machine, make):
    other = make(mtu=1500, link_speed=1000)
    other.device.set_attr("admin_link", "down")
    other.device.set_attr("admin_mtu", 1400)
    other.device.set_attr("speed", 100)
    other.device.stop()
    other.device.restore(machine.device.save())
    names = ("admin_link", "admin_mtu", "speed")
    assert [other.device.get_attr(name) for name in names] == ["auto", 1500, 1000]


def test_a_state_of_before_settings_were_saved_leaves_the_device_its_own(machine, make):
    machine.device.set_attr("speed", 10_000)
    state = machine.avf.emudev_save()
    del state["device"]["settings"]
    other = make()
    other.device.set_attr("admin_link", "down")
    other.device.set_attr("admin_mtu", 1400)
    other.device.stop()
    assert other.avf.emudev_restore(state)
    names = ("admin_link", "admin_mtu", "speed")
    assert [other.device.get_attr(name) for name in names] == ["down", 1400, 25_000]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"link": "sideways"}, "expected auto, up or down"),
        ({"speed": 0}, "expected 1 to 400000"),
        ({"mtu": 1501}, "expected 68 to 1500"),
        ({"mtu": 67}, "expected 68 to 1500"),
        ({"mac": b"\x01\x00\x5e\x00\x00\x01"}, "expected the MAC address of a station"),
        ({"mac": bytes(6)}, "expected the MAC address of a station"),
        ({"mac": b"short"}, "expected the MAC address of a station"),
        ({"mac_waits": 3}, "mac_waits"),
    ],
)
def test_settings_that_no_user_can_have_made_are_not_taken(make, settings, words):
    from emudev_core.errors import DecodeError

    machine = make(mtu=1500)
    machine.device.set_attr("admin_link", "down")
    machine.device.set_attr("admin_mtu", 1000)
    machine.device.stop()
    before = machine.device.save()
    state = machine.avf.emudev_save()
    bad = {**state["device"], "settings": settings}
    with pytest.raises(DecodeError, match=words):
        machine.avf.emudev_restore({**state, "device": bad})
    assert machine.device.save() == before


# -- configuration


@pytest.mark.parametrize(
    "mac",
    ["52:54:00:77:00", "01:00:5e:00:00:01", "0:0:0:0:0:0", "525400770002", "zz:54:00:77:00:02"],
)
def test_addresses_that_can_not_be_are_refused(mac):
    with pytest.raises(ValueError, match="MAC address"):
        AvfConfig(mac=mac)


def test_the_registers_of_throttles_set_and_show_them(machine):
    # avf.md 2.1: 0x2800 + 64 i + 4 v is throttle i of vector v + 1; 2.2 for INTERVAL.
    machine.write(0x2800 + 64, 25)
    assert machine.avf.port.vectors[1].intervals == [0, 25, 0]
    machine.write(DYN_CTLN1, 1 | 0 << 3 | 30 << 5)
    assert machine.read(0x2800) == 30
    machine.write(0x4C00 + 8, 40)
    assert machine.avf.port.vectors[0].intervals == [0, 0, 40]
    assert machine.read(0x4C00 + 8) == 40
    machine.write(0x2800 + 4 * 15, 25)  # a vector that is not there
    assert machine.read(0x2800 + 4 * 15) == 0


def test_the_throttles_are_saved(make):
    machine, other = make().plug(), make().plug()
    machine.write(0x2800 + 64, 25)
    other.avf.restore_state(machine.avf.save_state())
    assert other.avf.port.vectors[1].intervals == [0, 25, 0]
