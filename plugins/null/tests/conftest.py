"""Fixtures for tests of the plugin: the device as a guest sees it, over each transport."""

from emudev_pci.testing import emudev_function, emudev_host, emudev_plugins

__all__ = ["emudev_function", "emudev_host", "emudev_plugins"]
