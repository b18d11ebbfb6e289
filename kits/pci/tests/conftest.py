"""Fixtures of the kit itself."""

from emudev_pci.testing import emudev_function, emudev_host, emudev_plugins

__all__ = ["emudev_function", "emudev_host", "emudev_plugins"]
