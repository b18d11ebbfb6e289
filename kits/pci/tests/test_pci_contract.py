"""The contract that every provider passes, on a function that has everything."""

from collections.abc import Sequence

import pytest

from emudev_core import ProviderConfig, ProviderSpec
from emudev_core.plugins import Plugins, find_sources
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_source
from emudev_core.testing.contracts import ProviderContract
from emudev_pci.capabilities import serial_number, vendor
from emudev_pci.function import IoBar, MemoryBar, Msi, Msix, PciFunction, PciIds
from emudev_pci.registers import RC, RO, RW, W1C, WO, Bits, Reg, RegisterMap

MAP = RegisterMap(
    "busy.bar0",
    size=0x800,
    regs=[
        Reg("ROLL", 0x00, access=RO),
        Reg("SIDES", 0x04, reset=6),
        Reg("AGAIN", 0x08, access=WO),
        Reg("TARGET", 0x10, size=8),
        Reg("EVENTS", 0x18, access=W1C, reset=3),
        Reg("COUNT", 0x1C, access=RC, reset=1),
        Reg("ROW", 0x20, count=4, stride=8, bits=[Bits("ON", 0), Bits("ERROR", 4, access=RO)]),
        Reg("BYTE", 0x40, size=1, count=3),
    ],
)
IO = RegisterMap("busy.io", size=8, regs=[Reg("DATA", 0, size=2, access=RW)])


class BusyConfig(ProviderConfig):
    vectors: int = 3


class Busy(PciFunction):
    ids = PciIds(vendor=0x1234, device=0xB511, class_code=0x00FF00, subsystem=7)
    bars = {  # noqa: RUF012 - written as authors of devices do
        0: MemoryBar(MAP),
        1: IoBar(IO),
        2: MemoryBar(size=64, wide=True, prefetchable=True),
    }
    msi = Msi(vectors=4)
    intx = True
    capabilities = (vendor(b"emu"), serial_number(0x0123_4567_89AB_CDEF))

    def __init__(self, config, context):
        self.msix = Msix(vectors=config.vectors, bar=4)
        super().__init__(config, context)
        self.sides = 6
        self.attributes.add("sides", int, "of the dice", lambda: self.sides, self._set_sides)
        self.attributes.add("name", str, "of the device", lambda: self.name)

    def _set_sides(self, value):
        if not 2 <= value <= 1000:
            raise ValueError("2 to 1000 sides")
        self.sides = value

    @MAP.on_read("ROLL")
    def roll(self) -> int:
        return self.regs.SIDES // 2

    @MAP.on_write("AGAIN", deferred=True)
    def again(self, value: int) -> None:
        self.memory.write_u32(self.regs.TARGET, self.roll())
        self.vectors[0].trigger()
        self.intx_line.set(bool(value & 1))

    @MAP.on_write("ROW")
    def row(self, index: int, value: int) -> None:
        self.memory.read_u32(value)


SPEC = ProviderSpec(name="emu_busy", summary="Has everything", config=BusyConfig, build=Busy)


class TestBusy(ProviderContract):
    vdev = "emu_busy,vectors=5"

    @pytest.fixture
    def plugins(self) -> Plugins:
        specs: Sequence = (SPEC, loopback.SPEC, exerciser.SPEC, port.SPEC)
        return Plugins([*find_sources(), make_source(*specs)])
