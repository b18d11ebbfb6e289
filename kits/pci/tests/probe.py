"""A function that tells of everything that happens to it."""

import ctypes

from emudev_core import ProviderConfig, ProviderSpec
from emudev_core.errors import DecodeError
from emudev_core.queues import Doorbell
from emudev_pci.function import IoBar, MemoryBar, Msi, Msix, PciFunction, PciIds
from emudev_pci.registers import RO, Reg, RegisterMap

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


SPEC = ProviderSpec(name="emu_probe", summary="Tells", config=ProbeConfig, build=Probe)
