"""A wiring between a NIC and a TAP that are both made up."""

from emudev_core.device import Device
from emudev_core.loop import Loop
from emudev_net.jit import compile_now
from emudev_tap_backend.wiring import Wiring


class Setup:
    """A NIC, a fake TAP, and the wiring between them.

    Args:
        nic: The NIC.
        tap: The TAP.
        keys: Of the wiring.

    Attributes:
        kernels: Compiled before anything else.
        losses: How often the wiring told that it lost the TAP.
    """

    kernels = ()

    def __init__(self, nic, tap, **keys):
        compile_now(self.kernels)
        self.loop = Loop(spin=0)
        self.nic = nic
        self.tap = tap
        self.device = Device("fake_emudev_0", 0, "fake", self.loop)
        self.device.register(nic, "fake_0")
        self.losses = 0
        self.wiring = Wiring(self.device, tap, self.loop, self.lost, **keys)

    def lost(self):
        self.losses += 1

    def enable(self, *queues, enabled=True):
        with self.device.paused():
            for number in queues:
                self.nic.queues[number].enabled = enabled
        self.wiring.refresh()

    def close(self):
        self.wiring.close()
        self.wiring.close()
        self.tap.close()
        self.loop.close()
