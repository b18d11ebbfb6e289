"""The stock Linux driver (iavf) in a guest on `emu_iavf`, its frames going to a kernel TAP."""

import re
import signal
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KERNELS = [
    pytest.param(name, marks=pytest.mark.guest(kernel=name), id=name)
    for name in ("stable", "backports")
]
VDEVS = (
    "emu_iavf,path={sock},id=0,mac=52:54:00:77:00:02",
    "tap_backend,iface={tap},avf_emu_id=0",
)
CARRIER = "cat /sys/class/net/eth0/carrier"

# Guests that one server sees, each within a minute.
BOOTS = [
    pytest.param(5, marks=pytest.mark.timeout(5 * 60)),
    pytest.param(50, marks=[pytest.mark.timeout(50 * 60), pytest.mark.nightly]),
]

# Growth of the server's own memory that a later boot may show, KiB: allocators round up.
SLACK = 1024


@pytest.fixture
def server(emudev):
    """A device with its backend, served by `emudev run`."""
    return emudev(*VDEVS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_driver_comes_up_and_logs_only_what_a_healthy_one_does(server, guest, kernel):
    found = guest.script("smoke")
    assert found["DRIVER"] == "iavf"
    assert found["PCI"] == "0000:00:04.0 0x8086 0x1889"
    assert found["MAC"] == "52:54:00:77:00:02"
    assert found["SPEED"] == "25000"
    assert found["MAX_MTU"] == "9702"  # avf.md 4.4: what is reported (9728) less 26
    assert found["FAILURES"] == "0"


@pytest.mark.parametrize("kernel", KERNELS)
def test_pings_of_every_size_are_answered(server, guest, kernel):
    assert guest.script("ping")["FAILURES"] == "0"


@pytest.mark.parametrize("kernel", KERNELS)
def test_tcp_is_byte_exact_both_ways_with_each_offload_on_and_off(server, guest, kernel):
    found = guest.script("tcp")
    assert found["FAILURES"] == "0"
    # Segmentation and checksums are offloaded by the device, so they can be switched.
    assert {"TCP_SEGMENTATION_OFFLOAD_OFF_PUT", "TX_CHECKSUMMING_OFF_PUT6"} <= found.keys()


def test_the_link_follows_the_tap_both_ways(server, guest, emudev):
    guest.sh("nic_up; ping -q -c 1 -W 2 $HOST_IP")
    emudev.host("ip link set tap0 down")
    guest.wait_for(CARRIER, "0")
    emudev.host("ip link set tap0 up && ip address replace 192.168.77.1/24 dev tap0")
    guest.wait_for(CARRIER, "1")
    guest.sh("until_true 10 ping -q -c 1 -W 1 $HOST_IP")


def test_a_tap_that_is_down_when_the_guest_boots_comes_up_later(server, guest, emudev):
    emudev.host("ip link set tap0 down")
    guest.sh("until_true 20 nic_if 0 && ip link set eth0 up && sleep 0.5")
    assert guest.sh(CARRIER) == "0"
    emudev.host("ip link set tap0 up")
    guest.wait_for(CARRIER, "1")


def test_a_tap_deleted_under_the_device_takes_the_link_down_and_is_reported(server, guest, emudev):
    guest.sh("nic_up")
    emudev.host("ip link delete tap0")
    guest.wait_for(CARRIER, "0")
    assert guest.sh("uname -s") == "Linux"
    assert server.process.poll() is None
    assert "tap0" in server.log.read_text()


def test_a_device_without_a_backend_has_its_link_down(guest, emudev):
    emudev("emu_iavf,id=0")
    guest.sh("until_true 20 nic_if 0 && ip link set eth0 up && sleep 1")
    assert guest.sh(CARRIER) == "0"


@pytest.mark.parametrize("boots", BOOTS)
def test_boots_on_one_server_leave_it_as_it_was(server, guest, boots):
    after = []
    for _ in range(boots):
        guest.sh("nic_up; ping -q -c 20 -i 0.01 -W 2 $HOST_IP")
        guest.power_off()
        after.append(_settled(server))
    first, last = after[1], after[-1]
    assert last.descriptors == first.descriptors
    assert last.threads == first.threads
    assert last.anonymous - first.anonymous < SLACK, [used.anonymous for used in after]
    # Nothing of a guest's memory stays mapped.
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert not re.search(r"memfd:.*mem", maps)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_a_guest_on_it(server, guest, number):
    guest.sh("nic_up")
    server.process.send_signal(number)
    assert server.process.wait(5) == 0
    assert not server.sockets[0].exists()


def test_sigterm_ends_the_server_without_a_guest(server):
    assert server.sockets[0].exists()
    assert server.stop() == []
    assert server.process.returncode == 0
    assert not server.sockets[0].exists()


@pytest.mark.guest(smp=2)
def test_two_devices_of_one_server_serve_one_guest(guest, emudev):
    emudev(
        "emu_iavf,id=0,path={sock},mac=52:54:00:77:00:02",
        "emu_iavf,id=1,path={sock1},mac=52:54:00:77:00:03",
        "tap_backend,iface={tap},avf_emu_id=0",
        "tap_backend,iface={tap1},avf_emu_id=1",
    )
    guest.sh("nic_up 0; nic_up 1")
    guest.sh("ping -q -c 3 -i 0.1 192.168.77.1 && ping -q -c 3 -i 0.1 192.168.78.1")


def _settled(server):
    """What the server uses once it has let go of the guest that has ended."""
    used = server.usage()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        time.sleep(0.3)
        before, used = used, server.usage()
        if used.descriptors == before.descriptors and used.threads == before.threads:
            break
    return used


@pytest.mark.guest(shared=False)
def test_memory_that_cannot_be_mapped_is_reached_by_messages_with_one_warning(
    server, guest, emudev
):
    assert guest.script("tcp", BYTES=200_000)["FAILURES"] == "0"
    guest.sh("nic_up && ip link set eth0 mtu 9000 && until_true 10 ping -q -c 1 -W 1 $HOST_IP")
    # An interval of less would have ping wait for two round trips only.
    for size in (0, 56, 1472, 2048, 4055, 8972):
        guest.sh(f"ping -q -c 3 -i 1 -W 5 -M do -s {size} $HOST_IP | grep -q ' 0% packet loss'")
    warnings = [line for line in server.log.read_text().splitlines() if "can't be mapped" in line]
    assert len(warnings) == 1
    assert "-object memory-backend-memfd,id=mem,size=SIZE,share=on" in warnings[0]
    assert "-machine memory-backend=mem" in warnings[0]
