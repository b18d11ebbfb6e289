"""Fixtures of the kit itself; the tests import helpers that stand beside this file, too."""

import sys
from pathlib import Path

import pytest

from emudev_core.testing.builders import make_plugins
from emudev_pci.testing import emudev_function, emudev_host

sys.path.insert(0, str(Path(__file__).parent))

import probe

__all__ = ["emudev_function", "emudev_host"]


@pytest.fixture
def emudev_plugins():
    """What is installed, and the probe."""
    return make_plugins(probe.SPEC, installed=True)


@pytest.fixture
def make_probe(emudev_function, emudev_host):
    """Makes a probe: the guest's view of it, the function itself, and its device."""

    def build(vdev="emu_probe,id=0"):
        function = emudev_function(vdev)
        (device,) = emudev_host.registry
        return function, device.members[0].plugin, device

    return build
