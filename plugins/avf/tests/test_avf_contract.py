from emudev_core.testing import ProviderContract


class TestAvf(ProviderContract):
    vdev = "emu_iavf,queues=3"


class TestSmallestAvf(ProviderContract):
    vdev = "emu_iavf,caps=0,mtu=68"
