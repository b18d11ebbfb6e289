"""The suites that every provider, transport and backend passes."""

from emudev_core.testing.contracts import BackendContract, ProviderContract, TransportContract


class TestDevice(ProviderContract):
    vdev = "emu_null,vectors=3"


class TestInproc(TransportContract):
    transport = "inproc"


class TestNull(BackendContract):
    vdev = "null"
