"""Modes on frames of all kinds: swapping twice is nothing done, checksums are those of scapy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.loop import Loop
from emudev_net.burst import Burst
from emudev_net.flow import Flow
from emudev_net.jit import compile_now
from emudev_net.memory_port import MemoryPort
from emudev_testpmd.modes import StreamContext, kernels_of, parts_of
from emudev_testpmd.options import Options
from emudev_testpmd.topology import Stream

EDITED = ("mac", "macswap", "csum", "icmpecho", "5tswap")


class Line:
    """A mode between the queues of one port."""

    def __init__(self, mode):
        self.loop = Loop(spin=0)
        self.port = MemoryPort("net_memory_0", self.loop)
        self.port.configure(1, 1)
        self.port.rx_queue_setup(0)
        self.port.tx_queue_setup(0)
        context = StreamContext(
            Stream(0, 0, 0, 0), Options(forward_mode=mode), self.port, self.port
        )
        self.parts = parts_of(mode, context)
        compile_now(kernels_of(self.parts))
        (part,) = self.parts
        self.flow = Flow(self.loop, part.source, part.sink, edit=part.edit, drop=True)

    def through(self, frame, split=0):
        """What becomes of a frame that comes in pieces."""
        self.port.sources[0].feed(Burst.of([frame], split).packets())
        self.flow.run()
        assert self.flow.failed == 0
        return [p.data for p in self.port.sent()]


@pytest.fixture(scope="module")
def lines():
    made = {mode: Line(mode) for mode in EDITED}
    yield made
    for line in made.values():
        line.flow.close()
        line.port.close()
        line.loop.close()


ETHERTYPES = st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b"\x88\xa8"])
#: Headers that look right at their start, and anything behind.
FRAMES = st.builds(
    lambda macs, tags, kind, first, rest: macs + tags + kind + first + rest,
    st.binary(min_size=12, max_size=12),
    st.sampled_from([b"", b"\x81\x00\x00\x01", b"\x88\xa8\x00\x02\x81\x00\x00\x01"]),
    ETHERTYPES,
    st.sampled_from([b"\x45", b"\x46", b"\x4f", b"\x60", b"\x00", b""]),
    st.binary(max_size=200),
)
SPLITS = st.integers(min_value=0, max_value=90).filter(lambda n: n == 0 or n > 2)


@given(frame=FRAMES, split=SPLITS)
@settings(max_examples=150)
def test_swapping_twice_gives_the_frame_back(lines, frame, split):
    for mode in ("macswap", "5tswap"):
        (once,) = lines[mode].through(frame, split)
        assert len(once) == len(frame)
        assert lines[mode].through(once, split) == [frame]


@given(frame=FRAMES, split=SPLITS)
@settings(max_examples=150)
def test_pieces_make_no_difference(lines, frame, split):
    for mode in EDITED:
        assert lines[mode].through(frame, split) == lines[mode].through(frame)


@given(frame=FRAMES)
@settings(max_examples=150)
def test_checksums_that_were_made_are_not_made_again(lines, frame):
    (once,) = lines["csum"].through(frame)
    assert lines["csum"].through(once) == [once]


@given(data=st.data())
@settings(max_examples=60)
def test_checksums_are_those_that_scapy_computes(lines, data):
    scapy = pytest.importorskip("scapy.all")
    ends = {"src": "10.9.8.7", "dst": "10.1.2.3"}
    ip = data.draw(
        st.sampled_from([scapy.IP(**ends, id=7), scapy.IPv6(src="fd00::1", dst="fd00::2")])
    )
    layer = data.draw(st.sampled_from([scapy.UDP, scapy.TCP]))
    payload = data.draw(st.binary(max_size=400))
    split = data.draw(SPLITS)
    ether = scapy.Ether(dst="02:00:00:00:00:00", src=":".join(f"{b:02x}" for b in b"\x02emu\0\0"))
    right = bytes(ether / ip / layer(sport=1, dport=2) / payload)
    wrong = bytes(ether / ip / layer(sport=1, dport=2, chksum=0x1234) / payload)
    assert lines["csum"].through(wrong, split) == [right]
