"""Processes and namespaces of a run: they end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from emudev_lab.errors import LabError
from emudev_lab.namespace import Namespace
from emudev_lab.process import spawn, stop, tail, usage
from emudev_lab.transfer import stream


def test_a_polite_process_ends_by_sigterm():
    process = spawn(["sleep", "60"], log=subprocess.DEVNULL)
    assert stop(process)
    assert process.returncode == -signal.SIGTERM


def test_a_stubborn_process_is_killed_with_its_children(tmp_path):
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = spawn(["sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait; wait"], log=file)
    child = int(_await_text(log))
    assert not stop(process, 0.2)
    assert process.returncode == -signal.SIGKILL
    _await_end(child)


def test_a_process_dies_with_the_one_that_started_it(tmp_path):
    code = (
        "import sys, os; from emudev_lab.process import spawn;"
        "print(spawn(['sleep', '60'], log=1).pid, flush=True); sys.stdin.read(1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
    _await_end(child)


def test_usage_of_this_process_is_plausible():
    used = usage(os.getpid())
    assert used.anonymous > 1000
    assert used.threads >= 1
    assert used.descriptors >= 3
    assert used.cpu > 0
    assert usage(2**22 + 1) is None  # above the largest process id of Linux


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    (tmp_path / "log").write_text("1\r\n2\n3\n")
    assert tail(tmp_path / "log", 2) == "2\n3"
    assert tail(tmp_path / "none") == ""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_namespace_is_empty_and_ends_what_runs_in_it():
    before = len(os.listdir("/proc/self/fd"))
    try:
        namespace = Namespace()
    except LabError as error:
        pytest.skip(str(error))
    listed = subprocess.run(
        [*namespace.enter(), "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split(":")[0].strip() for line in listed.splitlines()[2:]] == ["lo"]
    process = spawn([*namespace.enter(), "sleep", "60"], log=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while process.pid not in namespace.processes():
        assert time.monotonic() < deadline
    assert os.getpid() not in namespace.processes()
    namespace.close()
    assert process.wait(5) == -signal.SIGKILL
    namespace.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stream_is_the_same_at_any_length():
    longest = b"".join(stream((1 << 20) + 10))
    assert len(longest) == (1 << 20) + 10
    assert b"".join(stream(1000)) == longest[:1000]
    assert longest[1 << 20 :] == longest[:10]
    assert b"".join(stream(0)) == b""


def _await_text(path):
    deadline = time.monotonic() + 5
    while not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def _await_end(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return  # nobody waits for an orphan here; it has ended
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")
