"""Stock guests on `emu_iavf` + `net_avfbe`, forwarded by ``emudev testpmd``."""

from importlib.metadata import entry_points

import pytest

from emudev_lab.qemu import Nic

if not {entry.name for entry in entry_points(group="emudev")} >= {"avfbe", "testpmd"}:
    pytest.skip("emudev-avfbe and emudev-testpmd are not installed", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PORT0 = "--vdev emu_iavf,path={sock},id=0,mac=52:54:00:77:00:02 --vdev net_avfbe,id=0,avf_emu_id=0"
PORT1 = "--vdev emu_iavf,path={sock1},id=1,mac=52:54:00:77:00:03 --vdev net_avfbe,id=1,avf_emu_id=1"
SECOND = {
    "GUEST_IP": "192.168.77.3",
    "GUEST_IP6": "fd77::3",
    "HOST_IP": "192.168.77.2",
    "HOST_IP6": "fd77::2",
}
FIRST = {
    "GUEST_IP": "192.168.77.2",
    "GUEST_IP6": "fd77::2",
    "HOST_IP": "192.168.77.3",
    "HOST_IP6": "fd77::3",
}


def test_icmpecho_answers_a_guest(emudev, guest):
    server = emudev.command(f"emudev testpmd {PORT0} -- --forward-mode=icmpecho --stats-period 1")
    guest.sh("nic_up; ping -q -c 20 -i 0.05 -W 2 $HOST_IP; ping -q -c 3 -s 1472 -W 2 $HOST_IP")
    assert server.stop() == []
    printed = server.log.read_text()
    assert "Forward statistics for port 0" in printed
    assert "RX-packets" in printed


@pytest.fixture(params=["", " --interrupt"], ids=["polling", "sleeping"])
def pair(emudev, request):
    """Two guests that reach each other through two ports: by a thread that polls, by the loop's."""
    own = f"--forward-mode=io --stats-period 1{request.param}"
    server = emudev.command(f"emudev testpmd {PORT0} {PORT1} -- {own}")
    first = emudev.another(Nic("vfio-user", server.sockets[0]), variables=FIRST)
    second = emudev.another(Nic("vfio-user", server.sockets[1]), variables=SECOND)
    second.sh("nic_up")
    first.sh("nic_up; until_true 20 ping -q -c 1 -W 1 $HOST_IP")
    return first, second, server


def test_two_guests_reach_each_other_byte_for_byte(pair, transfer):
    first, second, server = pair
    first.sh("ping -q -c 10 -i 0.05 -W 2 $HOST_IP && ping -6 -q -c 3 -i 0.05 -W 2 $HOST_IP6")
    transfer(first, second)
    transfer(second, first)
    transfer(first, second, "$HOST_IP6")
    # Each offload off at one end: the other must not notice.
    for feature in ("tx", "tso", "rx"):
        first.sh(f"ethtool -K $(nic_if 0) {feature} off >/dev/null; until_true 20 carrier eth0")
        transfer(first, second)
        transfer(second, first)
    for one in (first, second):
        assert one.sh("cat /sys/class/net/eth0/statistics/rx_errors") == "0"
        assert one.sh("grep ^Tcp: /proc/net/snmp | tail -1").split()[-1] == "0"  # InCsumErrors
    assert server.stop() == []


def test_a_guest_that_reboots_finds_the_other_again(pair, transfer):
    first, second, _ = pair
    first.power_off()
    second.sh("ping -q -c 1 -W 1 $HOST_IP || true")
    first.sh("nic_up; until_true 20 ping -q -c 1 -W 1 $HOST_IP")
    transfer(second, first)
