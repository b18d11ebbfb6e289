"""A truncated file costs zeroes and a count, not the process; faults of others stay theirs."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from emudev_core.loop import Loop
from emudev_net import sigbus
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.primitives import Words, load64, static_words, store64
from emudev_net.sigbus import guard
from emudev_net.system_calls import errno, set_errno

PAGE = mmap.PAGESIZE
needs_compiler = pytest.mark.skipif(not jit_wanted(), reason="the handler is compiled")


@queue_kernel
def total(state, burst, rows):
    """The sum of words."""
    found = 0
    for i in range(rows):
        found += load64(state + 8 * i)
    return found


@queue_kernel
def spread(state, step, count):
    """Store 1 in every `step` bytes, `count` times."""
    for i in range(count):
        store64(state + i * step, 1)
    return 0


class Shared:
    """A file of some pages of ones, mapped here, that may be truncated."""

    def __init__(self, pages=2, end=None):
        self.fd = os.memfd_create("guarded")
        os.ftruncate(self.fd, pages * PAGE)
        self._map = mmap.mmap(self.fd, pages * PAGE)
        self._map[:] = (1).to_bytes(8, "little") * (pages * PAGE // 8)
        self.size = pages * PAGE
        self._hold = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._hold)

    def truncate(self, pages=0):
        os.ftruncate(self.fd, pages * PAGE)

    def close(self):
        del self._hold
        self._map.close()
        os.close(self.fd)


@pytest.fixture(autouse=True)
def _compiled():
    compile_now([total, spread, *sigbus.KERNELS])


@pytest.fixture
def shared():
    made = Shared()
    yield made
    made.close()


def run(body):
    """Run a script in a process of its own: the return code, and what it said."""
    script = f"""
import os, signal, sys, time
sys.path[:0] = {[os.path.dirname(__file__)]!r}
from test_net_sigbus import *
compile_now([total, spread, *sigbus.KERNELS])
{textwrap.dedent(body)}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.split(), done.stderr


@needs_compiler
def test_a_truncated_file_reads_as_zeroes_and_each_page_counts_once():
    code, said, errors = run("""
        shared = Shared(pages=3)
        guarded = guard(shared.address, shared.size)
        assert guarded.active
        print(total(shared.address, 0, shared.size // 8), guarded.faults)
        shared.truncate(1)
        print(total(shared.address, 0, shared.size // 8), guarded.faults)
        print(total(shared.address, 0, shared.size // 8), guarded.faults)
        guarded.close()
    """)
    assert (code, errors) == (0, "")
    words = PAGE // 8
    assert said == [str(3 * words), "0", str(words), "2", str(words), "2"]


@needs_compiler
def test_python_that_touches_the_memory_lives_too():
    code, said, errors = run("""
        shared = Shared()
        guarded = guard(shared.address, shared.size)
        shared.truncate()
        print(shared._map[5], ctypes.string_at(shared.address + PAGE, 3).hex(), guarded.faults)
        shared._map[PAGE + 9] = 7
        print(shared._map[PAGE + 9])
    """)
    assert (code, errors) == (0, "")
    assert said == ["0", "000000", "2", "7"]


@needs_compiler
@pytest.mark.parametrize(
    "guarded",
    [
        "",
        "guard(other.address, other.size)",
        "guard(shared.address + PAGE, PAGE)",
        "guard(shared.address, shared.size).close()",
    ],
)
def test_a_fault_elsewhere_kills_as_before(guarded):
    code, said, _ = run(f"""
        shared, other = Shared(), Shared()
        {guarded}
        shared.truncate()
        print("now", flush=True)
        total(shared.address, 0, 1)
        print("never")
    """)
    assert (code, said) == (-signal.SIGBUS, ["now"])


@needs_compiler
def test_a_signal_that_somebody_sends_kills_as_before():
    code, said, _ = run("""
        shared = Shared()
        guarded = guard(shared.address, shared.size)
        print("now", flush=True)
        os.kill(os.getpid(), signal.SIGBUS)
        print("never")
    """)
    assert (code, said) == (-signal.SIGBUS, ["now"])


@needs_compiler
def test_the_former_handler_gets_what_is_not_ours():
    code, said, errors = run("""
        import faulthandler
        faulthandler.enable()
        shared, other = Shared(), Shared()
        guarded = guard(shared.address, shared.size)
        shared.truncate(), other.truncate()
        print(total(shared.address, 0, 1), guarded.faults, flush=True)
        total(other.address, 0, 1)
    """)
    assert (code, said) == (-signal.SIGBUS, ["0", "1"])
    assert "Bus error" in errors


@needs_compiler
def test_two_guards_count_apart_and_one_goes_on_when_the_other_is_closed():
    code, said, errors = run("""
        a, b = Shared(), Shared()
        first, second = guard(a.address, a.size), guard(b.address, b.size)
        a.truncate(), b.truncate(1)
        total(a.address, 0, a.size // 8), total(b.address, 0, b.size // 8)
        print(first.faults, second.faults)
        first.close()
        print(second.active)
        b.truncate(0)
        total(b.address, 0, 1)
        print(second.faults)
        second.close()
        print(second.active)
    """)
    assert (code, errors) == (0, "")
    assert said == ["2", "1", "True", "2", "False"]


@needs_compiler
def test_many_guards_make_the_table_grow_and_entries_are_used_again():
    code, said, errors = run("""
        files = [Shared() for _ in range(200)]
        guards = [guard(f.address, f.size) for f in files]
        for n, f in enumerate(files):
            f.truncate()
            total(f.address + (n & 1) * PAGE, 0, 1)
        print(sum(g.faults for g in guards), {g.faults for g in guards})
        for g in guards[::2]:
            g.close()
        more = [Shared() for _ in range(120)]
        guards = [guard(f.address, f.size) for f in more]
        for f in more:
            f.truncate()
            total(f.address, 0, 1)
        print({g.faults for g in guards}, sigbus._handler.tables[-1][0])
    """)
    assert (code, errors) == (0, "")
    assert said == ["200", "{1}", "{1}", "220"]


@needs_compiler
def test_a_flood_of_faults_does_not_use_up_the_mappings_of_the_process():
    code, said, errors = run("""
        shared = Shared(pages=6000)
        guarded = guard(shared.address + 8, shared.size - 16)
        shared.truncate()
        spread(shared.address, 2 * PAGE, 3000)
        with open("/proc/self/maps") as maps:
            print(guarded.faults, len(list(maps)) < 2000)
    """)
    assert (code, errors) == (0, "")
    assert said == [str(sigbus.MANY + 1), "True"]


@needs_compiler
def test_threads_fault_at_the_same_time():
    code, said, errors = run("""
        import threading
        shared = Shared(pages=400)
        guarded = guard(shared.address, shared.size)
        shared.truncate()
        threads = [
            threading.Thread(target=total, args=(shared.address, 0, shared.size // 8))
            for _ in range(4)
        ]
        for t in threads: t.start()
        for t in threads: t.join()
        print(guarded.faults >= 400)
    """)
    assert (code, errors) == (0, "")
    assert said == ["True"]


@needs_compiler
def test_the_loop_is_told(shared):
    loop = Loop(spin=0)
    told = []
    guarded = guard(shared.address, shared.size, loop, told.append)
    shared.truncate()
    assert total(shared.address, 0, shared.size // 8) == 0
    assert told == []
    loop.turn(1.0)
    assert told == [guarded]
    assert guarded.faults == 2
    loop.turn(0.0)
    assert len(told) == 1
    guarded.close()
    guarded.close()
    loop.close()


@needs_compiler
def test_guards_of_a_loop_share_a_descriptor_and_are_told_apart():
    before = os.listdir("/proc/self/fd")
    loop = Loop(spin=0)
    files = [Shared() for _ in range(20)]
    told = []
    with_loop = len(os.listdir("/proc/self/fd"))
    guards = [guard(f.address, f.size, loop, told.append) for f in files]
    assert len(os.listdir("/proc/self/fd")) == with_loop + 1
    files[3].truncate(), files[9].truncate(1)
    for file in files:
        total(file.address, 0, file.size // 8)
    loop.turn(1.0)
    assert told == [guards[3], guards[9]]
    files[3].truncate()
    files[11].truncate()
    total(files[11].address, 0, 1)
    loop.turn(1.0)
    assert told[2:] == [guards[11]]
    for each in (*guards, *files, loop):
        each.close()
    assert os.listdir("/proc/self/fd") == before


@needs_compiler
def test_one_that_is_told_may_close_others(shared):
    loop = Loop(spin=0)
    other = Shared()
    told = []

    def close_all(which):
        told.append(which)
        for each in guards:
            each.close()

    guards = [guard(f.address, f.size, loop, close_all) for f in (shared, other)]
    for file in (shared, other):
        file.truncate()
        total(file.address, 0, 1)
    loop.turn(1.0)
    loop.turn(0.0)
    assert told == guards[:1]
    other.close()
    loop.close()


def present_handler():
    action = sigbus._Action()
    sigbus.sigaction(signal.SIGBUS, 0, ctypes.addressof(action))
    return action.handler


@needs_compiler
def test_the_handler_is_there_while_there_are_guards(shared):
    before = present_handler()
    first = guard(shared.address, 8)
    second = guard(shared.address + 8, 8)
    assert present_handler() == sigbus.handle.address != before
    first.close()
    assert present_handler() == sigbus.handle.address
    second.close()
    assert present_handler() == before


@needs_compiler
def test_a_handler_that_came_later_is_left_alone(shared):
    before = sigbus._Action()
    sigbus.sigaction(signal.SIGBUS, 0, ctypes.addressof(before))
    guarded = guard(shared.address, shared.size)
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
    assert not guarded.active
    guarded.close()
    assert present_handler() == 1  # SIG_IGN
    sigbus.sigaction(signal.SIGBUS, ctypes.addressof(before), 0)


@needs_compiler
def test_a_guard_that_comes_before_the_handler_is_compiled_is_active_when_it_is():
    code, said, errors = run("""
        for kernel in sigbus.KERNELS:
            kernel.bind(0)
        shared = Shared()
        guarded = guard(shared.address, shared.size)
        end = time.monotonic() + 30
        while not guarded.active and time.monotonic() < end:
            time.sleep(0.01)
        shared.truncate()
        print(total(shared.address, 0, 1), guarded.faults)
    """)
    assert (code, errors) == (0, "")
    assert said == ["0", "1"]


def test_where_nothing_is_compiled_a_guard_is_not_active(monkeypatch, shared):
    monkeypatch.setenv("EMUDEV_JIT", "0")
    before, files = present_handler(), os.listdir("/proc/self/fd")
    guarded = guard(shared.address, shared.size, Loop(spin=0), print)
    assert (guarded.active, guarded.faults) == (False, 0)
    assert present_handler() == before
    guarded.close()
    assert len(os.listdir("/proc/self/fd")) <= len(files) + 2  # those of the loop


# The same source as plain Python, with a siginfo_t made by hand. Nothing faults.


@pytest.fixture
def plain():
    table = Words(8 * 4)
    former = sigbus._Action(handler=1)
    table[0], table[1] = 3, ctypes.addressof(former)
    before = load64(static_words())
    store64(static_words(), table.address)
    yield table, former
    store64(static_words(), before)


def siginfo(address, code=2):
    memory = ctypes.create_string_buffer(128)
    ctypes.c_int32.from_buffer(memory, 8).value = code
    ctypes.c_int64.from_buffer(memory, 16).value = address
    return memory


def test_a_page_of_zeroes_takes_the_place_of_the_one_that_faulted(plain, shared):
    table, _ = plain
    counter = Words(1)
    rung = os.eventfd(0, os.EFD_NONBLOCK)
    fields = Words(5)
    fields.view[:] = memoryview(
        b"".join(
            n.to_bytes(8, "little", signed=True)
            for n in (shared.address, shared.address + shared.size, PAGE, counter.address, rung)
        )
    ).cast("q")
    sigbus.place.function(table.address + 64 + 128, fields.address, 0)
    assert table[8 * 3] == 2  # the sequence: even again
    set_errno(77)
    info = siginfo(shared.address + PAGE + 9)
    assert sigbus.handle.function(signal.SIGBUS, ctypes.addressof(info), 0) == 1
    assert errno() == 77
    assert ctypes.string_at(shared.address, 8) == (1).to_bytes(8, "little")
    assert ctypes.string_at(shared.address + PAGE, PAGE) == bytes(PAGE)
    assert counter[0] == 1
    assert os.eventfd_read(rung) == 1
    os.close(rung)


@pytest.mark.parametrize("code", [2, 0, -6])
def test_other_addresses_and_signals_go_to_the_former_handler(plain, shared, code):
    table, former = plain
    counter = Words(1)
    table.view[8 + 8 : 8 + 14] = memoryview(
        b"".join(
            n.to_bytes(8, "little", signed=True)
            for n in (0, shared.address, shared.address + PAGE, PAGE, counter.address, -1)
        )
    ).cast("q")
    address = shared.address + (PAGE if code > 0 else 0)
    info = siginfo(address, code)
    kept = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        # The signal is another one here; its former handler ignores it.
        assert sigbus.handle.function(signal.SIGUSR2, ctypes.addressof(info), 0) == 0
        now = sigbus._Action()
        sigbus.sigaction(signal.SIGUSR2, 0, ctypes.addressof(now))
        assert now.handler == former.handler == 1
    finally:
        signal.signal(signal.SIGUSR2, kept)
    assert counter[0] == 0
