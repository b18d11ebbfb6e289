"""`emudev testpmd` as a process: signals, standard input of every kind, exit statuses, JSON.

The ports are in memory, offered by a distribution that is only there for the test; with emudev-null
installed some tests run with compiled kernels on threads, too.
"""

import contextlib
import importlib.util
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

PORTS = """
from emudev_core import hookimpl
from emudev_net.memory_port import SPEC

@hookimpl
def emudev_backends():
    yield SPEC
"""
MEMORY = ("--vdev", "net_memory,id=0", "--vdev", "net_memory,id=1")
NULL = ("--vdev", "net_null,id=0", "--vdev", "net_null,id=1")
LIMIT = 30
GOLDEN = Path(__file__).parent / "golden" / "dpdk-22.11"

needs_null = pytest.mark.skipif(
    importlib.util.find_spec("emudev_null") is None, reason="emudev-null is not installed"
)


@pytest.fixture
def environment(tmp_path):
    """With the distribution that offers ports in memory."""
    site = tmp_path / "site"
    info = site / "memory_ports-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "memory_ports.py").write_text(PORTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-ports\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[emudev]\nmemory_ports = memory_ports\n")
    former = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(site), former] if former else [str(site)])
    return {**os.environ, "PYTHONPATH": path, "EMUDEV_JIT": "0"}


def command(*words, vdevs=MEMORY):
    return [sys.executable, "-m", "emudev_core.cli", "testpmd", *vdevs, *words]


@pytest.fixture
def run(environment):
    """Run it to its end with text on standard input: status, results, words."""

    def run(*words, text="", vdevs=MEMORY, **options):
        done = subprocess.run(
            command(*words, vdevs=vdevs),
            input=text,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env={**environment, **options},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def begin(environment):
    """Begin it; it is killed at the end of the test if it still runs."""
    with contextlib.ExitStack() as stack:

        def begin(*words, vdevs=MEMORY, before=(), stdin=subprocess.PIPE, **options):
            process = subprocess.Popen(
                [*before, *command(*words, vdevs=vdevs)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**environment, **options},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def read_until(process, text):
    """Its results up to a line with this text."""
    found = ""
    while text not in found:
        line = process.stdout.readline()
        assert line, f"it ended: {found}{process.stderr.read()}"
        found += line
    return found


def end_of(process, number):
    """Send a signal: status and what it still says."""
    process.send_signal(number)
    results, _ = process.communicate(timeout=LIMIT)
    return process.returncode, results


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_with_totals(begin, number):
    process = begin("--", "--stats-period=30", stdin=subprocess.DEVNULL)
    read_until(process, "Port statistics ====")
    status, text = end_of(process, number)
    assert status == 0
    assert "Accumulated forward statistics for all ports" in text
    assert text.endswith("\nBye...\n")


def test_a_signal_works_though_it_was_inherited_as_ignored(begin):
    ignoring = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    process = begin("--", "--stats-period=30", before=ignoring, stdin=subprocess.DEVNULL)
    read_until(process, "Port statistics ====")
    status, text = end_of(process, signal.SIGINT)
    assert status == 0
    assert "Accumulated forward statistics for all ports" in text


def test_a_signal_ends_the_prompt_too(begin):
    process = begin("--", "-i", "-a")
    read_until(process, "TX queue: 0")
    status, text = end_of(process, signal.SIGINT)
    assert status == 0
    assert "Accumulated forward statistics for all ports" in text


@needs_null
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_threads_too(begin, number):
    process = begin(
        "--", "--stats-period=0.2", vdevs=NULL, stdin=subprocess.DEVNULL, EMUDEV_JIT="1"
    )
    read_until(process, "Port statistics ====")
    read_until(process, "Port statistics ====")
    status, text = end_of(process, number)
    assert status == 0
    total = text[text.index("Accumulated") :].splitlines()[1]
    assert int(total.split()[1]) > 0


# -- standard input


def test_what_is_printed_at_the_end_is_testpmds(run):
    status, text, _ = run("--", text="\n")
    recorded = (GOLDEN / "end.txt").read_text()
    for packets in ("57227712", "114455424"):
        recorded = recorded.replace(packets.ljust(14), "0".ljust(14)).replace(packets, "0")
    assert status == 0
    assert text[text.index("Telling cores") :] == recorded


def test_without_a_prompt_enter_ends_it(begin):
    process = begin("--")
    read_until(process, "Press enter to exit")
    results, _ = process.communicate("\n", timeout=LIMIT)
    assert process.returncode == 0
    assert results.endswith("\nBye...\n")


def test_without_a_prompt_the_end_of_input_ends_it(run):
    status, text, _ = run("--")
    assert status == 0
    assert "Press enter to exit\n" in text
    assert text.endswith("\nBye...\n")


def test_with_statistics_the_end_of_input_does_not_end_it(begin):
    process = begin("--", "--stats-period=0.1", stdin=subprocess.DEVNULL)
    for _ in range(3):
        read_until(process, "Port statistics ====")
    assert process.poll() is None
    status, text = end_of(process, signal.SIGTERM)
    assert status == 0
    assert "Press enter" not in text


def test_commands_come_from_a_pipe(run):
    lines = "set fwd mac\nstart\nshow port summary all\nstop\nquit\n"
    status, text, _ = run("--", "-i", text=lines)
    assert status == 0
    assert (
        "testpmd> set fwd mac\nSet mac packet forwarding mode\ntestpmd> start\nmac packet" in text
    )
    assert "Number of available ports: 2\n" in text
    assert "testpmd> quit\n\nStopping port 0...\n" in text
    assert text.endswith("\nBye...\n")


def test_commands_come_from_a_file(begin, tmp_path):
    path = tmp_path / "commands"
    path.write_text("show config fwd\nquit\n")
    with path.open() as stream:
        process = begin("--", "-i", stdin=stream)
        results, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert "testpmd> show config fwd\nio packet forwarding" in results


def test_the_end_of_a_pipe_ends_the_prompt_with_totals(run):
    status, text, _ = run("--", "-i", text="start\n")
    assert status == 0
    assert "Accumulated forward statistics for all ports" in text


def test_a_last_line_without_an_end_is_a_command(run):
    status, text, _ = run("--", "-i", text="show config cores")
    assert status == 0
    assert "List of forwarding lcores:  1\n" in text


def test_a_closed_standard_input_ends_it(begin):
    process = begin("--", before=("sh", "-c", 'exec "$@" <&-', "sh"))
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0


def test_a_mistake_at_the_prompt_does_not_end_it(run):
    status, text, words = run("--", "-i", text="strat\nset burst 5\nquit\n")
    assert status == 0
    assert "did you mean start?" in words
    assert "Number of packets per burst set to 5\n" in text


# -- a terminal


class Terminal:
    """A terminal with the program on it."""

    def __init__(self, words, environment):
        self.ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(self.ours)
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
        )
        os.close(theirs)
        self.seen = ""

    def expect(self, text):
        """Wait until it has shown a text; what it showed up to there."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            ready, _, _ = select.select([self.ours], [], [], left)
            if ready:
                data = os.read(self.ours, 4096)
                self.seen += data.decode().replace("\r\n", "\n")
        found, _, self.seen = self.seen.partition(text)
        return found

    def type(self, text):
        os.write(self.ours, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(environment):
    made = Terminal(command("--", "-i"), {**environment, "TERM": "dumb"})
    yield made
    made.close()


def test_a_terminal_has_completion_and_history(terminal):
    terminal.expect("testpmd> ")
    terminal.type("sho\tcon\tco\t\n")
    terminal.expect("List of forwarding lcores:  1\n")
    terminal.expect("testpmd> ")
    terminal.type("\x10\n")  # Ctrl-P: the line before
    terminal.expect("show config cores")
    terminal.expect("List of forwarding lcores:  1\n")
    terminal.type("quit\n")
    terminal.expect("Bye...\n")
    assert terminal.process.wait(LIMIT) == 0


def test_ctrl_c_ends_it_and_leaves_the_terminal_as_it_was(terminal):
    terminal.expect("testpmd> ")
    terminal.type("start\n")
    terminal.expect("io packet forwarding packets/burst=32")
    terminal.expect("testpmd> ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect("Accumulated forward statistics for all ports")
    terminal.expect("Bye...\n")
    assert terminal.process.wait(LIMIT) == 0
    assert termios.tcgetattr(terminal.ours) == terminal.before


def test_ctrl_d_ends_it(terminal):
    terminal.expect("testpmd> ")
    terminal.type("\x04")
    terminal.expect("Bye...\n")
    assert terminal.process.wait(LIMIT) == 0


# -- JSON


def test_json_has_an_object_a_line(begin):
    process = begin("--json", "--", "--stats-period=0.1", stdin=subprocess.DEVNULL)
    lines = [process.stdout.readline() for _ in range(4)]
    status, rest = end_of(process, signal.SIGINT)
    found = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    kinds = [one["type"] for one in found]
    assert status == 0
    assert kinds[0] == "ready"
    assert set(kinds) <= {"ready", "link", "stats", "totals"}
    assert kinds.count("totals") == 1
    assert "stats" in kinds
    totals = found[kinds.index("totals")]
    assert totals["mode"] == "io"
    assert [port["port"] for port in totals["ports"]] == [0, 1]


def test_json_from_the_prompt(run):
    status, text, words = run("--json", "--", "-i", text="start\nshow port stats 1\nquit\n")
    kinds = [json.loads(line)["type"] for line in text.splitlines()]
    assert status == 0
    assert [kind for kind in kinds if kind != "link"] == ["ready", "stats", "totals"]
    assert "testpmd> start\n" in words


# -- exit statuses


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--", "--forwrd-mode=io"), "did you mean --forward-mode?"),
        (("--", "--forward-mode=mak"), "did you mean mac?"),
        (("--", "--burst=1000"), "--burst: expected 1 to 512 packets, came 1000"),
        (("--", "--portmask=0x10"), "--portmask: no port 4 (there are: 0, 1)"),
        (("--", "--rxq=2"), "expected 0 to 1 receive queues"),
        (("--", "extra"), "'extra' is one argument too many"),
        (("--forward-mode=io",), "--forward-mode is an argument of testpmd (behind --)"),
        (("-i",), "-i is an argument of testpmd (behind --)"),
        (("--vdve", "net_memory"), "did you mean --vdev?"),
        (("-l", "x"), "-l: expected CPUs such as 0,2-3"),
        (("-l", "4095"), "this process may not use CPU 4095"),
        (("-l", "0", "--", "--nb-cores=2"), "expected 1 to 1 threads with the CPUs given"),
        (("--vdev", "net_memory,id=0"), "0 is taken"),
    ],
)
def test_a_mistake_of_the_user_is_status_2_and_one_line(run, words, message):
    status, text, errors = run(*words)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert "Press enter" not in text


def test_no_port_is_status_2(run):
    status, _, errors = run("--", vdevs=())
    assert status == 2
    assert "expected --vdev" in errors


def test_what_can_not_be_started_is_status_1(run):
    status, _, errors = run("--", "--rxq=0", "--txq=1")
    assert status == 1
    assert "Either rxq or txq are 0, cannot use io fwd mode" in errors


def test_help_is_there_on_both_sides(run):
    status, text, _ = run("--help", vdevs=())
    assert status == 0
    assert "--vdev" in text
    assert "--lcores" in text
    assert "--forward-mode=MODE" in text
    status, text, _ = run("--", "--help", vdevs=())
    assert status == 0
    assert "--forward-mode=MODE" in text
    assert "--total-num-mbufs" in text


def test_arguments_of_dpdks_environment_are_taken_with_a_note(run):
    status, _, words = run("-n", "4", "--no-huge", "-m", "512", "--no-pci", "--", "--no-mlockall")
    assert status == 0
    for name in ("-n", "--no-huge", "-m", "--no-pci", "--no-mlockall"):
        assert f"emudev: {name}: no meaning here" in words


def test_cpus_are_given_to_threads(run):
    cpu = min(os.sched_getaffinity(0))
    lines = "show config cores\nquit\n"
    status, text, _ = run("-l", str(cpu), "--", "-i", text=lines, EMUDEV_JIT="1")
    assert status == 0
    assert f"List of forwarding lcores: {cpu:2}\n" in text


def test_results_that_nobody_reads_end_it_quietly(begin):
    process = begin("--", "--stats-period=0.05", stdin=subprocess.DEVNULL)
    read_until(process, "Port statistics ====")
    process.stdout.close()
    assert process.wait(LIMIT) == 1
    assert "Traceback" not in process.stderr.read()
