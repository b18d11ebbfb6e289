"""What every device model keeps."""

from __future__ import annotations

import contextlib
import os
import random
from typing import ClassVar

import msgspec
import pytest

from ..device import Device
from ..errors import DeviceError
from ..events import EventChannel
from ..host import Host
from ..lifecycle import State
from ..memory import MemoryTable
from ..plugins import Plugins
from ..queues import Direction
from ..regions import RegionFlag, ResetKind
from .builders import GuestMemory, descriptors, left_open
from .contract import Contract, settle

__all__ = ["ProviderContract"]


class ProviderContract(Contract):
    """What a backend and a transport may rely on in every device.

    Attributes:
        vdev: The device under test without ``id`` and ``transport``, such as ``emu_dice,sides=8``.
    """

    vdev: ClassVar[str]

    @pytest.fixture
    def entry(self, plugins: Plugins) -> str:
        """The device's vdev string: over the loopback transport, unless it listens by itself."""
        driver = self.vdev.partition(",")[0]
        served = plugins.providers[driver].transport
        return f"{self.vdev},id=7" + (",transport=loopback" if served else "")

    @pytest.fixture
    def device(self, host: Host, entry: str) -> Device:
        """The device, started."""
        device: Device = host.add(entry)
        host.start()
        return device

    def test_building_opens_nothing(self, host: Host, entry: str) -> None:
        """Mistakes of other entries must show before anything is opened."""
        before = descriptors()
        host.add(entry)
        assert left_open(before) == []

    def test_it_says_what_it_is(self, device: Device) -> None:
        """Information about the device holds together."""
        info = device.get_dev_info()
        assert info.type
        assert min(info.max_queue_pairs, info.vectors, info.doorbells, info.max_frame) >= 0
        assert device.name.endswith("_emudev_7")

    def test_every_queue_is_described_and_no_other(self, device: Device) -> None:
        """Even numbers carry frames to the guest, odd ones from it."""
        info = device.get_dev_info()
        for number in range(2 * info.max_queue_pairs):
            queue = device.get_queue_info(number)
            assert queue.queue == number
            assert queue.direction is (Direction.TX if number & 1 else Direction.RX)
            assert 0 <= queue.doorbell < info.doorbells
            if queue.kernels is not None:
                assert (queue.kernels.peek if number & 1 else queue.kernels.push) is not None
        for number in (-1, 2 * info.max_queue_pairs, 1 << 40):
            with pytest.raises(DeviceError):
                device.get_queue_info(number)

    def test_every_vector_and_doorbell_is_described_and_no_other(self, device: Device) -> None:
        """Numbers start from 0 without holes."""
        info = device.get_dev_info()
        vectors = [device.get_irq_info(i).vector for i in range(info.vectors)]
        assert vectors == [*range(info.vectors)]
        bells = [device.get_db_info(i).id for i in range(info.doorbells)]
        assert bells == [*range(info.doorbells)]
        for number in (-1, info.vectors):
            with pytest.raises(DeviceError):
                device.get_irq_info(number)
        for number in (-1, info.doorbells):
            with pytest.raises(DeviceError):
                device.get_db_info(number)

    def test_attributes_are_typed(self, device: Device) -> None:
        """What is listed can be read; wrong names and types and read-only ones are refused."""
        for info in device.get_attributes():
            value = device.get_attr(info.name)
            assert type(value) is info.type, info.name
            if info.writable:
                with contextlib.suppress(DeviceError):  # a state that only the guest enters
                    assert device.set_attr(info.name, value)
                with pytest.raises(DeviceError):
                    device.set_attr(info.name, b"bytes")  # type: ignore[arg-type]
            else:
                with pytest.raises(DeviceError):
                    device.set_attr(info.name, value)
        with pytest.raises(DeviceError):
            device.get_attr("no-such-attribute")
        with pytest.raises(DeviceError):
            device.set_attr("no-such-attribute", 1)

    def test_what_it_shows_can_be_read_in_every_state(self, device: Device) -> None:
        """Sections (`emudev ctl show`) have plain rows of equal columns, and names of their own."""
        for _ in range(2):
            shown = device.get_state()
            for member in {id(member): member for member, _ in shown}.values():
                names = [section.name for owner, section in shown if owner is member]
                assert len(names) == len(set(names))
            for _, section in shown:
                rows = [dict(row) for row in section.read()]
                assert len({tuple(row) for row in rows}) <= 1, section.name
                msgspec.json.encode(rows)
            if device.state is State.STARTED:
                device.stop()

    def test_regions_are_in_order_and_constant(self, device: Device) -> None:
        """The index of a region is its place."""
        regions = device.get_regions()
        assert [region.index for region in regions] == [*range(len(regions))]
        assert list(device.get_regions()) == list(regions)
        for region in regions:
            for window in region.doorbells:
                last = window.offset + window.stride * (len(window.doorbells) - 1)
                assert last + 4 <= region.size

    def test_every_readable_byte_can_be_read_in_any_size(self, device: Device) -> None:
        """Reads of 1, 2, 4 and 8 bytes fit their size; bulk reads have the length asked for."""
        for region in device.get_regions():
            if not region.flags & RegionFlag.READ:
                continue
            ends = {0, region.size // 2 & ~7, (region.size - 8) & ~7}
            for offset in sorted(start for start in ends if start >= 0):
                for size in (1, 2, 4, 8):
                    if offset + size <= region.size:
                        value = device.region_read(region.index, offset, size)
                        assert 0 <= value < 1 << 8 * size
            for size in {1, 3, min(region.size, 4096)}:
                if size <= region.size:
                    data = device.region_read_bulk(region.index, region.size - size, size)
                    assert len(data) == size

    def test_no_write_raises_whatever_the_guest_writes(self, device: Device) -> None:
        """Guest mistakes never become exceptions; the device is not in error afterwards."""
        generator = random.Random(device.stem)
        regions = [r for r in device.get_regions() if r.flags & RegionFlag.WRITE and r.size >= 8]
        for _ in range(400 if regions else 0):
            region = generator.choice(regions)
            size = generator.choice((1, 2, 4, 8))
            offset = generator.randrange(region.size // size) * size
            value = generator.choice((0, 1, (1 << 8 * size) - 1, generator.getrandbits(8 * size)))
            assert device.region_write(region.index, offset, size, value)
        for region in regions:
            assert device.region_write_bulk(region.index, region.size - 3, b"\xff\x00\xff")
        assert device.state is State.STARTED

    def test_guest_memory_comes_and_goes(self, host: Host, device: Device) -> None:
        """The table that the transport publishes is the one that is answered, until it is taken."""
        memory = GuestMemory()
        try:
            table = MemoryTable([memory.region], 1)
            device.dma_map(table, memory.region)
            assert device.get_mem_table() is table
            empty = MemoryTable([], 2)
            settle(host, device.dma_unmap(empty, memory.region))
            assert device.get_mem_table() is empty
        finally:
            memory.close()

    @pytest.mark.parametrize("kind", list(ResetKind))
    def test_it_can_be_reset_at_any_time(self, host: Host, device: Device, kind: ResetKind) -> None:
        """Resets are answered, twice in a row, and leave a device that works."""
        for _ in range(2):
            settle(host, device.reset(kind))
        settle(host, device.quiesce())
        assert device.state is State.STARTED

    def test_a_reset_brings_the_power_on_values_back(self, host: Host, device: Device) -> None:
        """After any writes, a power reset reads as a device that was never touched."""
        regions = [r for r in device.get_regions() if r.flags & RegionFlag.READ and r.size]
        fresh = [_image(device, r.index, r.size) for r in regions]
        self.test_no_write_raises_whatever_the_guest_writes(device)
        settle(host, device.reset(ResetKind.POWER))
        for region, image in zip(regions, fresh, strict=True):
            assert _image(device, region.index, region.size) == image, f"region {region.index}"

    def test_vectors_are_bound_and_unbound(self, device: Device) -> None:
        """Triggering a vector works whether it is bound, masked or not."""
        for group in device.get_irq_groups():
            for vector in {0, group.count - 1} if group.count else ():
                fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                try:
                    device.irq_bound(group.index, vector, fd)
                    if group.maskable:
                        device.irq_masked(group.index, vector, True)
                        device.irq_masked(group.index, vector, False)
                    device.irq_trigger(group.index, vector)
                    device.irq_bound(group.index, vector, None)
                finally:
                    os.close(fd)
        for vector in range(device.get_dev_info().vectors):
            device.get_irq_info(vector).trigger()
        assert device.state is State.STARTED

    def test_clients_come_and_go(self, host: Host, device: Device) -> None:
        """A second client finds a device that works."""
        if hasattr(device.members[0].plugin, "emudev_listen"):
            pytest.skip("the device listens by itself, to peers of its own protocol")
        for _ in range(2):
            client = host.connect(device)
            assert list(client.regions()) == list(device.get_regions())
            client.reset()
            client.close()

    def test_channels_are_subscribed_once_each(self, device: Device) -> None:
        """Subscribing twice is once; an unknown channel is refused."""
        channel = EventChannel()
        assert device.subscribe_event(channel)
        assert device.subscribe_event(channel)
        assert device.unsubscribe_event(channel)
        with pytest.raises(DeviceError):
            device.unsubscribe_event(channel)
        channel.close()

    def test_it_stops_and_starts_again(self, device: Device) -> None:
        """Twice, and closes in either state."""
        for _ in range(2):
            device.stop()
            device.start()
        device.close()
        device.close()
        assert device.state is State.CLOSED

    def test_what_it_saves_it_takes_back(self, host: Host, device: Device) -> None:
        """Saving, restoring and saving again gives the same bytes."""
        if not any(hasattr(member.plugin, "emudev_save") for member in device.members):
            pytest.skip("the device does not save")
        device.stop()
        saved = device.save()
        device.restore(saved)
        assert device.save() == saved


def _image(device: Device, region: int, size: int) -> bytes:
    return device.region_read_bulk(region, 0, min(size, 4096))
