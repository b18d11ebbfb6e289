"""Fixtures of ports and files; the tests import helpers that stand beside this file, too."""

import sys
import time
from pathlib import Path

import pytest

from emudev_core.host import Host
from emudev_net.burst import Burst
from emudev_net.testing import compiled_or_plain, jit
from emudev_pcap import reader_kernels as k
from emudev_pcap import writer_kernels
from emudev_pcap.capture_file import CaptureFile
from emudev_pcap.formats import CaptureError

sys.path.insert(0, str(Path(__file__).parent))

from captures import Read, opened

__all__ = ["compiled_or_plain", "jit"]


@pytest.fixture
def kernels(compiled_or_plain):
    """Puts all kernels into the mode of the test."""
    compiled_or_plain(*k.KERNELS, *writer_kernels.KERNELS)


@pytest.fixture
def host():
    """A host of ports."""
    with Host() as host:
        yield host


@pytest.fixture
def add(host):
    """Makes a port of a vdev string, started, that is polled unless said otherwise."""
    made = []

    def make(vdev, queues=1, polled=True):
        port = host.add(f"net_pcap,{vdev}")
        made.append(port)
        port.set_polled(polled)
        port.configure(queues, queues)
        port.start()
        deadline = time.monotonic() + 30
        while not port.ready:
            host.loop.turn(0.01)
            assert time.monotonic() < deadline
        return port

    yield make
    for port in made:
        port.close()


@pytest.fixture(params=["in memory", "streamed"])
def memory(request):
    """The bytes of a file that are kept in memory at most."""
    return 1 << 30 if request.param == "in memory" else 0


@pytest.fixture
def read(tmp_path, memory):
    """Reads all packets of bytes by the kernels."""

    def run(data, rows=8, tolerant=0):
        path = tmp_path / "file"
        path.write_bytes(data)
        file = CaptureFile(str(path), memory)
        cursor = opened(file, tolerant)
        burst = Burst(rows)
        packets, times = [], []
        while burst_rows := k.peek(cursor.words.address, burst.address, rows):
            found = burst.packets(burst_rows)
            packets += [p.data for p in found]
            times += [p.time for p in found]
            k.release(cursor.words.address, burst.address, burst_rows)
        error = cursor.fault(str(path))
        cursor.leave()
        return Read(packets, times, error, cursor)

    return run


@pytest.fixture
def refuse(tmp_path, memory):
    """The error for which bytes are refused, by `CaptureFile` or by its check."""

    def run(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(CaptureError) as caught:
            CaptureFile(str(path), memory).check(tolerant=False)
        assert str(path) in str(caught.value)
        return caught.value

    return run
