import itertools

import pytest

from emudev_avf.resets import NEXT, RSTAT, ResetEvent, Resets, ResetState, mermaid, step
from emudev_core.errors import LifecycleError

S, E = ResetState, ResetEvent


class Clock:
    """A loop whose time the test moves."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay, callback):
        timer = Timer(delay, callback)
        self.timers.append(timer)
        return timer

    def run_next(self):
        due = min((t for t in self.timers if t.callback), key=lambda t: t.delay)
        callback, due.callback = due.callback, None
        callback()
        return due.delay

    @property
    def pending(self):
        return [t for t in self.timers if t.callback]


class Timer:
    def __init__(self, delay, callback):
        self.delay, self.callback = delay, callback

    def cancel(self):
        self.callback = None


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def history():
    return []


@pytest.fixture
def resets(clock, history):
    made = Resets(
        clock,
        clear=lambda event: history.append(f"clear {event.value}"),
        changed=lambda: history.append(f"rstat {made.rstat}"),
    )
    return made


def test_every_state_and_event_is_in_the_table_or_refused_unchanged(clock):
    for state, event in itertools.product(S, E):
        resets = Resets(clock, lambda e: None, lambda: None)
        resets.state = state
        if (state, event) in NEXT:
            assert step(state, event) is NEXT[state, event]
        else:
            with pytest.raises(LifecycleError, match=event.value):
                resets.happen(event)
            assert resets.state is state


def test_fact_9_every_way_of_a_reset_ends_active_without_a_message(resets, clock):
    """Fact 9: RSTAT is 2 after any reset."""
    for event in (E.REQUEST, E.SILENT, E.ANNOUNCE, E.FUNCTION, E.POWER):
        resets.happen(event)
        for _ in range(3):
            if clock.pending:
                clock.run_next()
        assert resets.rstat == 2, event
        assert not clock.pending


def test_a_requested_reset_shows_0_then_1_then_2(resets, clock, history):
    """avf.md 2.2: 0 in progress, 1 completed, 2 active; cleared once, before RSTAT changes."""
    resets.happen(E.REQUEST)
    clock.run_next()
    clock.run_next()
    assert history == ["clear request", "rstat 0", "rstat 1", "rstat 2"]


def test_a_requested_reset_lasts_at_most_100_ms(resets, clock):
    """avf.md 4.5: 0 to 100 ms is fine."""
    resets.happen(E.REQUEST)
    assert clock.run_next() + clock.run_next() <= 0.1


def test_an_announced_reset_leaves_the_guest_10_to_50_ms(resets, clock, history):
    """avf.md 4.5 and 5.2: allow 10 to 50 ms between the event and the reset."""
    resets.happen(E.ANNOUNCE)
    assert resets.working
    assert history == ["rstat 2"]
    assert 0.010 <= clock.run_next() <= 0.050
    assert history[1:] == ["clear due", "rstat 0"]
    assert not resets.working


def test_a_guest_that_resets_itself_in_the_announcement_is_reset_once(resets, clock, history):
    resets.happen(E.ANNOUNCE)
    resets.happen(E.REQUEST)
    while clock.pending:
        clock.run_next()
    assert [h for h in history if h.startswith("clear")] == ["clear request"]


def test_a_function_reset_in_the_middle_of_another_is_active_at_once(resets, clock, history):
    resets.happen(E.REQUEST)
    resets.happen(E.FUNCTION)
    assert resets.rstat == 2
    assert not clock.pending
    assert history[-2:] == ["clear function", "rstat 2"]


def test_a_restored_reset_goes_on(resets, clock):
    resets.restore(S.IN_PROGRESS)
    assert resets.rstat == 0
    clock.run_next()
    clock.run_next()
    assert resets.rstat == 2


def test_a_reset_that_waits_for_stores_has_all_its_patience_after_one_that_was_cut_short(clock):
    busy = True
    resets = Resets(clock, lambda e: None, lambda: None, lambda: busy)

    def wait():
        """How often the clock runs before the reset is over all the same."""
        resets.happen(E.SILENT)
        count = 0
        while resets.state is S.IN_PROGRESS:
            clock.run_next()
            count += 1
        resets.happen(E.POWER)
        return count

    whole = wait()
    assert whole > 60  # a second, in steps of 15 ms
    resets.happen(E.SILENT)
    for _ in range(50):
        clock.run_next()
    resets.happen(E.FUNCTION)
    assert wait() == whole


def test_the_diagram_shows_every_transition():
    text = mermaid()
    assert text.count("-->") == 1 + len(NEXT)
    assert set(RSTAT.values()) == {0, 1, 2}
