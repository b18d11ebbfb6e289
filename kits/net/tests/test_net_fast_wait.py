"""A sleeping loop serves doorbells and frames by compiled code, and leaves all else as it came."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time

import pytest

from emudev_core.loop import READ, Loop
from emudev_core.queues import Doorbell, Shortcut
from emudev_core.subscribers import Subscribers
from emudev_net import fast_wait, flow, flow_kernels, memory_queues
from emudev_net.burst import Burst
from emudev_net.fast_wait import FastWait
from emudev_net.flow import Flow
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.memory_queues import MemorySink, MemorySource
from emudev_net.primitives import Words, drop_handle, load32, load64, plain_handle, store64
from emudev_net.system_calls import raise_signal, read

REGION, TAIL = 0, 0x2000


@queue_kernel
def count(state, burst, rows):
    """Word 0 counts the calls; word 1 is the answer."""
    store64(state, load64(state) + 1)
    return load64(state + 8)


@queue_kernel
def drain(state, burst, rows):
    """Read the eventfd of word 2 into word 3, and count."""
    read(load64(state + 16), state + 24, 8)
    store64(state, load64(state) + 1)
    return load64(state + 8)


@queue_kernel
def note(state, burst, rows):
    """Count in word 0, answer word 1, note what is in the 4 bytes at word 2 behind those."""
    store64(state + 24 + 8 * load64(state), load32(load64(state + 16)))
    store64(state, load64(state) + 1)
    return load64(state + 8)


@queue_kernel
def shout(state, burst, rows):
    """Send SIGUSR1 to this thread: a signal that comes while the interpreter is away."""
    raise_signal(10)
    store64(state, load64(state) + 1)
    return 0


MINE = (count, drain, note, shout)
ALL = (*fast_wait.KERNELS, *flow.KERNELS, *memory_queues.KERNELS, *MINE)


def posted(offset, value, *, msg_id=7, region=REGION, command=10, flags=0x10, size=4):
    """REGION_WRITE as the vfio-user specification lays it out, little endian."""
    data = value.to_bytes(size, "little")
    head = struct.pack("<HHIIIQII", msg_id, command, 32 + size, flags, 0, offset, region, size)
    return head + data


class Setup:
    """A loop with one stream of messages and two doorbells, and what the loop is told of."""

    def __init__(self, closing):
        self.loop = Loop()
        closing.callback(self.loop.close)
        self.near, self.far = socket.socketpair()
        closing.callback(self.near.close)
        closing.callback(self.far.close)
        self.near.setblocking(False)
        self.word = Words(2)
        self.bells = [Doorbell(n, self.word.word(n)) for n in range(2)]
        self.usable = True
        self.over = threading.Event()
        self.ready = []
        self.lane = FastWait.of(self.loop).add_stream(
            self.near.fileno(),
            {(REGION, TAIL + 4 * n): bell for n, bell in enumerate(self.bells)},
            lambda: self.usable,
        )
        self.watch = self.loop.watch(self.near.fileno(), self._ready)
        self.closing = closing

    def _ready(self, events):
        self.ready.append(events)
        self.loop.stop()

    def shortcut(self, kernel=count, answer=0):
        """Words that count calls of a kernel of this file, and its shortcut."""
        words = Words(8)
        words[1] = answer
        address = kernel.address
        if not address:
            address = plain_handle(kernel.function)
            self.closing.callback(drop_handle, address)
        self.closing.callback(lambda: words)  # kept
        return words, Shortcut(address, words.address)

    def _until(self, what, beyond):
        """Wait for a counter of the wait."""
        while FastWait.of(self.loop).stats()[what] <= beyond and not self.over.wait(0.0005):
            pass

    def run(self, send=b"", act=lambda: None, served=0):
        """Run until something stops the loop; whether that came in time.

        What is sent, and what `act` does, comes when the loop is asleep. If that is to be `served`
        as so many descriptors, the loop is stopped after that.
        """
        before = FastWait.of(self.loop).stats()
        self.over.clear()

        def play():
            self._until("sleeps", before["sleeps"])
            if send:
                self.far.send(send)
            act()
            if served:
                self._until("served", before["served"] + served - 1)
                self.loop.call_threadsafe(self.loop.stop)

        late = self.loop.call_later(10, self.loop.stop)
        player = threading.Thread(target=play)
        player.start()
        self.loop.run()
        self.over.set()
        in_time = late.callback is not None
        late.cancel()
        player.join()
        return in_time

    def serve(self, send=b"", act=lambda: None, served=1):
        """Run while something happens that the loop is not to hear of."""
        ready = len(self.ready)
        assert self.run(send, act, served)
        assert len(self.ready) == ready

    def left(self):
        """What nobody has taken from the stream."""
        with contextlib.suppress(BlockingIOError):
            return self.near.recv(1 << 16)
        return b""


@pytest.fixture(params=["compiled", "plain"])
def setup(request, monkeypatch):
    """A `Setup`, with compiled kernels and with plain ones."""
    if request.param == "compiled":
        if not jit_wanted():
            pytest.skip("kernels are not compiled here")
        compile_now(ALL)
    else:
        for kernel in ALL:
            monkeypatch.setattr(kernel, "address", 0)
            monkeypatch.setattr(kernel, "_call", kernel.function)
        monkeypatch.setattr(fast_wait, "compile_all", lambda kernels, done: None)
        monkeypatch.setattr(FastWait, "ready", True)
    with contextlib.ExitStack() as closing:
        yield Setup(closing)


def test_a_posted_doorbell_write_is_stored_and_told_without_the_interpreter(setup):
    words, shortcut = setup.shortcut()
    called = []
    setup.bells[1].subscribe(lambda: called.append(1), shortcut)
    setup.serve(posted(TAIL + 4, 0x89ABCDEF))
    assert list(setup.word) == [0, 0x89ABCDEF]  # 4 bytes of a word
    assert words[0] == 1
    assert not called
    assert setup.left() == b""


def test_writes_to_a_doorbell_that_come_together_are_told_once_with_the_last_value(setup):
    first, shortcut = setup.shortcut()
    setup.bells[0].subscribe(lambda: None, shortcut)
    second, shortcut = setup.shortcut()
    setup.bells[1].subscribe(lambda: None, shortcut)
    setup.serve(b"".join(posted(TAIL + 4 * (n & 1), n) for n in range(100)), served=4)
    assert [bell.value for bell in setup.bells] == [98, 99]
    # 36-byte messages are looked at 32 at a time
    assert first[0] == second[0] == 4
    assert not setup.ready


def test_a_doorbell_of_which_each_write_counts_is_told_of_each(setup):
    setup.bells[0].every = True
    setup.lane.close()
    setup.lane = FastWait.of(setup.loop).add_stream(
        setup.near.fileno(),
        {(REGION, TAIL + 4 * n): bell for n, bell in enumerate(setup.bells)},
        lambda: True,
    )
    words, noting = setup.shortcut(note)
    words[2] = setup.bells[0].address
    setup.bells[0].subscribe(lambda: None, noting)
    tail, counting = setup.shortcut()
    setup.bells[1].subscribe(lambda: None, counting)
    setup.serve(b"".join(posted(TAIL + 4 * (n & 1), n) for n in range(6)))
    assert list(words)[3:6] == [0, 2, 4]
    assert (words[0], tail[0], setup.bells[1].value) == (3, 1, 5)
    # One that has to be called for: the next one is not stored before that.
    words[1] = 1
    seen = []
    setup.bells[0].subscribers.clear()
    setup.bells[0].subscribe(lambda: seen.append(setup.bells[0].value), noting)
    assert setup.run(b"".join(posted(TAIL, n) for n in (7, 8)))
    assert seen == [7]
    assert setup.left() == posted(TAIL, 8)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(posted(TAIL + 8, 1), id="no doorbell"),
        pytest.param(posted(TAIL + 2, 1), id="between two doorbells"),
        pytest.param(posted(TAIL, 1, region=1), id="another region"),
        pytest.param(posted(TAIL, 1, flags=0), id="wants a reply"),
        pytest.param(posted(TAIL, 1, flags=0x11), id="is a reply"),
        pytest.param(posted(TAIL, 1, command=9), id="another command"),
        pytest.param(posted(TAIL, 1, size=8), id="8 bytes"),
        pytest.param(posted(TAIL, 1, size=2), id="2 bytes"),
        pytest.param(posted(TAIL | 1 << 63, 1), id="an offset above 2**63"),
        pytest.param(posted(TAIL, 1)[:-1], id="the rest is on its way"),
        pytest.param(b"\0" * 36, id="zeroes"),
    ],
)
def test_any_other_message_is_left_to_the_session_as_it_came(setup, message):
    words, shortcut = setup.shortcut()
    for bell in setup.bells:
        bell.subscribe(lambda: None, shortcut)
    assert setup.run(posted(TAIL, 5) + message)
    assert setup.ready == [READ]
    assert setup.left() == message
    assert setup.bells[0].value == 5
    assert words[0] == 1


def test_what_is_behind_a_foreign_message_waits_for_the_session_too(setup):
    words, shortcut = setup.shortcut()
    setup.bells[0].subscribe(lambda: None, shortcut)
    rest = posted(TAIL, 1, command=9, flags=0) + posted(TAIL, 77)
    assert setup.run(rest)
    assert setup.left() == rest
    assert words[0] == setup.bells[0].value == 0


def test_a_shortcut_that_can_not_do_it_all_has_the_subscribers_called(setup):
    words, shortcut = setup.shortcut(answer=1)
    called = []
    setup.bells[0].subscribe(lambda: (called.append(0), setup.loop.stop()), shortcut)
    assert setup.run(posted(TAIL, 3))
    assert words[0] == 1
    assert called == [0]
    assert setup.left() == b""


def test_subscribers_behind_a_subscriber_are_told_without_the_interpreter(setup):
    behind = Subscribers()
    setup.bells[0].subscribe(behind.call, behind)
    words, shortcut = setup.shortcut()
    called = []
    behind.add(lambda: called.append(1), shortcut)
    setup.serve(posted(TAIL, 1))
    assert (words[0], called) == (1, [])
    undo = behind.add(setup.loop.stop)
    assert setup.run(posted(TAIL, 2))
    assert (words[0], called) == (1, [1])
    undo()
    setup.serve(posted(TAIL, 3))
    assert (words[0], called) == (2, [1])


def test_a_subscriber_without_shortcut_is_called_for_all_that_ring(setup):
    called = []
    for n, bell in enumerate(setup.bells):
        bell.subscribe(lambda n=n: (called.append(n), setup.loop.stop()))
    assert setup.run(posted(TAIL, 3) + posted(TAIL + 4, 4) + posted(TAIL, 5))
    assert called == [0, 1]
    assert [bell.value for bell in setup.bells] == [5, 4]


def test_a_subscriber_that_has_gone_is_not_told(setup):
    words, shortcut = setup.shortcut()
    setup.bells[0].subscribe(setup.loop.stop, shortcut)
    setup.bells[0].unsubscribe(setup.loop.stop)
    setup.serve(posted(TAIL, 3))
    assert setup.bells[0].value == 3
    assert words[0] == 0


def test_a_stream_that_somebody_else_wants_to_see_is_left_alone(setup):
    words, shortcut = setup.shortcut()
    setup.bells[0].subscribe(lambda: None, shortcut)
    setup.usable = False
    assert setup.run(posted(TAIL, 3))
    assert setup.ready == [READ]
    assert setup.left() == posted(TAIL, 3)
    assert words[0] == 0
    setup.usable = True
    setup.serve(posted(TAIL, 4))
    assert words[0] == 1


def test_a_client_that_has_gone_is_left_to_the_loop_with_what_it_sent_last(setup):
    def leave():
        setup.far.send(posted(TAIL, 3))
        setup.far.close()

    setup.usable = False
    assert setup.run(act=leave)
    setup.usable = True
    assert setup.ready == [READ] or setup.ready[0] & ~READ
    assert setup.run()
    assert setup.ready[-1] & ~READ  # EPOLLHUP
    assert setup.left() == posted(TAIL, 3)
    assert setup.bells[0].value == 0


def test_the_end_of_a_stream_is_left_to_the_loop(setup):
    assert setup.run(act=lambda: setup.far.shutdown(socket.SHUT_WR))
    assert setup.ready == [READ]


def test_descriptors_that_come_with_a_doorbell_are_closed(setup):
    _, shortcut = setup.shortcut()
    setup.bells[0].subscribe(lambda: None, shortcut)
    before = set(os.listdir("/proc/self/fd"))
    inner, outer = os.pipe()

    def send():
        socket.send_fds(setup.far, [posted(TAIL, 3)], [outer])
        os.close(outer)

    setup.serve(act=send)
    assert setup.bells[0].value == 3
    assert os.read(inner, 1) == b""  # nobody has the other end any more
    os.close(inner)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_descriptor_has_its_shortcut_run_until_its_lane_is_closed(setup):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    setup.closing.callback(os.close, fd)
    words, shortcut = setup.shortcut(drain)
    words[2] = fd
    seen = []
    watch = setup.loop.watch(fd, lambda events: (seen.append(events), setup.loop.stop()))
    lane = FastWait.of(setup.loop).add_flow(fd, shortcut)
    setup.serve(act=lambda: os.eventfd_write(fd, 3))
    assert (words[0], words[3]) == (1, 3)
    assert not seen
    words[1] = 1  # it does a part, and the loop has to do the rest
    assert setup.run(act=lambda: os.eventfd_write(fd, 4))
    assert (words[0], seen) == (2, [READ])
    lane.close()
    lane.close()
    assert setup.run(act=lambda: os.eventfd_write(fd, 5))
    assert words[0] == 2
    watch.close()


def test_a_flow_moves_its_frames_and_rests(setup):
    source = MemorySource(Burst.of([b"a" * 60, b"b" * 70]))
    sink = MemorySink()
    moved = Flow(setup.loop, source.kernels, sink.kernels)
    moved.kick()
    setup.loop.turn()
    assert sink.frames == 2
    assert moved.compiled == bool(flow_kernels.pump.address)
    if not moved.compiled:
        return  # its shortcut is for compiled kernels: plain ones run in the interpreter anyhow
    passes = moved.stats()["passes"]
    setup.bells[0].subscribe(moved.kick, moved.shortcut)
    setup.serve(posted(TAIL, 1))
    assert moved.stats()["passes"] == passes + 1
    moved.resting = True
    setup.serve(posted(TAIL, 1))
    assert moved.stats()["passes"] == passes + 1
    moved.resting = False
    moved.close()
    setup.bells[0].unsubscribe(moved.kick)


def test_a_flow_whose_sink_is_full_is_left_to_the_loop(setup):
    source, sink = MemorySource(Burst.of([b"a" * 60] * 4)), MemorySink(room=1)
    blocked = []
    moved = Flow(
        setup.loop,
        source.kernels,
        sink.kernels,
        on_blocked=lambda: (blocked.append(1), setup.loop.stop()),
    )
    setup.bells[0].subscribe(moved.kick, moved.shortcut)
    assert setup.run(posted(TAIL, 1))
    assert (sink.frames, blocked) == (1, [1])
    assert setup.run(posted(TAIL, 2))
    assert (sink.frames, blocked) == (1, [1, 1])
    moved.close()
    setup.bells[0].unsubscribe(moved.kick)


def test_timers_run_in_time_beside_traffic(setup):
    _, shortcut = setup.shortcut()
    setup.bells[0].subscribe(lambda: None, shortcut)
    stop = threading.Event()
    setup.far.setblocking(False)

    def traffic():
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError):
                setup.far.send(posted(TAIL, 3))
            time.sleep(20e-6)

    thread = threading.Thread(target=traffic)
    thread.start()
    start = time.monotonic()
    times = []

    def tick():
        times.append(time.monotonic() - start)
        if len(times) == 5:
            setup.loop.stop()
        else:
            setup.loop.call_later(0.01, tick)

    setup.loop.call_later(0.01, tick)
    in_time = setup.run()
    stop.set()
    thread.join()
    assert in_time
    assert all(at >= 0.01 * (n + 1) for n, at in enumerate(times))


def test_a_call_from_another_thread_ends_the_sleep(setup):
    for _ in range(20):
        assert setup.run(act=lambda: setup.loop.call_threadsafe(setup.loop.stop))


def test_a_signal_that_comes_while_the_interpreter_is_away_is_handled_at_once(setup):
    words, shortcut = setup.shortcut(shout)
    setup.bells[0].subscribe(lambda: None, shortcut)
    handled = []
    former = signal.signal(signal.SIGUSR1, lambda *_: (handled.append(words[0]), setup.loop.stop()))
    try:
        assert setup.run(posted(TAIL, 3))
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert len(handled) == 1
    assert words[0] == 1


def test_one_wait_serves_all_lanes_of_a_loop(setup):
    wait = FastWait.of(setup.loop)
    assert FastWait.of(setup.loop) is wait is setup.loop.sleeper
    pairs = [socket.socketpair() for _ in range(20)]
    words, shortcut = setup.shortcut()
    bells, watches, lanes = [], [], []
    store = Words(20)
    for n, (near, _) in enumerate(pairs):
        bell = Doorbell(n, store.word(n))
        bell.subscribe(lambda: None, shortcut)
        bells.append(bell)
        watches.append(setup.loop.watch(near.fileno(), setup._ready))
        lanes.append(wait.add_stream(near.fileno(), {(2, 4 * n): bell}, lambda: True))

    def send():
        for n, (_, far) in enumerate(pairs):
            far.send(posted(4 * n, n + 1, region=2))

    setup.serve(act=send, served=20)
    assert [bell.value for bell in bells] == [*range(1, 21)]
    assert words[0] == 20
    for lane, watch in zip(lanes, watches, strict=True):
        lane.close()
        watch.close()
    for near, far in pairs:
        near.close()
        far.close()
