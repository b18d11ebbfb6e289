"""Tests with guests are collected where everything that they start is installed."""

from importlib.metadata import entry_points

_NEEDED = {"avf", "lab", "tap_backend", "vfio_user"}

if not {entry.name for entry in entry_points(group="emudev")} >= _NEEDED:
    collect_ignore_glob = ["test_*.py"]
