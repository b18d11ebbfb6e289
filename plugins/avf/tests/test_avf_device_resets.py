"""Resets of a whole device: those that the guest asks for, those of the bus, those of the host."""

import struct

import pytest

from emudev_avf.testing.machines import config
from emudev_avf.testing.requests import LINUX_CAPS, MAC
from emudev_core.regions import ResetKind

ATQH, ATQT, ATQLEN, ARQLEN = 0x6400, 0x8400, 0x6800, 0x8000
RSTAT, ICR01, ICR0_ENA1, DYN_CTL01 = 0x8800, 0x4800, 0x5000, 0x5C00
CONFIG = 7


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
