"""What the tests of the control side share: names, a host, and descriptors that are counted."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emudev_core.host import Host
from emudev_core.testing.builders import descriptors, left_open

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
