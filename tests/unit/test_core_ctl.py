"""`emudev ctl` against a process that this one plays: what is printed, and the exit status."""

import errno
import json
import socket
import threading
from unittest.mock import Mock

import pytest

from emudev_core.cli import ctl, program
from emudev_core.control import client, places
from emudev_core.control.protocol import SectionRecord
from emudev_core.control.server import ControlServer
from emudev_core.events import Event, EventKind
from emudev_core.host import Host
from emudev_core.testing import port
from emudev_core.testing.builders import make_plugins

DEVICE = "port_emudev_0"


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A process with a device, its loop on a thread."""
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", str(tmp_path / "run"))
    with Host(plugins=make_plugins(port.SPEC)) as host:
        host.add("emu_port,id=0,transport=")
        host.start()
        with ControlServer(host.registry, host.loop) as server:
            thread = threading.Thread(target=host.loop.run)
            thread.start()
            try:
                yield server
            finally:
                host.loop.stop()
                thread.join()


@pytest.fixture
def emudev(monkeypatch, capsys):
    monkeypatch.setattr(program, "load_plugins", lambda: make_plugins(port.SPEC))
    monkeypatch.setattr(program, "set_up_logging", lambda level, plugins: None)

    def call(*argv):
        try:
            status = program.main(["ctl", *argv])
        except SystemExit as exc:
            status = exc.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_devices_are_listed(emudev, running):
    assert emudev("list") == (
        0,
        "DEVICE         PROVIDER  STATE    BACKENDS  ADDRESS\n"
        "port_emudev_0  emu_port  started  -         -\n",
        "",
    )


def test_json_may_stand_before_and_behind_the_action(emudev, running):
    for words in (("--json", "list"), ("list", "--json")):
        status, out, _ = emudev(*words)
        assert status == 0
        assert json.loads(out)["devices"][0]["name"] == DEVICE


def test_a_device_is_shown_in_sections(emudev, running):
    status, out, _ = emudev("show", DEVICE)
    assert status == 0
    heads = [line.split(" ")[0] for line in out.splitlines() if not line.startswith(" ") and line]
    assert heads == ["device", "queues", "memory"]
    status, out, _ = emudev("show", DEVICE, "queues", "--json")
    assert [section["name"] for section in json.loads(out)["sections"]] == ["queues"]


def test_counters_are_a_table(emudev, running):
    status, out, _ = emudev("stats")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["DEVICE", "QUEUE", "DIRECTION"],
        [DEVICE, "0", "rx"],
        [DEVICE, "1", "tx"],
    ]


def test_attributes_are_read_and_set_as_their_types(emudev, running):
    assert emudev("attr", DEVICE, "link")[1] == "no\n"
    for word in ("yes", "UP", "on", "true"):
        assert emudev("attr", DEVICE, "link", word) == (0, "", "")
        assert emudev("attr", DEVICE, "link")[1] == "yes\n"
        assert emudev("attr", DEVICE, "link", "off") == (0, "", "")
    assert emudev("attr", DEVICE, "speed", "0x64") == (0, "", "")
    _, out, _ = emudev("attr", DEVICE, "speed", "--json")
    assert json.loads(out)[0]["value"] == 100
    assert "MEANING" in emudev("attr", DEVICE)[1]


def test_the_link_is_set(emudev, running):
    assert emudev("set-link", DEVICE, "up") == (0, "", "")
    assert emudev("set-link", DEVICE, "speed", "2500") == (0, "", "")
    assert emudev("attr", DEVICE, "link")[1] == "yes\n"
    assert emudev("attr", DEVICE, "speed")[1] == "2500\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "expected an action"),
        (["lst"], 2, "no 'lst' (did you mean list?)"),
        (["show", "prt_emudev_0"], 2, "did you mean port_emudev_0?"),
        (["show", DEVICE, "queue"], 2, "did you mean queues?"),
        (["show", DEVICE, "--jsn"], 2, "did you mean --json?"),
        (["attr", DEVICE, "lnk"], 2, "did you mean link?"),
        (["attr", DEVICE, "link", "yse"], 2, "no 'yse' (did you mean yes?)"),
        (["attr", DEVICE, "speed", "fast"], 2, "expected a number"),
        (["attr", DEVICE, "promiscuous", "yes"], 2, "no attribute promiscuous"),
        (["set-link", DEVICE, "upp"], 2, "no 'upp' (did you mean up?)"),
        (["set-link", DEVICE, "up", "100"], 2, "one argument too many"),
        (["set-link", DEVICE, "speed"], 2, "expected a number of Mbit/s"),
        (["set-link", DEVICE, "speed", "0"], 2, "expected 1 to 400000 Mbit/s, came 0"),
        (["set-link", DEVICE, "speed", "9" * 30], 2, "expected 1 to 400000 Mbit/s, came 999"),
        (["set", DEVICE, "mtu", "big"], 2, "expected a number of bytes"),
        (["set", DEVICE, "mtu", "67"], 2, "expected 68 to 65535 bytes, came 67"),
        (["set", DEVICE, "mtu", "1500"], 1, "attribute mtu is read-only"),
        (["attr", DEVICE, "mtu", "1500"], 1, "attribute mtu is read-only"),
        (["attr", DEVICE, "", "5"], 2, "expected the name of an attribute"),
        (["attr", DEVICE, "link", "\udcff"], 2, "no '\\udcff'"),
        (["attr", "prt_emudev_0"], 2, "did you mean port_emudev_0?"),
        (["set-link", "prt_emudev_0", "up"], 2, "did you mean port_emudev_0?"),
        (["set", "prt_emudev_0", "mtu", "1500"], 2, "did you mean port_emudev_0?"),
        (["reset", "prt_emudev_0"], 2, "did you mean port_emudev_0?"),
        (["stats", "prt_emudev_0"], 2, "did you mean port_emudev_0?"),
        (["events", "prt_emudev_0"], 2, "did you mean port_emudev_0?"),
        (["show", "two\nlines"], 2, "no device two lines"),
        (["show", "\udcff\udcfe"], 2, "expected text, came '\\udcff\\udcfe'"),
        (["reset", DEVICE], 1, "can't be reset from outside"),
        (["set-link", DEVICE, "auto"], 1, "by choice"),
        (["events", "--count", "0"], 2, "expected 1 or more"),
        (["list", "--control", "/nowhere/x.sock"], 1, "/nowhere/x.sock: no such socket"),
        (["list", "--control", "/"], 1, "control socket /: no process listens there"),
        (["list", "--control", "/" + 200 * "x"], 1, "too long"),
    ],
)
def test_what_can_not_be_is_one_line_and_a_status(emudev, running, words, status, message):
    got, out, err = emudev(*words)
    assert (got, out) == (status, "")
    assert err.startswith("emudev: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_without_a_process_it_says_what_to_do(emudev, monkeypatch, tmp_path):
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", str(tmp_path / "none"))
    status, _, err = emudev("list")
    assert status == 1
    assert "is `emudev run` running" in err


def test_a_socket_whose_process_has_ended_is_named(emudev, tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left.sock"))
    left.close()
    status, out, err = emudev("list", "--control", str(tmp_path / "left.sock"))
    assert (status, out) == (1, "")
    assert err == (
        f"emudev: error: control socket {tmp_path}/left.sock: no process listens there\n"
    )


def denied(*_):
    """What the system says of what is another user's."""
    raise PermissionError(errno.EACCES, "Permission denied")


def test_the_socket_of_another_user_is_refused_with_the_reason(emudev, monkeypatch):
    monkeypatch.setattr(client.socket, "socket", lambda *_: Mock(connect=denied))
    status, out, err = emudev("list", "--control", "/run/emudev/7.sock")
    assert (status, out) == (1, "")
    assert err == (
        "emudev: error: control socket /run/emudev/7.sock: permission denied: only the owner of the"
        " process and root may connect\n"
    )


def test_the_folder_of_another_user_is_not_taken_for_an_empty_one(emudev, monkeypatch):
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", "/run/theirs")
    monkeypatch.setattr(places.os, "listdir", denied)
    status, out, err = emudev("list")
    assert (status, out) == (1, "")
    assert err == (
        "emudev: error: /run/theirs: permission denied: only its owner and root may look for"
        " control sockets\n"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            b'{"type":"error","id":0,"kind":"permission","message":"only user 7 may connect"}\n',
            "only user 7 may connect",
        ),
        (
            b'{"type":"error","id":0,"kind":"busy","message":"16 clients are connected already"}\n',
            "16 clients are connected already",
        ),
        (b'{"type":"hello","version":2,"emudev":"9","pid":1}\n', "version 1, came 2"),
        (b"SSH-2.0\r\n", "expected a reply"),
        (b"", "did not greet"),
        (b'{"type":"hello","version":1,"emudev":"0.1.0","pid":1}\n', "closed the connection"),
    ],
    ids=["not-the-owner", "busy", "another-version", "another-protocol", "mute", "gone"],
)
def test_a_process_that_lets_nobody_in_or_goes_is_a_failure(emudev, tmp_path, lines, message):
    path = str(tmp_path / "other.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve():
            peer, _ = listening.accept()
            with peer:
                peer.sendall(lines)

        thread = threading.Thread(target=serve)
        thread.start()
        status, out, err = emudev("list", "--control", path)
        thread.join()
    assert (status, out) == (1, "")
    assert err.startswith("emudev: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_device_in_error_says_why_it_can_not_be_changed(emudev, running):
    device = running.registry.get(DEVICE)
    running.loop.call_threadsafe(lambda: device.fail("its cable was cut"))
    status, out, err = emudev("set-link", DEVICE, "up")
    assert (status, out) == (1, "")
    assert err == "emudev: error: port_emudev_0 is in state error: its cable was cut\n"


def test_of_several_processes_the_one_with_the_device_is_taken(emudev, running, tmp_path):
    with Host(plugins=make_plugins(port.SPEC)) as host:
        host.add("emu_port,id=7,transport=")
        host.start()
        other = running.path.with_name("9999999.sock")
        with ControlServer(host.registry, host.loop, other):
            thread = threading.Thread(target=host.loop.run)
            thread.start()
            try:
                status, _, err = emudev("list")
                assert status == 2
                assert f"{running.path} (port_emudev_0)" in err
                assert f"{other} (port_emudev_7)" in err
                assert "choose with --control PATH" in err
                assert emudev("attr", "port_emudev_7", "mtu") == (0, "9000\n", "")
                assert emudev("attr", DEVICE, "mtu") == (0, "9000\n", "")
                assert "port_emudev_7" in emudev("list", "--control", str(other))[1]
            finally:
                host.loop.stop()
                thread.join()


def test_events_are_followed_until_there_were_enough(emudev, running):
    device = running.registry.get(DEVICE)
    loop = running.loop

    def post():
        if device._channels:
            device.post_event(Event(EventKind.LINK, value=1, text="back"))
        loop.call_later(0.01, post)

    loop.call_threadsafe(post)
    status, out, _ = emudev("events", DEVICE, "--count", "2")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert out.splitlines()[0].endswith(f" {DEVICE} link 1 back")
    status, out, _ = emudev("events", "--count", "1", "--json")
    assert json.loads(out)["kind"] == "link"


def test_the_schema_is_printed_without_a_process(emudev, monkeypatch, tmp_path):
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", str(tmp_path / "none"))
    status, out, _ = emudev("--schema")
    assert status == 0
    assert json.loads(out)["version"] == 1


def test_sections_are_tables_lists_or_say_why_not():
    def text(**keys):
        return ctl.section_text(SectionRecord(name="s", member="m", doc="what", **keys))

    assert text() == "s (m): what\n  none"
    assert text(error="broken") == "s (m): what\n  can't be read: broken"
    rows = [{"a": 255, "b": True, "c": None}, {"a": 0, "b": False, "c": "x"}]
    assert text(rows=rows, hex=["a"], cut=True) == (
        "s (m): what\n  A     B    C\n  0xff  yes  -\n  0x0   no   x\n  ... and more"
    )
    one = [{"one": 1, "two": 2, "three": 3, "four": 4}]
    assert text(rows=one) == "s (m): what\n  one    1\n  two    2\n  three  3\n  four   4"
