"""A capture replayed into a stock guest, and what the guest answers recorded, by `net_pcap`."""

from importlib.metadata import entry_points

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import rdpcap, wrpcap

if not {entry.name for entry in entry_points(group="emudev")} >= {"avfbe", "pcap", "testpmd"}:
    pytest.skip("emudev-avfbe, -pcap and -testpmd are not installed", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GUEST, STRANGER = "52:54:00:77:00:02", "52:54:00:77:00:99"
BODIES = [bytes((n * 7 + i) % 256 for i in range(1 + 37 * n)) for n in range(40)]


def test_a_guest_answers_a_capture_and_its_answers_are_recorded(emudev, guest):
    ask = Ether(src=STRANGER, dst=GUEST) / IP(src="192.168.77.1", dst="192.168.77.2")
    requests = [ask / ICMP(id=77, seq=n) / Raw(body) for n, body in enumerate(BODIES)]
    wrpcap(str(emudev.folder / "in.pcap"), requests)
    server = emudev.command(
        f"emudev testpmd --vdev emu_iavf,path={{sock}},id=0,mac={GUEST} "
        "--vdev net_avfbe,id=0,avf_emu_id=0 --vdev net_pcap,id=1,rx_pcap={dir}/in.pcap,rx_rate=200,"
        "infinite_rx=1,tx_pcap={dir}/out.pcap -- --forward-mode=io --stats-period 1"
    )
    guest.sh(f"nic_up; ip neigh replace $HOST_IP lladdr {STRANGER} dev eth0 nud permanent")
    guest.sh(
        'until_true 20 sh -c \'test $(awk "/^IcmpMsg/ {n = \\$2} END {print n}" '
        "/proc/net/snmp) -gt 80'"
    )
    assert server.stop() == []
    answers = {}
    for packet in rdpcap(str(emudev.folder / "out.pcap")):
        if packet.haslayer(ICMP) and packet[ICMP].type == 0:
            assert (packet.src, packet.dst) == (GUEST, STRANGER)
            answers[packet[ICMP].seq] = packet[ICMP].payload.load
    assert answers == dict(enumerate(BODIES))
