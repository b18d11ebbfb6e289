"""A message that comes alone is served on a shorter way, and answered as one in a row."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from typing import Any

import pytest

from emudev_core.hooks import hookimpl
from emudev_core.lifecycle import State
from emudev_net import fast_wait
from emudev_net.fast_wait import FastWait
from emudev_net.jit import compile_now, jit_wanted
from emudev_vfio_user.protocol import Receiver

EIO = 5


def _message(command: int, payload: bytes, *, flags: int = 0, size: int | None = None) -> bytes:
    length = 16 + len(payload) if size is None else size
    return struct.pack("<HHIII", 0x77, command, length, flags, 0) + payload


def _read(region: int, offset: int, count: int, **options: Any) -> bytes:
    return _message(9, struct.pack("<QII", offset, region, count), **options)


def _write(region: int, offset: int, data: bytes, *, flags: int = 0x10) -> bytes:
    head = struct.pack("<QII", offset, region, len(data))
    return _message(10, head + data, flags=flags)


#: A read that is answered in any state, in front of what is tried, so that it does not come alone.
COMPANY = _read(1, 0, 1)

MESSAGES = {
    "read-1": _read(0, 3, 1),
    "read-2": _read(0, 2, 2),
    "read-4": _read(0, 4, 4),
    "read-8": _read(0, 8, 8),
    "read-0": _read(0, 8, 0),
    "read-3": _read(0, 0, 3),
    "read-unaligned": _read(0, 2, 4),
    "read-last": _read(7, 252, 4),
    "read-across-the-end": _read(7, 252, 8),
    "read-behind-the-end": _read(7, 256, 4),
    "read-far": _read(0, (1 << 64) - 4, 4),
    "read-no-region": _read(3, 0, 4),
    "read-unknown-region": _read(99, 0, 4),
    "read-too-long": _read(0, 0, 0xFFFFFFFF),
    "read-posted": _read(0, 4, 4, flags=0x10),
    "read-unknown-flags": _read(0, 4, 4, flags=0x40),
    "write-of-16": _message(10, struct.pack("<QII", 4, 0, 0)),
    "two-resets": _message(13, b"") * 2,
    "doorbell": _write(0, 0x1008, b"\4\3\2\1"),
    "doorbell-acknowledged": _write(0, 0x1008, b"\4\3\2\1", flags=0),
    "beside-a-doorbell": _write(0, 0x1004, b"\4\3\2\1"),
    "into-a-doorbell": _write(0, 0x100A, b"\4\3\2\1"),
    "doorbell-of-no-region": _write(3, 0x1008, b"\4\3\2\1"),
    "doorbell-count-2": _message(10, struct.pack("<QII", 0x1008, 0, 2) + b"\4\3\2\1", flags=0x10),
    "read-with-data": _message(9, struct.pack("<QII", 0x1008, 0, 4) + b"\4\3\2\1", flags=0x10),
}


def _what_happens(raw: Any, bench: Any, data: bytes) -> tuple[Any, ...]:
    model = bench.model
    model.bar0[:16] = bytes(range(16))
    model.calls.clear()
    model.rings.clear()
    model.words[:] = type(model.words)("I", [0] * 4)
    raw.send(data)
    replies = raw.replies()
    calls = [call for call in model.calls if call != ("read", 1, 0, 1)]
    return replies, calls, list(model.rings), list(model.words), bytes(model.bar0)


@pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_has_the_same_answer_alone_and_in_a_row(bench: Any, data: bytes) -> None:
    raw = bench.raw()
    alone = _what_happens(raw, bench, data)
    replies, *rest = _what_happens(raw, bench, COMPANY + data)
    assert replies[0][5] == struct.pack("<QIIB", 0, 1, 1, 0)
    assert alone == (replies[1:], *rest)
    assert bench.device.state is State.STARTED


def _to_a_sleeper(raw: Any, bench: Any, data: bytes) -> dict[str, int]:
    """Send to a loop that sleeps, and then a read on top; what its wait has counted meanwhile."""
    wait = FastWait.of(bench.loop)
    before = wait.stats()

    def until_asleep(times: int) -> None:
        end = time.monotonic() + 5
        while wait.stats()["sleeps"] < before["sleeps"] + times and time.monotonic() < end:
            time.sleep(0.0005)

    def play() -> None:
        until_asleep(1)
        raw.sock.sendall(data)
        until_asleep(2)
        raw.sock.sendall(COMPANY)
        select.select([raw.sock], [], [], 5)
        bench.loop.call_threadsafe(bench.loop.stop)

    player = threading.Thread(target=play)
    player.start()
    bench.loop.run()
    player.join()
    return {name: value - before[name] for name, value in wait.stats().items()}


@pytest.mark.skipif(not jit_wanted(), reason="a wait without compiled kernels is the loop's")
@pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_has_the_same_answer_from_a_loop_that_slept(bench: Any, data: bytes) -> None:
    compile_now(fast_wait.KERNELS)
    raw = bench.raw()
    awake = _what_happens(raw, bench, data)
    model = bench.model
    model.bar0[:16] = bytes(range(16))
    model.calls.clear()
    model.rings.clear()
    model.words[:] = type(model.words)("I", [0] * 4)
    _to_a_sleeper(raw, bench, data)
    replies = raw.replies()
    calls = [call for call in model.calls if call != ("read", 1, 0, 1)]
    assert (replies[:-1], calls, model.rings, list(model.words), bytes(model.bar0)) == awake
    assert replies[-1][5] == struct.pack("<QIIB", 0, 1, 1, 0)


@pytest.mark.skipif(not jit_wanted(), reason="a wait without compiled kernels is the loop's")
def test_a_sleeping_loop_leaves_doorbells_to_whoever_watches_writes(bench: Any) -> None:
    compile_now(fast_wait.KERNELS)
    raw = bench.raw()
    for bell in bench.model.doorbells:
        bell.close()  # nobody has to be called: the wait could do it all
    assert _to_a_sleeper(raw, bench, _write(0, 0x1008, b"\4\3\2\1"))["served"] == 1
    seen = []

    class Watcher:
        @hookimpl(tryfirst=True)
        def emudev_region_write(self, region: int, offset: int, size: int, value: int) -> None:
            seen.append((region, offset, size, value))

    bench.device.register(Watcher(), "watcher")
    assert _to_a_sleeper(raw, bench, _write(0, 0x1008, b"\7\3\2\1"))["served"] == 0
    assert seen == [(0, 0x1008, 4, 0x01020307)]


def test_a_lone_read_or_doorbell_is_served_without_the_framing(
    bench: Any, monkeypatch: Any
) -> None:
    raw = bench.raw()

    def framing(self: Receiver) -> Any:
        raise AssertionError("took the long way")

    monkeypatch.setattr(Receiver, "messages", framing)
    bench.model.bar0[4:8] = b"abcd"
    (reply,) = _what_happens(raw, bench, _read(0, 4, 4))[0]
    assert reply == (0x77, 9, 36, 1, 0, struct.pack("<QII", 4, 0, 4) + b"\4\5\6\7")
    assert _what_happens(raw, bench, _write(0, 0x1008, b"\4\3\2\1"))[2:4] == (
        [1],
        [0, 0x01020304, 0, 0],
    )


def test_a_lone_read_is_told_from_the_start_of_a_longer_message(bench: Any) -> None:
    raw = bench.raw()
    data = _write(0, 0x20, bytes(range(100)), flags=0)
    raw.send(data[:32])
    assert raw.replies() == []
    raw.send(data[32:36])  # 36 bytes are there: the length of a doorbell
    assert raw.replies() == []
    raw.send(data[36:])
    assert [reply[:5] for reply in raw.replies()] == [(0x77, 10, 32, 1, 0)]
    assert bench.model.bar0[0x20 : 0x20 + 100] == bytes(range(100))


def test_descriptors_with_a_lone_read_are_closed(bench: Any) -> None:
    raw = bench.raw()
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(raw.sock, [_read(0, 4, 4)], [0, 1, 2])
    assert raw.replies()[0][3:5] == (1, 0)
    raw.call(9, struct.pack("<QII", 0, 0, 4))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("data", [_read(0, 4, 4), _write(0, 0x1000, bytes(4))])
def test_a_device_in_error_serves_no_lone_message(bench: Any, data: bytes) -> None:
    raw = bench.raw()
    bench.device.fail("for the test")
    replies, calls, rings, *_ = _what_happens(raw, bench, data)
    assert [reply[3:5] for reply in replies] == ([(0x21, EIO)] if data[4] == 32 else [])
    assert calls == []
    assert rings == []


def test_a_provider_that_raises_at_a_lone_read_is_answered_eio(bench: Any) -> None:
    raw = bench.raw()
    bench.model.answers["region_read"] = RuntimeError("broken")
    raw.send(_read(0, 4, 4))
    assert [reply[3:5] for reply in raw.replies()] == [(0x21, EIO)]
    assert bench.device.state is State.ERROR


def test_a_subscriber_that_raises_at_a_lone_doorbell_is_a_fault(bench: Any) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    raw = bench.raw()
    bench.model.doorbells[0].subscribe(broken)
    raw.send(_write(0, 0x1000, bytes(4)))
    assert raw.replies() == []
    assert bench.device.state is State.ERROR


def test_an_observer_sees_a_lone_doorbell(bench: Any) -> None:
    seen = []

    class Watcher:
        @hookimpl(wrapper=True)
        def emudev_region_write(self, offset: int) -> Any:
            seen.append(offset)
            return (yield)

    raw = bench.raw()
    bench.device.register(Watcher(), "watcher")
    raw.send(_write(0, 0x1000, bytes(4)))
    raw.replies()
    assert seen == [0x1000]
    assert bench.model.rings == []
