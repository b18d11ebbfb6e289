"""Traffic classes and cloud filters, bytes by hand from avf.md section 4.9."""

import struct

import msgspec
import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.flow_rules import Fate
from emudev_avf.rings import Port
from emudev_avf.vf import Lasting, Vf
from emudev_avf.virtchnl.dispatch import Dispatcher
from emudev_avf.virtchnl.opcodes import ALLOWED_CAPS

MAC = bytes.fromhex("525400770002")
ENABLE, DISABLE, ADD, DEL = 30, 31, 32, 33
CAPS = 0x1ABD8CF9
CLASS0 = 23  # word of the port


class Outside:
    """Keeps what is sent, and resets the VF at once."""

    def __init__(self):
        self.sent = []
        self.resets = 0
        self.vf = None

    def send(self, opcode, status, payload):
        self.sent.append((opcode, status, payload))

    def post(self, event):
        pass

    def announce_reset(self):
        self.resets += 1
        self.vf.reset()


class Guest:
    """A VF of 8 queue pairs and its dispatcher, as a driver sees them."""

    def __init__(self, caps=CAPS):
        config = AvfConfig(queues=8, caps=int(ALLOWED_CAPS))
        self.outside = Outside()
        self.port = Port(8, 9)
        self.vf = self.outside.vf = Vf(config, MAC, self.port, self.outside)
        self.dispatcher = Dispatcher(self.vf)
        self.ask(1, struct.pack("<II", 1, 1))
        self.caps = caps
        self.negotiate()

    def negotiate(self):
        """After a reset Linux asks for its resources, and does not repeat the version."""
        return self.ask(3, struct.pack("<I", self.caps))

    def send(self, opcode, payload=b""):
        self.outside.sent.clear()
        self.dispatcher.receive(opcode, payload)
        return list(self.outside.sent)

    def ask(self, opcode, payload=b""):
        ((answered, status, data),) = self.send(opcode, payload)
        assert answered == opcode
        return status, data

    def enable(self, *classes):
        """Enable classes and begin again after the reset."""
        assert self.send(ENABLE, channels(*classes)) == []
        self.negotiate()


@pytest.fixture
def guest():
    return Guest()


def channels(*classes, count=None):
    """ENABLE_CHANNELS: (queues, first, Mbit/s) of each class."""
    head = struct.pack("<II", len(classes) if count is None else count, 0)
    return head + b"".join(struct.pack("<HHIQ", n, first, 0, rate) for n, first, rate in classes)


def frame(*, src=b"", dst=b"", vlan=b"", sip=b"", dip=b"", sport=b"", dport=b""):
    """The 128 bytes of a filter's data or mask."""
    return (
        src.ljust(6, b"\0") + dst.ljust(6, b"\0") + vlan.ljust(2, b"\0") + bytes(2)
        + sip.ljust(16, b"\0") + dip.ljust(16, b"\0") + sport.ljust(2, b"\0")
        + dport.ljust(2, b"\0") + bytes(76)
    )  # fmt: skip


def cloud(flow=0, action=1, meta=1, **fields):
    mask = {name: b"\xff" * len(value) for name, value in fields.items()}
    tail = struct.pack("<iiIB3x", flow, action, meta, 0)
    return frame(**fields) + frame(**mask) + tail


def test_a_filter_has_the_golden_size():
    made = cloud(dip=bytes([192, 168, 77, 2]), dport=b"\x1b\x59")
    assert len(made) == 272
    assert made[32:36] == bytes([192, 168, 77, 2])
    assert made[50:52] == b"\x1b\x59"
    assert made[256:264] == struct.pack("<ii", 0, 1)


def test_classes_come_with_a_reset_and_no_reply(guest):
    guest.enable((4, 0, 0), (2, 4, 100), (2, 6, 250))
    assert guest.outside.resets == 1
    assert guest.port.words[CLASS0] == 4
    # Mbit/s here, kbit/s in the buckets; shared by the queues of the class.
    buckets = sorted((b.rate, len(b.rings)) for b in guest.port.limits.buckets)
    assert buckets == [(100_000, 2), (250_000, 2)]
    assert guest.send(DISABLE) == []
    assert guest.outside.resets == 2
    assert guest.port.words[CLASS0] == 0
    assert guest.port.limits.buckets == []


def test_classes_outlive_resets_but_not_a_new_driver(guest):
    guest.enable((4, 0, 0), (4, 4, 100))
    guest.vf.reset()
    guest.negotiate()
    assert guest.port.words[CLASS0] == 4
    assert len(guest.port.limits.buckets) == 1
    guest.ask(1, struct.pack("<II", 1, 1))
    assert guest.port.words[CLASS0] == 0
    assert guest.port.limits.buckets == []
    guest.enable((4, 0, 0))
    guest.vf.reset(power=True)
    assert guest.port.words[CLASS0] == 0


def test_another_number_of_queues_ends_the_classes(guest):
    guest.enable((4, 0, 0), (4, 4, 0))
    assert guest.send(29, struct.pack("<H", 2)) == []
    guest.negotiate()
    assert guest.port.words[CLASS0] == 0


@pytest.mark.parametrize(
    "payload",
    [
        channels(),
        channels(*[(1, i, 0) for i in range(5)]),
        channels((4, 0, 0), count=2),
        channels((4, 0, 0), count=0x8000_0001),
        channels((4, 0, 0))[:-1],
        channels((4, 0, 0), (4, 5, 0)),
        channels((4, 1, 0)),
        channels((0, 0, 0)),
        channels((8, 0, 0), (1, 8, 0)),
        channels((0xFFFF, 0, 0)),
        channels((4, 0, 25_001)),
        channels((4, 0, 2**64 - 1)),
        b"",
    ],
)
def test_impossible_classes_are_refused(guest, payload):
    assert guest.ask(ENABLE, payload) == (-5, b"")
    assert guest.outside.resets == 0


def test_disabling_no_classes_is_refused(guest):
    assert guest.ask(DISABLE) == (-5, b"")


def test_a_filter_sends_frames_to_the_queues_of_its_class(guest):
    guest.enable((4, 0, 0), (3, 4, 0))
    made = cloud(dip=bytes([192, 168, 77, 2]), dport=b"\x1b\x59")
    assert guest.ask(ADD, made) == (0, b"")
    (rule,) = guest.vf.state.rules
    assert (rule.action.fate, rule.action.queue, rule.action.count) == (Fate.SPREAD, 4, 3)
    assert guest.ask(ADD, made) == (-5, b"")
    assert guest.ask(DEL, cloud(dip=bytes([192, 168, 77, 3]))) == (-5, b"")
    assert guest.ask(DEL, made) == (0, b"")
    assert guest.vf.state.rules == []
    assert guest.ask(DEL, made) == (-5, b"")


@pytest.mark.parametrize(
    "payload",
    [
        cloud(flow=4, dport=b"\0\1"),
        cloud(flow=-1, dport=b"\0\1"),
        cloud(action=0, dport=b"\0\1"),
        cloud(meta=2, dport=b"\0\1"),
        cloud(meta=0xFFFF_FFFF, dport=b"\0\1"),
        cloud(dport=b"\0\1")[:271],
        b"",
    ],
)
def test_impossible_filters_are_refused(guest, payload):
    guest.enable((4, 0, 0), (4, 4, 0))
    assert guest.ask(ADD, payload) == (-5, b"")
    assert guest.vf.state.rules == []


def test_without_classes_there_are_no_filters(guest):
    assert guest.ask(ADD, cloud(meta=0, dport=b"\0\1")) == (-5, b"")


def test_without_the_capability_nothing_is_supported():
    guest = Guest(caps=0x0008_0001)
    for opcode, payload in (
        (ENABLE, channels((1, 0, 0))),
        (DISABLE, b""),
        (ADD, cloud()),
        (DEL, cloud()),
    ):
        assert guest.ask(opcode, payload) == (-64, b"")


def test_classes_can_be_saved(guest):
    guest.enable((4, 0, 0), (4, 4, 100))
    text = msgspec.json.encode(msgspec.to_builtins(guest.vf.lasting, builtin_types=(bytes,)))
    saved = msgspec.json.decode(text)["channels"]
    assert msgspec.convert(saved, type=list[type(guest.vf.lasting.channels[0])]) == (
        guest.vf.lasting.channels
    )
    assert Lasting(mac=MAC, queue_pairs=8).channels == []


# -- on frames

SOURCE, TARGET = bytes([192, 168, 77, 1]), bytes([192, 168, 77, 2])


def tcp4(dport, sport=1000, target=TARGET, protocol=6, tag=b""):
    segment = struct.pack(">HHIIBBHHH", sport, dport, 1, 2, 0x50, 0x10, 512, 0, 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0, 64, protocol, 0)
    return MAC + MAC + tag + b"\x08\0" + head + SOURCE + target + segment


def test_frames_go_where_the_filters_say(guests, guest):
    live = guests(8)
    for pair in range(8):
        live.post(40, pair)
    guest.enable((2, 0, 0), (2, 2, 0), (4, 4, 0))
    assert guest.ask(ADD, cloud(dip=TARGET, dport=b"\x1b\x59"))[0] == 0
    assert guest.ask(ADD, cloud(meta=2, vlan=b"\0\x09"))[0] == 0
    live.port.set_rules(guest.vf.state.rules)
    live.port.set_classes(2)
    live.port.set_rss(bytes(range(1, 53)), bytes([0, 1, 2, 3, 4, 5, 6, 7] * 8), 1 << 33)

    def queues(make):
        found = set()
        for sport in range(1000, 1016):
            live.deliver(make(sport))
            found |= {pair for pair in range(8) if live.received(pair)}
        return found

    tag = struct.pack(">HH", 0x8100, 0x6009)
    assert queues(lambda sport: tcp4(7001, sport)) == {2, 3}
    assert queues(lambda sport: tcp4(7002, sport)) == {0, 1}
    assert queues(lambda sport: tcp4(7001, sport, target=SOURCE)) == {0, 1}
    assert queues(lambda sport: tcp4(7002, sport, tag=tag)) == {4, 5, 6, 7}
    # Not TCP, so not that filter's, and of a type that is not hashed.
    assert queues(lambda sport: tcp4(7001, sport, protocol=17)) == {0}
