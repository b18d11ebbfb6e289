"""What bad messages get, by raw bytes: the errno, the state of the connection, closed descriptors.

Expectations: vfio-user specification, and what libvfio-user answers to the same bytes.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

EINVAL, ENOENT, ENOSPC = errno.EINVAL, errno.ENOENT, errno.ENOSPC


def _access(region: int, offset: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<QII", offset, region, count) + data


def _map(address: int, size: int, *, flags: int = 3, offset: int = 0, argsz: int = 32) -> bytes:
    return struct.pack("<IIQQQ", argsz, flags, offset, address, size)


def _unmap(address: int, size: int, *, flags: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("<IIQQ", argsz, flags, address, size)


def _irqs(
    flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int | None = None
) -> bytes:
    size = 20 + len(data) if argsz is None else argsz
    return struct.pack("<5I", size, flags, index, start, count) + data


REFUSED: list[tuple[str, int, bytes, int]] = [
    ("a second VERSION", 1, struct.pack("<HH", 0, 0), EINVAL),
    ("command 0", 0, b"x", EINVAL),
    ("DIRTY_PAGES", 14, bytes(16), EINVAL),
    ("DMA_READ from a client", 11, bytes(16), EINVAL),
    ("DMA_WRITE from a client", 12, bytes(16), EINVAL),
    ("GET_REGION_IO_FDS", 6, struct.pack("<4I", 16, 0, 0, 0), EINVAL),
    ("DEVICE_FEATURE", 16, struct.pack("<II", 8, 0x10001), EINVAL),
    ("MIG_DATA_READ", 17, struct.pack("<II", 8, 0), EINVAL),
    ("MIG_DATA_WRITE", 18, struct.pack("<II", 8, 0), EINVAL),
    ("an unknown command", 4242, b"abcd", EINVAL),
    *[(f"command {c} without payload", c, b"", EINVAL) for c in (2, 3, 4, 5, 7, 8, 9, 10, 15)],
    ("GET_INFO cut short", 4, bytes(15), EINVAL),
    ("GET_INFO with a small argsz", 4, struct.pack("<4I", 15, 0, 0, 0), EINVAL),
    ("GET_REGION_INFO cut short", 5, bytes(31), EINVAL),
    ("GET_REGION_INFO argsz", 5, struct.pack("<4I2Q", 31, 0, 0, 0, 0, 0), EINVAL),
    ("GET_REGION_INFO index 9", 5, struct.pack("<4I2Q", 32, 0, 9, 0, 0, 0), EINVAL),
    ("GET_IRQ_INFO cut short", 7, bytes(15), EINVAL),
    ("GET_IRQ_INFO argsz", 7, struct.pack("<4I", 15, 0, 0, 0), EINVAL),
    ("GET_IRQ_INFO index 5", 7, struct.pack("<4I", 16, 0, 5, 0), EINVAL),
    ("REGION_READ cut short", 9, bytes(15), EINVAL),
    ("REGION_READ of no region", 9, _access(9, 0, 4), EINVAL),
    ("REGION_READ of an empty region", 9, _access(3, 0, 1), EINVAL),
    ("REGION_READ across the end", 9, _access(7, 254, 4), EINVAL),
    ("REGION_READ behind the end", 9, _access(7, 256, 1), EINVAL),
    ("REGION_READ wrapping 2**64", 9, _access(7, 2**64 - 1, 4), EINVAL),
    ("REGION_READ above 1 MiB", 9, _access(0, 0, (1 << 20) + 1), EINVAL),
    ("REGION_READ of 4 GiB", 9, _access(0, 0, 0xFFFF_FFFF), EINVAL),
    ("REGION_WRITE cut short", 10, bytes(15), EINVAL),
    ("REGION_WRITE with less data", 10, _access(0, 0, 4, b"abc"), EINVAL),
    ("REGION_WRITE with more data", 10, _access(0, 0, 4, b"abcde"), EINVAL),
    ("REGION_WRITE across the end", 10, _access(7, 255, 2, b"ab"), EINVAL),
    ("REGION_WRITE of no region", 10, _access(42, 0, 1, b"a"), EINVAL),
    ("WRITE_MULTI cut short", 15, bytes(7), EINVAL),
    ("WRITE_MULTI with a huge count", 15, struct.pack("<Q", 2**63), EINVAL),
    ("WRITE_MULTI with too few records", 15, struct.pack("<Q", 2) + bytes(24), EINVAL),
    ("WRITE_MULTI of 9 bytes", 15, struct.pack("<QQII8s", 1, 0, 0, 9, b""), EINVAL),
    ("WRITE_MULTI of 0 bytes", 15, struct.pack("<QQII8s", 1, 0, 0, 0, b""), EINVAL),
    ("DMA_MAP cut short", 2, bytes(31), EINVAL),
    ("DMA_MAP argsz", 2, _map(0, 0x1000, argsz=31), EINVAL),
    ("DMA_MAP unknown flag", 2, _map(0, 0x1000, flags=0x13), EINVAL),
    ("DMA_MAP must-mmap without descriptor", 2, _map(0, 0x1000, flags=7), EINVAL),
    ("DMA_MAP file I/O without descriptor", 2, _map(0, 0x1000, flags=0xB), EINVAL),
    ("DMA_MAP of more than 8 TiB", 2, _map(0, (8 << 40) + 1), ENOSPC),
    ("DMA_MAP of nothing", 2, _map(0, 0), EINVAL),
    ("DMA_MAP without access", 2, _map(0, 0x1000, flags=0), EINVAL),
    ("DMA_MAP beyond 2**64", 2, _map(2**64 - 0x1000, 0x1001), EINVAL),
    ("DMA_UNMAP cut short", 3, bytes(23), EINVAL),
    ("DMA_UNMAP argsz", 3, _unmap(0, 0x1000, argsz=23), EINVAL),
    ("DMA_UNMAP of nothing mapped", 3, _unmap(0x5000, 0x1000), ENOENT),
    ("DMA_UNMAP all with an address", 3, _unmap(0x1000, 0, flags=2), EINVAL),
    ("DMA_UNMAP all with a size", 3, _unmap(0, 1, flags=2), EINVAL),
    ("DMA_UNMAP all with a bitmap", 3, _unmap(0, 0, flags=3), EINVAL),
    ("DMA_UNMAP with a bitmap", 3, _unmap(0, 0x1000, flags=1), EINVAL),
    ("DMA_UNMAP unknown flag", 3, _unmap(0, 0x1000, flags=4), EINVAL),
    ("DMA_UNMAP beyond 2**64", 3, _unmap(2**64 - 1, 2), EINVAL),
    ("SET_IRQS cut short", 8, bytes(19), EINVAL),
    ("SET_IRQS argsz", 8, _irqs(0x21, 2, 0, 1, argsz=19), EINVAL),
    ("SET_IRQS no such group", 8, _irqs(0x21, 5, 0, 1), EINVAL),
    ("SET_IRQS no action", 8, _irqs(0x01, 2, 0, 1), EINVAL),
    ("SET_IRQS two actions", 8, _irqs(0x31, 2, 0, 1), EINVAL),
    ("SET_IRQS no data type", 8, _irqs(0x20, 2, 0, 1), EINVAL),
    ("SET_IRQS two data types", 8, _irqs(0x23, 2, 0, 1, b"\1"), EINVAL),
    ("SET_IRQS unknown flag", 8, _irqs(0x61, 2, 0, 1), EINVAL),
    ("SET_IRQS start too high", 8, _irqs(0x21, 2, 3, 1), EINVAL),
    ("SET_IRQS end too high", 8, _irqs(0x21, 2, 1, 3), EINVAL),
    ("SET_IRQS count of 2**32 - 1", 8, _irqs(0x21, 2, 1, 0xFFFF_FFFF), EINVAL),
    ("SET_IRQS masks an error interrupt", 8, _irqs(0x09, 3, 0, 1), EINVAL),
    ("SET_IRQS unmasks a request interrupt", 8, _irqs(0x11, 4, 0, 1), EINVAL),
    ("SET_IRQS count 0, start 1", 8, _irqs(0x21, 2, 1, 0), EINVAL),
    ("SET_IRQS count 0, eventfd", 8, _irqs(0x24, 2, 0, 0), EINVAL),
    ("SET_IRQS count 0, mask", 8, _irqs(0x09, 2, 0, 0), EINVAL),
    ("SET_IRQS too few booleans", 8, _irqs(0x22, 2, 0, 2, b"\1"), EINVAL),
    ("SET_IRQS too many booleans", 8, _irqs(0x22, 2, 0, 1, b"\1\1"), EINVAL),
]


@pytest.mark.parametrize(
    ("command", "payload", "number"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_bad_command_gets_its_errno_and_the_next_one_is_served(
    bench: Any, command: int, payload: bytes, number: int
) -> None:
    raw = bench.raw()
    reply = raw.call(command, payload, msg_id=0xABCD)
    assert reply == (0xABCD, command, 16, 0x21, number, b"")
    assert raw.call(4, struct.pack("<4I", 16, 0, 0, 0))[3] == 1


@pytest.mark.parametrize(
    ("command", "payload"), [r[1:3] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_bad_posted_command_gets_no_answer_at_all(
    bench: Any, command: int, payload: bytes
) -> None:
    raw = bench.raw()
    raw.command(command, payload, flags=0x10)
    assert raw.replies() == []
    assert raw.call(4, struct.pack("<4I", 16, 0, 0, 0), msg_id=9)[0] == 9


@pytest.mark.parametrize(
    ("command", "payload"), [r[1:3] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_descriptors_of_a_bad_command_are_closed(
    bench: Any, command: int, payload: bytes, eventfds: Callable[[int], list[int]]
) -> None:
    raw = bench.raw()
    fds = eventfds(3)
    before = len(os.listdir("/proc/self/fd"))
    raw.command(command, payload, fds=fds)
    raw.replies()
    raw.call(4, struct.pack("<4I", 16, 0, 0, 0))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("size", "flags"), [(15, 0), (0, 0), ((1 << 20) + 33, 0), (16, 2), (16, 0xF), (16, 0x2E)]
)
def test_lost_framing_is_answered_and_ends_the_connection(
    bench: Any, size: int, flags: int
) -> None:
    raw = bench.raw()
    raw.send(struct.pack("<HHIII", 5, 9, size, flags, 0))
    assert raw.replies() == [(5, 9, 16, 0x21, EINVAL, b"")]
    assert raw.closed
    assert bench.client().info().num_regions == 9


def test_a_reply_that_nobody_waits_for_is_refused_and_the_stream_goes_on(bench: Any) -> None:
    raw = bench.raw()
    assert raw.call(9, bytes(16), flags=1)[3:5] == (0x21, EINVAL)
    assert raw.call(4, struct.pack("<4I", 16, 0, 0, 0))[3] == 1


@pytest.mark.parametrize("command", [2, 4, 9, 13])
def test_anything_before_version_is_refused_and_ends_the_connection(
    bench: Any, command: int
) -> None:
    raw = bench.raw(greet=False)
    assert raw.call(command, bytes(32))[3:5] == (0x21, EINVAL)
    assert raw.closed
    assert bench.model.calls == []


@pytest.mark.parametrize("payload", [b"\0\0", b"\1\0\0\0{}\0", b"\0\0\0\0{]\0", b"\0\0\0\0{}"])
def test_a_bad_version_is_refused_and_ends_the_connection(bench: Any, payload: bytes) -> None:
    raw = bench.raw(greet=False)
    assert raw.call(1, payload)[3:5] == (0x21, EINVAL)
    assert raw.closed
    assert bench.client().info().num_irqs == 5


def test_a_reset_with_a_payload_is_a_reset(bench: Any) -> None:
    assert bench.raw().call(13, b"surprise")[3] == 1
    assert [c[0] for c in bench.model.calls][-1] == "reset"


@pytest.mark.parametrize("command", [9, 10])
def test_an_access_of_no_bytes_succeeds_with_a_header_and_reaches_nobody(
    bench: Any, command: int
) -> None:
    raw = bench.raw()
    bench.model.calls.clear()
    assert raw.call(command, _access(0, 0, 0)) == (1, command, 16, 1, 0, b"")
    assert bench.model.calls == []


def test_surprise_descriptors_do_not_harm_a_command(
    bench: Any, eventfds: Callable[[int], list[int]]
) -> None:
    raw = bench.raw()
    fds = eventfds(40)
    before = len(os.listdir("/proc/self/fd"))
    assert raw.call(9, _access(7, 0, 4), fds=fds)[3] == 1
    raw.call(9, _access(7, 0, 4))
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_descriptors_than_are_taken_are_refused_not_forgotten(
    bench: Any, eventfds: Callable[[int], list[int]]
) -> None:
    raw = bench.raw()
    fds = eventfds(70)
    before = len(os.listdir("/proc/self/fd"))
    assert raw.call(2, _map(0, 0x1000), fds=fds)[3:5] == (0x21, errno.EMFILE)
    raw.call(4, struct.pack("<4I", 16, 0, 0, 0))
    assert len(os.listdir("/proc/self/fd")) == before
    assert ("map", 0, 0x1000) not in bench.model.calls


def test_two_descriptors_with_a_map_are_refused_and_closed(
    bench: Any, memfd: Callable[[int], int]
) -> None:
    raw = bench.raw()
    fd = memfd(0x1000)
    before = len(os.listdir("/proc/self/fd"))
    assert raw.call(2, _map(0, 0x1000), fds=[fd, fd])[3:5] == (0x21, EINVAL)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_interrupt_needs_an_eventfd(bench: Any, memfd: Callable[[int], int]) -> None:
    raw = bench.raw()
    assert raw.call(8, _irqs(0x24, 2, 0, 1), fds=[memfd(4096)])[3:5] == (0x21, EINVAL)
    assert bench.model.vectors == {}


def test_a_number_of_descriptors_that_is_not_the_count_is_refused(
    bench: Any, eventfds: Callable[[int], list[int]]
) -> None:
    raw = bench.raw()
    before = len(os.listdir("/proc/self/fd"))
    fds = eventfds(2)
    for count, given in ((1, 2), (3, 2)):
        assert raw.call(8, _irqs(0x24, 2, 0, count), fds=fds[:given])[3:5] == (0x21, EINVAL)
    assert raw.call(8, _irqs(0x21, 2, 0, 1), fds=fds[:1])[3:5] == (0x21, EINVAL)
    raw.call(4, struct.pack("<4I", 16, 0, 0, 0))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert bench.model.vectors == {}


def test_write_multi_has_to_be_agreed_on(bench: Any) -> None:
    raw = bench.raw(greet=False)
    raw.call(1, struct.pack("<HH", 0, 0) + b"{}\0")
    record = struct.pack("<QQII8s", 1, 0, 0, 4, b"abcd")
    assert raw.call(15, record)[3:5] == (0x21, EINVAL)
