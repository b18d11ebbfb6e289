"""Two stock guests, each on an AVF device, joined by a wire."""

from importlib.metadata import entry_points

import pytest

from emudev_lab.qemu import Nic

if "wire" not in {entry.name for entry in entry_points(group="emudev")}:
    pytest.skip("emudev-wire is not installed", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FIRST = {
    "GUEST_IP": "192.168.77.2",
    "GUEST_IP6": "fd77::2",
    "HOST_IP": "192.168.77.3",
    "HOST_IP6": "fd77::3",
}
SECOND = {
    "GUEST_IP": "192.168.77.3",
    "GUEST_IP6": "fd77::3",
    "HOST_IP": "192.168.77.2",
    "HOST_IP6": "fd77::2",
}
#: As `nic_up`, without waiting for the link, which needs the other end.
UP = (
    "until_true 20 nic_if 0 || exit 1; IF=$(nic_if 0); ip address replace $GUEST_IP/24 dev $IF; "
    "ip address replace $GUEST_IP6/64 dev $IF nodad; ip link set $IF up"
)
LINK = "until_true 20 carrier $(nic_if 0)"
NO_LINK = "no_link() { ! carrier $(nic_if 0); }; until_true 20 no_link"
#: What the driver says of the link and of the reset here, beyond a healthy boot. avf.md 5.2.
NOTICES = ("NIC Link is Down", "Hardware reset detected", "Scheduling reset task")


@pytest.mark.guest(tolerate=True)  # of a reset; see the end
def test_two_guests_are_joined_as_by_a_cable(emudev, transfer):
    server = emudev(
        "emu_iavf,id=0,mac=52:54:00:77:00:02,queues=2",
        "emu_iavf,id=1,mac=52:54:00:77:00:03",
        "wire,a=avf_emudev_0,b=avf_emudev_1",
    )
    first = emudev.another(Nic("vfio-user", server.sockets[0]), variables=FIRST)
    second = emudev.another(Nic("vfio-user", server.sockets[1]), variables=SECOND)
    # No link while the other end is down.
    first.sh(UP)
    assert first.sh("cat /sys/class/net/$(nic_if 0)/carrier") == "0"
    second.sh("nic_up")
    first.sh(f"{LINK}; until_true 20 ping -q -c 1 -W 1 $HOST_IP; ping -6 -q -c 3 -W 2 $HOST_IP6")
    transfer(first, second)
    transfer(second, first)
    # The link follows the other end.
    second.sh("ip link set $(nic_if 0) down")
    first.sh(NO_LINK)
    second.sh("ip link set $(nic_if 0) up")
    for guest in (first, second):
        guest.sh(LINK)
    # A reset of one end is a link that goes and comes to the other.
    second.sh("echo 1 >/sys/bus/pci/devices/$(nic_pci 0)/reset")
    for guest in (second, first):
        guest.sh(f"sleep 3; {LINK}")
    transfer(second, first)
    for guest in (first, second):
        assert guest.sh("cat /sys/class/net/$(nic_if 0)/statistics/rx_errors") == "0"
        assert guest.sh("grep ^Tcp: /proc/net/snmp | tail -1").split()[-1] == "0"  # InCsumErrors
        assert guest.log.unexpected("iavf", NOTICES) == []
    second.power_off()
    first.sh(NO_LINK)
    assert server.stop() == []
