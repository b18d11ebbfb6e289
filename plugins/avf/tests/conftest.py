"""What the tests of the AVF device share: guest memory, a driver's mailbox, devices, queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emudev_avf.rings import KERNELS
from emudev_avf.testing import Guest
from emudev_avf.testing.machines import Machine
from emudev_avf.testing.mailbox import GuestMemory, Mailer
from emudev_net.testing import compiled_or_plain, jit  # noqa: F401  # fixtures


@pytest.fixture
def guest_memory() -> GuestMemory:
    return GuestMemory()


@pytest.fixture(scope="session")
def new_memory() -> type[GuestMemory]:
    """Makes guest memories, for tests that need a fresh one for each example."""
    return GuestMemory


@pytest.fixture
def mailer() -> type[Mailer]:
    return Mailer


@pytest.fixture
def make(guest_memory: GuestMemory) -> Iterator[Callable[..., Machine]]:
    """Makes devices that share their guest's memory."""
    made: list[Machine] = []

    def make_one(**keys: Any) -> Machine:
        made.append(Machine(guest_memory, **keys))
        return made[-1]

    yield make_one
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make: Callable[..., Machine]) -> Machine:
    """A device of two queue pairs whose guest is about to boot."""
    return make().plug()


@pytest.fixture
def go_on(make: Callable[..., Machine]) -> Callable[..., Machine]:
    """Saves a device and goes on in another one, made with keys, for the same guest."""

    def restore(machine: Machine, **keys: Any) -> Machine:
        saved = machine.device.save()
        other = make(**keys)
        other.device.stop()
        other.device.restore(saved)
        other.device.start()
        other.device.dma_map(machine.memory.table, machine.memory.region)
        assert other.device.save() == saved
        other.mail = machine.mail
        other.mail.read, other.mail.write = other.read, other.write
        return other

    return restore


@pytest.fixture
def guests(compiled_or_plain: Callable[..., None]) -> Iterator[Callable[..., Guest]]:  # noqa: F811
    """Makes guests whose queues the test drives without a device; runs compiled and plain."""
    compiled_or_plain(*KERNELS)
    made: list[Guest] = []

    def make(*args: Any, **options: Any) -> Guest:
        made.append(Guest(*args, **options))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


@pytest.fixture
def guest(guests: Callable[..., Guest]) -> Guest:
    """A guest of one queue pair."""
    return guests()


@pytest.fixture
def four_pairs(guests: Callable[..., Guest]) -> Guest:
    """A guest of four queue pairs, each with buffers for 60 frames."""
    made = guests(4)
    for pair in range(4):
        made.post(60, pair)
    return made
