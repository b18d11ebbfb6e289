"""The driver's end of the mailbox: send ring (ATQ), receive ring (ARQ), requests and events.

Registers are programmed in the order that the Linux driver uses, enable bit before base address.
Source: avf.md sections 3.2, 3.4 and 3.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emudev_core.errors import EmudevError

from ..mailbox import AqDescriptor, AqFlag, AqOpcode
from ..registers import MAP
from ..virtchnl.opcodes import Op

if TYPE_CHECKING:
    from emudev_pci.guest import GuestFunction
    from emudev_pci.pages import Page

__all__ = ["AdminQueue", "DriverError"]

RING: Final = 32
BUFFER: Final = 4096
ENABLE: Final = 0x8000_0000
LARGE: Final = 512

#: How long the Linux driver looks at the send head before it gives up, seconds.
SEND_TIMEOUT: Final = 0.25
#: How long to wait for a reply, seconds; DPDK's limit.
REPLY_TIMEOUT: Final = 2.0


class DriverError(EmudevError):
    """The device did not do what the driver expects of it."""


class AdminQueue:
    """Both rings of the mailbox, in one guest page each, buffers behind them.

    Args:
        function: The function, memory and bus master enabled.
        on_event: Called with the payload of each event message (opcode 17).
    """

    def __init__(self, function: GuestFunction, on_event: Callable[[bytes], None]) -> None:
        self._function = function
        self._bar = function.bar[0]
        self._on_event = on_event
        self._atq: Page = function.map_memory(4096 + RING * BUFFER)
        self._arq: Page = function.map_memory(4096 + RING * BUFFER)
        self._next_send = 0
        self._next_receive = 0

    def close(self) -> None:
        """Give the pages back; `stop` first."""
        self._atq.close()
        self._arq.close()

    # -- setting up

    def start(self) -> None:
        """Program both rings and post the receive buffers."""
        self._next_send = self._next_receive = 0
        self._atq.write(0, bytes(RING * AqDescriptor.SIZE))
        for i in range(RING):
            self._post(i)
        self._program("ATQ", self._atq.address)
        self._program("ARQ", self._arq.address)
        self._write("VF_ARQT1", RING - 1)
        for which, page in (("ATQ", self._atq), ("ARQ", self._arq)):
            got = self._read(f"VF_{which}BAL1")
            if got != page.address & 0xFFFF_FFFF:
                raise DriverError(f"VF_{which}BAL1 reads {got:#x}, {page.address:#x} was written")

    def stop(self) -> None:
        """Zero the ring registers, head and tail first."""
        for which in ("ATQ", "ARQ"):
            for part in ("H", "T", "LEN", "BAL", "BAH"):
                self._write(f"VF_{which}{part}1", 0)

    def _program(self, which: str, address: int) -> None:
        self._write(f"VF_{which}H1", 0)
        self._write(f"VF_{which}T1", 0)
        self._write(f"VF_{which}LEN1", RING | ENABLE)
        self._write(f"VF_{which}BAL1", address & 0xFFFF_FFFF)
        self._write(f"VF_{which}BAH1", address >> 32)

    def _post(self, index: int) -> None:
        address = self._arq.address + 4096 + index * BUFFER
        descriptor = AqDescriptor(
            flags=AqFlag.BUF | AqFlag.LB,
            opcode=0,
            datalen=BUFFER,
            retval=0,
            cookie_high=0,
            cookie_low=0,
            param0=0,
            param1=0,
            addr_high=address >> 32,
            addr_low=address & 0xFFFF_FFFF,
        )
        self._arq.write(index * AqDescriptor.SIZE, descriptor.pack())

    # -- talking

    def send(self, opcode: int, payload: bytes = b"", *, aq: int = AqOpcode.SEND_TO_PF) -> None:
        """Send one message and wait until the device has taken it.

        Args:
            opcode: virtchnl opcode; 0 for a plain admin queue command.
            payload: At most 4096 bytes.
            aq: Admin queue opcode.

        Raises:
            DriverError: The device did not advance its head within 250 ms.
        """
        index = self._next_send
        address = self._atq.address + 4096 + index * BUFFER
        flags = AqFlag.SI
        if payload:
            self._atq.write(4096 + index * BUFFER, payload)
            flags |= AqFlag.BUF | AqFlag.RD | (AqFlag.LB if len(payload) > LARGE else 0)
        descriptor = AqDescriptor(
            flags=flags,
            opcode=aq,
            datalen=len(payload),
            retval=0,
            cookie_high=opcode,
            cookie_low=0,
            param0=1 if aq == AqOpcode.QUEUE_SHUTDOWN else 0,
            param1=0,
            addr_high=address >> 32 if payload else 0,
            addr_low=address & 0xFFFF_FFFF if payload else 0,
        )
        self._atq.write(index * AqDescriptor.SIZE, descriptor.pack())
        self._next_send = (index + 1) % RING
        self._write("VF_ATQT1", self._next_send)
        deadline = time.monotonic() + SEND_TIMEOUT
        while self._read("VF_ATQH1") != self._next_send:
            if opcode == Op.RESET_VF and not self._read("VF_ATQLEN1") & ENABLE:
                return  # the reset took the ring with it
            if time.monotonic() > deadline:
                raise DriverError(
                    f"the device did not take message {opcode}: VF_ATQH1 is "
                    f"{self._read('VF_ATQH1')}, not {self._next_send}"
                )
            self._function.pause(0.00005)

    def request(self, opcode: int, payload: bytes = b"") -> bytes:
        """Send a request and return the payload of its reply; events in between are dispatched.

        Raises:
            DriverError: No reply in 2 s, a reply to something else, or a negative status.
        """
        self.send(opcode, payload)
        deadline = time.monotonic() + REPLY_TIMEOUT
        while True:
            reply: tuple[AqDescriptor, bytes] | None = None
            for descriptor, data in self.receive():  # all of them: an event may follow the reply
                if descriptor.cookie_high == Op.EVENT:
                    self._on_event(data)
                elif descriptor.cookie_high == opcode and reply is None:
                    reply = descriptor, data
                else:
                    raise DriverError(
                        f"request {opcode} got a reply to {descriptor.cookie_high}"
                        + (" behind its own" if reply else "")
                    )
            if reply is not None:
                status = reply[0].cookie_low - (reply[0].cookie_low >> 31 << 32)
                if status != 0:
                    raise DriverError(f"request {opcode} was refused with status {status}")
                return reply[1]
            if time.monotonic() > deadline:
                raise DriverError(f"no reply to request {opcode} within {REPLY_TIMEOUT} s")
            self._function.pause(0.0005)

    def poll(self) -> None:
        """Dispatch the events that wait."""
        for descriptor, data in self.receive():
            if descriptor.cookie_high == Op.EVENT:
                self._on_event(data)

    def receive(self) -> list[tuple[AqDescriptor, bytes]]:
        """Take the messages that wait, re-post their buffers and move the tail."""
        head = self._read("VF_ARQH1")
        taken = []
        while self._next_receive != head:
            index = self._next_receive
            descriptor = AqDescriptor.unpack(
                self._arq.read(index * AqDescriptor.SIZE, AqDescriptor.SIZE)
            )
            taken.append((descriptor, self._arq.read(4096 + index * BUFFER, descriptor.datalen)))
            self._post(index)
            self._write("VF_ARQT1", index)
            self._next_receive = (index + 1) % RING
        return taken

    def _read(self, name: str) -> int:
        return self._bar.read32(MAP.offset(name))

    def _write(self, name: str, value: int) -> None:
        self._bar.write32(MAP.offset(name), value)
