"""DMA: the table, and mappings that come and go without leaks."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emudev_core.errors import MemoryAccessError, PeerError
from emudev_core.later import Later
from emudev_core.lifecycle import State
from emudev_core.memory import MemoryTable
from emudev_net.jit import jit_wanted

PAGE = mmap.PAGESIZE


def _mapped(name: str) -> int:
    """Mappings of a memory file in this process."""
    return Path("/proc/self/maps").read_text().count(f"memfd:{name}")


def _regions(table: MemoryTable) -> list[tuple[int, int]]:
    return [(r.guest, r.size) for r in table.regions]


# -- the table


def test_memory_with_a_descriptor_is_shared_both_ways(bench: Any, memfd: Any) -> None:
    client = bench.client()
    fd = memfd(4 * PAGE)
    client.dma_map(0x10_0000, 2 * PAGE, fd=fd, offset=PAGE)
    os.pwrite(fd, b"from the guest", PAGE + 10)
    table = bench.model.table
    assert table.read(0x10_0000 + 10, 14) == b"from the guest"
    table.write(0x10_0000 + 100, b"from the device")
    assert os.pread(fd, 15, PAGE + 100) == b"from the device"
    with pytest.raises(MemoryAccessError, match="not mapped"):
        table.read(0x10_0000 + 2 * PAGE - 1, 2)


def test_each_change_publishes_the_next_generation_sorted_by_address(
    bench: Any, memfd: Any
) -> None:
    client = bench.client()
    fd = memfd(PAGE)
    tables = []
    for address in (0x3000, 0x1000, 0x2000):
        client.dma_map(address, 0x1000, fd=fd)
        tables.append(bench.model.table)
    assert [t.generation for t in tables] == [1, 2, 3]
    assert [_regions(t) for t in tables] == [
        [(0x3000, 0x1000)],
        [(0x1000, 0x1000), (0x3000, 0x1000)],
        [(0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x1000)],
    ]


def test_offset_and_size_need_not_be_page_aligned(bench: Any, memfd: Any) -> None:
    client = bench.client()
    fd = memfd(3 * PAGE)
    os.pwrite(fd, b"here", 0x234)
    client.dma_map(0x5000, 0x1777, fd=fd, offset=0x234)
    assert bench.model.table.read(0x5000, 4) == b"here"


def test_read_only_memory_is_mapped_read_only(bench: Any) -> None:
    client = bench.client()
    fd = os.memfd_create("read-only-guest")
    os.ftruncate(fd, PAGE)
    client.dma_map(0, PAGE, fd=fd, writable=False)
    with pytest.raises(MemoryAccessError, match="read-only"):
        bench.model.table.write(0, b"x")
    line = next(
        r for r in Path("/proc/self/maps").read_text().splitlines() if "read-only-guest" in r
    )
    assert line.split()[1] == "r--s"
    os.close(fd)


def test_a_descriptor_that_forbids_writing_is_refused_with_the_errno_of_mmap(
    bench: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rom"
    file.write_bytes(bytes(PAGE))
    fd = os.open(file, os.O_RDONLY)
    client = bench.client()
    with pytest.raises(PeerError) as caught:
        client.dma_map(0, PAGE, fd=fd)
    assert caught.value.errno == 13
    client.dma_map(0, PAGE, fd=fd, writable=False)
    os.close(fd)


@pytest.mark.parametrize(("offset", "size"), [(0, PAGE + 1), (PAGE, 1), (1 << 62, PAGE)])
def test_a_range_behind_the_end_of_the_file_is_refused(
    bench: Any, memfd: Any, offset: int, size: int
) -> None:
    client = bench.client()
    with pytest.raises(PeerError) as caught:
        client.dma_map(0, size, fd=memfd(PAGE), offset=offset)
    assert caught.value.errno == 22
    assert bench.model.table.regions == ()


def test_the_same_mapping_again_is_no_change(bench: Any, memfd: Any) -> None:
    client = bench.client()
    fd = memfd(PAGE)
    client.dma_map(0, PAGE, fd=fd)
    client.dma_map(0, PAGE, fd=fd)
    assert [c[0] for c in bench.model.calls].count("map") == 1
    with pytest.raises(PeerError):
        client.dma_map(0, PAGE, fd=fd, writable=False)
    with pytest.raises(PeerError):
        client.dma_map(0, PAGE, fd=memfd(PAGE))


@pytest.mark.parametrize(
    ("address", "size"),
    [(0x2000, 0x1000), (0x1000, 0x1001), (0x2FFF, 1), (0x3FFF, 2), (0, 0x8000), (0x2800, 0x2000)],
)
def test_an_overlap_is_refused(bench: Any, address: int, size: int) -> None:
    client = bench.client()
    client.dma_map(0x2000, 0x2000, memory=bytearray(0x2000))
    with pytest.raises(PeerError) as caught:
        client.dma_map(address, size, memory=bytearray(0x8000))
    assert caught.value.errno == 22
    assert _regions(bench.model.table) == [(0x2000, 0x2000)]


def test_neighbours_and_the_last_byte_of_the_address_space_are_taken(bench: Any) -> None:
    raw = bench.raw()
    top = 2**64 - 0x1000
    for address in (0, 0x1000, top):
        assert raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, address, 0x1000))[3] == 1
    assert _regions(bench.model.table)[-1] == (top, 0x1000)
    assert raw.call(3, struct.pack("<IIQQ", 24, 0, top, 0x1000))[3] == 1


def test_an_unmap_has_to_match_or_enclose(bench: Any) -> None:
    client = bench.client()
    for address in (0x1000, 0x3000, 0x9000):
        client.dma_map(address, 0x1000, memory=bytearray(0x1000))
    for address, size in ((0x1000, 0x800), (0x1800, 0x1000), (0x0, 0x1800), (0x5000, 0x1000)):
        with pytest.raises(PeerError) as caught:
            client.dma_unmap(address, size)
        assert caught.value.errno == 2
    assert len(bench.model.table.regions) == 3
    # QEMU with a virtual IOMMU sends ranges like this, which ends at exactly 2**64.
    client.dma_unmap(0x2000, 2**64 - 0x2000)
    assert _regions(bench.model.table) == [(0x1000, 0x1000)]


def test_unmap_all_takes_everything(bench: Any, memfd: Any) -> None:
    client = bench.client()
    for address in (0x1000, 0x3000):
        client.dma_map(address, PAGE, fd=memfd(PAGE))
    client.dma_map(0x8000, 0x1000, memory=bytearray(0x1000))
    client.dma_unmap_all()
    assert bench.model.table.regions == ()
    client.dma_unmap_all()


def test_mappings_that_go_together_leave_one_table(bench: Any) -> None:
    """Each is told with the table that is left, so that thousands cost no thousand tables."""
    client = bench.client()
    for number in range(50):
        client.dma_map(number << 16, 0x1000, memory=bytearray(0x1000))
    before = bench.model.table.generation
    bench.model.calls.clear()
    client.dma_unmap_all()
    told = [call for call in bench.model.calls if call[0] == "unmap"]
    assert told == [("unmap", number << 16, 0x1000) for number in range(50)]
    assert bench.model.table.generation == before + 1


def test_a_provider_that_fails_at_one_mapping_is_asked_for_the_others(bench: Any) -> None:
    client = bench.client()
    for number in range(3):
        client.dma_map(number << 16, 0x1000, memory=bytearray(0x1000))
    bench.model.answers["dma_unmap"] = RuntimeError("broken")
    with pytest.raises(PeerError):
        client.dma_unmap_all()
    assert [call[1] for call in bench.model.calls if call[0] == "unmap"] == [0, 1 << 16, 2 << 16]
    assert bench.device.state is State.ERROR


def test_unmapping_waits_until_the_provider_has_let_go(bench: Any) -> None:
    raw = bench.raw()
    fd = os.memfd_create("held-guest")
    os.ftruncate(fd, PAGE)
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, PAGE), fds=[fd])
    os.close(fd)
    answer = bench.model.answers["dma_unmap"] = Later()
    raw.command(3, struct.pack("<IIQQ", 24, 0, 0, PAGE))
    assert raw.replies() == []
    assert bench.model.table.regions == ()
    assert _mapped("held-guest") == 1
    answer.finish()
    assert raw.replies()[0][2:5] == (40, 1, 0)
    assert _mapped("held-guest") == 0


def test_memory_that_is_never_let_go_stays_mapped_and_the_device_fails(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emudev_core.later.LIMIT", 0.02)
    raw = bench.raw()
    fd = os.memfd_create("stuck-guest")
    os.ftruncate(fd, PAGE)
    raw.call(2, struct.pack("<IIQQQ", 32, 3, 0, 0, PAGE), fds=[fd])
    os.close(fd)
    bench.model.answers["dma_unmap"] = Later()
    raw.command(3, struct.pack("<IIQQ", 24, 0, 0, PAGE))
    bench.turn_until(lambda: bench.device.state is State.ERROR)
    assert raw.replies()[0][3] == 0x21
    assert _mapped("stuck-guest") == 1  # somebody may still use it
    raw.close()
    bench.turn()
    assert _mapped("stuck-guest") == 0  # the reset that followed was answered


def test_a_client_that_vanishes_leaves_nothing_mapped(bench: Any) -> None:
    raw = bench.raw()
    fd = os.memfd_create("vanished-guest")
    os.ftruncate(fd, 8 * PAGE)
    for i in range(8):
        raw.call(2, struct.pack("<IIQQQ", 32, 3, i * PAGE, i << 20, PAGE), fds=[fd])
    assert _mapped("vanished-guest") == 8
    os.close(fd)
    raw.close()
    bench.turn()
    assert _mapped("vanished-guest") == 0
    assert bench.model.table.regions == ()


ROUNDS = """
    import os, resource, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from conftest import Bench, PciModel
    model = PciModel()
    bench = Bench(sys.argv[2], model)
    client = bench.client()
    fd = os.memfd_create("rounds-guest")
    os.ftruncate(fd, 1 << 20)
    client.dma_map(0, 1 << 20, fd=fd)
    client.dma_unmap(0, 1 << 20)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(10_000):
        client.dma_map(i << 20, 1 << 20, fd=fd, offset=0)
        if i % 1000 == 0:
            model.table.write(i << 20, b"x")  # a view of the memory does not keep it mapped
        client.dma_unmap(i << 20, 1 << 20)
        model.calls.clear()
    assert len(os.listdir("/proc/self/fd")) <= before  # a compiler may have had one open then
    assert "rounds-guest" not in Path("/proc/self/maps").read_text()
    for i in range(100):  # more mappings at a time than descriptors
        client.dma_map(i << 20, 4096, fd=fd)
    # One tells of faults in any of them.
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert Path("/proc/self/maps").read_text().count("rounds-guest") == 100
    bench.close()
    assert "rounds-guest" not in Path("/proc/self/maps").read_text()
    print("done", model.table.generation)
"""


def test_ten_thousand_maps_and_unmaps_leave_no_descriptor_and_no_mapping(tmp_path: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(ROUNDS)]
    run = subprocess.run(
        [*script, str(Path(__file__).parent), str(tmp_path / "s")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    # The hundred at the end go together.
    assert run.stdout.split() == ["done", str(2 + 20_000 + 100 + 1)]


# -- memory that its owner truncates

needs_compiler = pytest.mark.skipif(not jit_wanted(), reason="the guard of memory is compiled")


def truncated(bench: Any, fd: int) -> None:
    """Wait until memory is guarded, and truncate the file."""
    (entry,) = bench.server.session.dma.entries()
    bench.turn_until(lambda: entry.guard.active)
    os.ftruncate(fd, PAGE)


@needs_compiler
def test_memory_that_is_truncated_fails_the_device_and_not_the_process(
    bench: Any, memfd: Any
) -> None:
    client = bench.client()
    fd = memfd(4 * PAGE)
    client.dma_map(0x10_0000, 4 * PAGE, fd=fd)
    os.pwrite(fd, b"\x55" * 4 * PAGE, 0)
    truncated(bench, fd)
    table = bench.model.table
    assert table.read(0x10_0000, 2 * PAGE) == b"\x55" * PAGE + bytes(PAGE)
    table.write(0x10_0000 + 3 * PAGE, b"into the void")
    bench.turn()
    assert bench.device.state is State.ERROR
    assert "has truncated memory that it had mapped" in bench.device.error
    assert "in its place: 2" in bench.device.error
    assert f"process {os.getpid()}" in bench.device.error
    with pytest.raises(PeerError) as caught:
        client.region_read(0, 0, 4)
    assert caught.value.errno == 5  # EIO


@needs_compiler
def test_memory_that_is_truncated_and_not_touched_is_no_fault(bench: Any, memfd: Any) -> None:
    client = bench.client()
    fd = memfd(4 * PAGE)
    client.dma_map(0x10_0000, 4 * PAGE, fd=fd)
    truncated(bench, fd)
    assert bench.model.table.read(0x10_0000, PAGE) == bytes(PAGE)
    client.dma_unmap(0x10_0000, 4 * PAGE)
    assert bench.device.state is not State.ERROR
    with pytest.raises(PeerError) as caught:
        client.dma_map(0x10_0000, 4 * PAGE, fd=fd)  # now it is known to be too short
    assert caught.value.errno == 22  # EINVAL
    client.dma_map(0x10_0000, PAGE, fd=fd)


@needs_compiler
def test_another_device_is_not_disturbed(bench: Any, memfd: Any, tmp_path: Path) -> None:
    other = type(bench)(str(tmp_path / "other.sock"), type(bench.model)())
    try:
        fds = [memfd(4 * PAGE), memfd(4 * PAGE)]
        bench.client().dma_map(0, 4 * PAGE, fd=fds[0])
        client = other.client()
        client.dma_map(0, 4 * PAGE, fd=fds[1])
        truncated(bench, fds[0])
        assert bench.model.table.read(PAGE, 1) == b"\0"
        os.pwrite(fds[1], b"here", PAGE)
        assert other.model.table.read(PAGE, 4) == b"here"
        bench.turn()
        other.turn()
        assert (bench.device.state, other.device.state) == (State.ERROR, State.STARTED)
        assert client.region_read(7, 0, 2) == b"\x34\x12"
    finally:
        other.close()


def test_a_file_can_be_sealed_against_the_client_making_it_smaller(
    bench: Any, memfd: Callable[[int], int]
) -> None:
    # memory-backend-memfd of QEMU seals by default; the mapping has to work with it.
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    bench.client().dma_map(0, PAGE, fd=fd)
    assert bench.model.table.read(0, 4) == bytes(4)
    os.close(fd)
