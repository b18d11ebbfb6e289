"""The device as a guest sees it: configuration space, registers in driver order, interrupts."""

import struct

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.testing.machines import config
from emudev_avf.testing.requests import LINUX_CAPS, MAC, link
from emudev_core.errors import DeviceError
from emudev_core.events import EventKind
from emudev_core.memory import MemoryTable
from emudev_core.queues import Direction
from emudev_core.regions import ResetKind

ATQH, ARQH = 0x6400, 0x7400
ICR01, ICR0_ENA1, DYN_CTL01, DYN_CTLN1 = 0x4800, 0x5000, 0x5C00, 0x3800
CONFIG, MSIX = 7, 2


# -- configuration space, avf.md 1


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
    windows = sorted(machine.device.get_regions()[0].doorbells, key=lambda w: w.offset)
    assert [(w.offset, w.stride) for w in windows] == [(0, 4), (0x2000, 4), (0x3800, 4)]
    for window, rings in zip(windows, (machine.avf.port.tx, machine.avf.port.rx), strict=False):
        assert list(window.doorbells[:2]) == [ring.doorbell for ring in rings]
        assert not any(bell.every for bell in window.doorbells)


def test_controls_of_vectors_are_doorbells_of_which_each_write_counts(machine):
    (controls,) = (w for w in machine.device.get_regions()[0].doorbells if w.offset == 0x3800)
    vectors = machine.avf.port.vectors
    assert len(controls.doorbells) == len(vectors) - 1
    assert all(bell.every for bell in controls.doorbells)
    controls.doorbells[0].write(0x1 | 0 << 3 | 25 << 5)  # INTENA, 50 us for throttle 0
    assert vectors[1].enabled
    assert vectors[1].intervals == [25, 0, 0]
    assert machine.read(0x3800) == 0x321
    machine.write(0x3800, 0x18)
    assert not vectors[1].enabled
    assert machine.read(0x3800) == 0x18


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


def test_a_reset_takes_back_a_hash_that_was_just_written(machine):
    machine.probe(caps=LINUX_CAPS & ~0x80000)
    machine.write(HENA, 1)
    machine.device.reset(ResetKind.FUNCTION)
    machine.loop.turn()
    assert machine.avf.vf.state.rss_hena == 0x8000_7E1F_8000_0000


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
