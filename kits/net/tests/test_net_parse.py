"""The parser names what scapy builds, and survives what nobody should build."""

import ctypes
import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.lldp import LLDPDU
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP

from emudev_net import parse as q
from emudev_net.jit import jit_wanted
from emudev_net.primitives import Words
from emudev_net.testing import Probe
from emudev_net.testing import probes as compile_probes

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}  # nothing to resolve
ETHER = Ether(**MACS)
E4, E6 = ETHER / IP(), ETHER / IPv6()


@pytest.fixture(scope="module", params=["compiled", "plain"])
def run(request):
    """`run(frame) -> (kind, words)`; the frame ends at a page that can't be touched."""
    if request.param == "plain":
        probe = Probe(q.parse)
    elif jit_wanted():
        (probe,) = compile_probes(q.parse)
    else:
        pytest.skip("kernels are not compiled here")
    area = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    view = (ctypes.c_char * (2 * mmap.PAGESIZE)).from_buffer(area)
    middle = ctypes.addressof(view) + mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(middle), mmap.PAGESIZE, 0) == 0
    words = Words(q.OUT_WORDS)

    def parse(data):
        data = bytes(data)
        ctypes.memmove(middle - len(data), data, len(data))
        kind = probe(middle - len(data), len(data), words.address)
        return kind, list(words)

    yield parse
    del view


CASES = [
    (Ether(**MACS, type=0x1234) / b"x", q.KIND_L2, 0, 0),
    (ETHER / ARP(), q.KIND_ARP, 0, 0),
    (Ether(**MACS, type=0x88CC) / LLDPDU(), q.KIND_LLDP, 0, 0),
    (Ether(**MACS, type=0x88F7) / b"ptp", q.KIND_TIMESYNC, 0, 0),
    (Ether(**MACS, type=0x888E) / b"eap", q.KIND_EAPOL, 0, 0),
    (E4 / TCP(), q.KIND_IPV4 + q.WHAT_TCP, 14, 34),
    (E4 / UDP(), q.KIND_IPV4 + q.WHAT_UDP, 14, 34),
    (E4 / SCTP(), q.KIND_IPV4 + q.WHAT_SCTP, 14, 34),
    (E4 / ICMP(), q.KIND_IPV4 + q.WHAT_ICMP, 14, 34),
    (ETHER / IP(proto=47) / b"gre", q.KIND_IPV4 + q.WHAT_OTHER, 14, 34),
    (ETHER / IP(options=b"\x01" * 8) / UDP(), q.KIND_IPV4 + q.WHAT_UDP, 14, 42),
    (ETHER / IP(flags="MF") / UDP(), q.KIND_IPV4 + q.WHAT_FRAGMENT, 14, 0),
    (ETHER / IP(frag=8, proto=6) / (b"x" * 20), q.KIND_IPV4 + q.WHAT_FRAGMENT, 14, 0),
    (ETHER / IP(flags="DF") / TCP(), q.KIND_IPV4 + q.WHAT_TCP, 14, 34),
    (E6 / TCP(), q.KIND_IPV6 + q.WHAT_TCP, 14, 54),
    (E6 / UDP(), q.KIND_IPV6 + q.WHAT_UDP, 14, 54),
    (E6 / SCTP(), q.KIND_IPV6 + q.WHAT_SCTP, 14, 54),
    (E6 / ICMPv6EchoRequest(), q.KIND_IPV6 + q.WHAT_ICMP, 14, 54),
    (ETHER / IPv6(nh=47) / b"gre", q.KIND_IPV6 + q.WHAT_OTHER, 14, 54),
    (E6 / IPv6ExtHdrFragment() / UDP(), q.KIND_IPV6 + q.WHAT_FRAGMENT, 14, 0),
    (E6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(), q.KIND_IPV6 + q.WHAT_TCP, 14, 70),
    (ETHER / Dot1Q() / IP() / TCP(), q.KIND_IPV4 + q.WHAT_TCP, 18, 38),
    (ETHER / Dot1AD() / Dot1Q() / IPv6() / UDP(), q.KIND_IPV6 + q.WHAT_UDP, 22, 62),
]


@pytest.mark.parametrize(("frame", "kind", "l3", "l4"), CASES)
def test_frames_are_what_scapy_says_they_are(run, frame, kind, l3, l4):
    found, words = run(frame)
    assert found == kind == words[q.OUT_KIND]
    assert (words[q.OUT_L3], words[q.OUT_L4]) == (l3, l4)
    assert words[q.OUT_FRAGMENT] == int(kind & 15 == q.WHAT_FRAGMENT and kind >= q.KIND_IPV4)


def test_tags_in_the_frame_are_counted(run):
    assert run(ETHER / ARP())[1][q.OUT_TAGS] == 0
    assert run(ETHER / Dot1AD() / Dot1Q() / ARP())[1][q.OUT_TAGS] == 2


@pytest.mark.parametrize(("frame", "kind", "l3", "l4"), CASES)
def test_a_frame_that_is_cut_off_anywhere_is_never_read_behind_its_end(run, frame, kind, l3, l4):
    data = bytes(frame)
    for size in range(len(data)):
        found, words = run(data[:size])
        assert words[q.OUT_L4] <= size
        assert words[q.OUT_L3] <= size
        if size < 14:
            assert found == q.KIND_UNKNOWN


@given(
    case=st.sampled_from(CASES),
    changes=st.lists(st.tuples(st.integers(12, 90), st.integers(0, 255)), max_size=6),
    more=st.binary(max_size=40),
)
@settings(max_examples=150)
def test_hostile_headers_do_no_harm(run, case, changes, more):
    data = bytearray(bytes(case[0]) + more)
    for place, value in changes:
        if place < len(data):
            data[place] = value
    _, words = run(data)
    assert 0 <= words[q.OUT_L3] <= len(data)
    assert 0 <= words[q.OUT_L4] <= len(data)


def test_wrong_versions_and_short_headers_are_unknown(run):
    good = bytearray(bytes(E4 / TCP()))
    for first in (0x44, 0x65, 0x05, 0x4F):
        frame = bytearray(good)
        frame[14] = first
        assert run(frame)[0] == q.KIND_UNKNOWN
