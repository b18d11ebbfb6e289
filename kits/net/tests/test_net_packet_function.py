"""Packet functions change, drop and pass packets on; the flow counts each once."""

import textwrap

import pytest
from flow_parts import fill_up, tcp_request
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.loop import Loop
from emudev_core.queues import Offload
from emudev_net import flow as flow_module
from emudev_net import memory_queues, packet_function
from emudev_net.burst import (
    ROW,
    VLAN,
    VLAN_PRESENT,
    Burst,
    Packet,
    packet_rows,
)
from emudev_net.flow import Flow, Outcome
from emudev_net.flow_kernels import OVERRUN
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.memory_queues import MemorySink, MemorySource
from emudev_net.packet_function import (
    HEAD,
    OUT_CAPACITY,
    OWN_WORDS,
    PacketFunction,
    copy_head,
    emit,
    head_size,
    out_row,
    pass_on,
    python_function,
)
from emudev_net.primitives import (
    copy,
    load8,
    load16,
    load32,
    load64,
    store8,
    store16,
    store32,
    store64,
)


@queue_kernel
def swap(state, burst, rows):
    """Swap the addresses; too short ones are dropped."""
    row = out = 0
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        size = head_size(burst, row, end)
        if size >= 14:
            head = copy_head(state, burst, row, end, size)
            low = load32(head)
            high = load16(head + 4)
            copy(head, head + 6, 6)
            store32(head + 6, low)
            store16(head + 10, high)
            out = emit(state, burst, row, end, out, head, size, size)
        row = end
    return out


@queue_kernel
def odd(state, burst, rows):
    """Only packets whose first byte is odd go on; own word 0 counts what was seen."""
    row = out = 0
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        store64(state + OWN_WORDS, load64(state + OWN_WORDS) + 1)
        if load8(load64(burst + row * ROW)) & 1:
            out = pass_on(state, burst, row, end, out)
        row = end
    return out


@queue_kernel
def prefix(state, burst, rows):
    """Two bytes in front, in the headroom, instead of the first three; a tag beside the frame."""
    row = out = 0
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        size = head_size(burst, row, end)
        head = copy_head(state, burst, row, end, size)
        store8(head + 1, 0xAA)
        store8(head + 2, 0xBB)
        at = out
        out = emit(state, burst, row, end, out, head + 1, size - 1, size)
        store64(out_row(state, at) + VLAN, 77)
        row = end
    return out


@queue_kernel
def broken(state, burst, rows):
    """Own word 0 is what it answers."""
    return load64(state + OWN_WORDS)


KERNELS = (*flow_module.KERNELS, *memory_queues.KERNELS, swap, odd, prefix, broken)


def sent(loop, kernel, packets, split=0, sink=None, **keys):
    """What a flow with a packet function makes of packets, its counters, and the function."""
    source, sink = MemorySource(Burst.of(packets, split=split)), sink or MemorySink()
    function = kernel if isinstance(kernel, PacketFunction) else PacketFunction(kernel, 1)
    flow = Flow(loop, source.kernels, sink.kernels, edit=function, **keys)
    while flow.run() is Outcome.BUDGET:
        pass
    stats = flow.stats()
    flow.close()
    return sink.packets(), stats, function


@pytest.mark.parametrize("split", [0, 12, 100, 128])
def test_headers_change_and_payload_stays(kernels, loop, split):
    frames = [
        bytes(range(6)) + b"abcdef" + bytes(i & 0xFF for i in range(n))
        for n in (2, 3, 48, 52, 53, 115, 116, 117, 150, 1500)
    ]
    got, stats, _ = sent(loop, swap, frames, split)
    assert [p.data for p in got] == [b"abcdef" + bytes(range(6)) + f[12:] for f in frames]
    assert stats["received"] == stats["sent"] == 10
    assert stats["refused"] == 0


def test_the_source_is_never_changed(kernels, loop):
    burst = Burst.of([b"abcdefghijklmnop" * 20])
    source, sink = MemorySource(burst), MemorySink()
    Flow(loop, source.kernels, sink.kernels, edit=PacketFunction(swap)).run()
    assert burst.packets()[0].data == b"abcdefghijklmnop" * 20
    assert sink.packets()[0].data[:12] == b"ghijklabcdef"


def test_packets_that_are_not_emitted_are_dropped_and_counted(kernels, loop):
    frames = [bytes([i]) * 30 for i in range(200)]
    got, stats, function = sent(loop, odd, frames, split=13)
    assert [p.data for p in got] == frames[1::2]
    assert (stats["received"], stats["sent"], stats["refused"]) == (200, 100, 100)
    assert function[0] == 200


def test_a_function_that_drops_everything_empties_the_source(kernels, loop):
    got, stats, _ = sent(loop, odd, [b"\0" * 20] * 600)
    assert got == []
    assert (stats["received"], stats["refused"], stats["rows"]) == (600, 600, 600)


@pytest.mark.parametrize("size", [3, 64, HEAD, HEAD + 1, 600])
def test_a_header_may_change_its_length_and_metadata_is_kept(kernels, loop, size):
    data = bytes(i & 0xFF for i in range(size))
    packet = Packet(data, flags=VLAN_PRESENT, vlan=5, hash=1234, time=99)
    sink = MemorySink(takes=Offload.VLAN)
    (got,), _, _ = sent(loop, prefix, [packet], sink=sink)
    assert got.data == b"\xaa\xbb" + data[3:]
    assert (got.vlan, got.hash, got.time) == (77, 1234, 99)
    assert got.flags & VLAN_PRESENT


def test_packets_of_many_rows_fit_with_a_header_row_each(kernels, loop):
    # 128 rows of 2 bytes and more: what is peeked at one time is full of rows.
    frames = [bytes(i & 0xFF for i in range(256))] * 3
    got, _, _ = sent(loop, swap, frames, split=2, rows=512)
    assert [p.data for p in got] == [f[6:12] + f[:6] + f[12:] for f in frames]


@given(
    rooms=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    split=st.integers(20, 200),
    keep=st.lists(st.booleans(), min_size=1, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_a_sink_that_fills_up_anywhere_gets_each_packet_once(compiled_mode, rooms, split, keep):
    loop = Loop(spin=0)
    try:
        frames = [bytes([k]) + bytes([n]) * (30 + 7 * n) for n, k in enumerate(keep)]
        source, sink = MemorySource(Burst.of(frames, split=split)), MemorySink()
        flow = Flow(loop, source.kernels, sink.kernels, edit=PacketFunction(odd, 1), rows=16)
        fill_up(flow, sink, rooms)
        assert [p.data for p in sink.packets()] == [f for f in frames if f[0] & 1]
        stats = flow.stats()
        assert stats["received"] == len(frames)
        assert stats["sent"] == sum(keep)
        assert stats["refused"] == len(frames) - sum(keep)
        flow.close()
    finally:
        loop.close()


@given(rooms=st.lists(st.integers(0, 9), min_size=1, max_size=8), split=st.integers(300, 3000))
@settings(max_examples=25, deadline=None)
def test_segments_of_an_edited_frame_go_on_where_the_sink_was_full(compiled_mode, rooms, split):
    loop = Loop(spin=0)
    try:
        big = tcp_request(10000, 700, to=b"\x01" * 6, step=7)
        refused = b"\0" * 60
        burst = Burst.of([refused, big, refused, refused, b"\x01" * 60, big, refused], split=split)
        source, sink = MemorySource(burst), MemorySink()
        flow = Flow(loop, source.kernels, sink.kernels, edit=PacketFunction(odd, 1))
        fill_up(flow, sink, rooms)
        got = [p.data for p in sink.packets()]
        assert len(got) == 15 + 1 + 15
        assert b"".join(d[54:] for d in got[:15]) == big.data[54:]
        assert b"".join(d[54:] for d in got[16:]) == big.data[54:]
        stats = flow.stats()
        assert (stats["received"], stats["sent"], stats["refused"]) == (7, 3, 4)
        flow.close()
    finally:
        loop.close()


def test_a_function_that_fails_ends_the_flow(kernels, loop):
    for answer, code in ((-5, -5), (1 << 20, OVERRUN)):
        failures = []
        source, sink = MemorySource(Burst.of([b"x" * 20])), MemorySink()
        function = PacketFunction(broken, [answer])
        flow = Flow(
            loop,
            source.kernels,
            sink.kernels,
            edit=function,
            on_failed=lambda flow, code, to=failures: to.append((flow, code)),
        )
        assert flow.run() is Outcome.FAILED
        assert flow.run() is Outcome.FAILED
        assert failures == [(flow, code)]
        assert flow.failed == code
        assert source.released == 0
        flow.close()


def test_one_function_serves_one_flow(kernels, loop):
    source, sink = MemorySource(Burst.of([b"x" * 20])), MemorySink()
    function = PacketFunction(swap, (3, 4))
    assert (function[0], function[1]) == (3, 4)
    Flow(loop, source.kernels, sink.kernels, edit=function, rows=32)
    assert function.words[OUT_CAPACITY // 8] == 256  # 128 rows of a packet, and as many again
    with pytest.raises(ValueError, match="belongs to one flow"):
        Flow(loop, source.kernels, sink.kernels, edit=function)


def test_a_python_function_edits_bytes(kernels, loop):
    def turn(frame):
        return None if frame.startswith(b"no") else frame[::-1] + b"!"

    frames = [b"no", b"yes" * 400, b"nono", b"abc"]
    got, stats, function = sent(loop, python_function(turn), frames, split=700)
    assert [p.data for p in got] == [b"sey" * 400 + b"!", b"cba!"]
    assert (stats["sent"], stats["refused"]) == (2, 2)
    assert function.kernel.address != 0


def test_an_exception_of_a_python_function_ends_the_flow(kernels, loop, caplog):
    source, sink = MemorySource(Burst.of([b"x" * 20])), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels, edit=python_function(lambda frame: 1 // 0))
    assert flow.run() is Outcome.FAILED
    assert "ZeroDivisionError" in caplog.text
    flow.close()


def test_the_example_of_the_module_works(tmp_path, monkeypatch, loop):
    """It is a module of somebody else's, who compiles it."""
    text = packet_function.__doc__
    example = text[text.index("    from emudev_net.burst") : text.index("    compile_now")]
    (tmp_path / "anybodys_swap.py").write_text(textwrap.dedent(example))
    monkeypatch.syspath_prepend(str(tmp_path))
    from anybodys_swap import swap as theirs

    if jit_wanted():
        compile_now([theirs, *KERNELS])
        assert theirs.address
    got, stats, _ = sent(loop, theirs, [b"abcdefghijklmnop", b"short"])
    assert [p.data for p in got] == [b"ghijklabcdefmnop"]
    assert stats["refused"] == 1
