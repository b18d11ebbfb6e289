"""More than 16 queue pairs; payloads worked out by hand from avf.md 4.5 and 4.8."""

import struct
import time

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.rings import Port
from emudev_avf.vf import Vf
from emudev_avf.virtchnl.dispatch import Dispatcher

DPDK_CAPS = 0xBE0BC7E1
LINUX_CAPS = 0x1ABD8CF9
TX, RX = 0, 1


class Outside:
    """The device around the VF: the reset that was announced happens at once."""

    def __init__(self):
        self.sent = []
        self.vf = None

    def send(self, opcode, status, payload):
        self.sent.append((opcode, status, payload))

    def begin_reset(self):
        self.vf.reset()

    def announce_reset(self):
        self.vf.reset()

    def post(self, event):
        pass


class Guest:
    """A VF as a driver sees it."""

    def __init__(self, queues, caps=DPDK_CAPS):
        config = AvfConfig(queues=queues)
        self.outside = Outside()
        self.port = Port(config.queues, config.vectors)
        self.vf = self.outside.vf = Vf(
            config, bytes.fromhex("525400770002"), self.port, self.outside
        )
        self.dispatcher = Dispatcher(self.vf)
        self.caps = caps
        self.resources()

    def ask(self, opcode, payload=b""):
        self.outside.sent.clear()
        self.dispatcher.receive(opcode, payload)
        (reply,) = self.outside.sent
        assert reply[0] == opcode
        return reply[1:]

    def status(self, opcode, payload=b""):
        return self.ask(opcode, payload)[0]

    def resources(self):
        """Queue pairs, vectors and entries of the hash table, as reported."""
        status, data = self.ask(3, struct.pack("<I", self.caps))
        assert status == 0
        pairs, vectors = struct.unpack_from("<HH", data, 2)
        assert struct.unpack_from("<H", data, 22) == (pairs,)
        return pairs, vectors, struct.unpack_from("<I", data, 16)[0]

    def request(self, pairs):
        """REQUEST_QUEUES; what comes back, if anything."""
        self.outside.sent.clear()
        self.dispatcher.receive(29, struct.pack("<H", pairs))
        return list(self.outside.sent)

    def configure(self, first, count):
        """CONFIG_VSI_QUEUES of a range, 64 bytes a pair."""
        body = struct.pack("<HHI", 1, count, 0)
        for n in range(first, first + count):
            body += struct.pack("<HHHHQQ", 1, n, 512, 0, 0x1000_0000 + (n << 16), 0)
            body += struct.pack("<HHIHHII", 1, n, 512, 0, 0, 2048, 1526)
            body += struct.pack("<BBBBQiI", 0, 1, 0, 0, 0x2000_0000 + (n << 16), 0, 0)
        assert len(body) == 8 + 64 * count
        return self.status(6, body)


def chunks(*ranges, vport=1, count=None):
    head = struct.pack("<HHHH", vport, 0, len(ranges) if count is None else count, 0)
    return head + b"".join(struct.pack("<iHH", *r) for r in ranges)


def vectors(*entries, vport=1, count=None):
    """Entries of queue, vector, throttle, type."""
    head = struct.pack("<HHI", vport, len(entries) if count is None else count, 0)
    return head + b"".join(struct.pack("<HHIii", q, v, 0, i, t) for q, v, i, t in entries)


def test_a_driver_sees_16_pairs_of_256_until_it_asks_for_more():
    guest = Guest(256)
    assert guest.resources() == (16, 63, 64)
    assert guest.request(20) == []
    assert guest.resources() == (20, 63, 64)
    assert guest.request(256) == []
    assert guest.resources() == (256, 63, 512)
    assert guest.request(257) == [(29, 0, struct.pack("<H", 256))]
    assert guest.request(16) == []
    assert guest.resources() == (16, 63, 64)


def test_a_driver_without_the_capability_has_16_pairs_at_most():
    guest = Guest(256, LINUX_CAPS)
    assert guest.resources() == (16, 63, 64)
    assert guest.request(17) == [(29, 0, struct.pack("<H", 16))]
    assert guest.status(6, struct.pack("<HHI", 1, 17, 0) + bytes(64 * 17)) == -5
    for opcode in (50, 107, 108, 111):
        assert guest.status(opcode, bytes(64)) == -64


def test_a_driver_without_the_capability_does_not_inherit_many_pairs():
    """DPDK took 20; then Linux comes, after an FLR, which keeps the number."""
    guest = Guest(32)
    assert guest.request(20) == []
    guest.caps = LINUX_CAPS
    assert guest.resources()[0] == 16


def test_a_device_of_few_queues_has_one_vector_more():
    assert Guest(4).resources() == (4, 5, 64)
    assert Guest(62).resources() == (16, 63, 64)


def test_the_region_of_the_hash_covers_all_pairs():
    guest = Guest(256)
    for pairs, width in ((16, 4), (20, 5), (64, 6), (65, 7), (256, 8)):
        assert guest.request(pairs) == []
        guest.resources()
        assert guest.ask(50) == (0, struct.pack("<HHI", 1, width, 0))


def test_20_queues_are_set_up_as_dpdk_does():
    """avf.md 4.8: one CONFIG_VSI_QUEUES, receive queues mapped, each queue enabled by itself."""
    guest = Guest(32)
    assert guest.request(20) == []
    guest.resources()
    assert guest.configure(0, 20) == 0
    assert guest.status(111, vectors(*((q, 1, 0, RX) for q in range(20)))) == 0
    assert [ring.vector for ring in guest.port.rx] == [1] * 20 + [None] * 12
    assert [ring.vector for ring in guest.port.tx] == [None] * 32
    for queue in range(20):
        assert guest.status(107, chunks((TX, queue, 1))) == 0
        assert guest.status(107, chunks((RX, queue, 1))) == 0
    assert [ring.enabled for ring in guest.port.rx] == [True] * 20 + [False] * 12
    assert guest.status(108, chunks((TX, 0, 20), (RX, 0, 20))) == 0
    assert not any(ring.enabled for ring in (*guest.port.rx, *guest.port.tx))
    assert guest.status(108, chunks((RX, 3, 1))) == 0


def test_256_queues_come_in_several_messages_and_all_can_be_hashed_to():
    guest = Guest(256)
    assert guest.request(256) == []
    guest.resources()
    for first in range(0, 256, 32):
        assert guest.configure(first, 32) == 0
    assert guest.status(107, chunks((TX, 0, 256), (RX, 0, 256))) == 0
    assert all(ring.enabled for ring in (*guest.port.rx, *guest.port.tx))
    lut = bytes(i % 256 for i in range(512))
    assert guest.status(24, struct.pack("<HH", 1, 512) + lut) == 0
    assert guest.status(24, struct.pack("<HH", 1, 64) + lut) == -5
    assert guest.vf.state.rss_lut == lut


def test_the_link_event_follows_the_enabling_by_ranges():
    guest = Guest(4)
    guest.configure(0, 1)
    guest.vf.set_link(True, 25_000)
    guest.outside.sent.clear()
    guest.dispatcher.receive(107, chunks((RX, 0, 1)))
    assert [sent[0] for sent in guest.outside.sent] == [107, 17]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        chunks(),
        chunks((RX, 0, 1), count=2),
        chunks((RX, 0, 1), vport=2),
        chunks((2, 0, 1)),
        chunks((-1, 0, 1)),
        chunks((RX, 0, 0)),
        chunks((RX, 4, 1)),
        chunks((RX, 3, 2)),
        chunks((RX, 0xFFFF, 0xFFFF)),
        chunks((RX, 0, 1), (TX, 4, 1)),
    ],
)
@pytest.mark.parametrize("opcode", [107, 108])
def test_ranges_that_can_not_be_are_refused(opcode, message):
    guest = Guest(4)
    guest.configure(0, 4)
    if opcode == 108:
        assert guest.status(107, chunks((RX, 0, 4), (TX, 0, 4))) == 0
    before = (guest.vf.state.rx_enabled, guest.vf.state.tx_enabled)
    assert guest.status(opcode, message) == -5
    assert (guest.vf.state.rx_enabled, guest.vf.state.tx_enabled) == before


def test_a_range_with_a_queue_that_is_not_configured_is_refused():
    guest = Guest(4)
    guest.configure(0, 2)
    assert guest.status(107, chunks((RX, 0, 3))) == -5
    assert guest.status(107, chunks((TX, 2, 1))) == -5
    assert guest.vf.state.rx_enabled == guest.vf.state.tx_enabled == 0


@pytest.mark.parametrize(
    "message",
    [
        vectors(),
        vectors((0, 1, 0, RX), count=2),
        vectors((0, 1, 0, RX), vport=0),
        vectors((4, 1, 0, RX)),
        vectors((0, 5, 0, RX)),
        vectors((0, 1, 0, 2)),
        vectors((0, 1, 0, RX), (1, 0xFFFF, 0, TX)),
    ],
)
def test_vectors_that_can_not_be_are_refused(message):
    guest = Guest(4)
    assert guest.status(111, message) == -5
    assert [ring.vector for ring in guest.port.rx] == [None] * 4


def test_vectors_are_mapped_live_and_others_stay():
    guest = Guest(4)
    assert guest.status(111, vectors((0, 1, 0, RX), (0, 2, 1, TX), (3, 4, 3, RX))) == 0
    assert guest.status(111, vectors((0, 3, 0, RX))) == 0
    assert [ring.vector for ring in guest.port.rx] == [3, None, None, 4]
    assert [ring.vector for ring in guest.port.tx] == [2, None, None, None]


def test_a_port_of_256_pairs_is_made_and_reset_in_proportion():
    """A reset used to count all queues for each queue: 256 pairs took 256 times as long as 16."""

    def seconds(pairs):
        best = 10.0
        for _ in range(3):
            port = Port(pairs, 2)
            start = time.perf_counter()
            port.reset()
            best = min(best, time.perf_counter() - start)
            port.close()
        return best

    assert seconds(256) < 64 * seconds(16)
