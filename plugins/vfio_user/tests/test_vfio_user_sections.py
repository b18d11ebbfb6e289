"""What the transport shows of itself to `emudev ctl show`, before, with and after a client."""

from __future__ import annotations

import os
import struct
from typing import Any

import msgspec
import pytest

from emudev_core.errors import PeerError
from emudev_core.later import Later

EVENTFD, TRIGGER = 4, 0x20
READ, WRITE = 1, 2
DMA_MAP, DMA_UNMAP, SET_IRQS, REGION_READ, RESET = 2, 3, 8, 9, 13


def _show(bench: Any, name: str) -> list[dict[str, Any]]:
    [section] = [
        section
        for member, section in bench.device.get_state()
        if member.name == "vfio_user" and section.name == name
    ]
    rows = [dict(row) for row in section.read()]
    assert len({tuple(row) for row in rows}) <= 1, "all rows have the same columns"
    msgspec.json.encode(rows)
    return rows


def _map(raw: Any, address: int, size: int, flags: int, fd: int | None = None) -> None:
    payload = struct.pack("<IIQQQ", 32, flags, 0, address, size)
    assert raw.call(DMA_MAP, payload, fds=None if fd is None else [fd])[3] == 1


def _unmap(raw: Any, address: int, size: int) -> None:
    assert raw.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, address, size))[3] == 1


def test_a_socket_without_a_client_is_shown_as_such(bench: Any) -> None:
    [ends] = _show(bench, "vfio-user")
    assert (ends["socket"], ends["listening"]) == (bench.path, True)
    assert (ends["clients"], ends["refused"], ends["connected"]) == (0, 0, False)
    absent = ("pid", "uid", "seconds", "phase", "version", "max_msg_fds", "sent_bytes")
    assert {ends[name] for name in absent} == {None}
    assert [_show(bench, name) for name in ("dma", "dma-ranges", "irqs")] == [[], [], []]


def test_who_the_client_is_and_what_was_agreed_on_is_shown(bench: Any) -> None:
    raw = bench.raw(greet=False)
    bench.turn()
    [ends] = _show(bench, "vfio-user")
    assert (ends["connected"], ends["phase"], ends["version"]) == (True, "greeting", None)
    assert (ends["pid"], ends["uid"]) == (os.getpid(), os.geteuid())
    text = b'{"capabilities":{"max_msg_fds":3,"max_data_xfer_size":65536,"max_dma_maps":20}}\0'
    raw.call(1, struct.pack("<HH", 0, 0) + text)
    [ends] = _show(bench, "vfio-user")
    assert (ends["phase"], ends["version"]) == ("serving", "0.0"), "the client's is the lower one"
    limits = ("max_msg_fds", "max_data_xfer_size", "max_dma_maps", "write_multiple")
    assert [ends[name] for name in limits] == [3, 65536, 20, False]
    assert 0 <= ends["seconds"] < 60


def test_bytes_that_were_sent_to_the_client_are_shown(bench: Any) -> None:
    raw = bench.raw()
    [before] = _show(bench, "vfio-user")
    for _ in range(3):
        raw.call(REGION_READ, struct.pack("<QII", 0, 0, 4))
    [after] = _show(bench, "vfio-user")
    # A reply has a header of 16 bytes, offset, region and count of 16, and the 4 that were read.
    assert after["sent_bytes"] - before["sent_bytes"] == 3 * 36
    assert after["unsent_bytes"] == 0


def test_clients_and_those_that_were_turned_away_are_counted(bench: Any) -> None:
    first = bench.raw()
    second = bench.raw(greet=False)
    assert second.closed
    [ends] = _show(bench, "vfio-user")
    assert (ends["clients"], ends["refused"], ends["phase"]) == (1, 1, "serving")
    first.close()
    bench.turn_until(lambda: bench.server.session is None)
    [ends] = _show(bench, "vfio-user")
    assert (ends["connected"], ends["pid"], ends["phase"]) == (False, None, None)
    bench.raw()
    assert _show(bench, "vfio-user")[0]["clients"] == 2


def test_a_connection_that_waits_for_its_device_is_shown_as_parked(bench: Any) -> None:
    raw = bench.raw()
    later = Later()
    bench.model.answers["reset"] = later
    raw.command(RESET)
    bench.turn()
    assert _show(bench, "vfio-user")[0]["phase"] == "parked"
    later.finish(True)
    bench.model.answers.clear()
    bench.turn()
    assert _show(bench, "vfio-user")[0]["phase"] == "serving"


def test_a_device_that_was_stopped_does_not_listen(bench: Any) -> None:
    bench.raw()
    bench.device.stop()
    [ends] = _show(bench, "vfio-user")
    assert (ends["listening"], ends["connected"]) == (False, False)
    bench.device.start()
    assert _show(bench, "vfio-user")[0]["listening"] is True


def test_memory_is_summed_up_by_the_way_it_is_reached(bench: Any, memfd: Any) -> None:
    raw = bench.raw()
    _map(raw, 0x10000, 0x3000, READ | WRITE, memfd(0x3000))
    _map(raw, 0x40000, 0x1000, READ, memfd(0x1000))
    _map(raw, 0x80000, 0x5000, WRITE)
    [dma] = _show(bench, "dma")
    assert (dma["ranges"], dma["by_message"]) == (3, 1)
    assert (dma["mapped_bytes"], dma["message_bytes"]) == (0x4000, 0x5000)
    ranges = _show(bench, "dma-ranges")
    assert [tuple(row.values())[:4] for row in ranges] == [
        (0x10000, 0x3000, "rw", "mapped"),
        (0x40000, 0x1000, "r", "mapped"),
        (0x80000, 0x5000, "w", "by message"),
    ]
    _unmap(raw, 0x10000, 0x3000)
    _unmap(raw, 0x80000, 0x5000)
    [dma] = _show(bench, "dma")
    assert (dma["ranges"], dma["by_message"]) == (1, 0)
    assert (dma["mapped_bytes"], dma["message_bytes"]) == (0x1000, 0)


def test_of_many_ranges_the_first_are_shown_and_the_others_counted(bench: Any) -> None:
    raw = bench.raw()
    for number in range(20):
        _map(raw, number << 12, 4096, READ)
    ranges = _show(bench, "dma-ranges")
    assert [row["guest"] for row in ranges] == [number << 12 for number in range(16)] + [None]
    assert ranges[-1]["reached"] == "4 more: see memory"
    assert _show(bench, "dma")[0]["ranges"] == 20


def test_memory_that_a_device_did_not_let_go_of_is_shown(bench: Any, memfd: Any) -> None:
    raw = bench.raw()
    _map(raw, 0x10000, 0x1000, READ, memfd(0x1000))
    bench.model.answers["dma_unmap"] = OSError("not now")
    raw.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0x10000, 0x1000))
    [dma] = _show(bench, "dma")
    assert (dma["ranges"], dma["kept_after_unmap"], dma["mapped_bytes"]) == (0, 1, 0)
    bench.model.answers.clear()


def test_accesses_by_message_are_counted_until_they_are_answered(bench: Any) -> None:
    raw = bench.raw()
    _map(raw, 0x80000, 0x40000, READ | WRITE)
    channel = bench.model.table.find(0x80000).channel
    channel.store(0x80000, bytes(100), lambda done: None)
    channel.fetch(0x81000, 40, lambda data: None)
    channel.store(0x82000, bytes(8), lambda done: None, ordered=True)
    [dma] = _show(bench, "dma")
    assert (dma["writes"], dma["written_bytes"]) == (1, 100)
    assert (dma["reads"], dma["read_bytes"]) == (1, 40)
    assert (dma["outstanding"], dma["waiting"]) == (2, 1)
    for msg_id, command, _, _, _, payload in raw.replies():
        answer = payload[:16] + (bytes(40) if command == 11 else b"")
        raw.command(command, answer, flags=1, msg_id=msg_id)
    bench.turn()
    [dma] = _show(bench, "dma")
    assert (dma["writes"], dma["written_bytes"], dma["outstanding"]) == (2, 108, 1)
    [(msg_id, command, *_)] = raw.replies()
    raw.send(struct.pack("<HHIII", msg_id, command, 16, 0x21, 14))  # EFAULT
    bench.turn()
    [dma] = _show(bench, "dma")
    assert (dma["failed_writes"], dma["outstanding"], dma["waiting"]) == (1, 0, 0)


def test_interrupts_are_shown_with_the_vectors_that_have_an_eventfd(
    bench: Any, eventfds: Any
) -> None:
    client = bench.client()
    assert [(row["name"], row["vectors"], row["bound"]) for row in _show(bench, "irqs")] == [
        ("INTx", 1, 0), ("MSI", 0, 0), ("MSI-X", 3, 0), ("ERR", 1, 0), ("REQ", 1, 0)
    ]  # fmt: skip
    client.set_irqs(EVENTFD | TRIGGER, 2, 0, 3, fds=eventfds(3))
    assert [(row["bound"], row["which"]) for row in _show(bench, "irqs")][2] == (3, "0-2")
    client.irq_bind(2, 1, None)
    assert [(row["bound"], row["which"]) for row in _show(bench, "irqs")][2] == (2, "0 2")


def test_nothing_of_a_request_that_was_refused_is_shown(bench: Any, eventfds: Any) -> None:
    client = bench.client()
    with pytest.raises(PeerError):
        client.set_irqs(EVENTFD | TRIGGER, 2, 2, 2, fds=eventfds(2))
    assert _show(bench, "irqs")[2]["bound"] == 0
