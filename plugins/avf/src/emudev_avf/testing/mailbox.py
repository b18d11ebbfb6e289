"""Guest memory, and a driver's end of the mailbox that knows numbers only.

Offsets, orders and byte strings are those of the reference, not of the code under test.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Final

from emudev_core.memory import MemoryRegion, MemoryTable

__all__ = ["GuestMemory", "Mailer"]

BASE: Final = 0x1_0000_0000
SIZE: Final = 0x80_0000

# avf.md 2.1
ATQH, ATQT, ATQLEN, ATQBAL, ATQBAH = 0x6400, 0x8400, 0x6800, 0x7C00, 0x7800
ARQH, ARQT, ARQLEN, ARQBAL, ARQBAH = 0x7400, 0x7000, 0x8000, 0x6C00, 0x6000
ENABLE_32 = 0x8000_0020


class GuestMemory:
    """Plain memory as guest memory, above 4 GiB.

    Args:
        base: Guest address of its first byte.
        size: Bytes.

    Attributes:
        region: All of it.
        table: A table of that region alone.
    """

    def __init__(self, base: int = BASE, size: int = SIZE) -> None:
        self.base = base
        buffer = (ctypes.c_char * size)()
        self._bytes = memoryview(buffer).cast("B")
        self.region = MemoryRegion(base, size, ctypes.addressof(buffer))
        self.table = MemoryTable([self.region], generation=1)
        self._next = base

    def take(self, size: int, align: int = 4096) -> int:
        """The guest address of `size` fresh bytes."""
        at = self._next + align - 1 & ~(align - 1)
        self._next = at + size
        return at

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a guest address."""
        start = address - self.base
        return self._bytes[start : start + size].tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at a guest address."""
        start = address - self.base
        self._bytes[start : start + len(data)] = data


class Mailer:
    """A driver's end of the mailbox that knows registers by number only (avf.md 3.2 to 3.4).

    Args:
        memory: Where its rings and buffers are.
        read: Reads a register of BAR 0.
        write: Writes one.
    """

    def __init__(
        self,
        memory: GuestMemory,
        read: Callable[[int], int],
        write: Callable[[int, int], None],
    ) -> None:
        self.memory = memory
        self.read, self.write = read, write
        self.atq = memory.take(32 * 32)
        self.arq = memory.take(32 * 32)
        self.send_buffers = memory.take(32 * 4096)
        self.receive_buffers = memory.take(32 * 4096)
        self.next_send = self.next_receive = 0

    def post(self, index: int) -> None:
        """Post a receive buffer as both drivers do: flags BUF | LB, 4096 bytes."""
        address = self.receive_buffers + index * 4096
        words = struct.pack(
            "<HHHHIIIIII", 0x1200, 0, 4096, 0, 0, 0, 0, 0, address >> 32, address & 0xFFFFFFFF
        )
        self.memory.write(self.arq + index * 32, words)

    def start(self) -> None:
        """Program both rings in the order that was observed (avf.md 3.4)."""
        self.next_send = self.next_receive = 0
        self.memory.write(self.atq, bytes(32 * 32))
        for index in range(32):
            self.post(index)
        write = self.write
        write(ATQH, 0)
        write(ATQT, 0)
        write(ATQLEN, ENABLE_32)
        write(ATQBAL, self.atq & 0xFFFFFFFF)
        write(ATQBAH, self.atq >> 32)
        assert self.read(ATQBAL) == self.atq & 0xFFFFFFFF
        write(ARQH, 0)
        write(ARQT, 0)
        write(ARQLEN, ENABLE_32)
        write(ARQBAL, self.arq & 0xFFFFFFFF)
        write(ARQBAH, self.arq >> 32)
        write(ARQT, 31)
        assert self.read(ARQBAL) == self.arq & 0xFFFFFFFF

    def stop(self) -> None:
        """Shut both rings down while they are enabled, heads first (avf.md 3.4)."""
        for registers in (
            (ATQH, ATQT, ATQLEN, ATQBAL, ATQBAH),
            (ARQH, ARQT, ARQLEN, ARQBAL, ARQBAH),
        ):
            for register in registers:
                self.write(register, 0)

    def fill(self, opcode: int, payload: bytes = b"", *, aq: int = 0x0801) -> None:
        """Write a descriptor without ringing."""
        index = self.next_send
        address = self.send_buffers + index * 4096
        flags = 0x2000
        if payload:
            flags |= 0x1400 | (0x0200 if len(payload) > 512 else 0)
            self.memory.write(address, payload)
        words = struct.pack(
            "<HHHHIIIIII",
            flags, aq, len(payload), 0, opcode, 0, 0, 0, address >> 32, address & 0xFFFFFFFF,
        )  # fmt: skip
        self.memory.write(self.atq + index * 32, words)
        self.next_send = (index + 1) % 32

    def ring(self) -> None:
        """Write the tail, and see the head follow before anything else is read (fact 1)."""
        self.write(ATQT, self.next_send)

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """Send a request."""
        self.fill(opcode, payload)
        self.ring()

    def receive(self) -> list[tuple[int, int, bytes]]:
        """Take what has come: (opcode, status, payload), and post the buffers again."""
        head = self.read(ARQH)
        taken = []
        while self.next_receive != head:
            index = self.next_receive
            raw = self.memory.read(self.arq + index * 32, 32)
            flags, opcode, length, retval, high, low = struct.unpack_from("<HHHHIi", raw)
            assert (flags, opcode, retval) == (0x1203, 0x0802, 0)
            taken.append((high, low, self.memory.read(self.receive_buffers + index * 4096, length)))
            self.post(index)
            self.write(ARQT, index)
            self.next_receive = (index + 1) % 32
        return taken

    def request(self, opcode: int, payload: bytes = b"") -> tuple[int, bytes]:
        """Send a request and return status and payload of its one reply."""
        self.send(opcode, payload)
        replies = self.receive()
        assert [r[0] for r in replies] == [opcode], replies
        return replies[0][1], replies[0][2]
