"""What `emudev ctl` does to a device, as the stock driver in the guest sees it."""

import json
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEVICE = "avf_emudev_0"
MAC, OTHER = "52:54:00:77:00:02", "52:54:00:77:00:42"
CARRIER = "cat /sys/class/net/eth0/carrier"
ALIVE = "until_true 20 carrier eth0 && until_true 20 ping -q -c 1 -W 1 $HOST_IP"
KERNELS = [
    pytest.param(name, marks=pytest.mark.guest(kernel=name), id=name)
    for name in ("stable", "backports")
]
#: What the driver says of the resets and link changes here, beyond a healthy boot. avf.md 5.2.
NOTICES = (
    r"NIC Link is Down",
    r"Reset indication received from the PF",
    r"Scheduling reset task",
    r"Hardware reset detected",
    # Linux 7.x reads its clock each second, also while a silent reset has taken its mailbox away.
    r"Failed to send PTP command 61",
)


@pytest.fixture
def ctl(emudev):
    """Runs `emudev ctl` on the one process, with a guest's device behind it; returns its output."""
    socket = f"{emudev.folder}/control"
    emudev(
        f"emu_iavf,id=0,mac={MAC},queues=2",
        "tap_backend,iface={tap},avf_emu_id=0",
        options=("--control", socket),
    )
    return lambda words: emudev.host(f"emudev ctl --control {socket} {words}")


def shown(ctl, name):
    (attribute,) = json.loads(ctl(f"attr {DEVICE} {name} --json"))
    return attribute["value"]


def comes(ctl, name, value):
    """An attribute gets a value; the driver takes up to 2 s for what was asked of it."""
    end = time.monotonic() + 10
    while shown(ctl, name) != value:
        assert time.monotonic() < end, f"{name} is not {value}"
        time.sleep(0.2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_link_goes_down_and_up_and_changes_its_speed(ctl, guest, kernel):
    guest.sh("nic_up")
    ctl(f"set-link {DEVICE} down")
    guest.wait_for(CARRIER, "0")
    guest.wait_for("ethtool eth0", "Link detected: no")
    ctl(f"set-link {DEVICE} up")
    guest.wait_for(CARRIER, "1")
    ctl(f"set-link {DEVICE} speed 10000")
    guest.wait_for("ethtool eth0", "Speed: 10000Mb/s")
    # Down over a restart of the interface: the guest has to ask in vain.
    ctl(f"set-link {DEVICE} down")
    guest.sh("ip link set eth0 down; ip link set eth0 up; sleep 1")
    assert guest.sh(CARRIER) == "0"
    ctl(f"set-link {DEVICE} auto")
    guest.sh(ALIVE)
    assert guest.log.unexpected("iavf", NOTICES) == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_resets_from_outside_are_survived_announced_and_silent(ctl, guest, kernel):
    guest.expect(*NOTICES)
    guest.sh("nic_up; ping -q -c 3 -i 0.05 -W 2 $HOST_IP")
    guest.sh("ip link set eth0 mtu 4000; until_true 20 carrier eth0")
    ctl(f"reset {DEVICE}")
    guest.wait_for("dmesg", "Reset indication received from the PF")
    guest.sh(ALIVE)
    # Nobody tells the driver of this one: it looks every other second.
    ctl(f"reset {DEVICE} --silent")
    guest.wait_for("dmesg", "Hardware reset detected")
    guest.sh(ALIVE)
    # What the guest has set up is there again.
    assert guest.sh("cat /sys/class/net/eth0/mtu") == "4000"
    guest.sh("ping -q -c 5 -i 0.05 -W 2 -M do -s 3900 $HOST_IP")
    assert guest.log.unexpected("iavf", NOTICES) == []


def test_resets_under_traffic_cost_frames_and_nothing_else(ctl, guest, emudev):
    guest.expect(*NOTICES)
    guest.sh("nic_up")
    emudev.side.helper("iperf3")
    guest.sh(
        "(for port in 5201 '5202 -R'; do iperf3 -c $HOST_IP -p $port -t 60 & done; wait) "
        ">/tmp/iperf 2>&1 & sleep 1"
    )
    for how in ("", "--silent", ""):
        ctl(f"reset {DEVICE} {how}")
        guest.sh("sleep 3; " + ALIVE)
    guest.sh("for each in $(pidof iperf3); do kill $each; done; sleep 0.5")
    guest.sh("until_true 10 ping -q -c 3 -i 0.05 -W 2 $HOST_IP")
    assert guest.sh("cat /sys/class/net/eth0/statistics/rx_errors") == "0"


def test_a_new_address_is_the_interface_s_and_is_reached(ctl, guest, emudev):
    guest.sh("nic_up; ping -q -c 1 -W 2 $HOST_IP")
    assert guest.sh("cat /sys/class/net/eth0/address") == MAC
    ctl(f"set {DEVICE} mac {OTHER}")
    guest.wait_for("cat /sys/class/net/eth0/address", OTHER)
    guest.sh(ALIVE)
    emudev.host("ip neighbour flush dev tap0; ping -q -c 3 -i 0.2 -W 2 192.168.77.2")
    assert shown(ctl, "mac") == OTHER


def test_what_the_guest_sets_up_is_shown(ctl, guest):
    guest.sh("nic_up; ip link set eth0 promisc on")
    state = json.loads(ctl(f"show {DEVICE} --json"))
    names = {section["name"] for section in state["sections"]}
    assert {"registers", "queues"} <= names
    comes(ctl, "promiscuous", True)
    assert shown(ctl, "carrier") is True
    guest.sh("ip link set eth0 promisc off")
    comes(ctl, "promiscuous", False)
