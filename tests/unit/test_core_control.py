"""The control socket: bytes by hand, and the client of programs."""

import os
import socket
import threading

import pytest

from emudev_core import __version__
from emudev_core.control.client import Client, ControlError
from emudev_core.errors import TransportError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.testing.control import Looker, Wire


class Broken:
    @hookimpl
    def emudev_get_state(self):
        raise RuntimeError("no idea")


# -- the protocol, as docs/control.md has it


def test_the_first_line_says_who_is_there(server):
    with Wire(server) as wire:
        assert wire.line() == {
            "type": "hello",
            "id": 0,
            "version": 1,
            "emudev": __version__,
            "pid": os.getpid(),
        }


def test_devices_are_listed(wire):
    assert wire.ask(b'{"op":"list","id":7}') == {
        "type": "devices",
        "id": 7,
        "devices": [
            {
                "name": "port_emudev_0",
                "provider": "emu_port",
                "type": "port",
                "state": "started",
                "address": "",
                "backends": [],
                "error": "",
            }
        ],
    }


def test_replies_come_in_order_with_the_ids_of_their_requests(wire):
    lines = [b'{"op":"list","id":%d}' % number for number in (3, 1, 2)]
    wire.socket.sendall(b"\n".join(lines) + b"\n")
    assert [wire.line()["id"] for _ in lines] == [3, 1, 2]


def test_a_request_may_come_byte_by_byte(wire):
    for byte in b'{"op":"list","id":1}':
        wire.socket.send(bytes([byte]))
        wire.turn()
    assert wire.data == b""
    assert wire.ask(b"")["id"] == 1


def test_members_show_sections_beside_those_of_the_core(wire, port_device):
    port_device.register(Looker(), "looker")
    reply = wire.ask(b'{"op":"show","id":1,"device":"port_emudev_0"}')
    assert (reply["type"], reply["device"]) == ("state", "port_emudev_0")
    names = [(section["member"], section["name"]) for section in reply["sections"]]
    assert names == [
        ("core", "device"), ("core", "queues"), ("core", "memory"), ("looker", "taps")
    ]  # fmt: skip
    assert reply["sections"][3] == {
        "name": "taps",
        "member": "looker",
        "doc": "what it has",
        "rows": [{"fd": 7, "flags": 4098}],
        "hex": ["flags"],
        "cut": False,
        "error": "",
    }
    queues = reply["sections"][1]["rows"]
    assert [(row["queue"], row["direction"]) for row in queues] == [
        (0, "rx"), (1, "tx"), (2, "rx"), (3, "tx")
    ]  # fmt: skip


def test_only_the_wanted_sections_are_read(wire, port_device):
    looker = Looker()
    looker.sections.add("slow", "", lambda: pytest.fail("nobody asked for it"))
    port_device.register(looker, "looker")
    reply = wire.ask(b'{"op":"show","id":1,"device":"port_emudev_0","sections":["taps"]}')
    assert [section["name"] for section in reply["sections"]] == ["taps"]


def test_a_section_of_a_member_takes_the_place_of_the_cores(wire, port_device):
    looker = Looker()
    looker.sections.add("queues", "in full", lambda: [{"queue": 0, "head": 9}])
    port_device.register(looker, "looker")
    reply = wire.ask(b'{"op":"show","id":1,"device":"port_emudev_0","sections":["queues"]}')
    assert [section["rows"] for section in reply["sections"]] == [[{"queue": 0, "head": 9}]]


def test_a_member_that_fails_is_shown_as_such_and_hides_nothing(wire, port_device):
    port_device.register(Broken(), "broken")
    looker = Looker()
    looker.sections.add("odd", "", lambda: [{"what": object()}])
    port_device.register(looker, "looker")
    reply = wire.ask(b'{"op":"show","id":1,"device":"port_emudev_0"}')
    found = {section["name"]: section for section in reply["sections"]}
    assert "no idea" in found["error"]["error"]
    assert found["odd"]["rows"] == []
    assert "object" in found["odd"]["error"]
    assert found["taps"]["rows"] == [{"fd": 7, "flags": 4098}]


def test_a_section_without_end_is_cut(wire, port_device):
    looker = Looker()
    looker.sections.add("long", "", lambda: ({"row": number} for number in range(10**9)))
    port_device.register(looker, "looker")
    [section] = wire.ask(b'{"op":"show","id":1,"device":"port_emudev_0","sections":["long"]}')[
        "sections"
    ]
    assert section["cut"] is True
    assert len(section["rows"]) == 4096


def test_counters_of_all_queues(wire, port_device):
    port_device.members[0].plugin.transmit(bytes(60))
    queue = port_device.get_queue_info(1).kernels
    queue.release(queue.state, 0, 1)
    [section] = wire.ask(b'{"op":"stats","id":1}')["sections"]
    row = {"device": "port_emudev_0", "direction": "tx", "dropped": 0, "reasons": ""}
    assert {**row, "queue": 1, "packets": 1, "bytes": 60} in section["rows"]
    assert len(section["rows"]) == 4


def test_attributes_are_read_and_set(wire):
    reply = wire.ask(b'{"op":"get-attributes","id":1,"device":"port_emudev_0","name":"link"}')
    [shown] = reply["attributes"]
    assert (shown["name"], shown["type"], shown["value"]) == ("link", "bool", False)
    done = wire.ask(
        b'{"op":"set-attribute","id":2,"device":"port_emudev_0","name":"link","value":true}'
    )
    assert done == {"type": "done", "id": 2, "device": "port_emudev_0", "text": ""}
    reply = wire.ask(b'{"op":"get-attributes","id":3,"device":"port_emudev_0","name":"link"}')
    assert reply["attributes"][0]["value"] is True


def test_the_link_of_a_device_without_more_follows_the_attribute(wire, port_device):
    request = b'{"op":"set-link","id":1,"device":"port_emudev_0","state":"up","speed":100}'
    assert wire.ask(request)["type"] == "done"
    assert (port_device.get_attr("link"), port_device.get_attr("speed")) == (True, 100)
    refused = wire.ask(b'{"op":"set-link","id":2,"device":"port_emudev_0","state":"auto"}')
    assert (refused["type"], refused["kind"]) == ("error", "device")


def test_events_are_followed_with_the_id_of_the_request(wire, port_device):
    done = wire.ask(b'{"op":"follow","id":5,"device":"port_emudev_0"}')
    assert (done["type"], done["id"]) == ("done", 5)
    port_device.post_event(Event(EventKind.LINK, value=1))
    port_device.post_event(Event(EventKind.QUEUE_STATE, queue=3, value=0, text="why"))
    first, second = wire.line(), wire.line()
    assert first.pop("time") > 1.7e9
    assert first == {
        "type": "event", "id": 5, "device": "port_emudev_0",
        "kind": "link", "queue": -1, "value": 1, "text": "",
    }  # fmt: skip
    assert (second["kind"], second["queue"], second["text"]) == ("queue-state", 3, "why")


def test_a_follower_that_goes_is_not_subscribed_any_more(wire, port_device, server):
    wire.ask(b'{"op":"follow","id":5}')
    assert len(port_device._channels) == 1
    wire.socket.close()
    for _ in range(3):
        server.loop.turn(0.01)
    assert port_device._channels == []
    port_device.post_event(Event(EventKind.LINK, value=1))
    server.loop.turn(0.01)


# -- requests that can't be


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (b"hello", "request", "malformed"),
        (b"\xff\xfe", "request", "malformed"),
        (b'{"op":"show","id":5,"device":"\xff"}', "request", "utf-8"),
        (b'{"op":"show","id":5,"de\x80ice":"x"}', "request", "utf-8"),
        (b"[1,2]", "request", "Expected `object`"),
        (b'{"op":"lst","id":4}', "request", "Invalid value 'lst'"),
        (b'{"op":"list"}', "request", "missing required field `id`"),
        (b'{"op":"list","id":-1}', "request", ">= 0"),
        (b'{"op":"list","id":4,"divice":"x"}', "request", "unknown field `divice`"),
        (b'{"op":"show","id":4,"device":5}', "request", "Expected `str`, got `int`"),
        (b'{"op":"show","id":4,"device":"prt_emudev_0"}', "unknown", "did you mean port_emudev_0"),
        (
            b'{"op":"show","id":4,"device":"port_emudev_0","sections":["queue"]}',
            "unknown",
            "did you mean queues",
        ),
        (
            b'{"op":"get-attributes","id":4,"device":"port_emudev_0","name":"lnk"}',
            "unknown",
            "did you mean link",
        ),
        (
            b'{"op":"set-attribute","id":4,"device":"port_emudev_0","name":"speed","value":"x"}',
            "request",
            "takes int, came 'x'",
        ),
        (
            b'{"op":"set-attribute","id":4,"device":"port_emudev_0","name":"speed","value":true}',
            "request",
            "takes int, came True",
        ),
        (b'{"op":"set-link","id":4,"device":"port_emudev_0"}', "request", "changes nothing"),
        (b'{"op":"set-link","id":4,"device":"port_emudev_0","speed":0}', "request", ">= 1"),
        (b'{"op":"reset","id":4,"device":"port_emudev_0"}', "device", "pf_reset"),
        (b'{"op":"follow","id":4,"device":"nobody"}', "unknown", "no device nobody"),
        (b'{"op":"list","id":4' + b"[" * 50000 + b"}", "request", "expected a request"),
    ],
)
def test_what_can_not_be_gets_an_error_and_the_connection_goes_on(wire, line, kind, words):
    reply = wire.ask(line)
    assert (reply["type"], reply["kind"]) == ("error", kind)
    assert words in reply["message"]
    whole = b'"id":4' in line and line.endswith(b"}") and b"[[" not in line
    assert reply["id"] == (4 if whole else 0)
    assert wire.ask(b'{"op":"list","id":9}')["id"] == 9


def test_an_error_says_what_was_expected_and_what_came(wire):
    reply = wire.ask(b'{"op":"show","id":4,"device":"avf"}')
    assert (reply["expected"], reply["came"]) == ("port_emudev_0", "avf")


def test_a_plugin_that_raises_is_an_internal_error_and_the_loop_goes_on(
    wire, port_device, monkeypatch
):
    monkeypatch.setitem(vars(port_device), "set_attr", lambda name, value: 1 / 0)
    request = b'{"op":"set-attribute","id":1,"device":"port_emudev_0","name":"link","value":true}'
    reply = wire.ask(request)
    assert (reply["type"], reply["kind"]) == ("error", "internal")
    assert "ZeroDivisionError" in reply["message"]
    assert wire.ask(b'{"op":"list","id":9}')["id"] == 9


# -- the client of programs


@pytest.fixture
def running(server):
    """The loop on a thread of its own."""
    thread = threading.Thread(target=server.loop.run)
    thread.start()
    yield server
    server.loop.stop()
    thread.join()


def test_a_program_drives_a_process(running, port_host):
    with Client.connect(running.path) as client:
        assert client.hello.pid == os.getpid()
        [device] = client.devices()
        assert device.name == "port_emudev_0"
        assert client.show(device.name, "memory")[0].name == "memory"
        assert len(client.stats()) == 4
        client.set_link(device.name, state="up", speed=1000)
        assert client.attributes(device.name, "speed")[0].value == 1000
        client.set_attribute(device.name, "link", False)
        with pytest.raises(ControlError, match="did you mean link") as raised:
            client.set_attribute(device.name, "lnik", True)
        assert raised.value.error.kind == "unknown"
        with pytest.raises(ControlError, match="pf_reset"):
            client.reset(device.name)
        events = client.follow(device.name)
        event = Event(EventKind.LINK, value=1)
        port_host.loop.call_threadsafe(
            lambda: port_host.registry.get("port_emudev_0").post_event(event)
        )
        assert next(events).kind == "link"


def test_a_program_is_told_why_it_can_not_connect(tmp_path, monkeypatch):
    with pytest.raises(TransportError, match="no such socket"):
        Client.connect(tmp_path / "none.sock")
    monkeypatch.setenv("EMUDEV_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(TransportError, match="expected one process"):
        Client.connect()


def test_a_program_does_not_talk_to_another_version(tmp_path):
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"type":"hello","version":2,"emudev":"9.0","pid":1}\n')
    with pytest.raises(TransportError, match="version 1, came 2"):
        Client(ours)
    theirs.close()
