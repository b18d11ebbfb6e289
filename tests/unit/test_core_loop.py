"""The loop: descriptors, timers, tasks, calls from other threads."""

import contextlib
import os
import select
import signal
import threading
import time

import pytest

from emudev_core.loop import READ, WRITE, Loop
from emudev_core.testing.builders import open_descriptors


@pytest.fixture
def loop():
    loop = Loop(spin=0)
    yield loop
    loop.close()


@pytest.fixture
def pipe():
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(fd)


def test_a_ready_descriptor_is_called_back_until_it_is_read(loop, pipe):
    seen = []
    loop.watch(pipe[0], seen.append)
    assert loop.turn() is False
    os.write(pipe[1], b"x")
    assert loop.turn() is True
    assert loop.turn() is True
    os.read(pipe[0], 1)
    loop.turn()
    assert seen == [READ, READ]


def test_a_watch_can_look_for_other_events_or_none(loop, pipe):
    seen = []
    watch = loop.watch(pipe[1], seen.append, WRITE)
    loop.turn()
    watch.set(0)
    loop.turn()
    watch.set(WRITE)
    loop.turn()
    assert seen == [WRITE, WRITE]


def test_a_closed_watch_is_not_called_even_in_the_same_turn(loop):
    pipes = [os.pipe() for _ in range(2)]
    watches = {}
    seen = []

    def first(fd):
        def call(events):
            seen.append(fd)
            for other, watch in watches.items():
                if other != fd:
                    watch.close()

        return call

    for reader, writer in pipes:
        watches[reader] = loop.watch(reader, first(reader))
        os.write(writer, b"x")
    loop.turn()
    assert len(seen) == 1
    for ends in pipes:
        for fd in ends:
            os.close(fd)


def test_readiness_of_a_closed_descriptor_is_not_given_to_the_next_of_its_number(loop):
    pipes = [os.pipe() for _ in range(2)]
    fresh = []
    replaced = {}

    def replace(mine, other):
        def call(events):
            # Ready as well in this turn; its number goes to a pipe that has nothing to read.
            if replaced:
                return
            watches[other].close()
            os.close(other)
            reader, replaced["writer"] = os.pipe()
            os.dup2(reader, other)
            if reader != other:
                os.close(reader)
            replaced["reader"] = other
            loop.watch(other, fresh.append)

        return call

    a, b = pipes[0][0], pipes[1][0]
    watches = {a: loop.watch(a, replace(a, b)), b: loop.watch(b, replace(b, a))}
    for _, writer in pipes:
        os.write(writer, b"x")
    loop.turn()
    assert replaced
    assert fresh == []
    os.write(replaced["writer"], b"y")
    loop.turn()
    assert fresh == [READ]
    for fd in {a, b, replaced["writer"], pipes[0][1], pipes[1][1]}:
        os.close(fd)


def test_a_descriptor_is_watched_once(loop, pipe):
    loop.watch(pipe[0], print)
    with pytest.raises(ValueError, match="already watched"):
        loop.watch(pipe[0], print)


def test_closing_a_watch_twice_or_after_its_descriptor_is_harmless(loop, pipe):
    watch = loop.watch(pipe[0], print)
    os.close(pipe[0])
    watch.close()
    watch.close()
    loop.turn()


def test_timers_run_in_order_of_their_time_and_once(loop):
    seen = []
    loop.call_later(0.002, lambda: seen.append("b"))
    loop.call_later(0.001, lambda: seen.append("a"))
    loop.call_later(0.0015, lambda: seen.append("never")).cancel()
    while len(seen) < 2:
        loop.turn(None)
    loop.turn()
    assert seen == ["a", "b"]


def test_a_cancelled_timer_wakes_nobody(loop):
    loop.call_later(0.0, print).cancel()
    started = time.monotonic()
    loop.turn(0.02)
    assert time.monotonic() - started >= 0.019


def test_a_timer_may_cancel_one_that_is_due_with_it(loop):
    seen = []
    timers = []

    def call(name, other):
        seen.append(name)
        timers[other].cancel()

    timers.append(loop.call_later(0, lambda: call("a", 1)))
    timers.append(loop.call_later(0, lambda: call("b", 0)))
    loop.turn()
    loop.turn()
    assert seen == ["a"]


def test_a_task_runs_once_a_turn_however_often_it_was_marked(loop):
    seen = []
    task = loop.task(lambda: seen.append(1))
    for _ in range(5):
        task.mark()
    loop.turn()
    assert seen == [1]
    loop.turn()
    assert seen == [1]


def test_a_task_runs_after_the_callbacks_of_its_turn(loop, pipe):
    seen = []
    task = loop.task(lambda: seen.append("task"))

    def ready(events):
        task.mark()
        loop.call_soon(lambda: seen.append("soon"))
        seen.append("ready")
        os.read(pipe[0], 1)

    loop.watch(pipe[0], ready)
    os.write(pipe[1], b"x")
    loop.turn()
    assert seen == ["ready", "soon", "task"]


def test_a_task_that_marks_itself_runs_in_the_next_turn_without_sleeping(loop):
    seen = []

    def again():
        seen.append(1)
        if len(seen) < 3:
            task.mark()

    task = loop.task(again)
    task.mark()
    loop.turn()
    assert len(seen) == 1
    loop.turn(None)
    loop.turn(None)
    assert len(seen) == 3


def test_a_closed_task_does_not_run(loop):
    task = loop.task(lambda: pytest.fail("it ran"))
    task.mark()
    task.close()
    loop.turn()
    task.mark()
    loop.turn()


def test_calls_from_another_thread_wake_the_loop_and_run_on_its_thread(loop):
    seen = []

    def call():
        seen.append(threading.get_ident())
        loop.stop()

    thread = threading.Thread(target=lambda: loop.call_threadsafe(call))
    thread.start()
    loop.run()
    thread.join()
    assert seen == [threading.get_ident()]


def test_a_signal_handler_can_stop_a_sleeping_loop(loop):
    former = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    killer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    loop.call_soon(killer.start)  # a stop before `run` would be forgotten
    loop.run()
    killer.join()
    signal.signal(signal.SIGUSR1, former)


def test_an_idle_loop_sleeps(loop):
    loop.call_later(0.1, loop.stop)
    before = time.process_time()
    loop.run()
    assert time.process_time() - before < 0.05


class Looks:
    """An epoll that notes how long each look may last."""

    def __init__(self, epoll):
        self._epoll = epoll
        self.timeouts = []

    def poll(self, timeout, *most):
        self.timeouts.append(timeout)
        return self._epoll.poll(timeout, *most)

    def __getattr__(self, name):
        return getattr(self._epoll, name)


def test_after_work_the_loop_looks_on_for_the_spin_time():
    loop = Loop(spin=20_000)
    loop._epoll = looks = Looks(loop._epoll)
    loop.call_later(0.05, loop.stop)
    loop.run()
    assert looks.timeouts.count(0.0) > 10  # looked without sleeping
    # Then it slept, until the timer and no longer.
    slept = [timeout for timeout in looks.timeouts if timeout]
    assert 1 <= len(slept) <= 2
    assert 0 < slept[0] <= 0.05 - 0.02
    loop.close()


def test_more_descriptors_than_one_look_reports_all_get_their_turn(loop):
    pipes = [os.pipe() for _ in range(100)]
    seen = set()
    for reading, writing in pipes:
        os.write(writing, b"x")
        loop.watch(reading, lambda events, fd=reading: seen.add(fd))
    for _ in range(10):  # they stay readable: none may keep the others from being seen
        loop.turn(0)
    assert seen == {reading for reading, _ in pipes}
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_closing_gives_the_descriptors_back_and_twice_is_once():
    before = open_descriptors()
    loop = Loop()
    loop.close()
    loop.close()
    loop.stop()
    loop.call_threadsafe(print)
    assert open_descriptors() == before


def test_a_thread_may_call_while_the_loop_is_closed():
    errors = []

    def call():
        try:
            while not done.is_set():
                loop.call_threadsafe(print)
        except OSError as error:
            errors.append(error)

    for _ in range(50):
        done = threading.Event()
        loop = Loop()
        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.0001)
        loop.close()
        done.set()
        thread.join()
    assert errors == []


def test_what_a_callback_raises_comes_out_and_the_rest_is_not_lost(loop):
    seen = []
    loop.call_later(0, lambda: 1 / 0)
    loop.call_later(0, lambda: seen.append("timer"))
    task = loop.task(lambda: seen.append("task"))
    task.mark()
    time.sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert seen == ["timer", "task"]


def test_a_handler_may_let_the_loop_go_on_without_the_watch(loop, pipe):
    errors = []

    def failing(events):
        raise ValueError("broken")

    loop.on_error = lambda error: errors.append(str(error)) is None
    loop.watch(pipe[1], failing, WRITE)
    assert loop.turn() is True
    assert loop.turn() is False
    assert errors == ["broken"]


class Sleeper:
    """Sleeps as it is told, and notes what it was asked for."""

    def __init__(self, answers):
        self.ready = True
        self.answers = answers
        self.asked = []

    def sleep(self, epoll, deadline):
        self.asked.append((epoll, deadline))
        return self.answers.pop(0)()


def test_a_running_loop_sleeps_by_its_sleeper_and_serves_what_that_reports(pipe):
    loop = Loop()
    os.write(pipe[1], b"x")
    seen = []
    watch = loop.watch(pipe[0], lambda events: (seen.append(events), loop.stop()), 0)
    loop.sleeper = Sleeper([lambda: [], lambda: [(pipe[0], READ)]])
    loop.run()
    assert seen == [READ]
    assert [deadline for _, deadline in loop.sleeper.asked] == [None] * 2
    watch.close()
    loop.close()


def test_a_sleeper_is_told_when_the_next_timer_is_due(loop):
    def nap():
        time.sleep(0.02)
        return []

    loop.sleeper = Sleeper([nap] * 5)
    before = time.monotonic_ns()
    loop.call_later(0.01, loop.stop)
    loop.run()
    ((_, deadline),) = loop.sleeper.asked
    assert before + 10_000_000 <= deadline <= before + 20_000_000


def test_a_loop_that_expects_more_at_once_looks_on_by_itself(pipe):
    loop = Loop(spin=1_000_000)
    asked = []

    def answer(_events):
        os.read(pipe[0], 1)
        asked.append(len(loop.sleeper.asked))
        if len(asked) == 3:
            loop.stop()
        else:
            loop.expecting = len(asked) == 1
            os.write(pipe[1], b"x")

    watch = loop.watch(pipe[0], answer)
    os.write(pipe[1], b"x")
    loop.sleeper = Sleeper([lambda: [(pipe[0], READ)]] * 2)
    loop.run()
    assert asked == [1, 1, 2]  # the second one without it, and the third again with it
    watch.close()
    loop.close()


def test_a_sleeper_that_is_not_ready_is_not_asked(loop):
    loop.sleeper = Sleeper([])
    loop.sleeper.ready = False
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert loop.sleeper.asked == []


def test_a_signal_within_a_running_loop_makes_a_descriptor_readable(loop):
    """A sleeper that is outside of the interpreter is told by nothing else."""
    handled = []

    def wait():
        (epoll, _) = loop.sleeper.asked[-1]
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        found = select.epoll.fromfd(epoll).poll(5)
        assert found
        return found

    former = signal.signal(signal.SIGUSR1, lambda *_: (handled.append(1), loop.stop()))
    try:
        loop.sleeper = Sleeper([wait])
        loop.run()
        assert handled == [1]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_loop_that_has_run_keeps_no_descriptor_of_its_own_for_signals(loop):
    before = open_descriptors()
    loop.call_soon(loop.stop)
    loop.run()
    assert open_descriptors() == before
