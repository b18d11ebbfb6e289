"""What the tests of the control side share: names, a host, ends, descriptors that are counted."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emudev_core.device import Device
from emudev_core.host import Host
from emudev_core.testing.builders import descriptors, left_open
from emudev_memif.testing import HandMade, records
from emudev_memif.testing.ends import Client, Server
from emudev_memif.testing.steps import RING, start

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
