"""The AVF device keeps what every provider keeps."""

from __future__ import annotations

from emudev_core.testing import ProviderContract


class TestAvf(ProviderContract):
    vdev = "emu_iavf,queues=2"
