"""Interrupt moderation: avf.md 2.2, 2.3 and 6.11.

Nothing here measures time. The clock of a vector's throttles is the word that holds when it last
fired: one that is far ahead is an interval that is not over, 0 is a long time ago.
"""

import os
import select
import threading
import time

import pytest

from emudev_avf.hold_timer import HoldTimer
from emudev_avf.interrupts import (
    change_vector,
    control_alone,
    control_vector,
    fire_alone,
    fire_held,
    notify,
)
from emudev_avf.rings import Port
from emudev_avf.words import P_ARMED, P_DUE, P_PACED, P_RETRY, P_RX_DUE, V_LAST, VECTOR_WORDS
from emudev_core.loop import Loop

INTENA, SWINT = 1, 4
HOUR = 3_600_000_000_000  # ns


def interval(index, units):
    """A write to DYN_CTLN1 that enables and sets a throttle; avf.md 2.2."""
    return INTENA | index << 3 | units << 5


KEEP = INTENA | 3 << 3


class Bench:
    """A port of two pairs with a timer, and eventfds on all vectors."""

    def __init__(self, held=True):
        self.loop = Loop(spin=0)
        self.port = Port(2, 3)
        self.timer = HoldTimer(self.loop, self.port) if held else None
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.port.vectors]
        for vector, fd in zip(self.port.vectors, self.fds, strict=True):
            vector.bind(fd)
        for queue in range(2):
            self.port.map_queue(True, queue, queue + 1)
            self.port.map_queue(False, queue, queue + 1)

    def signals(self, vector=1):
        try:
            return os.eventfd_read(self.fds[vector])
        except BlockingIOError:
            return 0

    def received(self, vector=1):
        """What a push to a queue of that vector leads to."""
        self.port.words[P_RX_DUE // 8] |= 1 << vector
        notify(self.port.rx[0].state, 0, 0)

    def sent(self, vector=1):
        """What a release of a queue of that vector leads to."""
        self.port.words[P_DUE // 8] |= 1 << vector
        notify(self.port.tx[0].state, 0, 0)

    def fired_at(self, when, vector=1):
        self.port._vector_words[vector * VECTOR_WORDS + V_LAST // 8] = when

    def just_fired(self, vector=1):
        self.fired_at(time.monotonic_ns() + HOUR, vector)

    @property
    def armed(self):
        return self.port.words[P_ARMED // 8]

    def close(self):
        if self.timer is not None:
            self.timer.close()
        self.port.close()
        self.loop.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def benches(compiled_or_plain):
    compiled_or_plain(change_vector, control_vector, control_alone, notify, fire_held, fire_alone)
    made = []

    def make(held=True):
        made.append(Bench(held))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(benches):
    return benches()


def test_the_first_event_after_a_quiet_time_fires_at_once(bench):
    bench.port.vectors[1].control(interval(0, 4080))
    bench.received()
    assert bench.signals() == 1
    assert bench.port.vectors[1].held == 0


def test_an_event_within_the_interval_is_held_and_not_lost(bench):
    vector = bench.port.vectors[1]
    vector.control(interval(0, 25))
    bench.just_fired()
    bench.received()
    assert bench.signals() == 0
    assert vector.pending
    assert vector.enabled
    assert bench.armed
    bench.fired_at(0)
    fire_held(bench.port.words.address, 0, 0)
    assert bench.signals() == 1
    assert not vector.pending
    assert not bench.armed


CONTROLS = [
    0,
    INTENA,
    KEEP,
    interval(0, 25),
    interval(1, 0xFFF),  # above the longest, which is 8160 us
    interval(2, 4080),
    SWINT | 3 << 3,
    INTENA | SWINT | 3 << 3,
    INTENA | SWINT | 3 << 3 | 1 << 24 | 2 << 25,
    1 << 30 | 3 << 3,  # WB_ON_ITR alone disables
    0xFFFF_FFFF,
]


@pytest.mark.parametrize("value", CONTROLS, ids=hex)
def test_a_control_register_does_the_same_as_a_doorbell_word(benches, value):
    def after(write):
        bench = benches()
        vector = bench.port.vectors[1]
        vector.control(interval(0, 7))
        bench.just_fired()
        bench.received()
        write(vector)
        return vector.enabled, vector.pending, vector.intervals, bench.signals()

    def by_word(vector):
        bell = vector.register(9)
        bell.write(value)
        assert control_alone(vector.shortcut.state, 0, 0) == 0

    assert after(by_word) == after(lambda vector: vector.control(value))


def test_a_control_register_is_left_to_the_loop_while_frames_wait_for_it(bench):
    vector = bench.port.vectors[1]
    bell = vector.register(9)
    bench.port.words[P_PACED // 8] = 1
    bell.write(INTENA)
    assert control_alone(vector.shortcut.state, 0, 0) == 1
    assert not vector.enabled
    bench.port.words[P_PACED // 8] = 0
    assert control_alone(vector.shortcut.state, 0, 0) == 0
    assert vector.enabled


@pytest.mark.parametrize("word", [P_RETRY, P_PACED])
def test_the_timer_is_left_to_the_loop_while_frames_wait_for_it(bench, word):
    vector = bench.port.vectors[1]
    vector.control(interval(0, 25))
    bench.just_fired()
    bench.received()
    bench.fired_at(0)
    bench.port.words[word // 8] = 1
    assert fire_alone(bench.port.words.address, 0, 0) == 1
    assert bench.signals() == 0
    bench.port.words[word // 8] = 0
    assert fire_alone(bench.port.words.address, 0, 0) == 0
    assert bench.signals() == 1


def test_the_loop_fires_what_is_held_when_its_time_has_come(bench):
    vector = bench.port.vectors[1]
    vector.control(interval(0, 4080))
    bench.received()
    vector.control(KEEP)
    bench.received()
    if bench.signals() != 2:  # unless 8 ms went by between the two lines above
        while vector.signals != 2:
            bench.loop.turn(None)
    assert vector.signals == 2


def test_a_held_event_fires_by_the_notify_of_another_queue_when_its_time_has_come(bench):
    bench.port.vectors[1].control(interval(0, 25))
    bench.just_fired()
    bench.received()
    bench.fired_at(0)
    bench.port.words[P_ARMED // 8] = 1  # long ago
    bench.sent(2)
    assert bench.signals() == 1


def test_an_event_that_is_latched_while_disabled_is_held_when_enabled_within_the_interval(bench):
    bench.just_fired()
    bench.port.vectors[1].control(0x4000_0018)  # WB_ON_ITR, interrupts stay off
    bench.port.vectors[1].throttle(0, 25)
    bench.received()
    assert not bench.armed
    bench.port.vectors[1].control(KEEP)
    assert bench.signals() == 0
    assert bench.armed
    bench.fired_at(0)
    bench.port.vectors[1].control(KEEP)
    assert bench.signals() == 1


def test_receive_and_transmit_queues_use_their_own_throttle(bench):
    # Linux: 0 for receive queues, 1 for transmit queues.
    bench.just_fired()
    bench.port.vectors[1].control(interval(1, 25))
    bench.sent()
    assert bench.signals() == 0
    bench.received()  # throttle 0 is 0: at once, and what was held with it
    assert bench.signals() == 1
    assert not bench.port.vectors[1].pending


def test_the_throttle_of_a_vector_is_that_of_the_map(bench):
    bench.just_fired()
    bench.port.vectors[1].throttle(2, 25)
    bench.port.map_queue(True, 0, 1, 2)
    bench.port.vectors[1].control(KEEP)
    bench.received()
    assert bench.signals() == 0
    bench.port.map_queue(True, 0, 1, 3)  # none
    bench.received()
    assert bench.signals() == 1


def test_vectors_are_throttled_each_by_itself(bench):
    for vector in (1, 2):
        bench.port.vectors[vector].control(interval(0, 25))
    bench.just_fired(1)
    bench.received(1)
    bench.received(2)
    assert (bench.signals(1), bench.signals(2)) == (0, 1)


def test_a_queue_that_is_mapped_elsewhere_leaves_what_is_held_where_it_is(bench):
    bench.port.vectors[1].control(interval(0, 25))
    bench.port.vectors[2].control(KEEP)
    bench.just_fired(1)
    bench.received(1)
    bench.port.map_queue(True, 0, 2)
    bench.received(2)
    assert (bench.signals(1), bench.signals(2)) == (0, 1)
    bench.fired_at(0, 1)
    fire_held(bench.port.words.address, 0, 0)
    assert bench.signals(1) == 1


@pytest.mark.parametrize("lower", ["register", "dyn_ctl"])
def test_a_shorter_interval_holds_for_what_is_held_already(bench, lower):
    vector = bench.port.vectors[1]
    vector.control(interval(0, 25))
    bench.just_fired()
    bench.received()
    if lower == "register":
        vector.throttle(0, 0)
    else:
        vector.control(interval(0, 0))
    assert bench.signals() == 1


def test_the_earlier_of_two_times_is_armed(bench):
    for vector, units in ((1, 4080), (2, 25)):
        bench.port.vectors[vector].control(interval(0, units))
        bench.just_fired(vector)
    bench.received(1)
    late = bench.armed
    bench.received(2)
    assert 0 < bench.armed < late
    bench.fired_at(0, 2)
    fire_held(bench.port.words.address, 0, 0)
    assert bench.armed == late
    assert (bench.signals(1), bench.signals(2)) == (0, 1)


@pytest.mark.parametrize(
    ("units", "applied"), [(1, 1), (0xFF0, 4080), (0xFFF, 4080), (0x1FFF, 4080)]
)
def test_an_interval_is_at_most_8160_microseconds(bench, units, applied):
    # avf.md 2.1: bits 11:0, 2 us each; the hardware's limit is 8160 us.
    bench.port.vectors[1].throttle(1, units)
    assert bench.port.vectors[1].intervals == [0, applied, 0]


def test_the_interval_field_is_ignored_with_index_3(bench):
    bench.port.vectors[1].control(interval(0, 25))
    bench.port.vectors[1].control(interval(3, 100))
    assert bench.port.vectors[1].intervals == [25, 0, 0]


def test_a_software_interrupt_is_throttled_only_by_the_index_that_it_names(bench):
    # avf.md 2.2, 6.11
    vector = bench.port.vectors[1]
    vector.throttle(0, 25)
    bench.just_fired()
    vector.control(KEEP | SWINT)
    assert bench.signals() == 1
    bench.just_fired()
    vector.control(KEEP | SWINT | 1 << 24 | 2 << 25)  # throttle 2 is 0
    assert bench.signals() == 1
    bench.just_fired()
    vector.control(KEEP | SWINT | 1 << 24 | 3 << 25)  # none
    assert bench.signals() == 1
    bench.just_fired()
    vector.control(KEEP | SWINT | 1 << 24)
    assert bench.signals() == 0
    bench.fired_at(0)
    fire_held(bench.port.words.address, 0, 0)
    assert bench.signals() == 1


def test_mailbox_events_are_never_held(bench):
    vector = bench.port.vectors[0]
    vector.cause_enable(True)
    for index in range(3):
        vector.throttle(index, 4080)
    vector.control(KEEP)
    bench.just_fired(0)
    vector.event()
    assert bench.signals(0) == 1


def test_without_a_timer_nothing_is_held(benches):
    bench = benches(held=False)
    bench.port.vectors[1].control(interval(0, 4080))
    bench.just_fired()
    bench.received()
    assert bench.signals() == 1


def test_closing_the_timer_fires_what_is_held(bench):
    bench.port.vectors[1].control(interval(0, 25))
    bench.just_fired()
    bench.received()
    bench.timer.close()
    assert bench.signals() == 1


def test_a_reset_forgets_throttles_and_what_is_held(bench):
    vector = bench.port.vectors[1]
    vector.control(interval(0, 25))
    bench.just_fired()
    bench.received()
    bench.port.reset()
    assert vector.intervals == [0, 0, 0]
    fire_held(bench.port.words.address, 0, 0)
    vector.control(KEEP)
    assert bench.signals() == 0
    bench.received()
    assert bench.signals() == 1


def test_what_was_saved_is_taken_back(bench):
    vector = bench.port.vectors[1]
    vector.restore(True, False, [1, 2, 3])
    assert vector.intervals == [1, 2, 3]
    bench.received()
    assert bench.signals() == 1
    vector.restore(True, True, [4080, 0, 0])
    assert bench.signals() == 1


def test_no_event_is_lost_between_threads_that_hold_and_one_that_fires(benches):
    bench = benches()
    for kernel in (change_vector, control_vector, notify, fire_held):
        kernel.compile()
    if not (change_vector.address and notify.address and fire_held.address):
        pytest.skip("plain kernels are for one thread")
    vectors = bench.port.vectors[1:]
    for vector in vectors:
        vector.control(interval(0, 1))
    running = [True]

    def push(vector):
        # What a notify in a worker does, for this vector only: an event of throttle 0.
        while running:
            change_vector(bench.port._vector_words.address + 8 * VECTOR_WORDS * vector, 1 << 4, 0)

    threads = [threading.Thread(target=push, args=(v,)) for v in (1, 2)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        for vector in vectors:
            vector.control(interval(0, 1))
        bench.loop.turn(0)
    running.clear()
    for thread in threads:
        thread.join()
    for i, vector in enumerate(vectors, 1):
        vector.control(interval(0, 1))
        while vector.pending:
            bench.loop.turn(1)
            vector.control(KEEP)
        assert bench.signals(i) == vector.signals


def test_a_timer_reads_as_ready_only_when_the_time_is_over(bench):
    bench.port.vectors[1].control(interval(0, 25))
    bench.just_fired()
    bench.received()
    assert select.select([bench.timer._fd], [], [], 0)[0] == []
