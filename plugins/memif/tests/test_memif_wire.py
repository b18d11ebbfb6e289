"""The messages against golden bytes, both ways, and what does not decode."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from emudev_core.errors import DecodeError
from emudev_memif import wire

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "messages.toml").read_text())["message"]


def _bytes(golden: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(golden["hex"].split())).ljust(128, b"\0")


@pytest.mark.parametrize("golden", GOLDEN, ids=[m["name"] for m in GOLDEN])
def test_a_message_decodes_to_its_fields(golden: dict[str, Any]) -> None:
    message = wire.decode(_bytes(golden))
    assert type(message).__name__ == golden["struct"]
    for name, value in golden["fields"].items():
        assert getattr(message, name) == value, name
    for name, value in golden.get("text", {}).items():
        assert wire.text(getattr(message, name)) == value, name


@pytest.mark.parametrize("golden", GOLDEN, ids=[m["name"] for m in GOLDEN])
def test_the_fields_of_a_message_encode_to_its_bytes(golden: dict[str, Any]) -> None:
    texts = {name: value.encode() for name, value in golden.get("text", {}).items()}
    message = getattr(wire, golden["struct"])(**golden["fields"], **texts)
    assert message.pack() == _bytes(golden)


def test_every_type_has_a_golden_message() -> None:
    types = {_bytes(golden)[0] for golden in GOLDEN}
    assert types == {1, 2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("size", [0, 1, 2, 127, 129, 256])
def test_other_sizes_are_no_messages(size: int) -> None:
    with pytest.raises(DecodeError, match=f"Invalid message size: expected 128 bytes, came {size}"):
        wire.decode(b"\1".ljust(size, b"\0")[:size])


@pytest.mark.parametrize("number", [0, 9, 0x0101, 0xFFFF])
def test_other_types_are_no_messages(number: int) -> None:
    with pytest.raises(DecodeError, match=f"Invalid message type: {number}"):
        wire.decode(number.to_bytes(2, "little").ljust(128, b"\0"))


def test_texts_are_cut_so_that_a_nul_ends_them() -> None:
    assert wire.string("a" * 40, 32) == b"a" * 31 + b"\0"
    assert wire.string("ab", 4) == b"ab\0\0"


def test_texts_of_a_peer_hold_nothing_that_a_terminal_would_obey() -> None:
    assert wire.text(b"\x1b[31mred\nline\xff\0rest") == "?[31mred?line\ufffd"
    assert wire.text(b"x" * 32) == "x" * 32
