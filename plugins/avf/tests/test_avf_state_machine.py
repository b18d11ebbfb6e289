"""Hypothesis plays driver against the device: any order, any bytes, resets and unmaps in between.

Whatever came: each request that a working mailbox carries is answered once, nothing raises, nothing
outside of the memory that is mapped at the moment is touched (it can't be: the run would end), the
counters add up, and a driver that resets the function finds every queue.
"""

from __future__ import annotations

import struct
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from emudev_avf import resets, rings
from emudev_avf.registers import MAP
from emudev_avf.virtchnl.handlers import HANDLERS
from emudev_avf.wild import HOME, REGIONS, WildGuest
from emudev_core.regions import ResetKind
from emudev_net import flow as flows
from emudev_net.jit import compile_now

registers = st.one_of(
    st.sampled_from(sorted({MAP.offset(reg.name) for reg in MAP.regs})),
    st.integers(0, 0x3FFF).map(lambda n: 4 * n),
)
interesting = st.sampled_from(
    [0, 1, 2, 31, 32, 63, 0x3FF, 0x8000_0020, 0x8000_0000, 0xFFFF_FFFF, 0x19, 0x1B, 1 << 30, HOME]
)
words = st.one_of(interesting, st.integers(0, 0xFFFF_FFFF))
addresses = st.one_of(
    *[st.integers(at - 64, at + size + 64) for at, size, _ in REGIONS],
    st.integers(0, (1 << 64) - 1),
)
small = st.one_of(st.integers(0, 4), st.sampled_from([31, 32, 64, 255, 256, 0xFFFF]))
pairs = st.integers(0, 1)


@st.composite
def shaped(draw):
    """A payload of small numbers behind the id of the VSI, as most of them are."""
    head = struct.pack("<H", draw(st.sampled_from([1, 1, 1, 0, 2])))
    body = draw(st.lists(small, max_size=30))
    form = draw(st.sampled_from("BHI"))
    top = {"B": 0xFF, "H": 0xFFFF, "I": 0xFFFF_FFFF}[form]
    return head + struct.pack(f"<{len(body)}{form}", *[min(n, top) for n in body])


@st.composite
def queue_setup(draw):
    """CONFIG_VSI_QUEUES, nearly as it ought to be."""
    count = draw(st.integers(0, 3))
    out = struct.pack("<HHI", 1, count, 0)
    for _ in range(draw(st.integers(0, 3))):
        length = draw(st.sampled_from([0, 8, 32, 64, 512, 8160, 33]))
        out += struct.pack("<HHHHQQ", 1, draw(pairs), length, 0, draw(rings_at), 0)
        out += struct.pack(
            "<HHIHHIIBBBBQiI",
            *(1, draw(pairs), draw(st.sampled_from([0, 32, 64, 512, 33])), 0, 0),
            *(draw(st.sampled_from([128, 1024, 2048, 16256, 5])), draw(st.integers(60, 16384))),
            *(draw(st.integers(0, 1)), draw(st.sampled_from([0, 1, 2, 22])), 0, 0),
            *(draw(rings_at), 0, 0),
        )
    return out


rings_at = st.one_of(
    st.sampled_from([at + offset for at, size, _ in REGIONS for offset in (0, 128, size - 128)]),
    st.integers(0, (1 << 55) - 1).map(lambda n: 128 * n),
)


@st.composite
def headers(draw):
    """struct virtchnl_proto_hdrs, 2312 bytes in any of its three forms."""
    count = draw(st.one_of(st.integers(0, 3), st.integers(0, 50)))
    level = draw(st.sampled_from([0, 0, 0, 1, 2, 255]))
    out = struct.pack("<BxxxI", level, count)
    if count == 0:
        length = draw(st.sampled_from([14, 34, 54, 64, 0, 513]))
        frame = bytes(12) + b"\x08\x00\x45" + draw(st.binary(max_size=60))
        mask = draw(st.binary(max_size=80))
        out += struct.pack("<H512s512s", length, frame, mask)
    for _ in range(min(count, 5)):
        kind = draw(
            st.one_of(st.sampled_from([1, 3, 4, 5, 6, 7, 8, 9, 10, 15]), st.integers(0, 99))
        )
        spec = draw(st.binary(max_size=64))
        if count <= 32:
            fields = draw(st.sampled_from([0, 1, 2, 3, 6, 0xC, 0xFFFF_FFFF, 0x8000_0000]))
            out += struct.pack("<iI64s", kind, fields, spec)
        else:
            mask = draw(st.sampled_from([bytes(64), b"\xff" * 64, b"\xff\xf0" * 10]))
            out += struct.pack("<ixxxx64s64s", kind, spec, mask)
    return out[:2312].ljust(2312, b"\0")


@st.composite
def flow_rule(draw):
    """ADD_FDIR_FILTER and FLOW_SUBSCRIBE: headers and what is done."""
    count = draw(st.one_of(st.integers(0, 2), st.integers(0, 9)))
    out = struct.pack("<HHI", 1, draw(st.integers(0, 1)), draw(small)) + draw(headers())
    out += struct.pack("<i", count)
    for _ in range(min(count, 8)):
        queue = struct.pack("<HB29x", draw(small), draw(st.sampled_from([0, 0, 1, 3, 200])))
        out += struct.pack("<i32s", draw(st.integers(-1, 8)), queue)
    return out.ljust(2616, b"\0")


@st.composite
def cloud_filter(draw):
    """ADD_CLOUD_FILTER: a frame and its mask, a class."""
    address = draw(st.sampled_from([bytes(6), b"\xff" * 6, bytes.fromhex("525400770002")]))
    frame = struct.pack("<6s6sHH16s16sHH76x", bytes(6), address, 5, 0, b"\x0a", b"", 80, 90)
    mask = draw(st.sampled_from([bytes(128), b"\xff" * 128, bytes(6) + b"\xff" * 6 + bytes(116)]))
    return frame + mask + struct.pack("<iiIBxxx", draw(small) % 5, draw(small) % 8, draw(small), 0)


@st.composite
def classes(draw):
    """ENABLE_CHANNELS: some classes of queues."""
    count = draw(st.integers(0, 5))
    out = struct.pack("<II", count, 0)
    for _ in range(count):
        out += struct.pack(
            "<HHIQ", draw(st.integers(0, 2)), draw(st.integers(0, 3)), 0, draw(small)
        )
    return out


#: Requests with a content that is nearly right, by opcode.
likely = st.one_of(
    st.tuples(st.sampled_from([47, 114]), flow_rule()),
    st.tuples(
        st.sampled_from([48, 115]),
        st.integers(0, 4).map(lambda n: struct.pack("<HHII", 1, 0, n, 0)),
    ),
    st.tuples(
        st.sampled_from([45, 46]),
        st.tuples(headers(), st.integers(0, 5)).map(
            lambda pair: pair[0] + struct.pack("<iI", pair[1], 0)
        ),
    ),
    st.tuples(st.sampled_from([32, 33]), cloud_filter()),
    st.tuples(st.just(30), classes()),
    st.tuples(st.just(31), st.just(b"")),
    st.tuples(st.just(3), st.sampled_from([b"\xff" * 4, struct.pack("<I", 0x1ABD8CF9), bytes(4)])),
)


@st.composite
def descriptor(draw):
    """16 bytes, mostly of a data or a context descriptor."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(min_size=16, max_size=16))
    size = draw(st.one_of(st.integers(1, 200), st.integers(0, 16383)))
    command = draw(st.sampled_from([1, 3, 7, 0xF, 0x147, 0x167, 0x247, 0x367, 4, 6]))
    qword1 = command << 4 | draw(st.sampled_from([0, 0x20287, 0x20507])) << 16 | size << 34
    if kind == 1:
        qword1 = 1 | draw(st.integers(0, 7)) << 4 | size << 30 | draw(st.integers(0, 2000)) << 50
    return struct.pack("<QQ", draw(addresses), qword1)


#: REQUEST_QUEUES and RESET_VF come often enough by themselves; ENABLE and DISABLE by rules.
opcodes = st.one_of(st.sampled_from(sorted(HANDLERS)), st.integers(0, 150), words)


class Driver(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        compile_now((*rings.KERNELS, *flows.KERNELS))
        times = dict.fromkeys(resets._LASTS, 0.0)
        self.patch = mock.patch.dict(resets._LASTS, times)
        self.patch.start()
        self.guest = WildGuest()

    def teardown(self):
        try:
            self.guest.recover()
        finally:
            self.guest.close()
            self.patch.stop()

    # -- accesses of any kind

    @rule(offset=registers, value=words)
    def write_register(self, offset, value):
        self.guest.write(offset, value)

    @rule(offset=st.integers(0, 0xFFFF), size=st.sampled_from([1, 2, 4, 8]), value=words)
    def write_anywhere(self, offset, size, value):
        self.guest.write(min(offset, 0x10000 - size), value, size)

    @rule(offset=registers)
    def read_register(self, offset):
        assert 0 <= self.guest.read(offset) <= 0xFFFF_FFFF

    @rule(offset=st.integers(0, 0xFFF), size=st.sampled_from([1, 2, 4]), value=words)
    def write_configuration(self, offset, size, value):
        self.guest.write_config(min(offset, 0x1000 - size), value, size)

    @rule(pair=pairs, tail=st.one_of(st.integers(0, 40), words), rx=st.booleans())
    def ring(self, pair, tail, rx):
        self.guest._write((0x2000 if rx else 0) + 4 * pair, tail)

    # -- memory and interrupts

    @rule(region=st.integers(0, 3), on=st.booleans())
    def map_or_unmap(self, region, on):
        self.guest.map(region, on)

    @rule(region=st.integers(0, 2), offset=st.integers(0, 1 << 20), data=st.binary(max_size=100))
    def poke(self, region, offset, data):
        self.guest.poke(region, offset, data)

    @rule(pair=pairs, index=st.integers(0, 31), entries=st.lists(descriptor(), max_size=6))
    def write_descriptors(self, pair, index, entries):
        if self.guest.mapped[0]:
            at = self.guest.places(pair)[0] + 16 * index
            self.guest.memory[0].write(at, b"".join(entries))
            self.guest._write(4 * pair, (index + len(entries)) % 32)

    @rule(pair=pairs, index=st.integers(0, 31), at=addresses, header=addresses)
    def post_buffer(self, pair, index, at, header):
        if self.guest.mapped[0]:
            ring = self.guest.places(pair)[1] + 32 * index
            raw = struct.pack("<QQQQ", at % (1 << 64), header % (1 << 64), 0, 0)
            self.guest.memory[0].write(ring, raw)

    @rule(vector=st.integers(0, 2), on=st.booleans())
    def bind(self, vector, on):
        self.guest.bind(vector, on)

    # -- requests

    @rule()
    def start_mailbox(self):
        self.guest.start_mailbox()

    @precondition(lambda self: self.guest.sane)
    @rule(opcode=opcodes, payload=st.one_of(shaped(), st.binary(max_size=600)))
    def request_anything(self, opcode, payload):
        self.guest.request(opcode, payload)

    @precondition(lambda self: self.guest.sane)
    @rule(request=likely)
    def request_what_is_likely(self, request):
        self.guest.request(*request)

    @precondition(lambda self: self.guest.sane)
    @rule(payload=queue_setup())
    def configure_queues(self, payload):
        self.guest.request(6, payload)

    @precondition(lambda self: self.guest.sane)
    @rule(opcode=st.sampled_from([8, 9]), rx=st.integers(0, 3), tx=st.integers(0, 3))
    def enable_or_disable(self, opcode, rx, tx):
        self.guest.request(opcode, struct.pack("<HHII", 1, 0, rx, tx))

    @precondition(lambda self: self.guest.sane)
    @rule()
    def open(self):
        if self.guest.request(9, struct.pack("<HHII", 1, 0, 3, 3)) is not None:
            self.guest.map(0, True)
            if self.guest.avf.vf.queue_pairs >= 1:
                self.guest.open(1)

    # -- what happens to it

    @rule(kind=st.sampled_from(list(ResetKind)))
    def reset(self, kind):
        self.guest.reset(kind)

    @rule(announced=st.booleans())
    def pf_reset(self, announced):
        self.guest.pf_reset(announced)

    @rule()
    def pass_time(self):
        self.guest.pass_time()

    @rule()
    def turn(self):
        self.guest.turn()

    @rule(up=st.booleans())
    def link(self, up):
        self.guest.link(up)

    @rule(
        frames=st.lists(
            st.one_of(st.integers(0, 3000).map(bytes), st.binary(max_size=200)), max_size=5
        ),
        split=st.sampled_from([0, 50]),
    )
    def deliver(self, frames, split):
        self.guest.deliver(frames, split)

    @rule()
    def recover(self):
        self.guest.recover()

    @invariant()
    def everything_adds_up(self):
        self.guest.check()


class TestDriver(Driver.TestCase):
    settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.nightly
class TestDriverAtLength(Driver.TestCase):
    settings = settings(max_examples=1000, stateful_step_count=80, deadline=None)
