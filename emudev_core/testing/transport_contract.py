"""What every transport keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..client import DeviceClient
from ..device import Device
from ..errors import EmudevError, PeerError, TransportError
from ..hooks import hookimpl
from ..host import Host
from ..later import Later
from ..lifecycle import State
from ..memory import EMPTY_TABLE
from ..regions import ResetKind
from . import exerciser
from .builders import GuestMemory, descriptors, left_open
from .contract import Contract, turn_until

__all__ = ["TransportContract"]


class TransportContract(Contract):
    """What providers and clients may rely on in every transport with a `connect`.

    Attributes:
        transport: Its name.
    """

    transport: ClassVar[str]

    def keys(self, folder: Path) -> Mapping[str, str]:
        """The transport's own keys; `folder` is short and empty."""
        return {}

    @pytest.fixture
    def device(self, host: Host, tmp_path: Path) -> Device:
        """An `exerciser` over the transport, started."""
        keys = "".join(f",{key}={value}" for key, value in self.keys(tmp_path).items())
        device: Device = host.add(f"emu_exerciser,id=0,transport={self.transport}{keys}")
        host.start()
        return device

    @pytest.fixture
    def provider(self, device: Device) -> exerciser.Exerciser:
        """The device's provider."""
        provider = device.members[0].plugin
        assert isinstance(provider, exerciser.Exerciser)
        return provider

    @pytest.fixture
    def client(self, host: Host, device: Device) -> Iterator[DeviceClient]:
        """A client of it."""
        client = host.connect(device)
        yield client
        client.close()

    def test_it_says_where_it_listens(self, device: Device) -> None:
        """The address is for people and programs."""
        assert device.address

    def test_the_client_sees_regions_and_vectors(
        self, client: DeviceClient, device: Device
    ) -> None:
        """As the provider gave them; a protocol may have more, empty ones."""
        seen = [(r.index, r.size, r.flags) for r in client.regions() if r.size]
        given = [(r.index, r.size, r.flags) for r in device.get_regions() if r.size]
        assert seen == given
        assert [(g.index, g.count) for g in client.irq_groups() if g.count] == [(0, 2)]

    @pytest.mark.parametrize("size", [1, 2, 4, 8, 3, 16, 1000])
    def test_bytes_are_written_and_read(
        self, client: DeviceClient, provider: exerciser.Exerciser, size: int
    ) -> None:
        """Registers and bulk, in the byte order in which they were written."""
        data = bytes((7 * i + 1) & 0xFF for i in range(size))
        client.region_write(0, 64, data)
        assert provider.memory[64 : 64 + size] == data
        assert client.region_read(0, 64, size) == data

    @pytest.mark.parametrize(("offset", "size"), [(65, 4), (66, 8), (64, 3)])
    def test_accesses_that_are_no_numbers_go_in_bulk(
        self, client: DeviceClient, provider: exerciser.Exerciser, offset: int, size: int
    ) -> None:
        """Other sizes, and what is not aligned."""
        client.region_write(0, offset, bytes(size))
        client.region_read(0, offset, size)
        assert [t[0] for t in provider.told if t[0].startswith("region_")] == []

    def test_posted_writes_keep_their_order(
        self, client: DeviceClient, provider: exerciser.Exerciser
    ) -> None:
        """A read behind them sees them all."""
        for value in range(1, 51):
            client.region_write(0, 8, value.to_bytes(4, "little"), posted=True)
        assert client.region_read(0, 8, 4) == (50).to_bytes(4, "little")
        values = [t[4] for t in provider.told if t[:4] == ("region_write", 0, 8, 4)]
        assert values == [*range(1, 51)]

    @pytest.mark.parametrize(
        ("region", "offset", "size"), [(0, 4093, 4), (0, 4096, 1), (2, 0, 1), (9, 0, 4)]
    )
    def test_accesses_outside_are_refused(
        self, client: DeviceClient, device: Device, region: int, offset: int, size: int
    ) -> None:
        """The client gets an error, and the connection goes on."""
        with pytest.raises(PeerError):
            client.region_read(region, offset, size)
        with pytest.raises(PeerError):
            client.region_write(region, offset, bytes(size))
        assert client.region_read(0, 0, 4) == bytes(4)
        assert device.state is State.STARTED

    def test_doorbells_ring(self, client: DeviceClient, provider: exerciser.Exerciser) -> None:
        """The word has the value when the subscriber is called."""
        client.region_write(1, exerciser.DOORBELLS + 8, (77).to_bytes(4, "little"), posted=True)
        client.region_read(0, 0, 4)
        assert provider.rung == [(1, 77)]

    def test_observed_doorbells_go_through_the_hook(
        self, client: DeviceClient, device: Device, provider: exerciser.Exerciser
    ) -> None:
        """An observer of register writes sees doorbells too, and none once it has gone."""
        seen = _WriteObserver()
        device.register(seen, "observer")
        client.region_write(1, exerciser.DOORBELLS, (5).to_bytes(4, "little"))
        device.unregister(seen)
        client.region_write(1, exerciser.DOORBELLS, (6).to_bytes(4, "little"))
        client.region_read(0, 0, 4)
        assert seen.writes == [(1, exerciser.DOORBELLS, 4, 5)]
        assert provider.rung == [(0, 5), (0, 6)]

    def test_guest_memory_with_a_descriptor_is_shared(
        self, client: DeviceClient, provider: exerciser.Exerciser
    ) -> None:
        """What either side stores the other reads; an unmapping takes it away."""
        memory = GuestMemory(guest=0x4000_0000)
        try:
            client.dma_map(0x4000_0000, 65536, fd=memory.fd)
            memory.write(100, b"from the guest")
            assert provider.table.read(0x4000_0064, 14) == b"from the guest"
            provider.table.write(0x4000_0200, b"from the device")
            assert memory.read(0x200, 15) == b"from the device"
            generation = provider.table.generation
            client.dma_unmap(0x4000_0000, 65536)
            assert provider.table.generation > generation
            assert provider.table.find(0x4000_0000) is None
        finally:
            memory.close()

    def test_read_only_memory_is_not_written(
        self, client: DeviceClient, provider: exerciser.Exerciser
    ) -> None:
        """The table says so, and refuses."""
        memory = GuestMemory(guest=0x4000_0000)
        try:
            client.dma_map(0x4000_0000, 65536, fd=memory.fd, writable=False)
            with pytest.raises(EmudevError):
                provider.table.write(0x4000_0000, b"x")
        finally:
            memory.close()

    def test_overlapping_memory_is_refused(
        self, client: DeviceClient, provider: exerciser.Exerciser
    ) -> None:
        """The first mapping stays."""
        memory = GuestMemory()
        try:
            client.dma_map(0x1_0000, 0x2000, fd=memory.fd)
            with pytest.raises(PeerError):
                client.dma_map(0x1_1000, 0x2000, fd=memory.fd)
            assert [r.guest for r in provider.table.regions] == [0x1_0000]
        finally:
            memory.close()

    def test_a_bound_vector_signals(
        self, client: DeviceClient, provider: exerciser.Exerciser
    ) -> None:
        """Until it is unbound."""
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            client.irq_bind(0, 1, fd)
            provider.trigger(1)
            assert client.wait(fd, 1.0)
            os.eventfd_read(fd)
            client.irq_bind(0, 1, None)
            provider.trigger(1)
            assert not client.wait(fd, 0.01)
        finally:
            os.close(fd)
        assert ("irq_bound", 0, 1, False) in provider.told
        assert ("status_changed", "irqs") in provider.told

    def test_masks_are_told(self, client: DeviceClient, provider: exerciser.Exerciser) -> None:
        """In order."""
        client.irq_mask(0, 0, True)
        client.irq_mask(0, 0, False)
        masks = [t for t in provider.told if t[0] == "irq_masked"]
        assert masks == [("irq_masked", 0, 0, True), ("irq_masked", 0, 0, False)]

    def test_a_reset_reaches_the_provider(
        self, client: DeviceClient, provider: exerciser.Exerciser
    ) -> None:
        """As the machine's."""
        client.region_write(0, 0, b"\x01\x02\x03\x04")
        client.reset()
        assert client.region_read(0, 0, 4) == bytes(4)
        assert ("reset", ResetKind.POWER) in provider.told

    def test_an_answer_that_comes_later_is_waited_for(
        self, client: DeviceClient, host: Host, provider: exerciser.Exerciser
    ) -> None:
        """The reset is answered when the provider has finished."""
        later: list[Later] = []

        def answer() -> Later:
            later.append(Later())
            host.loop.call_later(0.02, later[-1].finish)
            return later[-1]

        provider.answer = answer
        client.reset()
        assert later[0].done
        provider.answer = lambda: True

    def test_a_client_that_goes_leaves_nothing(
        self, host: Host, device: Device, provider: exerciser.Exerciser
    ) -> None:
        """Its memory and vectors are taken back, the device is reset, the next one is served."""
        before = descriptors()
        memory = GuestMemory()
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for _ in range(2):
            client = host.connect(device)
            client.dma_map(0x10_0000, 65536, fd=memory.fd)
            client.irq_bind(0, 0, fd)
            client.close()
            turn_until(host, lambda: provider.told[-1] == ("client_detached",))
            assert provider.table == EMPTY_TABLE or not provider.table.regions
            assert provider.fds == {}
            assert ("reset", ResetKind.CLIENT_GONE) in provider.told
        os.close(fd)
        memory.close()
        assert left_open(before) == []

    def test_a_provider_that_raises_is_named_and_the_client_told(
        self, client: DeviceClient, device: Device
    ) -> None:
        """The device is in error with the plugin's name."""
        with pytest.raises((PeerError, TransportError)):
            client.region_read(3, 0, 4)
        assert device.state is State.ERROR
        assert "emudev-core-testing" in device.error

    def test_it_stops_and_listens_again(self, host: Host, device: Device) -> None:
        """Each time from scratch; a stopped one takes no client."""
        device.stop()
        with pytest.raises(EmudevError):
            host.connect(device)
        device.start()
        client = host.connect(device)
        assert client.region_read(0, 0, 4) == bytes(4)
        client.close()


class _WriteObserver:
    """Counts register writes."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int, int]] = []

    @hookimpl(wrapper=True)
    def emudev_region_write(self, region: int, offset: int, size: int, value: int) -> Any:
        done = yield
        self.writes.append((region, offset, size, value))
        return done
