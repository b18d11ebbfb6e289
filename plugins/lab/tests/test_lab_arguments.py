"""The command line: what is asked for, what is refused, placeholders, and what QEMU is told."""

import argparse
import json
from pathlib import Path

import pytest

from emudev_core.errors import ConfigError
from emudev_lab import plugin
from emudev_lab.command import add_arguments, request_of
from emudev_lab.errors import LabError
from emudev_lab.lab import Kernel, Lab, default_folder
from emudev_lab.qemu import Machine, Nic, arguments, drivers
from emudev_lab.vdevs import fill_command, fill_vdevs


def parse(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_a_run_takes_everything_from_its_options(tmp_path):
    request = request_of(
        parse(
            "run", "smoke", "--kernel", "backports", "--vdev", "emu_x,id=0", "--vdev", "y,emu=x",
            "--set", "DUR=3", "--set", "TEXT=a=b", "--timeout", "9", "--keep", str(tmp_path),
            "--smp", "2", "--mem", "768", "--iommu", "--memory", "private",
            "--tap-flags", "multi_queue",
        )
    )  # fmt: skip
    assert request.script.name == "smoke.sh"
    assert request.kernel == "backports"
    assert request.vdevs == ("emu_x,id=0", "y,emu=x")
    assert request.variables == {"DUR": "3", "TEXT": "a=b"}
    assert (request.timeout, request.smp, request.mem) == (9, 2, 768)
    assert request.keep == tmp_path
    assert (request.iommu, request.shared) == (True, False)
    assert request.tap_flags == "multi_queue"


def test_a_guest_has_no_iommu_and_shares_its_memory_unless_told_otherwise():
    request = request_of(parse("run", "-c", "true", "--nic", "e1000e"))
    assert (request.iommu, request.shared, request.tap_flags) == (False, True, "")


def test_the_text_of_a_script_may_stand_on_the_command_line():
    request = request_of(parse("run", "-c", "true", "--nic", "e1000e"))
    assert request.script.text == "true"
    assert request.nics == (Nic("e1000e"),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nic", "e1000e"], "expected a script"),
        (["smoke", "-c", "true", "--nic", "e1000e"], "expected a script"),
        (["smoke"], "no device"),
        (["smoke", "--vdev", "a", "--server", "b"], "exclude each other"),
        (["nosuch", "--nic", "e1000e"], "no script nosuch: neither"),
        (["smoke", "--nic", "rtl8139"], "no NIC rtl8139: expected one of"),
        (["smoke", "--nic", "e1000e", "--set", "DUR"], "expected NAME=VALUE, got DUR"),
        (["smoke", "--nic", "e1000e", "--set", "A-B=1"], "expected NAME=VALUE, got A-B=1"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        request_of(parse("run", *words))


def test_numbers_start_at_one(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("run", "smoke", "--smp", "0")
    assert caught.value.code == 2
    assert "expected a number from 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["rtl8139", "e1000e:/run/x.sock"])
def test_an_unknown_nic_is_refused_with_the_known_ones(text):
    with pytest.raises(LabError, match="expected one of vfio-user, e1000e"):
        Nic.parse(text)


def test_preparing_has_both_kernels_and_no_dpdk_by_default():
    options = parse("prepare")
    assert (options.kernel, options.dpdk, options.again) == ("all", "no", False)


def test_the_plugin_offers_the_command():
    (spec,) = plugin.emudev_commands()
    assert spec.name == "lab"
    assert spec.arguments is not None


def test_the_folder_of_the_lab_is_the_environment_s_or_the_cache(monkeypatch):
    monkeypatch.setenv("EMUDEV_LAB", "/some/where")
    assert default_folder() == Path("/some/where")
    monkeypatch.delenv("EMUDEV_LAB")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_folder() == Path("/home/u/.cache/emudev/lab")


def test_a_folder_without_a_lab_says_how_to_make_one(tmp_path):
    assert "run `emudev lab prepare`" in Lab(tmp_path).missing(["stable"])
    with pytest.raises(LabError, match="no guest lab"):
        Lab(tmp_path).require()
    with pytest.raises(LabError, match=r"no guest kernel 5\.0"):
        Lab(tmp_path).kernel("5.0")


def test_a_lab_without_dpdk_says_how_to_have_it(tmp_path):
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    for step in ("qemu", "guest", "kernel_stable"):
        (stamps / step).touch()
    assert Lab(tmp_path).missing(["stable"], ["tcpdump"]) == ""
    assert "run `emudev lab prepare --dpdk yes`" in Lab(tmp_path).missing([], ["dpdk-testpmd"])
    with pytest.raises(LabError, match="dpdk is missing"):
        Lab(tmp_path).require(["stable"], ["dpdk-testpmd"])


def test_placeholders_of_vdevs_are_filled_in():
    filled = fill_vdevs(["emu_iavf,path={sock},id=0", "tap_backend,iface={tap}"], Path("/d"))
    assert filled.texts == ("emu_iavf,path=/d/nic0.sock,id=0", "tap_backend,iface=tap0")
    assert filled.sockets == (Path("/d/nic0.sock"),)
    assert filled.taps == 1


def test_a_device_without_a_socket_gets_one_of_its_own():
    filled = fill_vdevs(
        [
            "emu_iavf,id=0",
            "emu_iavf,id=1,path=/x/{dir}",
            "emu_iavf,id=2",
            "tap_backend,iface={tap1}",
        ],
        Path("/d"),
    )
    assert filled.texts == (
        "emu_iavf,id=0,path=/d/nic0.sock",
        "emu_iavf,id=1,path=/x//d",
        "emu_iavf,id=2,path=/d/nic2.sock",
        "tap_backend,iface=tap1",
    )
    assert filled.sockets == (Path("/d/nic0.sock"), Path("/d/nic2.sock"))
    assert filled.taps == 2


def test_placeholders_of_a_command_are_quoted_for_the_shell():
    filled = fill_command("srv --sock {sock} --tap {tap}", Path("/a b"))
    assert filled.texts == ("srv --sock '/a b/nic0.sock' --tap tap0",)


def test_an_unknown_placeholder_is_refused():
    with pytest.raises(LabError, match=r"unknown placeholder \{socket\}"):
        fill_command("srv {socket}", Path("/d"))


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setattr(Lab, "command", lambda self, name: [name])

    def build(machine):
        kernel = Kernel("6.12", Path("/k/vmlinuz"), Path("/k/lib"))
        return arguments(Lab(tmp_path), machine, kernel, Path("/i"), Path("/c.log"), 7)

    return build


def test_a_device_on_vfio_user_has_its_socket_and_its_slot(words):
    found = words(Machine((Nic("vfio-user", Path("/d/a,b.sock")), Nic("none"))))
    (device,) = [json.loads(word) for word in found if word.startswith("{")]
    assert device == {
        "driver": "vfio-user-pci",
        "id": "nic0",
        "socket": {"type": "unix", "path": "/d/a,b.sock"},
        "bus": "pcie.0",
        "addr": "0x4",
    }


def test_guest_memory_is_shared_so_that_a_server_can_map_it(words):
    found = words(Machine(mem=768, smp=2))
    assert "memory-backend-memfd,id=mem,size=768M,share=on" in found
    assert found[found.index("-smp") + 1] == "2"
    assert "socket,id=control,fd=7" in found


@pytest.mark.parametrize(
    ("accel", "smp", "expected"),
    [("tcg", 1, "tcg"), ("tcg", 2, "tcg,thread=single"), ("kvm", 2, "kvm")],
)
def test_emulated_processors_take_turns_in_one_thread(words, accel, smp, expected):
    found = words(Machine(accel=accel, smp=smp))
    assert found[found.index("-accel") + 1] == expected


def test_private_memory_is_qemu_s_own(words):
    found = words(Machine(mem=768, shared=False))
    assert found[found.index("-m") + 1] == "768"
    assert "q35" in found
    assert not [word for word in found if "memory-backend" in word]


def test_an_iommu_comes_before_the_nics_and_the_kernel_is_told(words):
    found = words(Machine((Nic("vfio-user", Path("/d/a.sock")),), iommu=True))
    device = found.index("intel-iommu,caching-mode=on")
    assert device < next(n for n, word in enumerate(found) if word.startswith("{"))
    assert found[found.index("-append") + 1].endswith(" intel_iommu=on")
    plain = words(Machine())
    assert "intel_iommu" not in plain[plain.index("-append") + 1]


def test_qemu_s_own_nics_sit_on_the_tap_of_their_number(words):
    found = words(Machine((Nic("e1000e"), Nic("virtio"))))
    assert "tap,id=net1,ifname=tap1,script=no,downscript=no,vhost=off" in found
    devices = [json.loads(word) for word in found if word.startswith("{")]
    assert [device["driver"] for device in devices] == ["e1000e", "virtio-net-pci"]
    assert [device["mac"] for device in devices] == ["52:54:00:77:00:02", "52:54:00:77:00:03"]
    found = words(Machine((Nic("igb", tap=3, mac="52:54:00:77:00:09"),)))
    assert "tap,id=net0,ifname=tap3,script=no,downscript=no,vhost=off" in found
    assert '"mac": "52:54:00:77:00:09"' in found[-1]
    assert drivers([Nic("e1000e"), Nic("virtio"), Nic("e1000e"), Nic("none")]) == [
        "e1000e",
        "virtio_net",
    ]
