"""Registers of the device ``emu_null``. Behaviour is in `device`."""

from __future__ import annotations

from typing import Final

from emudev_pci.registers import RC, RO, RW, W1C, WO, Bits, Reg, RegisterMap

__all__ = ["DONE", "ERROR", "FETCH", "MAP", "STORE"]

STORE: Final = 1  #: COMMAND: DATA to memory
FETCH: Final = 2  #: COMMAND: memory to DATA
DONE: Final = 1 << 0  #: STATUS
ERROR: Final = 1 << 1  #: STATUS

MAP = RegisterMap(
    "null.bar0",
    size=0x1000,
    doc="Registers of the template device.",
    regs=[
        Reg("ID", 0x00, access=RO, reset=0x4C4C_554E, doc='Always "NULL" in ASCII.'),
        Reg("SCRATCH", 0x04, access=RW, doc="Keeps what is written, until a reset."),
        Reg("COUNTER", 0x08, access=RC, doc="Rings of DOORBELL since it was last read."),
        Reg("ADDRESS", 0x10, size=8, access=RW, doc="Guest address that COMMAND works on."),
        Reg("DATA", 0x18, access=RW, doc="Number that COMMAND stores or has fetched."),
        Reg(
            "COMMAND",
            0x1C,
            access=WO,
            doc="Moves a 32-bit number between DATA and memory at ADDRESS, then raises vector 0.",
            bits=[Bits("OPERATION", 0, 2, values={STORE: "store", FETCH: "fetch"})],
        ),
        Reg(
            "STATUS",
            0x20,
            access=W1C,
            doc="How the last command ended.",
            bits=[
                Bits("DONE", 0, doc="It ended well."),
                Bits("ERROR", 1, doc="There is no such memory, or no such operation."),
            ],
        ),
        Reg(
            "DOORBELL",
            0x100,
            access=RW,
            doc="A write rings: COUNTER goes up; the last vector is raised if SCRATCH is not 0.",
        ),
    ],
)
