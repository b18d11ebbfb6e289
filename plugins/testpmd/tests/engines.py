"""An engine on the loop's thread, with ports in memory."""

from emudev_core.loop import Loop
from emudev_net.memory_port import MemoryPort
from emudev_testpmd.engine import Engine
from emudev_testpmd.options import Options

FRAME = bytes.fromhex("020000000001 020000000002 88b5") + bytes(50)


class Ports:
    """Some ports in memory, and an engine."""

    def __init__(self, count=2, queues=1, made=None, **options):
        self.loop = Loop(spin=0)
        self.ports = made or [
            MemoryPort(f"net_memory_{n}", self.loop, queues=queues) for n in range(count)
        ]
        self.engine = Engine(self.loop, self.ports, Options(**{"interrupt": True, **options}))
        self.notices = []
        self.engine.subscribe(self.notices.append)

    def told(self, kind):
        return [n.text for n in self.notices if n.kind is kind]

    def turn(self, times=20):
        for _ in range(times):
            self.loop.turn(0)
