"""A guest with four AVF devices of one server."""

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.guest(smp=2)]

COUNT = 4
EACH = "for n in 0 1 2 3"


@pytest.fixture
def server(emudev):
    """One `emudev run` with the devices, each on a TAP of its own."""
    devices = (f"emu_iavf,id={n},mac=52:54:00:77:00:0{2 + n},queues=2" for n in range(COUNT))
    taps = (f"tap_backend,iface={{tap{n}}},avf_emu_id={n}" for n in range(COUNT))
    return emudev(*devices, *taps)


def test_four_devices_of_one_server_work_at_once_and_apart(server, guest):
    guest.sh(f"{EACH}; do nic_up $n; done")
    for n in range(COUNT):
        assert guest.sh(f"cat /sys/class/net/$(nic_if {n})/address") == f"52:54:00:77:00:0{2 + n}"
    # All at once; an answer that is missing on any of them fails.
    guest.sh(
        f'{EACH}; do ping -q -c 50 -i 0.02 -W 3 192.168.$((77 + n)).1 & pids="$pids $!"; done; '
        "for pid in $pids; do wait $pid || exit 1; done"
    )
    # One is taken away, reset and comes back; the others do not notice.
    guest.sh(
        "(ping -q -c 60 -i 0.05 -W 3 192.168.77.1; echo $? >/tmp/others) & "
        "slot=$(nic_pci 1); "
        "echo $slot >/sys/bus/pci/drivers/iavf/unbind; "
        "echo 1 >/sys/bus/pci/devices/$slot/reset; "
        "ping -q -c 10 -i 0.02 -W 2 192.168.79.1 || exit 1; "
        "echo $slot >/sys/bus/pci/drivers/iavf/bind; "
        "nic_up 1; ping -q -c 10 -i 0.02 -W 2 192.168.78.1 || exit 1; "
        "wait; exit $(cat /tmp/others)"
    )
    # All of them anew.
    guest.sh(f"modprobe -r iavf && modprobe iavf; {EACH}; do nic_up $n; done")
    guest.sh(f"{EACH}; do ping -q -c 5 -i 0.02 -W 2 192.168.$((77 + n)).1 || exit 1; done")
    assert guest.log.unexpected("iavf", ["Removing device"]) == []
    guest.power_off()
    assert server.stop() == []
