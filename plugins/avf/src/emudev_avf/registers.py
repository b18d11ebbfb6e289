"""The registers of BAR 0.

`emudev regs emu_iavf` prints this map; the page in the documentation is generated from it.
Behaviour is in `device`. What is not listed reads 0 and ignores writes.

Source: avf.md section 2 (iavf_register.h).
"""

from __future__ import annotations

from typing import Final

from emudev_pci.registers import RC, RO, RW, Bits, Reg, RegisterMap

from .config import MAX_QUEUES

__all__ = ["MAP", "SIZE"]

#: Bytes of BAR 0. The highest register that drivers touch is at 0xD03C.
SIZE: Final = 0x2_0000
#: Queue vectors that have a control register.
QUEUE_VECTORS: Final = 64
#: Words of the throttle block between one index and the next (stride 64 bytes).
ITR_STRIDE: Final = 16

_SOURCE: Final = "iavf_register.h"


def _ring(which: str, what: str, base_low: int, base_high: int, length: int) -> list[Reg]:
    """Base and length of one ring of the mailbox."""
    return [
        Reg(
            f"VF_{which}BAL1",
            base_low,
            doc=f"{what} mailbox: guest address of the ring, low half; 4 KiB aligned.",
            source=_SOURCE,
        ),
        Reg(
            f"VF_{which}BAH1",
            base_high,
            doc=f"{what} mailbox: guest address of the ring, high half.",
            source=_SOURCE,
        ),
        Reg(
            f"VF_{which}LEN1",
            length,
            doc=f"{what} mailbox: length, errors, enable. Enable reads 0 after any reset: by that"
            " a driver sees it. The driver clears error bits by writing them as 0.",
            source=_SOURCE,
            bits=[
                Bits(f"{which}LEN", 0, 10, doc="descriptors in the ring"),
                Bits(f"{which}VFE", 28, doc="error of the VF"),
                Bits(f"{which}OVFL", 29, doc="a message was dropped"),
                Bits(f"{which}CRIT", 30, doc="the ring or a buffer can't be reached"),
                Bits(f"{which}ENABLE", 31, doc="the ring is in use"),
            ],
        ),
    ]


def _index(name: str, offset: int, field: str, doc: str) -> Reg:
    """A head or tail of the mailbox."""
    return Reg(name, offset, doc=doc, source=_SOURCE, bits=[Bits(field, 0, 10)])


def _dyn_ctl(name: str, offset: int, count: int, doc: str) -> Reg:
    """The control of an interrupt vector."""
    return Reg(
        name,
        offset,
        count=count,
        access=RW,
        doc=doc,
        source=_SOURCE,
        bits=[
            Bits("INTENA", 0, doc="the vector may fire; cleared when it does"),
            Bits("CLEARPBA", 1, doc="ignored: an event that waits is kept"),
            Bits("SWINT_TRIG", 2, doc="fire now, whatever the causes"),
            Bits("ITR_INDX", 3, 2, doc="throttle that INTERVAL sets; 3 = none"),
            Bits("INTERVAL", 5, 12, doc="new value of that throttle, unit 2 µs"),
            Bits("SW_ITR_INDX_ENA", 24, doc="with SWINT_TRIG: use the throttle SW_ITR_INDX"),
            Bits("SW_ITR_INDX", 25, 2),
            Bits("WB_ON_ITR", 30, doc="write back without an interrupt, which is always done"),
            Bits("INTENA_MSK", 31, doc="not used by drivers; ignored"),
        ],
    )


MAP: Final = RegisterMap(
    "avf.bar0",
    size=SIZE,
    doc="Registers of an Intel Adaptive Virtual Function.",
    regs=[
        Reg(
            "QTX_TAIL1",
            0x0000,
            count=MAX_QUEUES,
            doc="Doorbell of a transmit queue: the index behind its last descriptor. Latched"
            " whatever the state of the queue; those of queues that are not there do nothing.",
            source=_SOURCE,
        ),
        Reg(
            "QRX_TAIL1",
            0x2000,
            count=MAX_QUEUES,
            doc="Doorbell of a receive queue: the index behind its last posted buffer. Drivers"
            " write it before they configure and enable the queue.",
            source=_SOURCE,
        ),
        Reg(
            "VFINT_ITRN1",
            0x2800,
            count=3 * ITR_STRIDE,
            doc="Throttle of a queue vector, unit 2 µs, at most 8160 µs: after it has fired, the"
            " vector does not fire again before. Index 16 t + v is throttle t"
            " (0 receive, 1 transmit, 2 spare) of vector v + 1.",
            source=_SOURCE,
            bits=[Bits("INTERVAL", 0, 12)],
        ),
        _dyn_ctl("VFINT_DYN_CTLN1", 0x3800, QUEUE_VECTORS, "Control of the queue vector v + 1."),
        Reg(
            "VFINT_ICR01",
            0x4800,
            access=RC,
            doc="Causes of vector 0, latched while the vector is disabled, too.",
            source=_SOURCE,
            bits=[
                Bits("INTEVENT", 0, doc="any cause"),
                Bits("QUEUE", 1, 4, doc="queues 0 to 3; not used"),
                Bits("LINK_STAT_CHANGE", 25, doc="not used: link changes come as messages"),
                Bits("ADMINQ", 30, doc="the receive mailbox has a new element"),
                Bits("SWINT", 31, doc="not used"),
            ],
        ),
        Reg(
            "VFINT_ITR01",
            0x4C00,
            count=3,
            doc="Throttle of vector 0, unit 2 µs, for software interrupts: the mailbox is not"
            " throttled.",
            source=_SOURCE,
            bits=[Bits("INTERVAL", 0, 12)],
        ),
        Reg(
            "VFINT_ICR0_ENA1",
            0x5000,
            doc="Which causes raise vector 0.",
            source=_SOURCE,
            bits=[Bits("ADMINQ", 30, doc="the receive mailbox")],
        ),
        Reg("VFINT_STAT_CTL01", 0x5400, doc="Not used by drivers.", source=_SOURCE),
        _dyn_ctl("VFINT_DYN_CTL01", 0x5C00, 1, "Control of vector 0, the mailbox'."),
        *_ring("ATQ", "Send", 0x7C00, 0x7800, 0x6800),
        _index(
            "VF_ATQH1",
            0x6400,
            "ATQH",
            "Send mailbox: head, the next descriptor of the device. A driver polls it until it"
            " equals the tail, at most 250 ms.",
        ),
        _index(
            "VF_ATQT1",
            0x8400,
            "ATQT",
            "Send mailbox: tail, the index behind the last request. A write is the doorbell: all"
            " requests up to it are processed before the next access is answered.",
        ),
        *_ring("ARQ", "Receive", 0x6C00, 0x6000, 0x8000),
        _index(
            "VF_ARQH1",
            0x7400,
            "ARQH",
            "Receive mailbox: head, the next buffer of the device. A driver learns of new messages"
            " by reading it.",
        ),
        _index(
            "VF_ARQT1",
            0x7000,
            "ARQT",
            "Receive mailbox: tail, the index behind the last posted buffer.",
        ),
        Reg(
            "VFGEN_RSTAT",
            0x8800,
            reset=2,
            access=RO,
            doc="Progress of a reset, polled by the driver; also read to flush posted writes.",
            source=_SOURCE,
            bits=[Bits("VFR_STATE", 0, 2, values={0: "in progress", 1: "completed", 2: "active"})],
        ),
        Reg(
            "VFQF_HENA",
            0xC400,
            count=2,
            doc="Hashed packet types, low and high half. Only without RSS_PF.",
            source=_SOURCE,
        ),
        Reg(
            "VFQF_HKEY",
            0xCC00,
            count=13,
            doc="Hash key, 52 bytes. Only without RSS_PF.",
            source=_SOURCE,
        ),
        Reg(
            "VFQF_HLUT",
            0xD000,
            count=16,
            doc="Hash lookup table, 64 entries of a byte. Only without RSS_PF.",
            source=_SOURCE,
        ),
    ],
)
