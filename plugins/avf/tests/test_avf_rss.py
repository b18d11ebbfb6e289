"""What is hashed and how: rules of ADD_RSS_CFG and functions, from the request to the descriptor.

Messages are worked out by hand from avf.md 4.7 and 4.9. Hashes: Microsoft's vectors of avf.md 7,
and for other inputs a bitwise Toeplitz over bytes that each test puts together by itself; symmetric
input is that of Linux' scaling.rst, (S ^ D, S ^ D, s ^ d, s ^ d).
"""

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_avf.config import AvfConfig
from emudev_avf.rings import Port
from emudev_avf.rss_inputs import rss_table
from emudev_avf.vf import Vf
from emudev_avf.virtchnl.dispatch import Dispatcher
from emudev_avf.virtchnl.limits import HENA_CAPS

KEY = (
    bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
    + bytes(12)
)  # fmt: skip
ETH, S_VLAN, C_VLAN, IPV4, IPV6, TCP, UDP, SCTP = range(1, 9)
GTPU_IP, ESP, IPV4_FRAG, IPV6_FRAG = 9, 15, 22, 23
SRC, DST = 1, 2
TOEPLITZ, XOR, SYMMETRIC, XOR_SYMMETRIC = range(4)
SRC4, DST4 = socket.inet_aton("66.9.149.187"), socket.inet_aton("161.142.100.80")
SRC6 = socket.inet_pton(socket.AF_INET6, "3ffe:2501:200:1fff::7")
DST6 = socket.inet_pton(socket.AF_INET6, "3ffe:2501:200:3::1")
SPORT, DPORT = 2794, 1766
PORTS = struct.pack(">HH", SPORT, DPORT)
LINUX_CAPS, DPDK_CAPS = 0x1ABD8CF9, 0xBE0BC7E1


def rule(*headers, algorithm=TOEPLITZ, level=0, count=None):
    """2444 bytes: headers of (type, fields), the algorithm."""
    body = struct.pack("<B3xI", level, len(headers) if count is None else count)
    body += b"".join(struct.pack("<iI64x", *header) for header in headers)
    message = body.ljust(2312, b"\0") + struct.pack("<i128x", algorithm)
    assert len(message) == 2444
    return message


def toeplitz(data, key=KEY):
    """Bit by bit: for each bit that is set the 32 bits of the key that begin there."""
    bits = int.from_bytes(key, "big")
    value = 0
    for i in range(8 * len(data)):
        if data[i // 8] >> 7 - i % 8 & 1:
            value ^= bits >> 8 * len(key) - 32 - i & 0xFFFFFFFF
    return value


def words_xored(data):
    value = 0
    for (word,) in struct.iter_unpack(">I", data):
        value ^= word
    return value


def xored(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def frame4(protocol=6, *, src=SRC4, dst=DST4, ports=PORTS, fragment=0):
    data = ports + bytes(40)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, fragment, 64, protocol, 0)
    return b"\x52\x54\0\0\0\1\x52\x54\0\0\0\2\x08\0" + head + src + dst + data


def frame6(protocol=6, *, src=SRC6, dst=DST6, ports=PORTS, fragment=False):
    data = ports + bytes(40)
    if fragment:
        data, protocol = struct.pack(">BBHI", protocol, 0, 1, 7) + data, 44
    head = struct.pack(">IHBB", 0x60000000, len(data), protocol, 64) + src + dst
    return b"\x52\x54\0\0\0\1\x52\x54\0\0\0\2\x86\xdd" + head + data


class Driver:
    """A VF with the caps of a driver; its port may be one whose queues a test drives."""

    def __init__(self, port=None, caps=LINUX_CAPS, **keys):
        config = AvfConfig(queues=1, **keys)
        self.replies = []
        self.port = port or Port(1, 2)
        self.vf = Vf(config, bytes.fromhex("525400000001"), self.port, self)
        self.dispatcher = Dispatcher(self.vf)
        assert self.status(3, struct.pack("<I", caps)) == 0
        self.set_key()

    def set_key(self):
        assert self.status(23, struct.pack("<HH", 1, 52) + KEY) == 0
        assert self.status(24, struct.pack("<HH", 1, 64) + bytes(64)) == 0

    def send(self, opcode, status, payload):
        self.replies.append((opcode, status, payload))

    def post(self, event):
        pass

    def begin_reset(self):
        self.vf.reset()

    announce_reset = begin_reset

    def status(self, opcode, payload=b""):
        self.replies.clear()
        self.dispatcher.receive(opcode, payload)
        ((answered, status, data),) = self.replies
        assert answered == opcode
        assert status == 0 or not data
        return status

    def add(self, *headers, **keys):
        return self.status(45, rule(*headers, **keys))

    def delete(self, *headers, **keys):
        return self.status(46, rule(*headers, **keys))


@pytest.fixture
def wire(guests):
    """Sets the hash by messages, and gives the hash of a frame, or None."""

    class Wire(Driver):
        def __init__(self, caps=LINUX_CAPS):
            self.guest = guests()
            super().__init__(self.guest.port, caps)
            self.port.set_promiscuous(True, True)

        def hash(self, frame):
            self.guest.post(1)
            assert self.guest.deliver(frame) == 1
            ((_, (done,)),) = self.guest.received()
            if done.qword1 >> 12 & 3 == 0:
                assert done.hash == 0
                return None
            return done.hash

    return Wire


def test_the_default_is_all_fields_of_all_types(wire):
    driver = wire()
    for protocol in (6, 17, 132):
        assert driver.hash(frame4(protocol)) == 0x51CCC178
        assert driver.hash(frame6(protocol)) == 0x40207D3D
    for protocol in (1, 47):
        assert driver.hash(frame4(protocol)) == 0x323E8FC2
    for protocol in (58, 59):
        assert driver.hash(frame6(protocol)) == 0x2CC18CD5
    assert driver.hash(frame4(6, fragment=0x2000)) == 0x323E8FC2
    assert driver.hash(frame6(17, fragment=True)) == 0x2CC18CD5


@pytest.mark.parametrize(
    ("l3", "l4", "data"),
    [
        (SRC | DST, SRC | DST, SRC4 + DST4 + PORTS),
        (SRC | DST, 0, SRC4 + DST4),
        (SRC, 0, SRC4 + bytes(4)),
        (DST, 0, bytes(4) + DST4),
        (0, SRC, bytes(8) + PORTS[:2]),
        (0, DST, bytes(10) + PORTS[2:]),
        (0, SRC | DST, bytes(8) + PORTS),
        (SRC, DST, SRC4 + bytes(6) + PORTS[2:]),
        (SRC | DST, DST, SRC4 + DST4 + bytes(2) + PORTS[2:]),
    ],
)
def test_any_fields_of_ipv4_are_hashed_as_ethtool_selects_them(wire, l3, l4, data):
    """`ethtool -N eth0 rx-flow-hash tcp4 sdfn` and its parts; the rest is as before."""
    driver = wire()
    assert driver.add((IPV4, l3), (TCP, l4)) == 0
    assert driver.hash(frame4(6)) == toeplitz(data)
    assert driver.hash(frame4(17)) == 0x51CCC178
    assert driver.hash(frame6(6)) == 0x40207D3D
    assert driver.delete((IPV4, l3), (TCP, l4)) == 0
    assert driver.hash(frame4(6)) == 0x51CCC178


@pytest.mark.parametrize("transport", [(TCP, 6), (UDP, 17), (SCTP, 132)])
@pytest.mark.parametrize(
    ("l3", "l4", "data"),
    [
        (SRC | DST, 0, SRC6 + DST6),
        (DST, SRC, bytes(16) + DST6 + PORTS[:2]),
        (0, SRC | DST, bytes(32) + PORTS),
    ],
)
def test_any_fields_of_ipv6_are_hashed(wire, transport, l3, l4, data):
    driver = wire()
    header, protocol = transport
    assert driver.add((IPV6, l3), (header, l4)) == 0
    assert driver.hash(frame6(protocol)) == toeplitz(data)
    assert driver.hash(frame4(protocol)) == 0x51CCC178


@pytest.mark.parametrize("function", [SYMMETRIC, XOR_SYMMETRIC])
def test_a_symmetric_hash_is_the_same_both_ways(wire, function):
    """CONFIG_RSS_HFUNC, as `ethtool -X eth0 xfrm symmetric-xor` sends it."""
    driver = wire()
    assert driver.status(18, struct.pack("<HHI", 1, function, 0)) == 0
    turned = PORTS[2:] + PORTS[:2]
    for protocol in (6, 17, 132, 47):
        there, back = frame4(protocol), frame4(protocol, src=DST4, dst=SRC4, ports=turned)
        assert driver.hash(there) == driver.hash(back)
        there, back = frame6(protocol), frame6(protocol, src=DST6, dst=SRC6, ports=turned)
        assert driver.hash(there) == driver.hash(back)


def test_the_symmetric_input_is_that_of_linux(wire):
    driver = wire()
    assert driver.status(18, struct.pack("<HHI", 1, SYMMETRIC, 0)) == 0
    for frame, source, target in ((frame4(), SRC4, DST4), (frame6(), SRC6, DST6)):
        addresses, ports = xored(source, target), xored(PORTS[:2], PORTS[2:])
        assert driver.hash(frame) == toeplitz(addresses * 2 + ports * 2)
    assert driver.hash(frame4(47)) == toeplitz(xored(SRC4, DST4) * 2)
    assert driver.status(18, struct.pack("<HHI", 1, TOEPLITZ, 0)) == 0
    assert driver.hash(frame4()) == 0x51CCC178


def test_exclusive_or_takes_the_place_of_toeplitz(wire):
    driver = wire()
    assert driver.status(18, struct.pack("<HHI", 1, XOR, 0)) == 0
    assert driver.hash(frame4()) == words_xored(SRC4 + DST4 + PORTS)
    assert driver.hash(frame6(59)) == words_xored(SRC6 + DST6)


def test_a_rule_may_be_symmetric_by_itself(wire):
    driver = wire()
    assert driver.add((IPV4, SRC | DST), (UDP, SRC | DST), algorithm=SYMMETRIC) == 0
    symmetric = xored(SRC4, DST4) * 2 + xored(PORTS[:2], PORTS[2:]) * 2
    assert driver.hash(frame4(17)) == toeplitz(symmetric)
    assert driver.hash(frame4(6)) == 0x51CCC178


def test_dpdk_clears_all_types_and_adds_its_own(wire):
    """SET_RSS_HENA(0), then [IPv4] and [IPv4 with protocol, UDP] at level 1, as DPDK 24.11 does."""
    driver = wire(DPDK_CAPS)
    assert driver.status(26, struct.pack("<Q", 0)) == 0
    assert driver.hash(frame4()) is None
    assert driver.add((IPV4, SRC | DST), level=1) == 0
    assert driver.add((IPV4, SRC | DST | 1 << 4), (UDP, SRC | DST), level=1) == 0
    assert driver.hash(frame4(17)) == 0x51CCC178
    for protocol in (6, 1, 47):
        assert driver.hash(frame4(protocol)) == 0x323E8FC2
    assert driver.hash(frame4(17, fragment=0x2000)) == 0x323E8FC2
    assert driver.hash(frame6()) is None
    assert driver.delete((IPV4, SRC | DST), level=1) == 0
    assert driver.hash(frame4(6)) is None
    assert driver.hash(frame4(17)) == 0x51CCC178


def test_headers_of_the_link_may_be_named_and_are_not_hashed(wire):
    driver = wire()
    link = ((ETH, 0), (S_VLAN, 0), (C_VLAN, 0))
    assert driver.add(*link, (IPV4, SRC), (TCP, 0)) == 0
    assert driver.hash(frame4()) == toeplitz(SRC4 + bytes(4))


def test_fragments_can_be_told_apart(wire):
    driver = wire()
    assert driver.add((IPV4, DST), (IPV4_FRAG, 0)) == 0
    assert driver.add((IPV6, SRC), (IPV6_FRAG, 0)) == 0
    assert driver.hash(frame4(6, fragment=0x2000)) == toeplitz(bytes(4) + DST4)
    assert driver.hash(frame6(6, fragment=True)) == toeplitz(SRC6 + bytes(16))
    assert driver.hash(frame4()) == 0x51CCC178


def test_a_reset_goes_back_to_the_default(wire):
    driver = wire()
    assert driver.add((IPV4, SRC), (TCP, 0)) == 0
    assert driver.status(18, struct.pack("<HHI", 1, SYMMETRIC, 0)) == 0
    driver.vf.reset()
    assert driver.vf.state.rss_rules == {}
    assert driver.vf.state.rss_function == TOEPLITZ


NOT_SUPPORTED = [
    ((ETH, 1), (IPV4, SRC)),  # a field of the link
    ((C_VLAN, 1), (IPV4, SRC)),
    ((ETH, 3),),  # no IP at all
    ((TCP, 3),),
    ((IPV4, 3), (IPV4, 3)),  # tunnels
    ((IPV4, 0), (GTPU_IP, 1), (IPV4, 3)),
    ((IPV4, 3), (UDP, 0), (ESP, 1)),
    ((IPV4, 3), (ESP, 1)),
    ((IPV4, 1 << 2),),  # DSCP
    ((IPV4, SRC | 1 << 4),),  # the protocol, where it differs from frame to frame
    ((IPV6, 1 << 20),),  # a prefix
    ((IPV4, 3), (TCP, 1 << 2)),  # the checksum
    ((IPV4, 3), (IPV4_FRAG, 1)),  # the identification
    ((IPV4, 3), (IPV6_FRAG, 0)),
    ((99, 0), (IPV4, 3)),
    ((-1, 0),),
]


@pytest.mark.parametrize("headers", NOT_SUPPORTED)
@pytest.mark.parametrize("opcode", [45, 46])
def test_what_can_not_be_hashed_is_not_supported_and_changes_nothing(opcode, headers):
    driver = Driver()
    assert driver.add((IPV4, SRC), (TCP, 0)) == 0
    before = dict(driver.vf.state.rss_rules)
    assert driver.status(opcode, rule(*headers)) == -64
    assert driver.vf.state.rss_rules == before


@pytest.mark.parametrize(
    ("opcode", "message", "status"),
    [
        (45, b"", -5),
        (45, rule((IPV4, 3))[:-1], -5),
        (45, rule((IPV4, 3), algorithm=4), -5),
        (45, rule((IPV4, 3), algorithm=-1), -5),
        (45, rule((IPV4, 0)), -5),
        (45, rule((IPV4, 0), (TCP, 0)), -5),
        (45, rule((IPV4, 3), count=49), -5),
        (45, rule((IPV4, 3), count=0xFFFFFFFF), -5),
        (45, rule((IPV4, 3), level=2), -64),
        (45, rule((IPV4, 3), count=33), -64),
        (46, rule((IPV4, 3))[:-1], -5),
        (18, struct.pack("<HHI", 1, 4, 0), -5),
        (18, struct.pack("<HHI", 2, 0, 0), -5),
        (18, struct.pack("<HH", 1, 0), -5),
    ],
)
def test_messages_that_can_not_be_are_refused(opcode, message, status):
    driver = Driver()
    assert driver.status(opcode, message) == status
    assert driver.vf.state.rss_rules == {}
    assert driver.vf.state.rss_function == TOEPLITZ


def test_a_raw_pattern_is_not_supported():
    driver = Driver()
    raw = struct.pack("<B3xIH1024s1024s", 0, 0, 34, frame4()[:34], b"\xff" * 34)
    assert driver.status(45, raw.ljust(2312, b"\0") + bytes(132)) == -64


def test_a_rule_is_replaced_and_deleting_none_succeeds():
    driver = Driver()
    assert driver.delete((IPV4, SRC)) == 0
    assert driver.add((IPV4, SRC)) == 0
    assert driver.add((IPV4, DST)) == 0
    assert len(driver.vf.state.rss_rules) == 1
    assert driver.delete((IPV4, 0)) == 0
    assert driver.vf.state.rss_rules == {}


def test_without_the_capability_there_are_no_rules():
    driver = Driver(caps=LINUX_CAPS & ~(1 << 27))
    assert driver.add((IPV4, SRC)) == -64
    assert driver.status(18, struct.pack("<HHI", 1, 2, 0)) == -64


@settings(max_examples=200, deadline=None)
@given(
    payload=st.binary(min_size=2440, max_size=2448),
    head=st.sampled_from([b"\0\0\0\0\1\0\0\0\4\0\0\0", b"\1\0\0\0\2\0\0\0\6\0\0\0", b""]),
    opcode=st.sampled_from([45, 46]),
)
def test_any_bytes_get_one_reply_and_leave_a_table_that_is_sound(payload, head, opcode):
    driver = Driver()
    assert driver.status(opcode, (head + payload)[: len(payload)]) in (0, -5, -64)
    table = rss_table(HENA_CAPS, driver.vf.state.rss_rules, driver.vf.state.rss_function)
    assert len(table) == 64
    assert all(0 <= word < 256 for word in table)
