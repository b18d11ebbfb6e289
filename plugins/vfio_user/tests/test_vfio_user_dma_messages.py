"""Guest memory that is reached by message: reads, queued writes, and clients that do not answer."""

from __future__ import annotations

import os
import struct
import time
from typing import Any

import pytest

from emudev_core.errors import MemoryAccessError
from emudev_vfio_user import channel as channel_module


def test_memory_without_a_descriptor_is_reached_by_message(bench: Any) -> None:
    client = bench.client()
    memory = bytearray(os.urandom(0x30_000))
    client.dma_map(0x1000, len(memory), memory=memory)
    table = bench.model.table
    assert table.regions[0].host is None
    assert table.read(0x1000, len(memory)) == memory
    assert client.dma_reads == 3  # chunks of 64 KiB
    table.write(0x1010, b"stored")
    assert memory[0x10:0x16] == b"stored"
    table.write(0x1000, bytes(0x20_001))
    assert memory[:0x20_002] == bytes(0x20_001) + memory[0x20_001:0x20_002]
    assert client.dma_writes == 1 + 3


def test_a_read_inside_a_handler_raises_and_a_write_comes_after_the_reply(bench: Any) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000))
    caught: list[str] = []

    def handler(region: int, offset: int, size: int, value: int) -> None:
        bench.model.table.write(0x100, b"queued")
        try:
            bench.model.table.read(0x100, 4)
        except MemoryAccessError as exc:
            caught.append(exc.reason)

    bench.model.on_write = handler
    raw.command(10, struct.pack("<QII", 0, 0, 4) + b"abcd", msg_id=9)
    replies = raw.replies()
    assert "waits for this handler" in caught[0]
    assert [(r[0], r[1], r[3]) for r in replies] == [(9, 10, 1), (0, 12, 0)]
    assert replies[1][5] == struct.pack("<QQ", 0x100, 6) + b"queued"


def test_queued_writes_go_one_at_a_time_in_chunks(bench: Any) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 1 << 20))
    bench.model.on_write = lambda *args: (
        bench.model.table.write(0, b"a" * 0x10_001),
        bench.model.table.write(0x4_0000, b"b"),
    )
    raw.command(10, struct.pack("<QII", 0, 0, 4) + b"abcd", flags=0x10)
    seen = []
    for _ in range(3):
        (message,) = raw.replies()
        address, count = struct.unpack_from("<QQ", message[5])
        seen.append((address, count))
        assert raw.replies() == []
        raw.command(12, message[5][:16], flags=1, msg_id=message[0])
    assert seen == [(0, 0x1_0000), (0x1_0000, 1), (0x4_0000, 1)]
    assert raw.replies() == []


def test_commands_are_served_while_a_dma_answer_is_waited_for(bench: Any) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000))
    # The answer is preceded by what QEMU may send meanwhile; all of it is there when the read
    # starts.
    raw.command(10, struct.pack("<QII", 8, 0, 4) + b"post", flags=0x10)
    raw.command(9, struct.pack("<QII", 8, 0, 4), msg_id=3)
    raw.command(11, struct.pack("<QQ", 0x10, 4) + b"data", flags=1, msg_id=0)
    assert bench.model.table.read(0x10, 4) == b"data"
    replies = raw.replies()
    assert [(r[0], r[1], r[3]) for r in replies] == [(0, 11, 0), (3, 9, 1)]
    assert replies[1][5][16:] == b"post"


def test_a_refused_dma_message_raises_with_the_clients_reason(bench: Any) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000))
    raw.send(struct.pack("<HHIII", 0, 11, 16, 0x21, 19))
    with pytest.raises(MemoryAccessError, match="No such device"):
        bench.model.table.read(0, 4)
    raw.send(struct.pack("<HHIII", 1, 12, 16, 0x21, 19))
    with pytest.raises(MemoryAccessError, match="No such device"):
        bench.model.table.write(0, b"1234")
    raw.command(9, struct.pack("<QII", 0, 0, 4), msg_id=8)
    assert [(r[0], r[1]) for r in raw.replies()] == [(0, 11), (1, 12), (8, 9)]


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(15), struct.pack("<QQ", 0, 4) + b"abc", struct.pack("<QQ", 4, 4) + b"abcd"],
    ids=["empty", "cut", "too little data", "another address"],
)
def test_a_malformed_dma_answer_raises(bench: Any, payload: bytes) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000))
    raw.command(11, payload, flags=1, msg_id=0)
    with pytest.raises(MemoryAccessError, match="Protocol error"):
        bench.model.table.read(0, 4)


def test_a_client_that_does_not_answer_costs_one_wait_until_it_does(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "LIMIT", 0.05)
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000))
    with pytest.raises(MemoryAccessError, match="did not answer"):
        bench.model.table.read(0, 4)
    start = time.monotonic()
    for _ in range(50):
        with pytest.raises(MemoryAccessError, match="does not answer"):
            bench.model.table.read(0, 4)
    assert time.monotonic() - start < 0.05
    raw.command(11, struct.pack("<QQ", 0, 4) + b"late", flags=1, msg_id=0)
    raw.replies()
    raw.command(11, struct.pack("<QQ", 0, 4) + b"soon", flags=1, msg_id=1)
    assert bench.model.table.read(0, 4) == b"soon"


def test_a_client_that_vanishes_while_its_memory_is_read_ends_the_wait(bench: Any) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000))
    table = bench.model.table
    raw.close()
    with pytest.raises(MemoryAccessError, match="has gone"):
        table.read(0, 4)
    bench.turn()
    with pytest.raises(MemoryAccessError):
        table.write(0, b"1234")


def test_a_device_that_writes_without_end_is_stopped_at_the_queues_bound(bench: Any) -> None:
    raw = bench.raw()
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 1 << 24))
    caught: list[MemoryAccessError] = []

    def handler(*args: int) -> None:
        try:
            for i in range(100):
                bench.model.table.write(i << 16, bytes(1 << 16))
        except MemoryAccessError as exc:
            caught.append(exc)

    bench.model.on_write = handler
    raw.command(10, struct.pack("<QII", 0, 0, 4) + b"abcd", flags=0x10)
    raw.replies()
    assert "bytes wait already" in caught[0].reason
