"""Vectors that latch, the MSI-X table, and the level of INTx (vfio-user.md 3.4)."""

import os

import pytest

from emudev_pci.interrupts import IntxLine, IrqIndex, Msix, MsixTable, Vector


@pytest.fixture
def fd():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def events(fd) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_a_bound_vector_signals_each_event(fd):
    vector = Vector(0)
    vector.bind(fd)
    vector.trigger()
    vector.trigger()
    assert events(fd) == 2
    assert not vector.pending


def test_an_event_waits_until_a_descriptor_is_bound(fd):
    vector = Vector(0)
    vector.trigger()
    vector.trigger()
    assert vector.pending
    vector.bind(fd)
    assert events(fd) == 1
    assert not vector.pending


def test_an_event_waits_until_the_last_cause_unmasks(fd):
    vector = Vector(0)
    vector.bind(fd)
    vector.mask(True)
    vector.mask(True, "table")
    vector.trigger()
    vector.mask(False)
    assert events(fd) == 0
    vector.mask(False, "table")
    assert events(fd) == 1


def test_the_device_hears_of_every_change_of_the_descriptor(fd):
    heard = []
    vector = Vector(3, lambda number, fd: heard.append((number, fd)))
    vector.bind(fd)
    vector.bind(fd)
    vector.mask(True)
    vector.bind(None)
    vector.mask(False)
    assert heard == [(3, fd), (3, None)]


def test_a_reset_forgets_what_waits_and_keeps_the_descriptor(fd):
    vector = Vector(0)
    vector.trigger()
    vector.mask(True)
    vector.reset()
    vector.bind(fd)
    assert events(fd) == 0
    vector.reset()
    vector.trigger()
    assert events(fd) == 1


def test_msi_serves_while_msix_is_not_bound(fd):
    vector = Vector(0)
    other = os.eventfd(0, os.EFD_NONBLOCK)
    vector.bind(fd, IrqIndex.MSI)
    vector.bind(other, IrqIndex.MSIX)
    vector.trigger()
    assert (events(fd), events(other)) == (0, 1)
    vector.bind(None, IrqIndex.MSIX)
    vector.trigger()
    assert (events(fd), events(other)) == (1, 0)
    os.close(other)


def test_an_alias_delivers_also_what_waited(fd):
    first, second = Vector(0), Vector(1)
    first.bind(fd, IrqIndex.MSI)
    second.trigger()
    second.alias = first
    second.mask(False)
    second.trigger()
    assert events(fd) == 2


def test_a_full_or_closed_eventfd_does_no_harm():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(fd, 2**64 - 2)
    vector = Vector(0)
    vector.bind(fd)
    vector.trigger()
    os.close(fd)
    vector.trigger()


MSIX = Msix(vectors=3, bar=1)


def test_table_and_pending_bits_are_laid_out_apart():
    assert (MSIX.table_size, MSIX.pending_offset, MSIX.pending_size, MSIX.end) == (
        48,
        0x800,
        8,
        0x808,
    )
    big = Msix(vectors=2048, bar=0)
    assert (big.pending_offset, big.end) == (0x8000, 0x8100)


def test_the_table_keeps_what_a_client_writes():
    table = MsixTable(MSIX, [Vector(i) for i in range(3)])
    assert table.read(12, 4) == b"\1\0\0\0"  # masked after a reset
    table.write(16, bytes.fromhex("0000e0fe 00000000 41400000 00000000"))
    assert table.read(16, 16).hex() == "0000e0fe000000004140000000000000"
    table.write(30, b"\xff\xff")
    assert table.read(28, 4) == bytes(4), "reserved bits of the control word stay 0"
    assert table.read(0x7F8, 24) == bytes(24)


def test_a_mask_in_the_table_counts_once_it_was_written(fd):
    vectors = [Vector(i) for i in range(3)]
    table = MsixTable(MSIX, vectors)
    vectors[2].bind(fd)
    vectors[2].trigger()
    assert events(fd) == 1, "QEMU keeps the table: it is never written here"
    table.write(32 + 12, b"\1\0\0\0")
    vectors[2].trigger()
    assert events(fd) == 0
    assert table.read(0x800, 8) == b"\4" + bytes(7)
    table.write(0x800, b"\0")  # read-only
    table.write(32 + 12, b"\0\0\0\0")
    assert events(fd) == 1
    assert table.read(0x800, 1) == b"\0"


def test_intx_signals_once_and_again_after_unmasking_while_asserted(fd):
    line = IntxLine()
    line.bind(fd)
    line.set(True)
    line.set(True)
    assert events(fd) == 1
    line.mask(False)
    assert events(fd) == 1
    line.set(False)
    line.mask(False)
    assert events(fd) == 0
    line.set(True)
    assert events(fd) == 1


def test_intx_that_was_asserted_signals_when_bound_or_allowed(fd):
    line = IntxLine()
    line.set(True)
    line.disable(True)
    line.bind(fd)
    assert events(fd) == 0
    line.disable(False)
    assert events(fd) == 1


def test_a_level_that_fell_while_masked_is_forgotten(fd):
    line = IntxLine()
    line.bind(fd)
    line.mask(True)
    line.set(True)
    line.set(False)
    line.mask(False)
    assert events(fd) == 0
