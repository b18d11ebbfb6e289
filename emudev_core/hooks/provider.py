"""Provider-facing hooks: a transport tells, the provider answers.

All are called on the loop's thread, and the handler never waits: the client sits in the access
until the reply is out. Guest mistakes never raise; an exception is a fault of the provider: the
transport answers EIO, and the device goes in error with the plugin's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..later import Later
from ..memory import MemoryRegion, MemoryTable
from ..regions import IrqGroup, RegionInfo, ResetKind
from . import hookspec


@hookspec(firstresult=True)
def emudev_get_regions() -> Sequence[RegionInfo]:
    """The device's regions, index by index.

    Called by a transport when it starts to serve and at each client. Constant for a device's life.

    Returns:
        The regions; `RegionInfo.index` is the place in the sequence. Without an implementation
        there are none.

    Example:
        from emudev_core.regions import RegionFlag, RegionInfo

        class Dice:
            @hookimpl
            def emudev_get_regions(self):
                return [RegionInfo(0, 4096, RegionFlag.READ | RegionFlag.WRITE)]
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_get_irq_groups() -> Sequence[IrqGroup]:
    """The device's groups of interrupts. Called as `emudev_get_regions`.

    Returns:
        The groups. Without an implementation there are none.

    Example:
        from emudev_core.regions import IrqGroup

        class Dice:
            @hookimpl
            def emudev_get_irq_groups(self):
                return [IrqGroup(0, 1)]
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_region_read(region: int, offset: int, size: int) -> int:
    """Read 1, 2, 4 or 8 bytes at a multiple of their number, most often a register.

    Called for each such access inside the region's size, tens of thousands of times a second.

    Returns:
        The value, 0 <= value < 2**(8 * size), little endian on the wire.

    Example:
        class Dice:
            @hookimpl
            def emudev_region_read(self, region, offset, size):
                return self.value if offset == 0 else 0
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_region_write(region: int, offset: int, size: int, value: int) -> Later | bool:
    """Write 1, 2, 4 or 8 bytes at a multiple of their number. Called as `emudev_region_read`.

    Writes to declared doorbells (`RegionInfo.doorbells`) come here only while an observer watches
    this hook; else the transport stores and rings them itself.

    Returns:
        True, or a `Later` if the write starts what takes time, as a function level reset does.

    Example:
        class Dice:
            @hookimpl
            def emudev_region_write(self, region, offset, size, value):
                self.value = value
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_region_read_bulk(region: int, offset: int, size: int) -> bytes:
    """Read any number of bytes, such as the whole configuration space.

    Called for accesses that `emudev_region_read` does not take.

    Returns:
        Exactly `size` bytes.

    Example:
        class Dice:
            @hookimpl
            def emudev_region_read_bulk(self, region, offset, size):
                return bytes(size)
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_region_write_bulk(region: int, offset: int, data: bytes) -> Later | bool:
    """Write any number of bytes. Called as `emudev_region_read_bulk`.

    Returns:
        As `emudev_region_write`.

    Example:
        class Dice:
            @hookimpl
            def emudev_region_write_bulk(self, region, offset, data):
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_dma_map(table: MemoryTable, region: MemoryRegion) -> None:
    """Guest memory was added.

    Called after each mapping; `table` is the new snapshot and already what `get_mem_table` answers.

    Example:
        class Dice:
            @hookimpl
            def emudev_dma_map(self, table, region):
                self.memory = table
    """


@hookspec(firstresult=True)
def emudev_dma_unmap(table: MemoryTable, region: MemoryRegion) -> Later | bool:
    """Guest memory is being taken away.

    Called with the snapshot without `region`, before the mapping is removed and the client
    answered; nothing may use the region's addresses once the answer is given. Regions that go
    together are told one by one, each with the snapshot that is left in the end.

    Returns:
        True, or a `Later` if somebody still works on the region.

    Example:
        class Dice:
            @hookimpl
            def emudev_dma_unmap(self, table, region):
                self.memory = table
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_irq_bound(group: int, vector: int, fd: int | None) -> None:
    """A vector got an eventfd to signal, or lost it (None).

    Called at each change. The transport owns the descriptor and closes the former one after this
    call. A signal that found no descriptor stays pending and goes out now, if the device's rules
    allow.

    Example:
        class Dice:
            @hookimpl
            def emudev_irq_bound(self, group, vector, fd):
                self.fd = fd
    """


@hookspec
def emudev_irq_masked(group: int, vector: int, masked: bool) -> None:
    """A client masked or unmasked a vector; for levels, unmasking asks to look at the level again.

    Called at each change, with the vector's new state.

    Example:
        class Dice:
            @hookimpl
            def emudev_irq_masked(self, group, vector, masked):
                self.masked = masked
    """


@hookspec
def emudev_irq_trigger(group: int, vector: int) -> None:
    """A client asks for a vector to be fired, as a loopback test.

    Called at each such request, seldom.

    Example:
        class Dice:
            @hookimpl
            def emudev_irq_trigger(self, group, vector):
                self.raise_vector(vector)
    """


@hookspec(firstresult=True)
def emudev_reset(kind: ResetKind) -> Later | bool:
    """Reset the device. Memory and bound vectors stay (with `CLIENT_GONE` they have gone already).

    Called at a client's reset and after a client has gone. Nothing is written to guest memory once
    it is answered, until the guest sets the device up again.

    Returns:
        True, or a `Later`.

    Example:
        class Dice:
            @hookimpl
            def emudev_reset(self, kind):
                self.value = 1
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_quiesce() -> Later | bool:
    """Come to rest: finish what is under way, touch no guest memory until the next command.

    Called by transports whose protocol asks for it, and by a program before it saves a device that
    runs.

    Returns:
        True, or a `Later`.

    Example:
        class Dice:
            @hookimpl
            def emudev_quiesce(self):
                return True
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_client_attached(client: str) -> None:
    """A client has attached and the device may be used (RFC v1, ``new_device``).

    Called once a client, before its first access.

    Args:
        client: For people: the transport's name of it.

    Example:
        class Dice:
            @hookimpl
            def emudev_client_attached(self, client):
                self.clients = 1
    """


@hookspec
def emudev_client_detached() -> None:
    """The client has gone (RFC v1, ``destroy_device``).

    Its memory and vectors have been taken back.

    Called once a client, after the reset that follows its going.

    Example:
        class Dice:
            @hookimpl
            def emudev_client_detached(self):
                self.clients = 0
    """


@hookspec
def emudev_status_changed(what: str) -> None:
    """Memory, interrupts or regions changed (RFC v1, ``update_status``).

    Called after each change that a client makes.

    Args:
        what: ``memory``, ``irqs`` or ``regions``.

    Example:
        class Dice:
            @hookimpl
            def emudev_status_changed(self, what):
                self.changes += 1
    """
