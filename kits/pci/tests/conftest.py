"""Fixtures of the kit itself."""

pytest_plugins = ["emudev_pci.testing"]
