"""A session: accesses, doorbells, order, slow answers, faults, and clients that vanish."""

from __future__ import annotations

import logging
import os
import struct
import threading
from typing import Any

import pytest

from emudev_core.errors import PeerError
from emudev_core.hooks import hookimpl
from emudev_core.later import Later
from emudev_core.lifecycle import State
from emudev_core.regions import ResetKind
from emudev_vfio_user import outbox

EIO, EPERM = 5, 1


def _access(region: int, offset: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<QII", offset, region, count) + data


def _message(command: int, payload: bytes = b"", *, msg_id: int = 1, flags: int = 0) -> bytes:
    return struct.pack("<HHIII", msg_id, command, 16 + len(payload), flags, 0) + payload


# -- accesses


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_an_aligned_access_reaches_the_register_hooks(bench: Any, size: int) -> None:
    client = bench.client()
    bench.model.calls.clear()
    data = bytes(range(0x11, 0x11 + size))
    client.region_write(0, 8, data)
    assert client.region_read(0, 8, size) == data
    value = int.from_bytes(data, "little")
    assert bench.model.calls == [("write", 0, 8, size, value), ("read", 0, 8, size)]


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (4, 8), (0, 3), (0, 16), (5, 251)])
def test_any_other_access_reaches_the_bulk_hooks(bench: Any, offset: int, size: int) -> None:
    client = bench.client()
    bench.model.calls.clear()
    data = os.urandom(size)
    client.region_write(0, offset, data)
    assert client.region_read(0, offset, size) == data
    assert [c[0] for c in bench.model.calls] == ["write_bulk", "read_bulk"]


def test_configuration_space_is_the_same_bytes_by_any_width_at_any_offset(bench: Any) -> None:
    client = bench.client()
    whole = client.region_read(7, 0, 256)
    assert whole[:4] == bytes.fromhex("3412ced1")
    for size in (1, 2, 4):
        reads = [(7, offset, size) for offset in range(257 - size)]
        assert client.region_read_many(reads) == [whole[o : o + size] for _, o, _ in reads]


def test_no_write_of_a_guest_to_configuration_space_is_an_error(bench: Any) -> None:
    client = bench.client()
    before = client.region_read(7, 0, 4)
    for size in (1, 2, 4, 8):
        client.region_write_many([(7, o, b"\xff" * size) for o in range(257 - size)])
    client.region_write(7, 0, bytes(256))
    assert client.region_read(7, 0, 4) == before


def test_replies_echo_offset_region_and_count(bench: Any) -> None:
    raw = bench.raw()
    bench.model.bar0[0x100:0x104] = b"\x33" * 4
    read = raw.call(9, _access(0, 0x100, 4), msg_id=0xF5)
    assert read == (0xF5, 9, 36, 1, 0, _access(0, 0x100, 4, b"\x33" * 4))
    written = raw.call(10, _access(0, 0x100, 4, b"abcd"), msg_id=0xF6)
    assert written == (0xF6, 10, 32, 1, 0, _access(0, 0x100, 4))


def test_many_messages_in_one_receive_are_answered_in_order(bench: Any) -> None:
    raw = bench.raw()
    stream = b""
    for i in range(300):
        stream += _message(10, _access(0, 0, 4, struct.pack("<I", i)), flags=0x10)
        stream += _message(9, _access(0, 0, 4), msg_id=i)
    raw.send(stream)
    replies = raw.replies()
    assert [(r[0], r[5][16:]) for r in replies] == [(i, struct.pack("<I", i)) for i in range(300)]


def test_a_message_that_trickles_in_is_served_when_it_is_whole(bench: Any) -> None:
    raw = bench.raw()
    for byte in _message(10, _access(0, 0x20, 4, b"slow")):
        assert raw.replies(1) == []
        raw.send(bytes([byte]))
    assert raw.replies()[0][3] == 1
    assert bench.model.bar0[0x20:0x24] == b"slow"


def test_write_multi_is_applied_in_order_and_never_answered_when_posted(bench: Any) -> None:
    raw = bench.raw()
    records = [(0x100, 4, b"\1\1\1\1"), (0x102, 1, b"\2"), (0x103, 3, b"abc"), (0x100, 1, b"\3")]
    payload = struct.pack("<Q", len(records)) + b"".join(
        struct.pack("<QII8s", offset, 0, count, data) for offset, count, data in records
    )
    raw.command(15, payload, flags=0x10)
    assert raw.replies() == []
    assert bench.model.bar0[0x100:0x106] == b"\3\1\2abc"
    reply = raw.call(15, payload)
    assert reply[2:] == (24, 1, 0, struct.pack("<Q", 4))


def test_a_bad_record_of_write_multi_does_not_keep_the_others_from_being_applied(
    bench: Any,
) -> None:
    raw = bench.raw()
    records = [(0, 0, 4, b"good"), (0, 1 << 40, 4, b"bad"), (0, 4, 4, b"too!")]
    payload = struct.pack("<Q", 3) + b"".join(
        struct.pack("<QII8s", offset, region, count, data)
        for region, offset, count, data in records
    )
    assert raw.call(15, payload)[3:5] == (0x21, 22)
    assert bench.model.bar0[:8] == b"goodtoo!"


# -- doorbells


def test_a_doorbell_is_stored_and_rung_without_the_provider(bench: Any) -> None:
    client = bench.client()
    bench.model.calls.clear()
    client.region_write(0, 0x1008, struct.pack("<I", 77), posted=True)
    client.region_write(0, 0x1018, struct.pack("<I", 78), posted=False)
    assert list(bench.model.words) == [0, 77, 0, 78]
    assert bench.model.rings == [1, 3]
    assert bench.model.calls == []


def test_a_doorbell_in_write_multi_is_rung(bench: Any) -> None:
    client = bench.client()
    client.region_write_multi([(0, 0x1000, b"\5\0\0\0"), (0, 0x1010, b"\6\0\0\0")])
    client.info()
    assert list(bench.model.words) == [5, 0, 6, 0]


@pytest.mark.parametrize(("offset", "size"), [(0x1000, 2), (0x1000, 8), (0x1004, 4), (0x1020, 4)])
def test_other_writes_near_a_doorbell_reach_the_provider(
    bench: Any, offset: int, size: int
) -> None:
    client = bench.client()
    client.region_write(0, offset, bytes(size), posted=True)
    client.info()
    assert bench.model.calls[-1] == ("write", 0, offset, size, 0)
    assert bench.model.rings == []


def test_an_observer_sees_doorbells_while_it_watches(bench: Any) -> None:
    class Watcher:
        seen: list[int] = []  # noqa: RUF012

        @hookimpl(wrapper=True)
        def emudev_region_write(self, offset: int) -> Any:
            self.seen.append(offset)
            return (yield)

    watcher = Watcher()
    bench.device.register(watcher, "watcher")
    client = bench.client()
    client.region_write(0, 0x1000, bytes(4), posted=True)
    client.info()
    assert watcher.seen == [0x1000]
    assert bench.model.rings == []
    bench.device.unregister(watcher)
    client.region_write(0, 0x1000, bytes(4), posted=True)
    client.info()
    assert watcher.seen == [0x1000]
    assert bench.model.rings == [0]


# -- answers that take time


@pytest.mark.parametrize(
    ("hook", "message", "size"),
    [
        ("reset", _message(13, msg_id=5), 16),
        ("region_write", _message(10, _access(0, 0, 4, b"abcd"), msg_id=5), 32),
    ],
)
def test_an_answer_that_comes_later_holds_back_what_follows(
    bench: Any, hook: str, message: bytes, size: int
) -> None:
    raw = bench.raw()
    answer = Later()
    bench.model.answers[hook] = answer
    raw.send(message + _message(9, _access(0, 0, 4), msg_id=6))
    raw.send(_message(4, struct.pack("<4I", 16, 0, 0, 0), msg_id=7))
    assert raw.replies() == []
    bench.model.answers.clear()
    answer.finish()
    replies = raw.replies()
    assert [(r[0], r[3]) for r in replies] == [(5, 1), (6, 1), (7, 1)]
    assert replies[0][2] == size


def test_other_devices_go_on_while_an_answer_takes_time(bench: Any, tmp_path: Any) -> None:
    other = type(bench)(str(tmp_path / "other.sock"), type(bench.model)())
    raw = bench.raw()
    bench.model.answers["reset"] = Later()
    raw.command(13)
    assert raw.replies() == []
    assert other.client().info().num_regions == 9
    bench.model.answers["reset"].finish()
    assert raw.replies()[0][3] == 1
    other.close()


def test_a_later_answer_that_failed_is_an_error_reply(bench: Any) -> None:
    raw = bench.raw()
    answer = bench.model.answers["region_write"] = Later()
    raw.command(10, _access(0, 0, 4, b"abcd"))
    assert raw.replies() == []
    answer.finish(PeerError("no", errno=EPERM))
    assert raw.replies()[0][3:5] == (0x21, EPERM)


def test_an_answer_that_never_comes_puts_the_device_in_error(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emudev_core.later.LIMIT", 0.02)
    monkeypatch.setattr("emudev_vfio_user.session.LIMIT", 0.02)
    raw = bench.raw()
    bench.model.answers["region_write"] = Later()
    raw.command(10, _access(0, 0, 4, b"abcd"))
    bench.turn_until(lambda: bench.device.state is State.ERROR)
    reply = raw.replies()[0]
    assert reply[3] == 0x21
    assert reply[4] in (EIO, 110)
    assert raw.call(9, _access(0, 0, 4))[3:5] == (0x21, EIO)


def test_an_answer_from_another_thread_is_taken_on_the_loop(bench: Any) -> None:
    raw = bench.raw()
    answer = bench.model.answers["reset"] = Later()
    raw.command(13)
    assert raw.replies() == []
    thread = threading.Thread(target=lambda: bench.loop.call_threadsafe(answer.finish))
    thread.start()
    thread.join()
    assert raw.replies()[0][3] == 1


# -- faults of the provider


def test_an_exception_is_answered_eio_and_puts_the_device_in_error(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    raw = bench.raw()
    bench.model.answers["region_read"] = RuntimeError("broken model")
    with caplog.at_level(logging.ERROR):
        assert raw.call(9, _access(0, 0, 4)) == (1, 9, 16, 0x21, EIO, b"")
    assert bench.device.state is State.ERROR
    assert "PciModel" in caplog.text
    assert "broken model" in caplog.text
    assert raw.call(10, _access(0, 0, 4, b"abcd"))[3:5] == (0x21, EIO)
    assert raw.call(13)[3:5] == (0x21, EIO)


def test_an_error_of_the_peer_has_its_errno_and_harms_nobody(bench: Any) -> None:
    raw = bench.raw()
    bench.model.answers["region_read"] = PeerError("not now", errno=EPERM)
    assert raw.call(9, _access(0, 0, 4))[3:5] == (0x21, EPERM)
    bench.model.answers.clear()
    assert raw.call(9, _access(0, 0, 4))[3] == 1
    assert bench.device.state is State.STARTED


def test_a_value_outside_the_registers_size_is_a_fault(bench: Any) -> None:
    raw = bench.raw()

    class Wild:
        @hookimpl(wrapper=True)
        def emudev_region_read(self) -> Any:
            yield
            return 1 << 32

    bench.device.register(Wild(), "wild")
    assert raw.call(9, _access(0, 0, 4))[3:5] == (0x21, EIO)
    assert bench.device.state is State.ERROR


def test_too_few_bytes_from_a_bulk_read_are_a_fault(bench: Any) -> None:
    raw = bench.raw()
    bench.model.answers["region_read_bulk"] = b"short"
    assert raw.call(9, _access(7, 0, 256))[3:5] == (0x21, EIO)


def test_a_doorbells_subscriber_that_raises_is_a_fault_and_not_the_loops_end(bench: Any) -> None:
    def broken() -> None:
        raise RuntimeError("broken subscriber")

    bench.model.doorbells[0].subscribe(broken)
    raw = bench.raw()
    raw.command(10, _access(0, 0x1000, 4, bytes(4)), flags=0x10)
    assert raw.replies() == []
    assert bench.device.state is State.ERROR


def test_a_device_in_error_takes_no_new_client(bench: Any) -> None:
    raw = bench.raw()
    bench.device.fail("told to")
    raw.close()
    bench.turn()
    second = bench.raw(greet=False)
    assert second.closed


# -- clients that come and go


def test_a_second_client_is_turned_away_and_the_first_one_served(bench: Any) -> None:
    first = bench.raw()
    second = bench.raw(greet=False)
    assert second.closed
    assert first.call(9, _access(0, 0, 4))[3] == 1


def test_a_client_is_followed_by_the_next(bench: Any, memfd: Any, eventfds: Any) -> None:
    for _ in range(3):
        client = bench.client()
        client.dma_map(0, 0x1000, fd=memfd(0x1000))
        client.irq_bind(2, 0, eventfds(1)[0])
        client.close()  # the next one connects before the server has seen this end
    bench.turn()
    names = [c[0] for c in bench.model.calls if c[0] != "status"]
    assert names == ["attached", "map", "bound", "bound", "unmap", "reset", "detached"] * 3
    assert ("reset", ResetKind.CLIENT_GONE) in bench.model.calls
    generations = bench.model.table.generation
    assert generations == 6


def test_a_client_that_only_connects_does_not_reset_the_device(bench: Any) -> None:
    raw = bench.raw(greet=False)
    bench.turn()
    raw.close()
    bench.turn()
    assert bench.model.calls == []


@pytest.mark.parametrize("cut", range(1, 36, 5))
def test_a_client_that_vanishes_inside_a_message_leaves_nothing_behind(
    bench: Any, cut: int, eventfds: Any
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    message = _message(8, struct.pack("<5I", 20, 0x24, 2, 0, 1))
    raw = bench.raw()
    fd = os.eventfd(0)
    raw.send(message[:cut], [fd])
    os.close(fd)
    bench.turn()
    raw.close()
    bench.turn()
    assert len(os.listdir("/proc/self/fd")) == before
    assert bench.client().info().num_regions == 9


def test_a_client_that_vanishes_before_an_answer_came_is_cleared_away_after_it(
    bench: Any, memfd: Any
) -> None:
    raw = bench.raw()
    fd = memfd(0x1000)
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000), fds=[fd])
    answer = bench.model.answers["dma_unmap"] = Later()
    raw.command(3, struct.pack("<IIQQ", 24, 0, 0, 0x1000))
    bench.turn()
    raw.close()
    bench.turn()
    assert bench.model.calls[-1][0] == "unmap"
    bench.model.answers.clear()
    answer.finish()
    bench.turn()
    assert [c[0] for c in bench.model.calls[-2:]] == ["reset", "detached"]
    assert bench.client().info().num_regions == 9


def test_the_next_client_waits_until_the_device_has_let_go_of_the_last(
    bench: Any, memfd: Any
) -> None:
    first = bench.raw()
    first.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000), fds=[memfd(0x1000)])
    answer = bench.model.answers["reset"] = Later()
    first.close()
    bench.turn()
    second = bench.raw(greet=False)
    second.command(1, b"\0\0\0\0{}\0")
    assert second.replies() == []
    bench.model.answers.clear()
    answer.finish()
    assert second.replies()[0][3] == 1


def test_stopping_the_device_lets_the_client_go_and_starting_takes_the_next(bench: Any) -> None:
    raw = bench.raw()
    raw.call(9, _access(0, 0, 4))
    bench.device.stop()
    assert raw.closed
    assert not os.path.exists(bench.path)
    assert bench.model.calls[-1] == ("detached",)
    bench.device.start()
    assert bench.client().info().num_irqs == 5


def test_a_device_that_is_stopped_inside_a_handler_ends_well(bench: Any) -> None:
    raw = bench.raw()
    bench.model.on_write = lambda *args: bench.device.stop()
    raw.send(_message(10, _access(0, 0, 4, b"stop")) + _message(9, _access(0, 0, 4)) * 3)
    bench.turn()
    assert raw.closed
    assert [c[0] for c in bench.model.calls].count("read") == 0


# -- clients that do not read


def test_a_client_that_does_not_read_is_not_read_from_either_and_then_let_go(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "STALL", 0.05)
    raw = bench.raw()
    request = _message(9, _access(0, 0, 0x8000)) * 1000
    sent = 0
    for _ in range(200):
        try:
            sent += raw.sock.send(request)
        except BlockingIOError:
            break
        except (BrokenPipeError, ConnectionResetError):
            break
        bench.turn(2)
    reads = sum(1 for c in bench.model.calls if c[0] == "read_bulk")
    assert reads * 0x8000 < 4 << 20, "replies were gathered without a bound"
    session = bench.server.session
    bench.turn_until(lambda: bench.server.session is not session)
    assert bench.client().info().num_regions == 9


def test_a_client_that_reads_late_gets_every_reply_in_order(bench: Any) -> None:
    raw = bench.raw()
    count = 100
    for i in range(count):
        raw.command(9, _access(0, 0, 0x8000), msg_id=i)
    found: list[tuple[Any, ...]] = []
    for _ in range(50):
        found += raw.replies()
    assert [r[0] for r in found] == list(range(count))
    assert all(r[2] == 32 + 0x8000 for r in found)
