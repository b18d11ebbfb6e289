"""The guest's view of a function: what a driver and its kernel do, over any transport's client.

    function = GuestFunction(client, {0: MAP})
    function.enable()
    page = function.map_memory(4096)
    function.bar[0].TARGET = page.address
    function.bar[0].AGAIN = 1
    assert function.vectors[0].wait(timeout=1)

`views` has the regions by register name, `pages` the memory. Not thread-safe: one thread uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from emudev_core.client import DeviceClient
from emudev_core.closing import Closing

from .capabilities import (
    FIRST_EXTENDED,
    MSI_CONTROL,
    MSI_ENABLE,
    MSIX_CONTROL,
    MSIX_ENABLE,
    MSIX_MASK_ALL,
    PCIE_DEVICE_CONTROL,
    PCIE_FLR,
    CapabilityId,
)
from .config_space import (
    BARS,
    CAPABILITIES,
    COMMAND,
    COMMAND_BUS_MASTER,
    COMMAND_IO,
    COMMAND_MEMORY,
    STATUS,
    STATUS_CAPABILITIES,
)
from .interrupts import IrqIndex
from .layout import Region
from .pages import Memory, Page
from .registers import RegisterMap
from .views import BarView, View

__all__ = ["GuestError", "GuestFunction", "GuestIntx", "GuestVector"]

#: How long a function may take for a reset of its own before it answers, seconds. Source: PCI
#: Express Base 4.0, section 6.6.2.
FLR_LIMIT: Final = 0.1


class GuestError(AssertionError):
    """The function does not behave as PCI asks."""


class GuestVector:
    """A message signalled vector, as the guest has it: an eventfd that counts its events.

    Args:
        function: Whose.
        number: Its number.
    """

    def __init__(self, function: GuestFunction, number: int) -> None:
        self._function = function
        self.number = number
        self.fd: int | None = None

    def enable(self) -> None:
        """Let it signal; the message capability is enabled, too. A second call does nothing."""
        if self.fd is None:
            self._function.enable_messages()
            self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._function.client.irq_bind(self._function.irq_group, self.number, self.fd)

    def disable(self) -> None:
        """Let it signal no more."""
        if self.fd is not None:
            fd, self.fd = self.fd, None
            try:
                self._function.client.irq_bind(self._function.irq_group, self.number, None)
            finally:
                os.close(fd)

    def wait(self, timeout: float = 1.0) -> int:
        """Wait for events, and take them; enables the vector if that was not done.

        Args:
            timeout: Seconds; 0 only looks.

        Returns:
            How many there were, 0 if the time is over.
        """
        self.enable()
        assert self.fd is not None
        if not self._function.client.wait(self.fd, timeout):
            return 0
        return os.eventfd_read(self.fd)

    def forget(self) -> None:
        """Close the descriptor without a word to the device, which has gone."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class GuestIntx:
    """The INTA line, as the guest has it.

    Args:
        function: Whose.
    """

    def __init__(self, function: GuestFunction) -> None:
        self._function = function
        self.fd: int | None = None

    def enable(self) -> None:
        """Let it signal. A second call does nothing."""
        if self.fd is None:
            self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._function.client.irq_bind(IrqIndex.INTX, 0, self.fd)

    def wait(self, timeout: float = 1.0) -> bool:
        """Wait until the line is asserted; it is masked from then on."""
        self.enable()
        assert self.fd is not None
        if not self._function.client.wait(self.fd, timeout):
            return False
        os.eventfd_read(self.fd)
        return True

    def unmask(self) -> None:
        """Handled: signal again if the line is still asserted."""
        self._function.client.irq_mask(IrqIndex.INTX, 0, False)

    def disable(self) -> None:
        """Let it signal no more."""
        if self.fd is not None:
            fd, self.fd = self.fd, None
            try:
                self._function.client.irq_bind(IrqIndex.INTX, 0, None)
            finally:
                os.close(fd)

    def forget(self) -> None:
        """Close the descriptor without a word to the device, which has gone."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class GuestFunction(Closing):
    """See the module.

    Args:
        client: A client of the device, owned by this from now on.
        maps: Register maps by BAR, for access by name.

    Attributes:
        client: As given.
        config: Configuration space.
        bar: The BARs that are there, by number.
        vectors: MSI-X vectors; MSI vectors of a function without MSI-X.
        intx: INTA.
        irq_group: The group that `vectors` belong to.
    """

    def __init__(self, client: DeviceClient, maps: Mapping[int, RegisterMap] | None = None) -> None:
        self.client = client
        self.config = View(client, Region.CONFIG)
        regions = {info.index: info for info in client.regions()}
        self.bar: dict[int, BarView] = {}
        for number in range(6):
            info = regions.get(number)
            if info is not None and info.size:
                memory = not self.config.read32(BARS + 4 * number) & 1
                map = (maps or {}).get(number)
                self.bar[number] = BarView(client, number, info.size, map, posted=memory)
        counts = {group.index: group.count for group in client.irq_groups()}
        self.irq_group = IrqIndex.MSIX if counts.get(IrqIndex.MSIX) else IrqIndex.MSI
        count = counts.get(int(self.irq_group), 0)
        self.vectors: tuple[GuestVector, ...] = tuple(GuestVector(self, i) for i in range(count))
        self.intx = GuestIntx(self)
        self._memory = Memory(client)
        self._places: dict[int, int] | None = None
        self._closed = False

    # -- configuration space

    @property
    def vendor(self) -> int:
        """Vendor id."""
        return self.config.read16(0)

    @property
    def device(self) -> int:
        """Device id."""
        return self.config.read16(2)

    def capabilities(self) -> dict[int, int]:
        """Offset of each standard capability by id, the first of an id.

        Raises:
            GuestError: The list does not end, or leaves its range.
        """
        found: dict[int, int] = {}
        if not self.config.read16(STATUS) & STATUS_CAPABILITIES:
            return found
        at = self.config.read8(CAPABILITIES) & ~3
        for _ in range(48):
            if not at:
                return found
            if at < 0x40:
                raise GuestError(f"a capability at {at:#x}, in the header")
            found.setdefault(self.config.read8(at), at)
            at = self.config.read8(at + 1) & ~3
        raise GuestError("the list of capabilities does not end")

    def extended_capabilities(self) -> dict[int, int]:
        """Offset of each extended capability by id, the first of an id.

        Raises:
            GuestError: The list does not end, or leaves its range.
        """
        found: dict[int, int] = {}
        at = FIRST_EXTENDED if self.client.regions()[Region.CONFIG].size > FIRST_EXTENDED else 0
        for _ in range(960):
            head = self.config.read32(at) if at else 0
            if not head:
                return found
            if at < FIRST_EXTENDED:
                raise GuestError(f"an extended capability at {at:#x}")
            found.setdefault(head & 0xFFFF, at)
            at = head >> 20 & ~3
        raise GuestError("the list of extended capabilities does not end")

    def capability(self, id: int) -> int:
        """Offset of a standard capability, looked for once.

        Raises:
            GuestError: There is none.
        """
        if self._places is None:
            self._places = self.capabilities()
        if id not in self._places:
            raise GuestError(f"no capability {id:#x}, there are {[*map(hex, self._places)]}")
        return self._places[id]

    def bar_sizes(self) -> dict[int, int]:
        """Size of each BAR, found as a kernel does: by writing all ones; its value is kept."""
        found = {}
        number = 0
        while number < 6:
            at = BARS + 4 * number
            before = self.config.read32(at)
            wide = before & 7 == 4
            size = 8 if wide else 4
            kept = self.config.read(at, size)
            self.config.write(at, b"\xff" * size)
            mask = int.from_bytes(self.config.read(at, size), "little")
            self.config.write(at, kept)
            mask &= ~(3 if before & 1 else 15)
            if mask:
                found[number] = (~mask & (1 << 8 * size) - 1) + 1
            number += 2 if wide else 1
        return found

    def enable(self, *, memory: bool = True, bus_master: bool = True) -> None:
        """Let the function answer in its BARs and reach memory, as a driver does at probe.

        Also brings the message capability back that a function level reset has disabled.
        """
        command = self.config.read16(COMMAND)
        command |= (COMMAND_MEMORY | COMMAND_IO) if memory else 0
        command |= COMMAND_BUS_MASTER if bus_master else 0
        self.config.write16(COMMAND, command)
        if any(vector.fd is not None for vector in self.vectors):
            self.enable_messages()

    def enable_messages(self) -> None:
        """Enable MSI-X, or MSI with all vectors; again does no harm."""
        if self.irq_group == IrqIndex.MSIX:
            at = self.capability(CapabilityId.MSIX) + MSIX_CONTROL
            control = self.config.read16(at)
            if not control & MSIX_ENABLE:
                # As Linux does: all masked until the table is set up.
                self.config.write16(at, control | MSIX_ENABLE | MSIX_MASK_ALL)
                self.config.write16(at, control & ~MSIX_MASK_ALL | MSIX_ENABLE)
        else:
            at = self.capability(CapabilityId.MSI) + MSI_CONTROL
            control = self.config.read16(at)
            offered = control >> 1 & 7
            self.config.write16(at, control & ~0x70 | offered << 4 | MSI_ENABLE)

    # -- memory

    def map_memory(
        self,
        size: int,
        address: int | None = None,
        *,
        by_message: bool = False,
        readable: bool = True,
        writable: bool = True,
    ) -> Page:
        """Give the function memory, which is mapped here, too.

        Args:
            size: Bytes, rounded up to whole pages.
            address: Guest address, a multiple of the page size; None: one that is free.
            by_message: Without a descriptor, so that the device can only send messages.
            readable: The device may read it.
            writable: The device may write it.
        """
        return self._memory.map(
            size, address, by_message=by_message, readable=readable, writable=writable
        )

    # -- resets and time

    def flr(self) -> None:
        """Reset the function by PCI Express, and wait until it answers; it has to be enabled again.

        Raises:
            GuestError: It can't, or it does not answer again in time.
        """
        at = self.capability(CapabilityId.PCIE)
        if not self.config.read32(at + 4) >> 28 & 1:
            raise GuestError("the function has no function level reset")
        control = self.config.read16(at + PCIE_DEVICE_CONTROL)
        self.config.write16(at + PCIE_DEVICE_CONTROL, control | PCIE_FLR)
        waited = 0.0
        while self.config.read32(0) == 0xFFFF_FFFF:
            if waited > FLR_LIMIT:
                raise GuestError(f"no answer {FLR_LIMIT} s after a function level reset")
            self.pause(0.001)
            waited += 0.001

    def reset(self) -> None:
        """Reset it as the machine's reset does; it has to be enabled again."""
        self.client.reset()

    def pause(self, seconds: float) -> None:
        """Let the device run for a while."""
        self.client.pause(seconds)

    def pages(self) -> Sequence[Page]:
        """The memory that is mapped."""
        return self._memory.pages()

    def close(self) -> None:
        """Go away: vectors, memory and client. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.client.close()
        finally:
            for vector in self.vectors:
                vector.forget()
            self.intx.forget()
            self._memory.forget()
