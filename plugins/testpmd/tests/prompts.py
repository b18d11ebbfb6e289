"""An application with ports in memory, typed to by hand."""

import io

from emudev_net.memory_port import MemoryPort
from emudev_testpmd.application import Application
from emudev_testpmd.arguments import parse
from emudev_testpmd.engine import Engine
from emudev_testpmd.output import Output
from emudev_testpmd.prompt.table import COMMANDS

FRAME = bytes.fromhex("020000000001020000000002 0800") + bytes(50)


class Prompt:
    """An application with its ports, and what it has said."""

    def __init__(self, loop, words="-i", *, ports=2, as_json=False, lcores=0):
        self.loop = loop
        self.results, self.words = io.StringIO(), io.StringIO()
        self.ports = [MemoryPort(f"net_memory_{n}", loop, queues=2) for n in range(ports)]
        self.stopped = 0
        request = parse(words.split())
        self.engine = Engine(loop, self.ports, request.options)
        output = Output(as_json=as_json, results=self.results, words=self.words)
        self.application = Application(
            self.engine, output, request, COMMANDS, self._stop, lcores=lcores
        )

    def _stop(self):
        self.stopped += 1

    def take(self):
        """What it said since the last time: results, words."""
        found = self.results.getvalue(), self.words.getvalue()
        for stream in (self.results, self.words):
            stream.seek(0)
            stream.truncate()
        return found

    def __call__(self, line):
        """Type a line; what it says of results. Complaints are a failure."""
        self.take()
        self.application.execute(line)
        results, words = self.take()
        complaints = [w for w in words.splitlines() if "plain Python" not in w]
        assert not complaints, complaints
        return results

    def refused(self, line):
        """Type a line that can't be done; what it complains of."""
        self.take()
        self.application.execute(line)
        return self.take()[1]

    def turn(self, times=20):
        for _ in range(times):
            self.loop.turn(0.0)
