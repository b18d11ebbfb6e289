"""Messages against golden bytes, both ways."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from emudev_core.errors import DecodeError
from emudev_vfio_user import messages
from emudev_vfio_user.messages import Header

GOLDEN = Path(__file__).parent / "golden"
MESSAGES = tomllib.loads((GOLDEN / "messages.toml").read_text())["message"]


def _fields(part: dict[str, Any]) -> dict[str, Any]:
    return {k: bytes.fromhex(v) if k == "data" else v for k, v in part["fields"].items()}


@pytest.mark.parametrize("golden", MESSAGES, ids=lambda m: m["name"])
def test_golden_bytes_decode_to_their_fields(golden: dict[str, Any]) -> None:
    data = bytes.fromhex(golden["hex"])
    assert Header.unpack(data) == Header(**golden["header"])
    assert len(data) == golden["header"]["msg_size"]
    at = Header.SIZE
    for part in golden["parts"]:
        kind = getattr(messages, part["struct"])
        assert kind.unpack(data, at) == kind(**_fields(part))
        at += kind.SIZE
    assert data[at:] == bytes.fromhex(golden.get("tail", ""))


@pytest.mark.parametrize("golden", MESSAGES, ids=lambda m: m["name"])
def test_fields_encode_to_the_golden_bytes(golden: dict[str, Any]) -> None:
    made = Header(**golden["header"]).pack()
    for part in golden["parts"]:
        made += getattr(messages, part["struct"])(**_fields(part)).pack()
    made += bytes.fromhex(golden.get("tail", ""))
    assert made.hex() == bytes.fromhex(golden["hex"]).hex()


@pytest.mark.parametrize("name", ["DmaMap", "DmaUnmap", "SetIrqs", "RegionAccess", "Version"])
def test_a_short_payload_names_the_struct_and_the_need(name: str) -> None:
    kind = getattr(messages, name)
    with pytest.raises(DecodeError, match=f"{name} needs {kind.SIZE} bytes, {kind.SIZE - 1} came"):
        kind.unpack(bytes(kind.SIZE - 1))


def test_an_unknown_command_keeps_its_number() -> None:
    assert Header.unpack(Header(1, 999, 16).pack()).command == 999
    assert messages.command_name(999) == "command 999"
    assert messages.command_name(9) == "REGION_READ"
