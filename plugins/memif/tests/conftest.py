"""What tests share: names, a host, ends of the protocol, rings, descriptors that are counted."""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emudev_core.device import Device
from emudev_core.host import Host
from emudev_core.testing.builders import descriptors, left_open
from emudev_memif.plain_peer import Joined
from emudev_memif.rings import KERNELS, Role
from emudev_memif.testing import HandMade, records
from emudev_memif.testing.ends import Client, Server
from emudev_memif.testing.steps import RING, start
from emudev_net.testing import compiled_or_plain, jit

__all__ = ["compiled_or_plain", "jit"]

_numbers = itertools.count()


@pytest.fixture
def tidy() -> Iterator[None]:
    """What a test opens, or has sent to it, is closed when it ends."""
    before = descriptors()
    yield
    assert left_open(before) == []


@pytest.fixture
def name() -> str:
    """An abstract socket's name of one's own."""
    return f"emudev-test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def host(tidy: None) -> Iterator[Host]:
    with Host() as made:
        yield made


@pytest.fixture
def until(host: Host) -> Callable[..., None]:
    """Turn the loop until a condition holds."""

    def turn_until(condition: Callable[[], Any], seconds: float = 3.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            host.loop.turn(0.005)

    return turn_until


@pytest.fixture
def reach(host: Host, name: str) -> Iterator[Callable[..., HandMade]]:
    """Connects clients by hand; the first record is taken unless that is not wanted."""
    made = []

    def connect_one(greeted: bool = True, address: bytes = b"") -> HandMade:
        hand = HandMade.client(host.loop.turn, address or b"\0" + name.encode())
        made.append(hand)
        if greeted:
            assert hand.receive()[0][:2] == b"\2\0"
        return hand

    yield connect_one
    for hand in made:
        hand.close()


@pytest.fixture
def device(host: Host, name: str) -> Device:
    """A server of two pairs, with its link up."""
    return start(host, f"emu_memif,role=server,socket={name},id=5,queues=2")[0]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server's end of the protocol, without a socket."""
    made = Server()
    yield made
    made.protocol.gone()


@pytest.fixture
def client() -> Iterator[Client]:
    """A client's end of the protocol, without a socket."""
    made = Client()
    yield made
    made.close()


@pytest.fixture
def file() -> Iterator[int]:
    fd = records.memory_file(cookies=(0, RING))
    yield fd
    os.close(fd)


@pytest.fixture
def join_as(compiled_or_plain: Callable[..., None]) -> Iterator[Callable[..., Joined]]:
    """Makes an interface of a role, joined to a plain peer; keys as for `Joined`."""
    compiled_or_plain(*KERNELS)
    made = []

    def make(role: Role, **keys: Any) -> Joined:
        made.append(Joined(role, **keys))
        return made[-1]

    yield make
    for joined in made:
        joined.close()


@pytest.fixture(params=[Role.SERVER, Role.CLIENT], ids=lambda role: role.value)
def join(request: pytest.FixtureRequest, join_as: Callable[..., Joined]) -> Callable[..., Joined]:
    """`join_as`, once with each role."""
    return functools.partial(join_as, request.param)
