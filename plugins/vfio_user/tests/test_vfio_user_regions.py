"""GET_REGION_INFO: truncated and full answers, sparse areas, one descriptor."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest

from emudev_core.errors import DecodeError
from emudev_core.regions import MapArea, RegionFlag, RegionInfo
from emudev_vfio_user.client import VfioUserClient
from emudev_vfio_user.regions import check_regions, decode_region, encode_region

RW = RegionFlag.READ | RegionFlag.WRITE


def _ask(index: int, argsz: int = 32) -> bytes:
    return struct.pack("<4I2Q", argsz, 0, index, 0, 0, 0)


def test_a_region_that_is_not_there_has_size_0_and_no_flags(bench: Any) -> None:
    reply = bench.raw().call(5, _ask(6))
    assert reply[2:] == (48, 1, 0, struct.pack("<4I2Q", 32, 0, 6, 0, 0, 0))


def test_configuration_space_can_be_read_and_written_and_not_mapped(bench: Any) -> None:
    reply = bench.raw().call(5, _ask(7, 0xFFFF_FFFF))
    assert reply[5] == struct.pack("<4I2Q", 32, 3, 7, 0, 256, 0)


def test_the_golden_reply_of_a_sparse_region_is_made() -> None:
    fd = os.memfd_create("bar")
    payload, fds = encode_region(
        RegionInfo(0, 0x10000, RW, fd=fd, areas=(MapArea(0x1000, 0x1000),)), 64
    )
    golden = (
        "40000000 0f000000 00000000 20000000 0000010000000000 0000000000000000"
        "0100 0100 00000000 01000000 00000000 0010000000000000 0010000000000000"
    )
    assert payload == bytes.fromhex(golden)
    assert fds == [fd]
    os.close(fd)


@pytest.mark.parametrize("argsz", [32, 63])
def test_an_answer_that_does_not_fit_has_the_mmap_flag_and_the_size_that_would(
    bench: Any, memfd: Any, argsz: int
) -> None:
    bench.model.fd = memfd(0x10000)
    reply = bench.raw().call(5, _ask(2, argsz))
    assert reply[5] == struct.pack("<4I2Q", 64, 7, 2, 0, 0x10000, 0)


def test_the_full_answer_brings_exactly_one_descriptor_of_the_same_memory(
    bench: Any, memfd: Any
) -> None:
    bench.model.fd = memfd(0x10000)
    client = bench.client()
    region = client.regions()[2]
    assert region.areas == (MapArea(0x1000, 0x1000),)
    assert region.flags == RW | RegionFlag.MMAP
    assert region.fd is not None
    assert os.fstat(region.fd).st_ino == os.fstat(bench.model.fd).st_ino
    client.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(region.fd)


def test_a_mappable_region_is_reached_by_message_everywhere(bench: Any, memfd: Any) -> None:
    bench.model.fd = memfd(0x10000)
    client = bench.client()
    assert client.region_read(2, 0x1000, 4) == bytes(4)
    client.region_write(2, 0xFFFC, bytes(4))


def test_two_areas_take_80_bytes() -> None:
    areas = (MapArea(0, 0x1000), MapArea(0x4000, 0x2000))
    fd = os.memfd_create("bar")
    info = RegionInfo(4, 0x8000, RW, fd=fd, fd_offset=0x3000, areas=areas)
    payload, _ = encode_region(info, 80)
    assert len(payload) == 80
    assert struct.unpack_from("<I", payload) == (80,)
    assert decode_region(payload, fd) == RegionInfo(
        4, 0x8000, RW | RegionFlag.MMAP, fd=fd, fd_offset=0x3000, areas=areas
    )
    os.close(fd)


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (RegionInfo(0, 0x2000, RW, fd=0, areas=(MapArea(0x800, 0x1000),)), "not page aligned"),
        (RegionInfo(0, 0x2000, RW, fd=0, areas=(MapArea(0, 0x800),)), "not page aligned"),
        (RegionInfo(0, 0x2000, RW, fd=0, areas=(MapArea(0x1000, 0x2000),)), "reaches out"),
        (RegionInfo(0, 0x2000, RW, areas=(MapArea(0, 0x1000),)), "needs a descriptor"),
    ],
)
def test_impossible_areas_are_refused_when_the_device_is_served(
    info: RegionInfo, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        check_regions([info])


def test_a_region_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="region 3 appears twice"):
        check_regions([RegionInfo(3, 16), RegionInfo(3, 32)])


def test_the_client_refuses_capabilities_that_never_end() -> None:
    head = struct.pack("<4I2Q", 48, 0xF, 0, 32, 4096, 0)
    loop = struct.pack("<HHI", 2, 1, 32) + bytes(8)
    with pytest.raises(DecodeError, match="more than 64 capabilities"):
        decode_region(head + loop, None)


def test_the_client_refuses_more_areas_than_came() -> None:
    head = struct.pack("<4I2Q", 64, 0xF, 0, 32, 4096, 0)
    sparse = struct.pack("<HHIII", 1, 1, 0, 0xFFFF_FFFF, 0) + bytes(16)
    with pytest.raises(DecodeError, match="4294967295 x SparseMmapArea"):
        decode_region(head + sparse, None)


def test_a_device_that_describes_impossible_regions_is_in_error_and_serves_nobody(
    bench: Any,
) -> None:
    bench.server._device = type(
        "Broken", (), {"get_regions": lambda self: [RegionInfo(0, 1)] * 2}
    )()
    bench.server._device.state = None
    failures: list[object] = []
    bench.server._device.fail = lambda *args: failures.append(args[0])
    bench.server._device.name = "broken"
    raw = bench.raw(greet=False)
    assert raw.closed
    assert "appears twice" in str(failures[0])
    assert VfioUserClient is not None
