"""Interrupt vectors: the model of avf.md 2.3."""

import os
import threading

import pytest

from emudev_avf.interrupts import (
    change_vector,
    control_alone,
    control_vector,
    fire_held,
    notify,
)
from emudev_avf.rings import Port
from emudev_avf.vectors import Vector
from emudev_avf.words import VECTOR_WORDS
from emudev_net.primitives import Words

INTENA, CLEARPBA, SWINT = 1, 2, 4


class Line:
    def __init__(self, index=1):
        self.words = Words(VECTOR_WORDS * 2)
        self.vector = Vector(self.words, index)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def signals(self):
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0


@pytest.fixture
def lines(compiled_or_plain):
    compiled_or_plain(change_vector, control_vector, control_alone, notify, fire_held)
    made = []

    def make(index=1, bound=True):
        line = Line(index)
        made.append(line)
        if bound:
            line.vector.bind(line.fd)
        return line

    yield make
    for line in made:
        os.close(line.fd)


def test_an_event_fires_once_for_each_enable(lines):
    line = lines()
    line.vector.control(0x19)  # Linux: INTENA, no ITR update
    line.vector.event()
    line.vector.event()
    assert line.signals() == 1
    assert line.vector.pending
    assert not line.vector.enabled
    line.vector.control(0x19)
    assert line.signals() == 1
    line.vector.control(0x19)
    assert line.signals() == 0


def test_an_event_while_disabled_is_latched(lines):
    # avf.md 0, fact 7.
    line = lines()
    line.vector.event()
    assert line.signals() == 0
    line.vector.control(INTENA)
    assert line.signals() == 1


def test_clearing_the_pending_bit_array_discards_nothing(lines):
    line = lines()
    line.vector.event()
    line.vector.control(CLEARPBA)
    line.vector.control(0x1B)  # DPDK: INTENA, CLEARPBA, index 3
    assert line.signals() == 1


@pytest.mark.parametrize("value", [0x0, 0x18, 0x4000_0018, 0x4000_0040])
def test_values_without_intena_fire_nothing(lines, value):
    line = lines()
    line.vector.control(INTENA)
    line.vector.control(value)
    line.vector.event()
    assert line.signals() == 0


def test_a_software_trigger_fires(lines):
    # Linux's hang recovery: INTENA, SWINT_TRIG, ITR index 3, SW_ITR_INDX_ENA (avf.md 6.11).
    line = lines()
    line.vector.control(INTENA | SWINT | 0x18 | 1 << 24)
    assert line.signals() == 1
    assert not line.vector.pending


def test_vector_0_needs_its_cause(lines):
    line = lines(0)
    line.vector.event()
    line.vector.control(INTENA)  # Linux's order: DYN_CTL01, then ICR0_ENA1
    assert line.signals() == 0
    line.vector.cause_enable(True)
    assert line.signals() == 1
    line.vector.event()
    line.vector.cause_enable(True)
    assert line.signals() == 0
    line.vector.control(INTENA)  # DPDK's order
    assert line.signals() == 1


def test_a_software_trigger_of_vector_0_needs_no_cause(lines):
    line = lines(0)
    line.vector.control(INTENA | SWINT)
    assert line.signals() == 1


def test_a_trigger_waits_for_the_eventfd(lines):
    # Quirk 16: windows without an eventfd while MSI-X is programmed.
    line = lines(bound=False)
    line.vector.control(INTENA)
    line.vector.event()
    assert line.vector.pending
    assert line.vector.enabled
    line.vector.bind(line.fd)
    assert line.signals() == 1
    assert not line.vector.enabled


def test_another_eventfd_takes_over(lines):
    line, other = lines(), lines(bound=False)
    line.vector.bind(other.fd)
    line.vector.control(INTENA)
    line.vector.event()
    assert (line.signals(), other.signals()) == (0, 1)
    line.vector.bind(None)
    line.vector.control(INTENA)
    line.vector.event()
    assert other.signals() == 0
    assert line.vector.pending
    assert not line.vector.bound


def test_a_reset_forgets_events_and_keeps_the_eventfd(lines):
    line = lines(0)
    line.vector.cause_enable(True)
    line.vector.event()
    line.vector.reset()
    assert line.vector.bound
    line.vector.control(INTENA)
    line.vector.cause_enable(True)
    assert line.signals() == 0
    line.vector.event()
    assert line.signals() == 1


def test_every_order_of_the_four_conditions_fires_exactly_once(lines):
    import itertools

    for order in itertools.permutations(range(4)):
        line = lines(0, bound=False)
        steps = [
            lambda v=line.vector: v.event(),
            lambda v=line.vector: v.control(INTENA),
            lambda v=line.vector: v.cause_enable(True),
            lambda v=line.vector, fd=line.fd: v.bind(fd),
        ]
        for i in order:
            assert line.signals() == 0
            steps[i]()
        assert line.signals() == 1


def test_queues_map_to_vectors_and_share_them(compiled_or_plain):
    compiled_or_plain(change_vector, control_vector, control_alone, notify, fire_held)
    port = Port(4, 5)
    port.map_queue(True, 2, 3)
    port.map_queue(False, 2, 3)
    assert (port.rx[2].vector, port.tx[2].vector, port.tx[0].vector) == (3, 3, None)
    port.rx[2].configure(0, 0, 0, 0)
    port.rx[2].disable()
    assert port.rx[2].vector == 3  # avf.md 0, fact 6
    port.reset()
    assert port.rx[2].vector is None
    port.close()


def test_no_event_is_lost_between_two_threads():
    line = Line()
    change_vector.compile()
    if not change_vector.address:
        pytest.skip("plain kernels are for one thread")
    line.vector.bind(line.fd)
    line.vector.control(INTENA)
    rounds = 20_000
    posted = []

    def post():
        for _ in range(rounds):
            line.vector.event()
        posted.append(True)

    thread = threading.Thread(target=post)
    thread.start()
    seen = 0
    while not posted:
        seen += line.signals()
        line.vector.control(INTENA)
    thread.join()
    line.vector.control(INTENA)
    seen += line.signals()
    line.vector.control(INTENA)
    seen += line.signals()
    assert not line.vector.pending
    assert 1 <= seen == line.vector.signals
    os.close(line.fd)
