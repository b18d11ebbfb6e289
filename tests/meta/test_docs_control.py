"""The page on the control socket says what the protocol is."""

import json
import re
from pathlib import Path

import msgspec

from emudev_core.cli.ctl import COMMAND
from emudev_core.cli.program import make_parser
from emudev_core.control import protocol, server

PAGE = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for line in block.split("\n")
]
REQUESTS = [line for line in LINES if '"op"' in line]
REPLIES = [line for line in LINES if '"type"' in line and '"op"' not in line]


def fields(classes):
    return {one.__struct_config__.tag: set(one.__struct_fields__) for one in classes}


def test_every_request_is_shown_with_all_its_fields_and_is_one():
    shown = {}
    for line in REQUESTS:
        request = protocol.decode_request(line.encode())
        assert json.loads(protocol.encode(request)) == json.loads(line)
        shown[json.loads(line)["op"]] = set(json.loads(line)) - {"op"}
    assert shown == fields(protocol.Request.__args__)


def test_every_reply_is_shown_with_all_its_fields_and_is_one():
    shown = {}
    for line in REPLIES:
        reply = protocol.decode_reply(line.encode())
        assert json.loads(protocol.encode(reply)) == json.loads(line)
        shown[json.loads(line)["type"]] = set(json.loads(line)) - {"type"}
    assert shown == fields(protocol.Reply.__args__)


def test_the_kinds_of_errors_and_the_limits_are_named():
    [kind] = [f for f in msgspec.inspect.type_info(protocol.Error).fields if f.name == "kind"]
    for name in kind.type.values:
        assert f"`{name}`" in PAGE
    assert f"more than {protocol.MAX_LINE} bytes" in PAGE
    assert f"{server.MAX_CLIENTS} clients" in PAGE
    assert f"for {server.PATIENCE:g} s" in PAGE
    assert f"more than {server.MAX_WAITING >> 20} MiB" in PAGE
    assert f"version {protocol.VERSION}." in PAGE


def test_every_action_is_in_the_table():
    parser = make_parser({"ctl": COMMAND})
    parser.parse_args(["ctl", "list"])
    known = re.findall(r"^\| `([a-z-]+)", PAGE, re.MULTILINE)
    for name in known:
        words = {"set-link": ["d", "up"], "set": ["d", "mac", "x"]}.get(name, ["d"])
        arguments = make_parser({"ctl": COMMAND}).parse_args(
            ["ctl", name, *([] if name == "list" else words)]
        )
        assert arguments.action == name
    assert set(known) == {
        "list", "show", "stats", "set-link", "set", "reset", "attr", "events"
    }  # fmt: skip


def test_the_schema_knows_every_message_and_what_it_says_is_resolvable():
    schema = protocol.schema()
    text = json.dumps(schema)
    for tag in [*fields(protocol.Request.__args__), *fields(protocol.Reply.__args__)]:
        assert f'"{tag}"' in text
    for name in re.findall(r'"#/\$defs/(\w+)"', text):
        assert name in schema["$defs"]
