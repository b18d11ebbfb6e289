"""The Toeplitz hash against Microsoft's vectors (avf.md section 7) and a bitwise twin."""

import ctypes
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP

from emudev_net.parse import OUT_WORDS, parse
from emudev_net.primitives import Words
from emudev_net.rss import ToeplitzTable, hash_frame, toeplitz

KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
) + bytes(12)
FUNCTIONS = (toeplitz, hash_frame, parse)


def whole(run, table, data):
    memory = ctypes.create_string_buffer(data, max(1, len(data)))
    return run[toeplitz](table.address, 0, ctypes.addressof(memory), len(data))


ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")  # nothing to resolve
VECTORS = [
    ("66.9.149.187", "161.142.100.80", (2794, 1766), 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", "65.69.140.83", (14230, 4739), 0xD718262A, 0xC626B0EA),
    ("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", (2794, 1766), 0x2CC18CD5, 0x40207D3D),
]


@pytest.mark.parametrize(("source", "target", "ports", "short", "long"), VECTORS)
def test_the_verification_vectors_are_met(run, source, target, ports, short, long):
    table = ToeplitzTable(KEY)
    data = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    assert whole(run, table, data) == short
    data += b"".join(p.to_bytes(2, "big") for p in ports)
    assert whole(run, table, data) == long


@given(key=st.binary(min_size=40, max_size=52), data=st.binary(max_size=36))
def test_any_hash_is_the_exclusive_or_of_windows_of_the_key(run, key, data):
    bits, length = int.from_bytes(key, "big"), 8 * len(key)
    expected = 0
    for i in range(8 * len(data)):
        if data[i // 8] & 0x80 >> i % 8:
            expected ^= bits >> (length - 32 - i) & 0xFFFF_FFFF
    assert whole(run, ToeplitzTable(key), data) == expected


def test_a_key_that_is_too_short_is_an_error():
    with pytest.raises(ValueError, match="40 bytes, not 39"):
        ToeplitzTable(bytes(39))


def hash_of(run, frame, ports=1):
    data = bytes(frame)
    memory = ctypes.create_string_buffer(data, len(data))
    parsed = Words(OUT_WORDS)
    run[parse](ctypes.addressof(memory), len(data), parsed.address)
    table = ToeplitzTable(KEY)
    return run[hash_frame](table.address, ctypes.addressof(memory), parsed.address, ports)


def test_frames_are_hashed_by_addresses_and_ports(run):
    ip4 = IP(src="66.9.149.187", dst="161.142.100.80")
    ip6 = IPv6(src="3ffe:2501:200:1fff::7", dst="3ffe:2501:200:3::1")
    for layer in (TCP, UDP, SCTP):
        assert hash_of(run, ETHER / ip4 / layer(sport=2794, dport=1766)) == 0x51CCC178
        assert hash_of(run, ETHER / ip6 / layer(sport=2794, dport=1766)) == 0x40207D3D
    tagged = ETHER / Dot1Q(vlan=5) / ip4 / TCP(sport=2794, dport=1766)
    assert hash_of(run, tagged) == 0x51CCC178
    assert hash_of(run, tagged, ports=0) == 0x323E8FC2
    assert hash_of(run, ETHER / ip4 / ICMP()) == 0x323E8FC2


def test_every_fragment_is_hashed_by_its_addresses_only(run):
    ip4 = {"src": "66.9.149.187", "dst": "161.142.100.80"}
    first = ETHER / IP(**ip4, flags="MF") / UDP(sport=2794, dport=1766)
    later = ETHER / IP(**ip4, frag=3, proto=17) / (b"x" * 20)
    assert hash_of(run, first) == hash_of(run, later) == 0x323E8FC2
    ip6 = IPv6(src="3ffe:2501:200:1fff::7", dst="3ffe:2501:200:3::1")
    assert hash_of(run, ETHER / ip6 / IPv6ExtHdrFragment() / UDP()) == 0x2CC18CD5


def test_what_is_not_ip_has_no_hash(run):
    assert hash_of(run, ETHER / ARP()) == -1
    assert hash_of(run, b"short") == -1
