"""What the contract suites share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ..host import Host
from ..later import Later
from ..plugins import Plugins, find_sources
from . import exerciser, loopback, port
from .builders import descriptors, left_open, make_source

__all__ = ["Contract", "settle", "turn_until"]


class Contract:
    """What the suites share: the plugins, and a host that is closed at the end."""

    @pytest.fixture
    def plugins(self) -> Plugins:
        """What is installed, and the devices and the transport of this package."""
        own = make_source(
            loopback.SPEC, exerciser.SPEC, port.SPEC, distribution="emudev-core-testing"
        )
        return Plugins([*find_sources(), own])

    @pytest.fixture
    def host(self, plugins: Plugins) -> Iterator[Host]:
        """A host; nothing that it opened is open after the test."""
        before = descriptors()
        with Host(plugins=plugins) as host:
            yield host
        assert left_open(before) == []


def settle(host: Host, answer: Later | bool) -> None:
    """Turn the loop until an answer is there.

    Raises:
        AssertionError: It did not come within 2 s, or is a failure.
    """
    deadline = time.monotonic() + 2
    while isinstance(answer, Later) and not answer.done:
        assert time.monotonic() < deadline, "an answer did not come"
        host.loop.turn(0.01)
    assert not isinstance(answer, Later) or answer.error is None


def turn_until(host: Host, condition: Any, seconds: float = 2.0) -> None:
    """Turn the loop until a condition holds.

    Raises:
        AssertionError: It does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        host.loop.turn(0.01)
