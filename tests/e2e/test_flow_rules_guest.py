"""What `ethtool -N` and `tc` of a stock guest ask of `emu_iavf`: frames go where they are sent."""

import re

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KERNELS = [
    pytest.param(name, marks=pytest.mark.guest(kernel=name, smp=2), id=name)
    for name in ("stable", "backports")
]
FRAMES = 40


@pytest.fixture
def server(emudev):
    """A device of two queue pairs with its backend."""
    return emudev(
        "emu_iavf,path={sock},id=0,mac=52:54:00:77:00:02,queues=2",
        "tap_backend,iface={tap},avf_emu_id=0",
    )


def arrived(emudev, guest, port):
    """Send datagrams to a port of the guest; how many more each of its queues has then."""

    def packets():
        text = guest.sh("ethtool -S eth0")
        return [int(n) for n in re.findall(r"rx-[01]\.packets: (\d+)", text)]

    before = packets()
    one = f"echo x >/dev/udp/192.168.77.2/{port}"
    emudev.host(f"bash -c 'for i in $(seq {FRAMES}); do {one}; done'")
    guest.sh("sleep 0.5")
    return [now - then for now, then in zip(packets(), before, strict=True)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_ethtool_steers_and_drops_until_the_rule_is_deleted(server, emudev, guest, kernel):
    guest.sh("nic_up; ping -q -c 2 -i 0.1 -W 2 $HOST_IP")
    guest.sh("ethtool -N eth0 flow-type udp4 dst-port 7001 action 1")
    guest.sh("ethtool -N eth0 flow-type udp4 dst-port 7002 action 0")
    guest.sh("ethtool -N eth0 flow-type udp4 dst-port 7003 action -1")
    for _ in ("at once", "after a reset"):
        guest.wait_for("ethtool -n eth0", "Total 3 rules")
        assert arrived(emudev, guest, 7001)[1] >= FRAMES
        assert arrived(emudev, guest, 7002)[0] >= FRAMES
        assert sum(arrived(emudev, guest, 7003)) < FRAMES / 2
        guest.sh("ip link set eth0 mtu 1400; sleep 1; until_true 20 carrier eth0")
        guest.sh("until_true 20 ping -q -c 1 -W 1 $HOST_IP")
    # Linux gives rules their places from 127 down.
    guest.sh("ethtool -N eth0 delete 125")
    assert sum(arrived(emudev, guest, 7003)) >= FRAMES


@pytest.mark.guest(
    smp=2, programs=("tc",), modules=("sch_mqprio", "sch_ingress", "cls_u32", "act_gact")
)
def test_tc_drops_by_bytes_and_makes_traffic_classes(server, emudev, guest):
    guest.sh(
        "nic_up; modprobe sch_ingress; modprobe cls_u32; modprobe act_gact; modprobe sch_mqprio"
    )
    guest.sh("ping -q -c 2 -i 0.1 -W 2 $HOST_IP; tc qdisc add dev eth0 ingress")
    guest.sh(
        "tc filter add dev eth0 protocol ip ingress prio 1 u32 skip_sw"
        " match ip dport 7005 0xffff match ip protocol 17 0xff action drop"
    )
    # The port counts, though Linux gives the length of a pattern without it.
    assert sum(arrived(emudev, guest, 7005)) < FRAMES / 2
    assert sum(arrived(emudev, guest, 7006)) >= FRAMES
    guest.sh("tc qdisc del dev eth0 ingress")
    guest.sh(
        "tc qdisc add dev eth0 root mqprio num_tc 2 map 0 0 0 0 1 1 1 1"
        " queues 1@0 1@1 hw 1 mode channel"
    )
    guest.wait_for("dmesg", "ADq Enabled, 2 TCs created")
    guest.sh("sleep 1; until_true 20 carrier eth0; until_true 20 ping -q -c 1 -W 1 $HOST_IP")
    # Frames without a filter are those of class 0.
    found = arrived(emudev, guest, 7005)
    assert found[0] >= FRAMES
    assert found[1] < FRAMES / 2
    guest.sh("tc qdisc del dev eth0 root; sleep 1; until_true 20 carrier eth0")
    guest.sh("until_true 20 ping -q -c 1 -W 1 $HOST_IP")
