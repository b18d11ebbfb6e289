"""What a function shows of itself, and that showing changes nothing."""

from emudev_core import ProviderConfig, ProviderSpec
from emudev_core.host import Host
from emudev_core.testing import loopback
from emudev_core.testing.builders import make_plugins
from emudev_pci.function import MemoryBar, Msix, PciFunction, PciIds
from emudev_pci.registers import RC, Bits, Reg, RegisterMap
from emudev_pci.sections import fields_text

MAP = RegisterMap(
    "lamp.bar0",
    size=0x1000,
    regs=[
        Reg("STATE", 0, reset=2, bits=[Bits("MODE", 0, 2, values={0: "off", 2: "dim"})]),
        Reg("CAUSE", 4, access=RC),
        Reg("LEVEL", 0x10, count=4, reset=1),
        Reg("LIVE", 0x40),
    ],
)


class Lamp(PciFunction):
    ids = PciIds(vendor=0x1234, device=0x1A3B, class_code=0xFF0000)
    bars = {0: MemoryBar(MAP)}  # noqa: RUF012
    msix = Msix(vectors=2, bar=1)

    @MAP.on_read("LIVE")
    def live(self):
        raise AssertionError("looking must not run handlers")


SPEC = ProviderSpec(
    name="emu_lamp", summary="", config=ProviderConfig, build=Lamp, transport="loopback"
)


def rows(device, name):
    [section] = [section for _, section in device.get_state() if section.name == name]
    return [dict(row) for row in section.read()]


def test_registers_are_shown_by_name_and_looking_clears_nothing():
    with Host(plugins=make_plugins(loopback.SPEC, SPEC)) as host:
        device = host.add("emu_lamp,id=0")
        host.start()
        lamp = device.members[0].plugin
        lamp.regs.CAUSE = 5
        lamp.regs.LEVEL[2] = 9
        for _ in range(2):
            assert rows(device, "registers") == [
                {"bar": 0, "offset": 0, "name": "STATE", "value": 2, "fields": "MODE=0x2 (dim)"},
                {"bar": 0, "offset": 4, "name": "CAUSE", "value": 5, "fields": ""},
                {"bar": 0, "offset": 0x18, "name": "LEVEL[2]", "value": 9, "fields": ""},
                {"bar": 0, "offset": 0x40, "name": "LIVE", "value": 0, "fields": ""},
            ]
        assert device.region_read(0, 4, 4) == 5


def test_configuration_space_vectors_and_faults_are_shown():
    with Host(plugins=make_plugins(loopback.SPEC, SPEC)) as host:
        device = host.add("emu_lamp,id=0")
        host.start()
        shown = {row["name"]: row["value"] for row in rows(device, "config")}
        assert (shown["vendor"], shown["device"], shown["class"]) == (0x1234, 0x1A3B, 0xFF0000)
        assert shown["capability 0x11"] & 0xFF == 0x11
        device.members[0].plugin.vectors[1].trigger()
        assert rows(device, "vectors") == [
            {"vector": 0, "deliverable": False, "masked": False, "pending": False, "signals": 0},
            {"vector": 1, "deliverable": False, "masked": False, "pending": True, "signals": 0},
        ]
        device.region_read(0, 0x800, 4)
        [function] = rows(device, "function")
        assert function["undeclared_accesses"] == 1
        assert function["bus_master"] is False


def test_fields_that_are_zero_are_left_out_unless_zero_has_a_meaning():
    reg = Reg("R", 0, bits=[Bits("A", 0), Bits("B", 1), Bits("C", 4, 4, values={0: "none"})])
    assert fields_text(reg, 0b10) == "B, C=0x0 (none)"
