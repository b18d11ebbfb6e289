"""What each mode makes of frames: as recorded from DPDK 22.11, and as scapy builds them."""

import struct
import tomllib
from pathlib import Path

import pytest

from emudev_core.loop import Loop
from emudev_core.queues import Offload
from emudev_net.burst import (
    CRC32C_WANTED,
    CSUM_BAD,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    GSO_SHIFT,
    GSO_TCPV4,
    LAST,
    Burst,
    Packet,
    csum_offset,
    csum_start,
    offload_word,
)
from emudev_net.flow import Flow, Outcome
from emudev_net.memory_port import MemoryPort
from emudev_net.testing import compiled_or_plain, jit  # noqa: F401  # fixtures
from emudev_testpmd.modes import StreamContext, kernels_of, parts_of
from emudev_testpmd.options import Options
from emudev_testpmd.topology import Stream

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "forwarding.toml").read_text())
FRAMES = {name: bytes.fromhex(data) for name, data in GOLDEN["frames"].items()}
#: Where testpmd does what it should not; see the modules.
DEVIATIONS = {
    "csum": {"sctp4", "fragment_first", "fragment_next"},
    "5tswap": {"fragment_next"},
}
MAC = bytes.fromhex("027063617000")
PEER = bytes.fromhex("020000000000")


class Bench:
    """A mode between the receive and the transmit queue of one port in memory."""

    def __init__(self, prepare, mode, takes=Offload.NONE, **options):
        self.loop = Loop(spin=0)
        self.port = MemoryPort("net_memory_0", self.loop, takes=takes)
        self.port.set_mac(MAC)
        self.port.configure(1, 1)
        self.port.rx_queue_setup(0)
        self.port.tx_queue_setup(0)
        self.options = Options(forward_mode=mode, **options)
        context = StreamContext(Stream(0, 0, 0, 0), self.options, self.port, self.port)
        self.parts = parts_of(mode, context)
        prepare(*kernels_of(self.parts))
        self.flows = [
            Flow(
                self.loop,
                part.source,
                part.sink,
                edit=part.edit,
                drop=True,
                rows=self.options.burst * part.packet_rows,
                budget=1,
            )
            for part in self.parts
        ]

    def run(self, packets=(), split=0):
        """Let packets arrive and move them, or one burst of those made; take what was sent."""
        if packets:
            self.port.sources[0].feed(Burst.of(packets, split).packets())
        for part, flow in zip(self.parts, self.flows, strict=True):
            while flow.run() is Outcome.BUDGET and part.receives:
                pass
        return self.port.sent()

    def counted(self, which):
        part = self.parts[0]
        return part.edit[getattr(part, which)]


@pytest.fixture
def bench(compiled_or_plain):  # noqa: F811
    made = []

    def build(mode, **keys):
        made.append(Bench(compiled_or_plain, mode, **keys))
        return made[-1]

    yield build
    for one in made:
        for flow in one.flows:
            flow.close()
        one.port.close()
        one.loop.close()


@pytest.mark.parametrize("split", [0, 33], ids=["whole", "in pieces"])
@pytest.mark.parametrize("mode", list(GOLDEN["modes"]))
def test_a_mode_makes_the_frames_that_dpdks_testpmd_makes(bench, mode, split):
    want = {
        name: bytes.fromhex(data)
        for name, data in GOLDEN["modes"][mode].items()
        if name not in DEVIATIONS.get(mode, ())
    }
    one = bench(mode)
    for name, expected in want.items():
        (got,) = one.run([FRAMES[name]], split)
        assert got.data == expected, name


def test_io_hands_every_frame_on_as_it_is(bench):
    one = bench("io")
    got = one.run(list(FRAMES.values()))
    assert [p.data for p in got] == list(FRAMES.values())


def test_io_hands_requests_on_to_a_port_that_takes_them(bench):
    one = bench("io", takes=Offload.CSUM)
    asked = Packet(FRAMES["udp4"], CSUM_WANTED, offload_word(34, 6, 0, 0))
    (got,) = one.run([asked])
    assert got.flags & CSUM_WANTED
    assert got.data == FRAMES["udp4"]
    assert got.offload == asked.offload


def test_rxonly_drops_everything_and_counts_it(bench):
    one = bench("rxonly")
    assert one.run(list(FRAMES.values())) == []
    assert one.flows[0].stats()["received"] == len(FRAMES)
    assert one.port.sources[0].released == len(FRAMES)


@pytest.mark.parametrize("mode", ["mac", "macswap", "csum", "icmpecho", "5tswap"])
def test_a_frame_too_short_for_addresses_is_refused(bench, mode):
    one = bench(mode)
    assert one.run([bytes(13)]) == []
    assert one.flows[0].stats()["refused"] == 1


@pytest.mark.parametrize("mode", ["csum", "icmpecho", "5tswap"])
def test_frames_that_are_cut_short_anywhere_do_no_harm(bench, mode):
    one = bench(mode)
    for name, frame in FRAMES.items():
        one.run([frame[:size] for size in range(1, min(len(frame), 90), 3)], 7)
        assert one.flows[0].failed == 0, name


# -- icmpecho


def test_icmpecho_refuses_all_but_requests(bench):
    one = bench("icmpecho")
    answered = set(GOLDEN["modes"]["icmpecho"]) | {"icmp4_request_options"}
    others = [frame for name, frame in FRAMES.items() if name not in answered]
    assert one.run(others) == []
    assert one.flows[0].stats()["refused"] == len(others)


def test_icmpecho_answers_a_ping_with_ip_options(bench):
    scapy = pytest.importorskip("scapy.all")
    (got,) = bench("icmpecho").run([FRAMES["icmp4_request_options"]])
    asked, answer = scapy.Ether(FRAMES["icmp4_request_options"]), scapy.Ether(got.data)
    assert (answer.src, answer.dst) == (asked.dst, asked.src)
    assert (answer[scapy.IP].src, answer[scapy.IP].dst) == ("10.0.0.2", "10.0.0.1")
    assert answer[scapy.ICMP].type == 0
    assert bytes(answer[scapy.ICMP].payload) == bytes(asked[scapy.ICMP].payload)
    assert answer[scapy.ICMP].chksum == right_sum(answer, scapy.ICMP)


def right_sum(frame, layer):
    """The checksum that scapy computes for a layer."""
    again = frame.copy()
    del again[layer].chksum
    return type(frame)(bytes(again))[layer].chksum


def test_icmpecho_answers_pings_to_two_groups_from_neighbours_of_the_asker(bench):
    scapy = pytest.importorskip("scapy.all")
    one = bench("icmpecho")
    for source, near in (("10.0.0.1", "10.0.0.2"), ("10.0.0.6", "10.0.0.5")):
        asked = scapy.Ether() / scapy.IP(src=source, dst="239.1.2.3") / scapy.ICMP(id=1) / b"data"
        (got,) = one.run([bytes(asked)])
        answer = scapy.Ether(got.data)
        assert (answer[scapy.IP].src, answer[scapy.IP].dst) == (near, source)
        assert answer[scapy.IP].chksum == right_sum(answer, scapy.IP)
        assert answer[scapy.ICMP].chksum == right_sum(answer, scapy.ICMP)


# -- csum


def test_csum_computes_sctp_as_rfc_9260_says(bench):
    one = bench("csum")
    frame = FRAMES["sctp4"]
    broken = frame[:42] + bytes(4) + frame[46:]
    for split in (0, 43, 5):
        good, bad = one.run([frame, broken], split)
        # scapy, too, computed what the recording's input has.
        assert good.data[12:] == frame[12:]
        assert bad.data[12:] == frame[12:]
    assert one.counted("bad_l4") == 3


def test_csum_leaves_fragments_alone_above_ip(bench):
    one = bench("csum")
    for name in ("fragment_first", "fragment_next"):
        (got,) = one.run([FRAMES[name]])
        assert got.data == PEER + MAC + FRAMES[name][12:]


def test_csum_counts_what_came_in_wrong(bench):
    one = bench("csum")
    one.run([FRAMES["udp4"], FRAMES["tcp4"], FRAMES["udp4_zero_sum"], FRAMES["icmp4_request"]])
    assert (one.counted("bad_ip"), one.counted("bad_l4")) == (0, 0)
    one.run([FRAMES["udp4_bad_sums"], FRAMES["tcp4_bad_sum"], FRAMES["tcp6"]])
    assert (one.counted("bad_ip"), one.counted("bad_l4")) == (1, 3)


def test_csum_counts_what_the_port_knows_to_be_wrong_and_trusts_what_it_verified(bench):
    one = bench("csum")
    one.run([Packet(FRAMES["udp4"], CSUM_BAD), Packet(FRAMES["tcp4_bad_sum"], CSUM_GOOD)])
    assert one.counted("bad_l4") == 1


def test_csum_does_not_sum_what_pads_a_frame(bench):
    frame = bytes.fromhex(GOLDEN["modes"]["csum"]["udp4"])
    (got,) = bench("csum").run([FRAMES["udp4"] + b"\xff" * 20])
    assert got.data == frame + b"\xff" * 20


def test_csum_sums_odd_pieces_of_a_long_frame(bench):
    want = bytes.fromhex(GOLDEN["modes"]["csum"]["udp4_big"])
    one = bench("csum")
    for split in (5, 7, 35, 43, 129, 131, 200):
        (got,) = one.run([FRAMES["udp4_big"]], split)
        assert got.data == want, split


def test_csum_completes_a_checksum_that_was_to_be_completed(bench):
    want = bytes.fromhex(GOLDEN["modes"]["csum"]["udp4"])
    one = bench("csum", takes=Offload.CSUM)
    (got,) = one.run([Packet(FRAMES["udp4"], CSUM_WANTED, offload_word(34, 6, 0, 0))])
    assert got.data == want
    assert got.flags == FIRST | LAST | CSUM_GOOD
    assert got.offload == 0
    assert one.counted("bad_l4") == 0


@pytest.mark.parametrize(
    ("name", "start", "offset"),
    [("udp4_bad_sums", 34, 6), ("tcp4_bad_sum", 34, 16), ("tcp6", 54, 16), ("udp4_vlan", 38, 6)],
)
def test_csum_asks_a_port_for_what_it_is_to_compute(bench, name, start, offset):
    hardware = {0: frozenset({"udp", "tcp"})}
    one = bench("csum", takes=Offload.CSUM, csum_hw=hardware)
    (got,) = one.run([FRAMES[name]])
    assert got.flags & CSUM_WANTED
    assert (csum_start(got.offload), csum_offset(got.offload)) == (start, offset)
    # A port without the ability gets the same frame, complete: the flow does it.
    (complete,) = bench("csum", csum_hw=hardware).run([FRAMES[name]])
    assert complete.data == bytes.fromhex(GOLDEN["modes"]["csum"][name])
    assert not complete.flags & CSUM_WANTED


def test_csum_asks_the_flow_for_sctps_checksum(bench):
    one = bench("csum", csum_hw={0: frozenset({"sctp"})})
    (got,) = one.run([FRAMES["sctp4"]])
    assert got.data[12:] == FRAMES["sctp4"][12:]
    assert not got.flags & CRC32C_WANTED


def test_csum_leaves_requests_to_segment_as_they_are(bench):
    one = bench("csum", takes=Offload.CSUM | Offload.TSO4)
    flags = CSUM_WANTED | GSO_TCPV4 << GSO_SHIFT
    word = offload_word(34, 16, 54, 50)
    (got,) = one.run([Packet(FRAMES["tcp4_bad_sum"], flags, word)])
    assert got.flags == flags | FIRST | LAST
    assert got.offload == word
    assert got.data[34:] == FRAMES["tcp4_bad_sum"][34:]


def test_5tswap_keeps_the_payload_of_a_later_fragment(bench):
    frame = FRAMES["fragment_next"]
    (got,) = bench("5tswap").run([frame])
    assert got.data[26:34] == frame[30:34] + frame[26:30]
    assert got.data[34:] == frame[34:]


# -- packets that are made


def test_txonly_makes_the_packet_that_dpdks_testpmd_makes(bench):
    got = bench("txonly").run()
    assert len(got) == 32
    assert {p.data for p in got} == {bytes.fromhex(GOLDEN["made"]["txonly"]["first"])}


def test_txonly_makes_segments_of_the_lengths_asked_for(bench):
    one = bench("txonly", txpkts=(40, 60, 100), burst=5)
    want = GOLDEN["made"]["txonly_segments"]
    table = Burst(17)
    (part,) = one.parts
    assert part.source.peek(part.source.state, table.address, 17) == 15  # whole packets only
    assert [p.segments for p in table.packets(15)] == [(40, 60, 100)] * 5
    got = one.run()
    assert len(got) == 5
    for packet in got:
        assert packet.data == bytes.fromhex(want["first"]).ljust(want["length"], b"\0")


def test_txonly_takes_addresses_and_ports_of_its_options(bench):
    scapy = pytest.importorskip("scapy.all")
    peer = bytes.fromhex("52540000beef")
    one = bench("txonly", tx_ip=("10.1.2.3", "10.3.2.1"), tx_udp=(5, 6), eth_peer={0: peer})
    frame = scapy.Ether(one.run()[0].data)
    assert (frame.dst, frame.src) == ("52:54:00:00:be:ef", "02:70:63:61:70:00")
    assert (frame[scapy.IP].src, frame[scapy.IP].dst) == ("10.1.2.3", "10.3.2.1")
    assert (frame[scapy.UDP].sport, frame[scapy.UDP].dport) == (5, 6)
    assert frame[scapy.IP].chksum == right_sum(frame, scapy.IP)


def test_txonly_multi_flow_goes_through_256_source_addresses(bench):
    one = bench("txonly", txonly_multi_flow=True, burst=100)
    sources = [p.data[26:30] for _ in range(6) for p in one.run()]
    assert sources == [bytes((198, 18, i % 256, 1)) for i in range(600)]


def test_flowgen_makes_the_packets_that_dpdks_testpmd_makes(bench):
    want = GOLDEN["made"]["flowgen"]
    got = bench("flowgen", burst=4).run()
    assert [p.data[:42].hex() for p in got] == want["headers"]
    assert {len(p.data) for p in got} == {want["length"]}


def test_flowgen_goes_through_its_flows_again(bench):
    one = bench("flowgen", flowgen_flows=50, burst=32)
    low = [struct.unpack_from(">H", p.data, 32)[0] for _ in range(4) for p in one.run()]
    assert low == [i % 50 for i in range(128)]


def test_flowgen_sends_clones(bench):
    want = GOLDEN["made"]["flowgen_clones"]
    one = bench("flowgen", txpkts=(200,), flowgen_flows=3, flowgen_clones=1, burst=5)
    got = [p.data for _ in range(2) for p in one.run()]
    assert [".".join(map(str, data[30:34])) for data in got] == want["destinations"]
    assert {len(data) for data in got} == {want["length"]}


def test_flowgen_packets_have_right_header_checksums(bench):
    scapy = pytest.importorskip("scapy.all")
    one = bench("flowgen", flowgen_flows=65536, burst=100)
    for word in (0, 0x64C5, 0x64C4, 0xFFFF - 50):  # around where the sum wraps
        one.parts[1].kept._words[2] = word
        for packet in one.run():
            frame = scapy.Ether(packet.data)
            assert frame[scapy.IP].chksum == right_sum(frame, scapy.IP)


def test_flowgen_drops_what_it_receives(bench):
    one = bench("flowgen", burst=4)
    got = one.run(list(FRAMES.values())[:3])
    assert len(got) == 4
    assert one.flows[0].stats()["received"] == 3


def test_a_source_shows_again_what_was_not_released(bench):
    for mode in ("txonly", "flowgen"):
        one = bench(mode, txonly_multi_flow=True)
        source = one.parts[-1].source
        table = Burst(8)
        seen = []
        for released in (0, 3, 8):
            assert source.peek(source.state, table.address, 8) == 8
            seen.append([p.data for p in table.packets(8)])
            source.release(source.state, table.address, released)
        assert seen[0] == seen[1]
        assert seen[2][:5] == seen[1][3:]
