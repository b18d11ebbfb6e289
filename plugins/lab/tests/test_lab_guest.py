"""Guests that boot: on NICs of QEMU's own, so that what fails here is the lab and not a device."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from emudev_lab.errors import CommandError, GuestError
from emudev_lab.host import emudev_command
from emudev_lab.lab import Lab
from emudev_lab.qemu import Nic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KERNELS = [
    pytest.param(name, marks=pytest.mark.guest(kernel=name), id=name)
    for name in ("stable", "backports")
]


def lab(*words, **options):
    return subprocess.Popen(
        [*emudev_command(), "lab", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def prepared():
    if os.geteuid() != 0:
        pytest.skip("guests need root")
    if missing := Lab().missing(["stable", "backports"]):
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
def nothing_left(prepared, tmp_path, monkeypatch):
    """Processes and temporary folders of a run, which has to leave none."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.glob("emudev-lab-*")) == []
    assert _processes(str(tmp_path)) == []


@pytest.mark.guest(nic="e1000e")
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_guest_boots_talks_and_follows_its_tap(guest, emudev, kernel):
    assert guest.sh("uname -s") == "Linux"
    guest.sh("nic_up")
    guest.sh("ping -q -c 2 -i 0.1 -W 2 $HOST_IP && ping -q -c 2 -i 0.1 -W 2 $HOST_IP6")
    emudev.host("ping -q -c 2 -i 0.1 -W 2 192.168.77.2")
    # The guest asks the host, the host's answer is the guest's.
    assert guest.sh("host cat /sys/class/net/lo/address; host false || echo $?").endswith("1")
    assert "eth0" in guest.sh("ip -br link")
    with pytest.raises(CommandError, match="exit status 3 of: echo why; exit 3\nwhy"):
        guest.sh("echo why; exit 3")
    assert guest.run("printf 'no line end'; echo; echo; printf x").output == "no line end\n\nx\n"
    guest.wait_for("echo tick >>/tmp/ticks; cat /tmp/ticks", "tick\ntick\ntick")
    with pytest.raises(GuestError, match="no 'nosuch' from `echo here` in"):
        guest.wait_for("echo here", "nosuch", timeout=0.2)
    assert "NIC Link is Up" in guest.log
    assert guest.log.trouble() == []


@pytest.mark.guest(nic="e1000e", tolerate=True)
def test_trouble_in_the_kernel_s_log_is_seen(guest):
    guest.sh("echo '<3>something is wrong' >/dev/kmsg")
    assert guest.log.trouble() == ["something is wrong"]


@pytest.mark.guest(nic="e1000e")
def test_a_command_that_takes_too_long_ends_the_guest(guest):
    with pytest.raises(GuestError, match="time-out of the guest: sleep 30"):
        guest.sh("sleep 30", timeout=0.5)


@pytest.mark.guest(nic="none", tolerate=True)
def test_a_panic_is_told_with_the_end_of_the_console(guest):
    guest.sh("echo 1 >/proc/sys/kernel/sysrq")
    with pytest.raises(GuestError, match=r"the guest ended[\s\S]*Kernel panic"):
        guest.sh("echo c >/proc/sysrq-trigger")


@pytest.mark.guest(nic="e1000e")
def test_a_second_boot_is_a_new_guest_on_the_same_host_side(guest, emudev):
    guest.sh("touch /tmp/here")
    first = guest.boot().process.pid
    guest.reboot()
    assert guest.boot().process.pid != first
    assert guest.sh("ls /tmp/here 2>/dev/null || echo gone") == "gone"
    assert sorted(path.name for path in emudev.folder.glob("console*")) == [
        "console.log",
        "console1.log",
    ]


def test_two_guests_reach_each_other_over_a_bridge(emudev):
    first = emudev.another(Nic("e1000e"))
    second = emudev.another(
        Nic("e1000e", tap=1, mac="52:54:00:77:00:03"),
        variables={"GUEST_IP": "192.168.77.3", "GUEST_IP6": "fd77::3", "HOST_IP": "192.168.77.2"},
    )
    emudev.side.add_taps(2)
    emudev.host("ip link add hub type bridge && ip link set hub up")
    emudev.host("for tap in tap0 tap1; do ip link set $tap master hub; done")
    first.sh("nic_up")
    second.sh("nic_up; until_true 20 ping -q -c 1 -W 1 $HOST_IP")
    assert "192.168.77.3" in first.sh("ip neighbour; ping -q -c 1 192.168.77.3 >/dev/null")


@pytest.mark.parametrize("name", ["smoke", "tcp"])
@pytest.mark.guest(nic="e1000e")
def test_scripts_pass_on_a_nic_that_works(guest, name):
    assert guest.script(name, BYTES=100000, JUMBO=0)["FAILURES"] == "0"


def test_lspci_shows_the_device_to_a_guest_without_a_driver(nothing_left):
    run = lab("run", "lspci", "--nic", "e1000e")
    output, errors = run.communicate(timeout=200)
    assert (run.returncode, errors) == (0, "")
    assert "PCI_ID=8086:10d3\n" in output
    assert "Kernel driver in use" not in output


def test_a_failed_run_names_its_reasons_and_keeps_its_logs(nothing_left, tmp_path):
    keep = tmp_path / "kept"
    text = "echo '<2>wrong' >/dev/kmsg; kv SHELL \"$0\"; exit 7"
    run = lab("run", "-c", text, "--nic", "e1000e", "--keep", str(keep), "--quiet")
    output, errors = run.communicate(timeout=200)
    assert run.returncode == 1
    assert "lab: failed: -c ended with status 7\n" in errors
    assert "lab: failed: the guest's kernel: wrong\n" in errors
    assert f"lab: logs are in {keep}\n" in errors
    assert {"console.log", "qemu.log", "dmesg.log"} <= {path.name for path in keep.iterdir()}
    assert "SHELL=" in output


def test_a_script_that_hangs_is_ended_in_time(nothing_left, tmp_path):
    run = lab(
        "run", "-c", "sleep 100", "--nic", "e1000e", "--timeout", "1", "--keep", str(tmp_path / "x")
    )
    errors = run.communicate(timeout=100)[1]
    assert run.returncode == 1
    assert "time-out of the guest" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(nothing_left, number):
    run = lab("run", "-c", "echo started; host_start x sleep 99; sleep 100", "--nic", "e1000e")
    for line in run.stdout:
        if line == "started\n":
            break
    time.sleep(0.2)
    assert _processes(str(nothing_left)) != []
    run.send_signal(number)
    run.communicate(timeout=30)
    assert run.returncode == 128 + number


def test_a_server_that_dies_is_told_with_its_last_words(nothing_left, tmp_path):
    command = "sh -c 'echo no such thing >&2; exit 4' {sock}"
    run = lab("run", "smoke", "--server", command, "--keep", str(tmp_path / "kept"))
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert "the server ended with status 4:\nno such thing" in errors


def test_preparing_what_is_prepared_takes_less_than_a_second(prepared):
    begun = time.monotonic()
    run = lab("prepare")
    output, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, "")
    assert time.monotonic() - begun < 1
    assert "QEMU=QEMU emulator version 1" in output
    assert "KERNEL_STABLE=6." in output


def _processes(text):
    """Command lines of processes, other than this, that mention `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found
