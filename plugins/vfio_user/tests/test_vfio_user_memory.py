"""What a client leaves behind when it has gone: nothing, without Python's garbage collector."""

import gc
import os
import socket
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from emudev_core.errors import MemoryAccessError
from emudev_core.later import Later
from emudev_vfio_user.protocol import Receiver

# Connects the given number of clients, each of which maps memory and goes; prints RssAnon in KiB
# after the tenth and after the last.
CLIENTS = """
import gc, sys
sys.path.insert(0, sys.argv[1])
from conftest import Bench, PciModel
from emudev_net import jit, sigbus

jit.compile_now(sigbus.KERNELS)  # in the background it would take memory meanwhile
gc.disable()
bench = Bench(sys.argv[2], PciModel())

def used():
    with open("/proc/self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("RssAnon"))

for number in range(60):
    if number == 10:
        print(used())
    raw = bench.raw()
    bench.turn()
    bench._open.remove(raw)
    raw.close()
    bench.turn_until(lambda: bench.server.session is None)
print(used())
bench.close()
"""


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _watched(bench):
    """The present session, not kept."""
    return weakref.ref(bench.server.session)


def test_a_session_is_freed_without_the_collector_once_its_client_has_gone(bench, no_collector):
    raw = bench.raw()
    assert raw.call(9, struct.pack("<QII", 0x10, 0, 4))[3] == 1
    session = _watched(bench)
    raw.close()
    bench.turn_until(lambda: bench.server.session is None)
    assert session() is None


def test_a_session_is_freed_that_had_memory_interrupts_and_masks(bench, memfd, no_collector):
    raw = bench.raw()
    fd, event, mask = memfd(4096), os.eventfd(0), os.eventfd(0)
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0x1000, 4096), fds=[fd])
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 4096))  # reached by message
    raw.call(8, struct.pack("<IIIII", 20, 0x24, 2, 0, 1), fds=[event])
    raw.call(8, struct.pack("<IIIII", 20, 0x0C, 0, 0, 1), fds=[mask])
    kept = bench.model.table
    session = _watched(bench)
    raw.close()
    bench.turn_until(lambda: bench.server.session is None)
    assert session() is None
    # A provider that keeps an old table keeps no session, and is told that nobody is there.
    channel = kept.find(0x10000).channel
    with pytest.raises(MemoryAccessError, match="has gone"):
        channel.read(0x10000, 4)
    os.close(event)
    os.close(mask)


def test_a_session_is_freed_whose_device_answered_late(bench, model, no_collector):
    raw = bench.raw()
    later = Later()
    model.answers["reset"] = later
    raw.command(13)
    bench.turn()
    session = _watched(bench)
    raw.close()
    later.finish(True)
    model.answers.clear()
    del later
    bench.turn_until(lambda: bench.server.session is None)
    assert session() is None


@pytest.mark.parametrize(
    "data", [struct.pack("<HHIII", 1, 9, 3, 0, 0), b"\1"], ids=["lost-framing", "cut-off"]
)
def test_a_session_is_freed_that_ended_in_an_error(bench, no_collector, data):
    raw = bench.raw()
    session = _watched(bench)
    raw.send(data)
    bench.turn()
    raw.close()
    bench.turn_until(lambda: bench.server.session is None)
    assert session() is None


def test_a_server_that_stops_frees_its_session(bench, no_collector):
    bench.raw()
    session = _watched(bench)
    bench.device.stop()
    bench.device.close()
    bench.turn()
    assert bench.server.session is None
    assert session() is None


def test_memory_does_not_grow_with_the_clients_that_have_come_and_gone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS, str(Path(__file__).parent), str(tmp_path / "s")],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 256  # KiB for 50 clients; each buffer alone is 128


def test_a_receiver_takes_little_memory_until_a_long_message_comes():
    receiver = Receiver()
    small = len(receiver.buffer)
    assert small <= 128 << 10
    body = os.urandom(1 << 20)
    stream = struct.pack("<HHIII", 7, 10, 16 + len(body), 0x10, 0) + body
    messages = []
    for at in range(0, len(stream), 50_000):
        receiver.feed(stream[at : at + 50_000])
        messages += [bytes(receiver.buffer[m[4] : m[5]]) for m in receiver.messages()]
    assert messages == [body]
    # A full message and one receive: never more, however much is sent.
    assert len(receiver.buffer) <= (1 << 20) + 32 + (64 << 10)
    for _ in range(3):
        for at in range(0, len(stream), 65_536):
            receiver.feed(stream[at : at + 65_536])
            assert all(m[5] - m[4] == len(body) for m in receiver.messages())
    assert len(receiver.buffer) <= (1 << 20) + 32 + (64 << 10)


def test_bytes_that_came_before_a_buffer_grows_are_kept():
    one, two = socket.socketpair()
    with one, two:
        receiver = Receiver()
        found = []
        for size in (10, 70_000, 131_000, 300_000, 5):
            body = bytes([size & 0xFF]) * size
            one.setblocking(False)
            rest = memoryview(struct.pack("<HHIII", 7, 10, 16 + size, 0x10, 0) + body)
            while rest:
                rest = rest[one.send(rest[:30_000]) :]
                receiver.received(two.recv_into(receiver.room()))
                found += [bytes(receiver.buffer[m[4] : m[5]]) for m in receiver.messages()]
            assert found.pop() == body
            assert not found
