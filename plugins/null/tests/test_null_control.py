"""`emudev run` and `emudev ctl` as processes."""

import json
import os
import signal
import stat
import subprocess
import sys

import pytest

EMUDEV = [sys.executable, "-m", "emudev_core.cli"]
VDEV = ["--vdev", "emu_null,id=0,transport=inproc"]


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "EMUDEV_RUNTIME_DIR": str(tmp_path / "run"), "EMUDEV_PLUGINS": "null"}


@pytest.fixture
def start(environment):
    """Starts processes that serve a device, and waits until they are ready."""
    started = []

    def run(*words):
        process = subprocess.Popen(
            [*EMUDEV, "run", *VDEV, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        assert process.stdout.readline().startswith("emudev: ready: ")
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ctl(environment):
    def run(*words):
        return subprocess.run(
            [*EMUDEV, "ctl", *words], capture_output=True, text=True, timeout=60, env=environment
        )

    return run


def test_a_running_process_is_looked_at_and_leaves_no_socket_behind(start, ctl, tmp_path):
    process = start()
    [path] = (tmp_path / "run").iterdir()
    assert path.name == f"{process.pid}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(ctl("list", "--json").stdout)
    assert found["process"]["pid"] == process.pid
    assert [device["name"] for device in found["devices"]] == ["null_emudev_0"]
    shown = ctl("show", "null_emudev_0")
    assert shown.returncode == 0
    assert "emu_null" in shown.stdout
    assert ctl("show", "null_emudev_1").returncode == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert list((tmp_path / "run").iterdir()) == []
    gone = ctl("list")
    assert (gone.returncode, gone.stdout) == (1, "")


def test_the_socket_of_a_killed_process_is_swept_by_the_next(start, ctl, tmp_path):
    first = start()
    first.kill()
    first.wait()
    assert len(list((tmp_path / "run").iterdir())) == 1
    second = start()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"{second.pid}.sock"]
    assert ctl("list").returncode == 0


def test_the_socket_may_be_named_or_left_out(start, ctl, tmp_path):
    start("--control", str(tmp_path / "my.sock"))
    start("--control", "off")
    assert not (tmp_path / "run").exists()
    assert ctl("--control", str(tmp_path / "my.sock"), "list").returncode == 0


def test_a_named_socket_that_can_not_be_ends_the_start_and_the_usual_one_does_not(
    environment, start, tmp_path
):
    done = subprocess.run(
        [*EMUDEV, "run", *VDEV, "--control", "/nowhere/x.sock"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "control socket /nowhere/x.sock" in done.stderr
    (tmp_path / "run").write_text("not a folder")
    process = start()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "no control socket" in err


def test_followed_events_end_with_the_process(start, environment):
    process = start()
    with subprocess.Popen(
        [*EMUDEV, "ctl", "events", "--json"], stdout=subprocess.PIPE, text=True, env=environment
    ) as follower:
        # The device stops and closes when its process ends.
        deadline = 200
        while follower.poll() is None and deadline:
            deadline -= 1
            if deadline == 160:
                process.send_signal(signal.SIGTERM)
            try:
                follower.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        assert follower.wait(5) == 0
    assert process.wait(20) == 0
