"""VERSION: what is answered to which offer."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emudev_core.errors import DecodeError, PeerError
from emudev_vfio_user.version import Limits, accept, answer, offer

#: What QEMU 11.1.3 sends. Origin: recorded, see golden/.
QEMU = (
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, '
    b'"max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, '
    b'"write_multiple": true}}\0'
)


def _request(text: bytes, major: int = 0, minor: int = 0) -> bytes:
    return struct.pack("<HH", major, minor) + text


def _answered(payload: bytes) -> dict[str, object]:
    assert payload[-1] == 0
    found: dict[str, object] = json.loads(payload[4:-1])
    return found


def test_qemus_offer_is_answered_with_a_subset_that_is_no_longer() -> None:
    limits, reply = accept(_request(QEMU))
    assert len(_request(QEMU)) + 16 == 214
    assert len(reply) <= len(_request(QEMU))
    assert reply[:4] == bytes(4)
    assert _answered(reply) == {
        "capabilities": {
            "max_msg_fds": 16,
            "max_data_xfer_size": 1048576,
            "max_dma_maps": 65535,
            "pgsizes": 4096,
            "write_multiple": True,
        }
    }
    assert limits == Limits(16, 1048576, 65535, write_multiple=True, minor=0)


@pytest.mark.parametrize(("offered", "answered"), [(0, 0), (1, 1), (8, 8), (64, 64), (1024, 64)])
def test_announces_at_most_64_descriptors_and_no_more_than_the_client(
    offered: int, answered: int
) -> None:
    _, reply = accept(_request(b'{"capabilities":{"max_msg_fds":%d}}      \0' % offered))
    assert _answered(reply) == {"capabilities": {"max_msg_fds": answered}}


@pytest.mark.parametrize("text", [b"", b"{}\0", b'{"capabilities":{}}\0', b'{"other":[1]}\0'])
def test_nothing_offered_is_answered_with_an_empty_object_and_defaults(text: bytes) -> None:
    limits, reply = accept(_request(text))
    assert _answered(reply) in ({}, {"capabilities": {}})
    assert limits == Limits(1, 1048576, 65535, write_multiple=False, minor=0)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_msg_fds": st.integers(0, 1024),
            "max_data_xfer_size": st.integers(0, 1 << 64),
            "max_dma_maps": st.integers(0, 1 << 64),
            "pgsizes": st.integers(0, 1 << 63),
            "write_multiple": st.booleans(),
            "unheard_of": st.integers(),
        },
    )
)
def test_no_answer_is_longer_than_the_request_or_more_than_was_offered(
    offered: dict[str, int],
) -> None:
    text = json.dumps({"capabilities": offered}, separators=(",", ":")).encode() + b"\0"
    _, reply = accept(_request(text))
    assert len(reply) <= len(_request(text))
    given_back = _answered(reply).get("capabilities", {})
    assert isinstance(given_back, dict)
    assert all(value <= offered[key] for key, value in given_back.items())


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (2, 1), (999, 1)])
def test_answers_a_minor_version_that_is_no_higher_than_asked(asked: int, given: int) -> None:
    _, reply = accept(_request(QEMU, minor=asked))
    assert struct.unpack_from("<HH", reply) == (0, given)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        _request(b'{"capabilities":{}}'),  # no NUL
        _request(b"\0"),
        _request(b"{\0"),
        _request(b"[]\0"),
        _request(b"7\0"),
        _request(b'{"capabilities":[]}\0'),
        _request(b'{"capabilities":{"max_msg_fds":"8"}}\0'),
        _request(b'{"capabilities":{"max_msg_fds":-1}}\0'),
        _request(b'{"capabilities":{"max_msg_fds":1025}}\0'),
        _request(b'{"capabilities":{"max_data_xfer_size":-1}}\0'),
        _request(b'{"capabilities":{"write_multiple":1}}\0'),
        _request(b'{"capabilities":{"twin_socket":true}}\0'),
        _request(b'{"capabilities":\xff\xfe}\0'),
        _request(b"[" * 100_000 + b"\0"),
    ],
)
def test_a_malformed_offer_is_refused_with_einval(payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        accept(payload)
    assert caught.value.errno == 22


def test_another_major_version_is_refused() -> None:
    with pytest.raises(PeerError, match="major version 1, expected 0"):
        accept(_request(QEMU, major=1))


def test_the_clients_offer_is_understood_by_the_server_and_back() -> None:
    _, reply = accept(offer())
    assert answer(reply) == Limits(64, 1048576, 65535, write_multiple=True)


@pytest.mark.parametrize(("major", "minor"), [(1, 0), (0, 2)])
def test_the_client_refuses_a_version_that_it_did_not_offer(major: int, minor: int) -> None:
    with pytest.raises(PeerError, match=f"version {major}.{minor}"):
        answer(_request(b"{}\0", major, minor))
