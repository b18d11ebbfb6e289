"""A function under a guest's hands: registers, doorbells, memory, clients that come and go."""

import ctypes
from pathlib import Path

import pytest
from probe import MAP, OTHER

from emudev_core.errors import DeviceError, PeerError, TransportError
from emudev_core.memory import EMPTY_TABLE
from emudev_core.testing.builders import open_descriptors
from emudev_pci.deferred_calls import MAX_DEFERRED
from emudev_pci.handlers import check_maps
from emudev_pci.registers import RegisterMapError


def test_a_guest_probes_it(make_probe):
    guest, _, _ = make_probe()
    assert (guest.vendor, guest.device) == (0x1234, 0x5678)
    assert list(guest.capabilities()) == [1, 0x11, 0x10]
    assert guest.extended_capabilities() == {}
    assert guest.bar_sizes() == {0: 0x1000, 2: 16, 3: 8, 4: 0x1000}
    assert sorted(guest.bar) == [0, 2, 3, 4]
    assert [(r.index, r.size) for r in guest.client.regions() if r.size] == [
        (0, 0x1000),
        (2, 16),
        (3, 8),
        (4, 0x1000),
        (7, 4096),
    ]
    counts = {g.index: (g.count, g.maskable, g.automasked) for g in guest.client.irq_groups()}
    assert counts == {
        0: (1, True, True),
        1: (0, False, False),
        2: (4, False, False),
        3: (1, False, False),
        4: (1, False, False),
    }


def test_bars_without_a_map_are_the_functions_own(make_probe):
    guest, probe, _ = make_probe()
    assert guest.bar[3].read16(4) == 0x304
    guest.bar[3].write8(1, 7)
    assert (3, 1, 1, 7) in probe.told
    assert guest.bar[3].read(0, 8) == bytes([0, 3, 0, 0, 0, 0, 0, 0])


def test_accesses_of_any_length_reach_registers(make_probe):
    guest, _, _ = make_probe()
    guest.bar[0].write(0x10, bytes(range(8)))
    assert guest.bar[0].read(0x11, 3) == bytes([1, 2, 3])
    whole = guest.bar[0].read(0, 0x30)
    assert whole[:4] == b"\5\0\0\0"
    assert whole[0x10:0x18] == bytes(range(8))
    guest.bar[0].write(0, b"abcdefg")  # 4 and 3 bytes
    assert guest.bar[0].read32(0) == int.from_bytes(b"abcd", "little")


def test_the_second_map_has_a_file_of_its_own(make_probe):
    guest, probe, _ = make_probe()
    guest.bar[2].BACK = 9
    assert guest.bar[2].BACK == 9
    assert probe.bar_regs[2].BACK == 9


def test_doorbells_ring_in_the_device(make_probe):
    guest, probe, device = make_probe()
    guest.bar[0].TAIL[1] = 33
    assert guest.bar[0].TAIL[1] == 33
    assert ("bell", 33) in probe.told
    assert device.get_db_info(1) is probe.bells[1]
    assert device.get_dev_info().doorbells == 2


def test_memory_is_reached_only_by_a_bus_master(make_probe):
    guest, probe, _ = make_probe()
    page = guest.map_memory(4096)
    guest.bar[0].FAR = page.address
    guest.bar[0].NOW = 77
    guest.bar[0].read32(0)
    assert page.read_u32(0) == 77
    guest.config.write16(4, 0x0002)
    assert ("bus master", False) in probe.told
    assert probe.memory is EMPTY_TABLE
    guest.bar[0].NOW = 78
    assert guest.bar[0].LIVE == 0xFFFFFFFF
    assert page.read_u32(0) == 77
    assert probe.faults == 2
    pcie = guest.capability(0x10)
    assert guest.config.read16(pcie + 10) & 8  # unsupported request
    guest.config.write16(pcie + 10, 8)
    assert guest.config.read16(pcie + 10) == 0


def test_memory_without_a_descriptor_is_read_by_deferred_handlers_only(make_probe):
    guest, probe, device = make_probe()
    page = guest.map_memory(4096, by_message=True)
    page.write_u32(8, 4321)
    guest.bar[0].FAR = page.address + 8
    assert guest.bar[0].LIVE == 0xFFFFFFFF, "the guest waits: nothing can be asked of it"
    assert probe.faults == 1
    guest.vectors[1].enable()
    guest.bar[0].SOON = 1
    assert guest.vectors[1].wait(1)
    assert guest.bar[0].PLAIN == 4321
    guest.bar[0].NOW = 1234  # a write waits for the end of the handler
    guest.bar[0].read32(0)
    guest.pause(0.01)
    assert page.read_u32(8) == 1234
    assert device.state.value == "started"


def test_deferred_calls_keep_their_order_and_are_bounded(make_probe, emudev_host):
    guest, probe, _ = make_probe()
    for value in range(5):
        guest.bar[0].SOON = value
    guest.pause(0.01)
    assert [t[1] for t in probe.told if t[0] == "soon"] == [0, 1, 2, 3, 4]
    for _ in range(MAX_DEFERRED + 10):
        probe.defer(lambda: None)
    assert probe.deferred.lost == 10


def test_a_deferred_handler_that_raises_fails_its_device_by_name(make_probe, emudev_host):
    guest, _, device = make_probe()
    guest.bar[0].SOON = 0xBAD
    guest.pause(0.01)
    guest.pause(0.01)
    with pytest.raises((PeerError, TransportError)):
        guest.bar[0].read32(0)
    assert device.state.value == "error"
    assert "test-plugin 1.0" in device.error


def test_unmapping_is_told_before_it_happens(make_probe):
    guest, probe, device = make_probe()
    page = guest.map_memory(4096)
    generation = device.get_mem_table().generation
    page.close()
    page.close()
    assert [t for t in probe.told if t[0] == "memory"] == [("memory", 1), ("memory", 0)]
    assert device.get_mem_table().generation == generation + 1


def test_undeclared_accesses_become_rows(make_probe):
    guest, _, device = make_probe()
    assert guest.bar[0].read32(0x400) == 0
    guest.bar[2].read16(8)
    assert device.get_suggestions() == [
        'Reg("REG_400", 0x400, access=RO),  # probe.bar0: read 1, written 0 times',
        'Reg("REG_8", 0x8, size=2, access=RO),  # probe.bar2: read 1, written 0 times',
    ]


def test_what_a_function_does_not_have_is_said(make_probe):
    _, _, device = make_probe()
    for call in (
        lambda: device.get_queue_info(0),
        lambda: device.get_irq_info(4),
        lambda: device.get_db_info(2),
        lambda: device.get_attr("mac"),
        lambda: device.region_map("doorbells", 4096),
    ):
        with pytest.raises(DeviceError, match="probe_emudev_0 has no"):
            call()


def test_a_handler_of_a_map_in_no_bar_is_an_error():
    class Lost:
        @OTHER.on_read("BACK")
        def back(self): ...

    with pytest.raises(RegisterMapError, match=r"Lost.back handles BACK of probe.bar2"):
        check_maps(Lost, [MAP])


def test_clients_come_and_go_without_leaving_anything(make_probe, emudev_host):
    guest, probe, device = make_probe()
    guest.close()
    guest.close()
    emudev_host.loop.turn(0.01)
    before = open_descriptors()
    mappings = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(3):
        again = type(guest)(emudev_host.connect(device), {0: MAP})
        again.enable()
        again.map_memory(4096)
        again.map_memory(8192, by_message=True)
        again.vectors[0].enable()
        again.intx.enable()
        again.close()
        for _ in range(20):
            emudev_host.loop.turn(0.005)
            if not probe.client:
                break
        assert not probe.client
        assert not device.get_mem_table().regions
        assert probe.vectors[0].fd is None
    assert open_descriptors() == before
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= mappings + 2


def test_pages_check_their_bounds(make_probe):
    guest, _, _ = make_probe()
    page = guest.map_memory(100, 0x7000_0000)
    assert (page.address, page.size) == (0x7000_0000, 4096)
    page.write_u64(4088, 2**64 - 1)
    assert page.read_u16(4094) == 0xFFFF
    assert ctypes.string_at(page.host + 4088, 8) == b"\xff" * 8
    for offset, size in ((-1, 1), (4095, 2), (0, 4097)):
        with pytest.raises(IndexError):
            page.read(offset, size)
    page.close()
    with pytest.raises(ValueError, match="taken back"):
        page.read(0, 1)
