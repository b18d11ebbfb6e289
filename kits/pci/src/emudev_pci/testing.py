"""Fixtures for tests of PCI functions: ``pytest_plugins = ["emudev_pci.testing"]`` in a conftest.

    def test_again_stores_and_interrupts(emudev_function):
        dice = emudev_function("emu_dice,id=0,sides=20")
        page = dice.map_memory(4096)
        dice.bar[0].TARGET = page.address
        ...

A test runs once for each transport of `TRANSPORTS`: inside the process, and over a vfio-user
socket if emudev-vfio-user is installed. Device and client share the test's thread: the client lets
the device's loop turn while it waits.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from emudev_core.device import Device
from emudev_core.host import Host
from emudev_core.plugins import Plugins, load_plugins
from emudev_core.testing import loopback
from emudev_core.testing.builders import make_source

from .function import PciFunction
from .guest import GuestFunction

__all__ = ["TRANSPORTS", "FunctionFactory", "emudev_function", "emudev_host", "emudev_plugins"]

#: Name of a transport, and the keys that it needs; ``{folder}`` is a short, empty one.
TRANSPORTS: Final = {"loopback": "", "vfio_user": ",path={folder}/s"}

#: ``make("emu_dice,id=0", "echo,emu=dice_emudev_0")``: a device and its backends, started.
FunctionFactory = Callable[..., GuestFunction]


@pytest.fixture
def emudev_plugins() -> Plugins:
    """The plugins; override it for devices that are not installed."""
    return load_plugins()


@pytest.fixture
def emudev_host(emudev_plugins: Plugins) -> Iterator[Host]:
    """The host of the test's devices, closed at its end; it has the core's transport for tests."""
    plugins = emudev_plugins
    if loopback.SPEC.name not in plugins.transports:
        own = make_source(loopback.SPEC, distribution="emudev-core-testing")
        plugins = Plugins([*plugins.sources, own])
    with Host(plugins=plugins) as host:
        yield host


@pytest.fixture(params=sorted(TRANSPORTS))
def emudev_function(request: pytest.FixtureRequest, emudev_host: Host) -> Iterator[FunctionFactory]:
    """Make a function and drive it: ``emudev_function(vdev, *backends) -> GuestFunction``.

    It has memory and bus master enabled. Several may be made in one test; all are closed at its
    end.
    """
    transport: str = request.param
    if transport not in emudev_host.plugins.transports:
        pytest.skip(f"no transport {transport} is installed")
    made: list[GuestFunction] = []
    folders: list[str] = []

    def make(vdev: str, *others: str) -> GuestFunction:
        folder = tempfile.mkdtemp(prefix="emudev-")  # pytest's own may be too long for a socket
        folders.append(folder)
        keys = TRANSPORTS[transport].format(folder=Path(folder))
        device: Device = emudev_host.add(f"{vdev},transport={transport}{keys}")
        for other in others:
            emudev_host.add(other)
        emudev_host.start()
        provider = device.members[0].plugin
        bars = provider.bars if isinstance(provider, PciFunction) else {}
        maps = {number: bar.map for number, bar in bars.items() if bar.map is not None}
        function = GuestFunction(emudev_host.connect(device), maps)
        made.append(function)
        function.enable()
        return function

    try:
        yield make
    finally:
        for function in reversed(made):
            function.close()
        emudev_host.close()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
