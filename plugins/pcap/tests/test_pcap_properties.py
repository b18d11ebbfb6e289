"""Any file, whole or spoiled, against an oracle in plain Python; in memory and streamed."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from captures import opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emudev_net.burst import Burst
from emudev_pcap import reader_kernels as k
from emudev_pcap import writer_kernels as w
from emudev_pcap.capture_file import CaptureFile
from emudev_pcap.formats import CaptureError
from emudev_pcap.writer import Ring

pytestmark = pytest.mark.usefixtures("kernels")

quick = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def drain(cursor, rows, release=None):
    """All that a cursor shows: packets and times."""
    found = []
    burst = Burst(rows)
    for turn in range(10_000):
        got = k.peek(cursor.words.address, burst.address, rows)
        if not got:
            return found
        packets = burst.packets(got)
        take = got if release is None else 1 + release[turn % len(release)] % got
        found += [(p.data, p.time) for p in packets[:take]]
        k.release(cursor.words.address, burst.address, take)
    raise AssertionError("it does not end")


def read(data, memory, rows=16, tolerant=0, release=None):
    """Packets and the fault of a file; None and its error if it is refused at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        try:
            file = CaptureFile(str(path), memory)
        except CaptureError as error:
            return None, str(error).replace(folder, "")
        cursor = opened(file, tolerant)
        found = drain(cursor, rows, release)
        error = cursor.fault(str(path))
        cursor.leave()
        return found, error and str(error).replace(folder, "")


frames = st.binary(min_size=14, max_size=200)
seconds = st.integers(0, 2**32 - 1)


@st.composite
def pcap(draw):
    """A pcap file, and what is in it."""
    order = draw(st.sampled_from("<>"))
    nano = draw(st.booleans())
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    data = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, 1)
    expected = []
    for frame, second, part, more in draw(
        st.lists(st.tuples(frames, seconds, st.integers(0, 999_999), st.integers(0, 9)))
    ):
        data += struct.pack(order + "IIII", second, part, len(frame), len(frame) + more) + frame
        expected.append((frame, second * 10**9 + part * (1 if nano else 1000)))
    return data, expected


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def option(order, code, value):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


@st.composite
def pcapng(draw):
    """A pcapng file of some sections with some interfaces each, and what is in it."""
    data, expected = b"", []
    for _ in range(draw(st.integers(1, 3))):
        order = draw(st.sampled_from("<>"))
        data += block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        scales = []
        for _ in range(draw(st.integers(1, 12))):
            kind = draw(st.sampled_from(["interface", "packet", "packet", "other"]))
            if kind == "interface" or not scales:
                digits = draw(st.sampled_from([None, 0, 3, 6, 9, 0x80, 0x8A]))
                options = b"" if digits is None else option(order, 9, bytes([digits]))
                body = struct.pack(order + "HHI", 1, 0, 0) + options
                data += block(order, 1, body)
                scales.append(6 if digits is None else digits)
            elif kind == "other":
                data += block(order, draw(st.integers(7, 2**31)), draw(st.binary(max_size=40)))
            else:
                number = draw(st.integers(0, len(scales) - 1))
                ticks = draw(st.integers(0, 2**32))
                frame = draw(frames)
                head = struct.pack(
                    *(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF),
                    *(len(frame), len(frame)),
                )
                tail = draw(st.sampled_from([b"", option(order, 1, b"hello")]))
                padded = frame + bytes(-len(frame) % 4)
                data += block(order, 6, head + padded + tail)
                scale = scales[number]
                if scale & 0x80:
                    expected.append((frame, ticks * 10**9 >> (scale & 0x7F)))
                else:
                    expected.append((frame, ticks * 10 ** (9 - scale)))
    return data, expected


files = st.one_of(pcap(), pcapng())


@quick
@given(file=files, rows=st.integers(1, 20), release=st.lists(st.integers(0, 30), min_size=1))
def test_any_file_is_read_as_it_was_written(file, rows, release):
    data, expected = file
    expected = [(f, t if t < 2**63 else t - 2**64) for f, t in expected]
    for memory in (0, 1 << 30):
        assert read(data, memory, rows, release=release) == (expected, None)


@quick
@given(file=files, data=st.data())
def test_a_file_that_is_cut_anywhere_gives_what_is_whole(file, data):
    whole, expected = file
    end = data.draw(st.integers(0, len(whole)))
    for memory in (0, 1 << 30):
        found, error = read(whole[:end], memory)
        if found is None:
            assert end < 24
            continue
        expected_here = [(f, t if t < 2**63 else t - 2**64) for f, t in expected[: len(found)]]
        assert found == expected_here
        assert error is None or "cut short" in error
        again = read(whole[:end], memory, tolerant=1)
        assert again == (found, None)


@quick
@given(file=files, data=st.data(), tolerant=st.integers(0, 1))
def test_no_spoiled_file_does_harm_and_both_ways_see_the_same(file, data, tolerant):
    whole = bytearray(file[0])
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)
    ):
        whole[at] = value
    in_memory = read(bytes(whole), 1 << 30, tolerant=tolerant)
    streamed = read(bytes(whole), 0, tolerant=tolerant)
    assert in_memory == streamed


@quick
@given(junk=st.binary(max_size=300), ng=st.booleans())
def test_no_junk_behind_a_good_start_does_harm(junk, ng):
    start = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    if ng:
        start = block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        start += block("<", 1, struct.pack("<HHI", 1, 0, 0))
    assert read(start + junk, 0) == read(start + junk, 1 << 30)


@quick
@given(
    bursts=st.lists(
        st.tuples(st.lists(st.binary(min_size=1, max_size=400), max_size=8), st.integers(0, 4096)),
        max_size=30,
    ),
    ng=st.booleans(),
    split=st.integers(1, 300),
)
def test_a_ring_holds_whole_records_in_order_and_counts_the_rest(bursts, ng, split):
    size = 1024
    ring = Ring()
    ring.open(size)
    for word, value in ((w.FORMAT, 2 if ng else 1), (w.SNAPLEN, 262_144), (w.OPEN, 1)):
        ring.set(word, value)
    state = ring.words.address
    written, full, out = [], 0, b""
    used = 0
    for packets, taken in bursts:
        burst = Burst.of(packets, split)
        assert w.push(state, burst.address, burst.count) == burst.count
        for packet in packets:
            need = 32 + (len(packet) + 3 & ~3) if ng else 16 + len(packet)
            if used + need <= size:
                used += need
                written.append(packet)
            else:
                full += 1
        taken = min(taken, used)
        at = ring.get(w.TAKEN) & (size - 1)
        both = bytes(ring.memory.bytes) * 2
        out += both[at : at + taken]
        w.taken(state, 0, taken)
        used -= taken
        assert w.waiting(state, 0, 0) == used
    at = ring.get(w.TAKEN) & (size - 1)
    out += (bytes(ring.memory.bytes) * 2)[at : at + used]
    assert ring.get(w.FULL) == full
    assert ring.get(w.PACKETS) == len(written)
    start = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    if ng:
        start = block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        start += block("<", 1, struct.pack("<HHI", 1, 0, 0))
    found, error = read(start + out, 1 << 30)
    assert error is None
    assert [data for data, _ in found] == [p for p in written if len(p) >= 14]
