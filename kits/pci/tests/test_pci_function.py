"""A function under a guest's hands: accesses, interrupts of all kinds, resets, saving, leaks."""

import ctypes
from pathlib import Path

import pytest

from emudev_core import ProviderConfig, ProviderSpec
from emudev_core.errors import DecodeError, DeviceError, PeerError, TransportError
from emudev_core.events import EventChannel, EventKind
from emudev_core.later import Later
from emudev_core.memory import EMPTY_TABLE
from emudev_core.queues import Doorbell
from emudev_core.regions import ResetKind
from emudev_core.testing.builders import make_plugins, open_descriptors
from emudev_pci.deferred_calls import MAX_DEFERRED
from emudev_pci.function import IoBar, MemoryBar, Msi, Msix, PciFunction, PciIds
from emudev_pci.guest import GuestError
from emudev_pci.handlers import check_maps
from emudev_pci.registers import RO, Reg, RegisterMap, RegisterMapError

MAP = RegisterMap(
    "probe.bar0",
    size=0x1000,
    regs=[
        Reg("PLAIN", 0, reset=5),
        Reg("NOW", 4),
        Reg("SOON", 8),
        Reg("FAR", 0x10, size=8),
        Reg("LIVE", 0x18, access=RO),
        Reg("TAIL", 0x20, count=2),
    ],
)
OTHER = RegisterMap("probe.bar2", size=16, regs=[Reg("BACK", 0)])


class ProbeConfig(ProviderConfig):
    msi: int = 0
    msix: int = 4
    pcie: bool = True


class Probe(PciFunction):
    ids = PciIds(vendor=0x1234, device=0x5678, class_code=0xFF0000)
    bars = {  # noqa: RUF012
        0: MemoryBar(MAP, wide=True),
        2: MemoryBar(OTHER),
        3: IoBar(size=8),
    }
    intx = True

    def __init__(self, config, context):
        self.msix = Msix(config.msix, bar=4) if config.msix else None
        self.msi = Msi(config.msi) if config.msi else None
        self.pcie = config.pcie
        super().__init__(config, context)
        self.told = []
        self.after = []
        self.answer = True
        self.words = (ctypes.c_uint32 * 2)()
        base = ctypes.addressof(self.words)
        self.bells = [Doorbell(i, base + 4 * i) for i in range(2)]
        self.bells[1].subscribe(lambda: self.told.append(("bell", self.bells[1].value)))
        self.bind_doorbells("TAIL", self.bells)

    @MAP.on_write("NOW")
    def now(self, value):
        self.memory.write_u32(self.regs.FAR, value)

    @MAP.on_write("SOON", deferred=True)
    def soon(self, value):
        self.told.append(("soon", value))
        if value == 0xBAD:
            raise RuntimeError("broken device")
        self.regs.PLAIN = self.memory.read_u32(self.regs.FAR)
        self.vectors[value % len(self.vectors)].trigger()

    @MAP.on_read("LIVE")
    def live(self):
        return self.memory.read_u32(self.regs.FAR)

    def bar_read(self, bar, offset, size):
        return bar << 8 | offset

    def bar_write(self, bar, offset, size, value):
        self.told.append((bar, offset, size, value))

    def on_reset(self, kind):
        self.told.append(kind)
        return self.answer

    def after_reset(self, kind):
        self.after.append((kind, self.regs.PLAIN, self.vectors[3].pending))

    def on_bus_master(self, enabled):
        self.told.append(("bus master", enabled))

    def on_memory(self, table):
        self.told.append(("memory", len(table.regions)))

    def on_vector(self, vector, fd):
        self.told.append(("vector", vector, fd is not None))

    def on_client(self, attached):
        self.told.append(("client", attached))

    def save_state(self):
        return {"told": len(self.told)}

    def restore_state(self, state):
        if state.get("told", 0) > 1000:
            raise DecodeError("told too much")


@pytest.fixture
def emudev_plugins():
    spec = ProviderSpec(name="emu_probe", summary="Tells", config=ProbeConfig, build=Probe)
    return make_plugins(spec, installed=True)


@pytest.fixture
def make(emudev_function, emudev_host):
    def build(vdev="emu_probe,id=0"):
        function = emudev_function(vdev)
        (device,) = emudev_host.registry
        return function, device.members[0].plugin, device

    return build


def test_a_guest_probes_it(make):
    guest, _, _ = make()
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


def test_bars_without_a_map_are_the_functions_own(make):
    guest, probe, _ = make()
    assert guest.bar[3].read16(4) == 0x304
    guest.bar[3].write8(1, 7)
    assert (3, 1, 1, 7) in probe.told
    assert guest.bar[3].read(0, 8) == bytes([0, 3, 0, 0, 0, 0, 0, 0])


def test_accesses_of_any_length_reach_registers(make):
    guest, _, _ = make()
    guest.bar[0].write(0x10, bytes(range(8)))
    assert guest.bar[0].read(0x11, 3) == bytes([1, 2, 3])
    whole = guest.bar[0].read(0, 0x30)
    assert whole[:4] == b"\5\0\0\0"
    assert whole[0x10:0x18] == bytes(range(8))
    guest.bar[0].write(0, b"abcdefg")  # 4 and 3 bytes
    assert guest.bar[0].read32(0) == int.from_bytes(b"abcd", "little")


def test_the_second_map_has_a_file_of_its_own(make):
    guest, probe, _ = make()
    guest.bar[2].BACK = 9
    assert guest.bar[2].BACK == 9
    assert probe.bar_regs[2].BACK == 9


def test_doorbells_ring_in_the_device(make):
    guest, probe, device = make()
    guest.bar[0].TAIL[1] = 33
    assert guest.bar[0].TAIL[1] == 33
    assert ("bell", 33) in probe.told
    assert device.get_db_info(1) is probe.bells[1]
    assert device.get_dev_info().doorbells == 2


def test_memory_is_reached_only_by_a_bus_master(make):
    guest, probe, _ = make()
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


def test_memory_without_a_descriptor_is_read_by_deferred_handlers_only(make):
    guest, probe, device = make()
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


def test_deferred_calls_keep_their_order_and_are_bounded(make, emudev_host):
    guest, probe, _ = make()
    for value in range(5):
        guest.bar[0].SOON = value
    guest.pause(0.01)
    assert [t[1] for t in probe.told if t[0] == "soon"] == [0, 1, 2, 3, 4]
    for _ in range(MAX_DEFERRED + 10):
        probe.defer(lambda: None)
    assert probe.deferred.lost == 10


def test_a_deferred_handler_that_raises_fails_its_device_by_name(make, emudev_host):
    guest, _, device = make()
    guest.bar[0].SOON = 0xBAD
    guest.pause(0.01)
    guest.pause(0.01)
    with pytest.raises((PeerError, TransportError)):
        guest.bar[0].read32(0)
    assert device.state.value == "error"
    assert "test-plugin 1.0" in device.error


def test_unmapping_is_told_before_it_happens(make):
    guest, probe, device = make()
    page = guest.map_memory(4096)
    generation = device.get_mem_table().generation
    page.close()
    page.close()
    assert [t for t in probe.told if t[0] == "memory"] == [("memory", 1), ("memory", 0)]
    assert device.get_mem_table().generation == generation + 1


def test_vectors_follow_binding_and_masks(make):
    guest, probe, _ = make()
    probe.vectors[2].trigger()
    assert guest.vectors[2].wait(1) == 1, "what waited goes out when it is bound"
    at = guest.capability(0x11) + 2
    guest.config.write16(at, 0xC000)  # function mask
    probe.vectors[2].trigger()
    assert not guest.vectors[2].wait(0.01)
    assert guest.bar[4].read8(0x800) == 4  # pending bit
    guest.config.write16(at, 0x8000)
    assert guest.vectors[2].wait(1) == 1
    guest.vectors[2].disable()
    probe.vectors[2].trigger()
    assert probe.vectors[2].pending
    assert [t for t in probe.told if t[0] == "vector"] == [
        ("vector", 2, True),
        ("vector", 2, False),
        ("vector", 2, True),
        ("vector", 2, False),
    ]


def test_msi_folds_vectors_that_are_not_enabled(make):
    guest, probe, _ = make("emu_probe,id=0,msi=4,msix=0")
    guest.vectors[0].enable()
    at = guest.capability(5)
    guest.config.write16(at + 2, 0x0001)  # one of four
    for vector in probe.vectors:
        vector.trigger()
    assert guest.vectors[0].wait(1) == 4
    guest.config.write16(at + 2, 0x0021)  # all four
    guest.config.write32(at + 16, 0b0100)
    probe.vectors[2].trigger()
    assert guest.config.read32(at + 20) == 0b0100
    guest.config.write32(at + 16, 0)
    assert guest.vectors[2].wait(1) == 1


def test_intx_is_a_level(make):
    guest, probe, _ = make()
    guest.intx.enable()
    probe.intx_line.set(True)
    assert guest.intx.wait(1)
    assert guest.config.read16(6) & 8
    guest.intx.unmask()
    assert guest.intx.wait(1), "still asserted"
    guest.config.write16(4, 0x0406)
    guest.intx.unmask()
    assert not guest.intx.wait(0.01), "disabled in the command register"
    guest.config.write16(4, 0x0006)
    assert guest.intx.wait(1)
    probe.intx_line.set(False)
    guest.intx.unmask()
    assert not guest.intx.wait(0.01)
    assert not guest.config.read16(6) & 8


def test_a_client_may_fire_vectors_as_a_test(make):
    guest, _, device = make()
    guest.vectors[0].enable()
    guest.intx.enable()
    device.irq_trigger(2, 0)
    device.irq_trigger(0, 0)
    device.irq_trigger(2, 99)
    assert guest.vectors[0].wait(1) == 1
    assert guest.intx.wait(1)


@pytest.mark.parametrize("how", ["reset", "flr"])
def test_resets_keep_vectors_and_memory_and_forget_the_rest(make, how):
    guest, probe, device = make()
    page = guest.map_memory(4096)
    guest.vectors[0].enable()
    guest.bar[0].PLAIN = 1
    guest.bar[0].TAIL[1] = 9
    guest.config.write32(0x10, 0xFE000000)
    probe.vectors[3].trigger()
    probe.intx_line.set(True)
    probe.told.clear()
    guest.bar[0].SOON = 1
    getattr(guest, how)()
    kind = ResetKind.POWER if how == "reset" else ResetKind.FUNCTION
    assert [t for t in probe.told if t != ("soon", 1)][:2] == [kind, ("bus master", False)]
    assert probe.after == [(kind, 5, False)]
    assert guest.bar[0].PLAIN == 5
    assert guest.bar[0].TAIL[1] == 0
    assert guest.config.read32(0x10) == 4
    assert guest.config.read16(4) == 0
    assert not probe.vectors[3].pending
    assert not probe.intx_line.asserted
    assert device.get_mem_table().find(page.address) is not None
    guest.enable()
    probe.vectors[0].trigger()
    assert guest.vectors[0].wait(1) == 1


def test_the_bit_that_starts_a_reset_reads_0_and_the_others_stay(make):
    guest, probe, _ = make()
    at = guest.capability(0x10) + 8
    guest.config.write16(at, 0x5037)
    assert guest.config.read16(at) == 0x5037
    guest.config.write8(at + 1, 0x80)
    assert ResetKind.FUNCTION in probe.told
    assert guest.config.read16(at) == 0x2010


def test_a_reset_that_takes_time_is_waited_for(make, emudev_host):
    guest, probe, _ = make()
    guest.bar[0].PLAIN = 1
    probe.answer = Later()
    emudev_host.loop.call_later(0.02, probe.answer.finish)
    guest.reset()
    assert probe.answer.done
    assert guest.bar[0].PLAIN == 5
    probe.answer = True


def test_a_write_that_starts_a_long_reset_is_answered_behind_it(make, emudev_host):
    guest, probe, _ = make()
    at = guest.capability(0x10) + 8
    for data in (b"\x00\x80", b"\x00\x80\0\0\0\0"):  # as a number, and in bulk
        guest.bar[0].PLAIN = 1
        probe.answer = Later()
        emudev_host.loop.call_later(0.02, probe.answer.finish)
        guest.config.write(at, data)
        assert probe.answer.done
        assert guest.bar[0].PLAIN == 5
    probe.answer = True


def test_d1_and_d2_are_not_there(make):
    guest, _, _ = make()
    at = guest.capability(1) + 4
    for state, kept in ((3, 3), (1, 3), (2, 3), (0, 0), (1, 0)):
        guest.config.write16(at, state)
        assert guest.config.read16(at) == 8 | kept


def test_a_function_without_pci_express_cant_be_reset_alone(make):
    guest, _, _ = make("emu_probe,id=0,pcie=no")
    assert guest.client.regions()[7].size == 256
    assert guest.extended_capabilities() == {}
    with pytest.raises(GuestError, match="no capability 0x10"):
        guest.flr()


def test_events_tell_what_a_client_does(make):
    guest, _, device = make()
    channel = EventChannel()
    device.subscribe_event(channel)
    page = guest.map_memory(4096)
    guest.vectors[1].enable()
    guest.reset()
    page.close()
    kinds = [event.kind for event in channel.drain()]
    assert kinds == [EventKind.MEMORY, EventKind.IRQ, EventKind.RESET, EventKind.MEMORY]
    device.unsubscribe_event(channel)
    channel.close()


def test_what_was_saved_comes_back_and_nonsense_changes_nothing(make):
    guest, probe, device = make()
    guest.bar[0].PLAIN = 0x77
    guest.config.write8(0x3C, 11)
    probe.vectors[1].trigger()
    guest.bar[0].read32(0)
    saved = device.save()
    device.stop()  # the client goes, and all that it did
    assert probe.regs.PLAIN == 5
    device.restore(saved)
    assert probe.regs.PLAIN == 0x77
    assert probe.bus_master
    assert probe.vectors[1].pending
    assert probe.config_space.read(0x3C, 1) == 11
    state = probe.emudev_save()
    for bad in (
        {"version": 2},
        {"registers": {}},
        {"registers": dict.fromkeys(state["registers"], 7)},
        {"pending": [99]},
        {"config": b""},
        {"msix": b"short"},
        {"device": None},
        {"device": {"told": 2000}},
    ):
        with pytest.raises(DecodeError):
            probe.emudev_restore({**state, **bad})
        assert probe.emudev_save() == state


def test_undeclared_accesses_become_rows(make):
    guest, _, device = make()
    assert guest.bar[0].read32(0x400) == 0
    guest.bar[2].read16(8)
    assert device.get_suggestions() == [
        'Reg("REG_400", 0x400, access=RO),  # probe.bar0: read 1, written 0 times',
        'Reg("REG_8", 0x8, size=2, access=RO),  # probe.bar2: read 1, written 0 times',
    ]


def test_what_a_function_does_not_have_is_said(make):
    _, _, device = make()
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


def test_clients_come_and_go_without_leaving_anything(make, emudev_host):
    guest, probe, device = make()
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


def test_pages_check_their_bounds(make):
    guest, _, _ = make()
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
