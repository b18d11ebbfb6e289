"""The interface passes what every provider has to, in both roles."""

import os

from emudev_core.testing import ProviderContract


class TestServer(ProviderContract):
    vdev = f"emu_memif,role=server,queues=2,socket=emudev-contract-server-{os.getpid()}"


class TestClient(ProviderContract):
    vdev = f"emu_memif,role=client,queues=3,socket=emudev-contract-client-{os.getpid()}"
