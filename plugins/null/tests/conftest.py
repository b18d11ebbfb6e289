"""Fixtures for tests of the plugin."""

pytest_plugins = ["emudev_pci.testing"]
