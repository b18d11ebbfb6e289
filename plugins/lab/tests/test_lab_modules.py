"""Which module files a guest gets, and in which order."""

import lzma

import pytest

from emudev_lab.errors import LabError
from emudev_lab.kernel_modules import plan, read

# As depmod writes it: the nearest need comes first, what has to be loaded first comes last.
DEP = """\
net/8021q/8021q.ko.xz: net/802/mrp.ko.xz net/802/garp.ko.xz net/llc/llc.ko.xz
net/802/mrp.ko.xz:
net/802/garp.ko.xz: net/llc/llc.ko.xz
net/llc/llc.ko.xz:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "modules.dep").write_text(DEP)
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    return tmp_path


def test_needs_come_before_what_needs_them(folder):
    assert [module.name for module in plan(folder, ["8021q"])] == ["llc", "garp", "mrp", "8021q"]


def test_a_shared_need_is_there_once(folder):
    names = [module.name for module in plan(folder, ["garp", "8021q", "net-failover"])]
    assert names == ["llc", "garp", "mrp", "8021q", "failover", "net_failover"]


def test_dashes_and_underscores_are_the_same(folder):
    (module,) = plan(folder, ["llc"])
    assert (module.name, module.path, module.needs) == ("llc", "net/llc/llc.ko.xz", ())
    assert plan(folder, ["net-failover"]) == plan(folder, ["net_failover"])


def test_what_is_built_in_needs_no_file(folder):
    assert plan(folder, ["virtio-pci"]) == []


def test_an_unknown_module_is_named(folder):
    with pytest.raises(LabError, match="no module nosuch"):
        plan(folder, ["llc", "nosuch"])


def test_modules_are_read_uncompressed(tmp_path):
    (tmp_path / "a.ko").write_bytes(b"plain")
    (tmp_path / "b.ko.xz").write_bytes(lzma.compress(b"packed"))
    assert read(tmp_path / "a.ko") == b"plain"
    assert read(tmp_path / "b.ko.xz") == b"packed"
