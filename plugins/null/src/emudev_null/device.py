"""The device ``emu_null``: what its registers do.

Declarations come first; handlers are tied to registers by name. A handler runs on the loop's thread
and never waits. One that touches guest memory is *deferred*: it runs after the guest's write was
answered, since memory may be reachable by messages to the guest's VMM only, which waits until then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING

from emudev_core.errors import MemoryAccessError
from emudev_core.queues import Doorbell
from emudev_pci.function import MemoryBar, Msix, PciFunction, PciIds

from .registers import DONE, ERROR, FETCH, MAP, STORE

if TYPE_CHECKING:
    from emudev_core.specs import ProviderContext

    from .config import NullConfig

__all__ = ["NullDevice"]


class NullDevice(PciFunction):
    """See the module.

    Args:
        config: What the user said.
        context: What the host gives.
    """

    ids = PciIds(vendor=0x1234, device=0x0E00, class_code=0xFF0000)
    bars: Mapping[int, MemoryBar] = {0: MemoryBar(MAP)}

    def __init__(self, config: NullConfig, context: ProviderContext) -> None:
        # What depends on the configuration is set before the base class looks at it.
        self.msix = Msix(vectors=config.vectors, bar=1)
        super().__init__(config, context)
        self._word = ctypes.c_uint32()
        self.doorbell = Doorbell(0, ctypes.addressof(self._word))
        self.doorbell.subscribe(self._rung)
        self.bind_doorbells("DOORBELL", [self.doorbell])
        self.attributes.add("commands", int, "commands that ended well", lambda: self._commands)
        self._commands = 0

    @MAP.on_write("COMMAND", deferred=True)
    def command(self, value: int) -> None:
        """Do what the guest asks; its mistakes end in STATUS, never in an exception."""
        try:
            if value == STORE:
                self.memory.write_u32(self.regs.ADDRESS, self.regs.DATA)
            elif value == FETCH:
                self.regs.DATA = self.memory.read_u32(self.regs.ADDRESS)
            else:
                self._end(ERROR)
                return
        except MemoryAccessError:
            self._end(ERROR)
        else:
            self._commands += 1
            self._end(DONE)

    def _end(self, status: int) -> None:
        self.regs.STATUS = status
        self.vectors[0].trigger()

    def _rung(self) -> None:
        # Only counting is done here: a transport may store and ring doorbells by itself, many in a
        # row. A device with queues marks a task of the loop instead.
        self.regs.COUNTER += 1
        if self.regs.SCRATCH:
            self.vectors[-1].trigger()

    def on_close(self) -> None:
        """Give everything back."""
        self.doorbell.close()
