"""A dice: reading ROLL gives a number, writing AGAIN stores one in guest memory and interrupts."""

import random

from emudev_pci.function import MemoryBar, Msix, PciFunction, PciIds
from emudev_pci.registers import RO, RW, WO, Reg, RegisterMap

MAP = RegisterMap(
    "dice.bar0",
    size=0x1000,
    regs=[
        Reg("ROLL", 0x00, access=RO, doc="A new number from 1 to SIDES at each read."),
        Reg("SIDES", 0x04, reset=6, access=RW, doc="Number of sides, 2 to 1000."),
        Reg("AGAIN", 0x08, access=WO, doc="A write stores a roll at TARGET and interrupts."),
        Reg("TARGET", 0x10, size=8, access=RW, doc="Guest address of a 32-bit word."),
    ],
)


class Dice(PciFunction):
    """The device."""

    ids = PciIds(vendor=0x1234, device=0xD1CE, class_code=0x00FF00)
    bars = {0: MemoryBar(MAP)}  # noqa: RUF012 - a declaration, read once
    msix = Msix(vectors=1, bar=1)

    def __init__(self, config, context):
        super().__init__(config, context)
        self.regs.SIDES = config.sides

    def after_reset(self, kind):
        """Back to the configured number of sides."""
        self.regs.SIDES = self.config.sides

    @MAP.on_write("SIDES")
    def sides(self, value):
        """Take a number of sides that makes a dice."""
        self.regs.SIDES = min(max(value, 2), 1000)

    @MAP.on_read("ROLL")
    def roll(self):
        """A new number."""
        return random.randint(1, self.regs.SIDES)

    @MAP.on_write("AGAIN", deferred=True)
    def again(self, _):
        """Roll into guest memory."""
        self.memory.write_u32(self.regs.TARGET, self.roll())
        self.vectors[0].trigger()
