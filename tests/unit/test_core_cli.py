"""The command line, mostly in this process: what is printed, and the exit status."""

import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from emudev_core import __version__
from emudev_core.cli import program
from emudev_core.errors import BackendError, LifecycleError, PluginError
from emudev_core.plugins import Plugins
from emudev_core.specs import CommandSpec, ProviderSpec
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_plugins, make_source


class Bits:
    def __init__(self, name, first, width, values=None):
        self.name, self.first, self.width = name, first, width
        self.values, self.access, self.doc = values, None, "what it does"


class Reg:
    def __init__(self, name, offset, **rest):
        self.name, self.offset = name, offset
        self.size, self.count, self.stride, self.reset = 4, 1, None, 0
        self.access, self.doc, self.source, self.bits = "RW", "", "", ()
        vars(self).update(rest)


class Map:
    name, size, doc = "dice.bar0", 0x1000, "All of it."
    regs = (
        Reg("SIDES", 4, reset=6, doc="Number of sides."),
        Reg("CTL", 0x10, count=4, stride=8, bits=(Bits("ON", 0, 1, {0: "off", 1: "on"}),)),
    )


DICE = ProviderSpec(
    name="emu_dice",
    summary="A dice",
    config=exerciser.ExerciserConfig,
    build=exerciser.Exerciser,
    transport="loopback",
    registers=Map,
)


def command(name, outcome):
    def run(arguments, plugins):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return CommandSpec(name=name, summary=f"does {name}", run=run)


@pytest.fixture
def emudev(monkeypatch, capsys):
    def call(*argv, specs=(loopback.SPEC, port.SPEC, DICE), plugins=None):
        made = plugins or make_plugins(*specs)
        monkeypatch.setattr(program, "load_plugins", lambda: made)
        try:
            status = program.main(argv)
        except SystemExit as exc:
            status = exc.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    root = logging.getLogger()
    level = root.level
    yield call
    # What was printed was captured for this test: nobody prints there afterwards.
    for handler in [one for one in root.handlers if type(one) is logging.StreamHandler]:
        root.removeHandler(handler)
    root.setLevel(level)


def test_version_and_help(emudev):
    assert emudev("--version") == (0, f"emudev {__version__}\n", "")
    status, out, _ = emudev("--help", specs=(command("dance", 0),))
    assert status == 0
    for name in ("run", "plugins", "regs", "check", "dance"):
        assert f"\n    {name} " in out


def test_no_command_shows_the_help(emudev):
    status, out, err = emudev()
    assert (status, out) == (2, "")
    assert err.startswith("usage: emudev ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "COMMAND: no 'rnu' (did you mean run?)"),
        (["run", "--vdve", "emu_port"], "emudev run: unknown option --vdve (did you mean --vdev?)"),
        (["run", "emu_port"], "emudev run: 'emu_port' is one argument too many"),
        (["run", "--vdev"], "argument --vdev: expected one argument (see emudev run --help)"),
        (
            ["--log-level", "all", "run"],
            "--log-level: no 'all' (known: debug, error, info, warning)",
        ),
    ],
)
def test_usage_errors_are_2_and_one_line_with_the_nearest_name(emudev, words, message):
    assert emudev(*words) == (2, "", f"emudev: error: {message}\n")


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (BackendError("no tap0"), 1, "emudev: error: no tap0\n"),
        (PluginError("emudev-x 1", "emudev_start", "why"), 1, "emudev: error: plugin emudev-x 1 "),
        (PermissionError(13, "Permission denied", "/dev/x"), 1, "emudev: error: [Errno 13]"),
        (LifecycleError("impossible"), 70, "Traceback"),
        (RuntimeError("oops"), 70, "Traceback"),
    ],
)
def test_each_kind_of_failure_has_its_status(emudev, outcome, status, message):
    got, _, err = emudev("dance", specs=(command("dance", outcome),))
    assert got == status
    assert err.startswith(message)
    if status in (1, 2):
        assert err.count("\n") == bool(message)


def test_a_command_of_the_cores_is_not_replaced(emudev):
    status, _, err = emudev("run", specs=(command("run", 0),))
    assert status == 2
    assert f"emudev-core {__version__} and by test-plugin 1.0" in err


def test_plugins_are_listed_with_distribution_version_and_summary(emudev):
    status, out, _ = emudev("plugins")
    assert status == 0
    assert out.splitlines()[0].split() == ["KIND", "NAME", "DISTRIBUTION", "VERSION", "SUMMARY"]
    assert "provider   emu_dice  test-plugin   1.0      A dice" in out
    listed = json.loads(emudev("plugins", "--json")[1])
    assert {
        "kind": "provider",
        "name": "emu_dice",
        "distribution": "test-plugin",
        "version": "1.0",
        "summary": "A dice",
    } in listed["plugins"]
    assert listed["failed"] == []


def test_failed_plugins_are_listed_too_and_warned_about(emudev):
    def load():
        raise ImportError("no libfoo")

    broken = make_source(distribution="emudev-broken", version="2.0")
    plugins = Plugins([type(broken)("broken", "emudev-broken", "2.0", load), make_source(DICE)])
    status, out, err = emudev("plugins", plugins=plugins)
    assert status == 0
    reason = "plugin emudev-broken 2.0 failed in import of broken: ImportError: no libfoo"
    assert f"failed: {reason}" in out
    assert f"emudev: warning: {reason}" in err
    failed = json.loads(emudev("plugins", "--json", plugins=plugins)[1])["failed"]
    assert failed[0]["plugin"] == "emudev-broken 2.0"
    _, _, err = emudev("check", "--vdev", "emu_broken", plugins=plugins)
    assert "unknown driver 'emu_broken' (known: emu_dice; plugin emudev-broken" in err


def test_registers_are_shown_in_three_forms(emudev):
    _, text, _ = emudev("regs", "emu_dice")
    assert text.startswith("dice.bar0: 0x1000 bytes. All of it.")
    assert "0x00004        SIDES   32    RW      0x6    Number of sides." in text
    assert "0x00010+0x8*i  CTL[4]" in text
    assert "0 ON: what it does (0 off, 1 on)" in text
    [one] = json.loads(emudev("regs", "dice", "--json")[1])["maps"]
    assert [(r["name"], r["offset"], r["stride"]) for r in one["registers"]] == [
        ("SIDES", 4, 4),
        ("CTL", 16, 8),
    ]
    _, page, _ = emudev("regs", "emu_dice", "--markdown")
    assert "| `0x00004` | `SIDES` | 32 | RW | 0x6 | Number of sides. |  |" in page
    assert emudev("regs", "emu_dise")[2] == (
        "emudev: error: unknown device model 'emu_dise' (did you mean emu_dice?)\n"
    )
    assert emudev("regs", "emu_port")[1] == "emu_port declares no registers\n"


def test_check_builds_nothing_and_shows_the_plan(emudev, tmp_path):
    status, out, _ = emudev("check", "--vdev", "emu_dice,id=2")
    assert (status, out) == (0, "device dice_emudev_2: emu_dice over loopback\n")
    path = tmp_path / "x.toml"
    path.write_text('[[vdev]]\ndriver = "emu_port"\nqueues = "many"\n')
    status, _, err = emudev("check", "--config", str(path))
    assert status == 2
    assert err == f"emudev: error: {path}: $.vdev[0].queues: expected int, came 'many'\n"


def test_nothing_to_do_is_the_users_mistake(emudev):
    status, _, err = emudev("run")
    assert status == 2
    assert "expected --vdev" in err


def test_the_keys_of_a_driver_are_listed(emudev):
    status, out, _ = emudev("run", "--help-vdev", "emu_port")
    assert status == 0
    assert "  id=int >= 0  (default lowest free)" in out
    assert "  transport=text  (default loopback)" in out
    assert "  queues=int  (default 1)" in out
    status, out, _ = emudev("run", "--help-vdev", "loopback")
    assert (status, out.splitlines()[1]) == (
        0,
        "keys of loopback, given with those of a device: none",
    )
    status, _, err = emudev("run", "--help-vdev", "emu_prot")
    assert (status, err.count("did you mean emu_port?")) == (2, 1)


SERVER = """
import sys
from emudev_core.cli import program
from emudev_core.testing import exerciser, loopback, port
from emudev_core.testing.builders import make_plugins
program.load_plugins = lambda: make_plugins(loopback.SPEC, exerciser.SPEC, port.SPEC)
sys.exit(program.main(sys.argv[1:]))
"""


def serve(*argv, ignoring=False):
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, "run", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignoring else None,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_says_when_it_is_ready_and_ends_cleanly(number):
    vdevs = ["--vdev", "emu_port,id=0", "--vdev", "emu_exerciser,id=5", "--suggest"]
    with serve(*vdevs, ignoring=True) as process:
        line = process.stdout.readline()
        assert line == (
            "emudev: ready: port_emudev_0 at loopback:port_emudev_0, "
            "exerciser_emudev_5 at loopback:exerciser_emudev_5\n"
        )
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 0
    assert "error" not in err


def test_a_reader_that_goes_away_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from emudev_core.cli import main; sys.exit(main(['plugins', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=20
    )
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
