"""Both ends without sockets: tables, sound handshakes, and anything at all.

Expectations: memif.md 2 and 8. Records are built of numbers by `emudev_memif.testing`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.errors import PeerError
from emudev_core.testing.builders import descriptors
from emudev_memif.layout import RingPlace
from emudev_memif.protocol import (
    CLIENT,
    SERVER,
    Accepted,
    Claimed,
    Closed,
    Greeted,
    Offered,
    ServerProtocol,
    State,
    Up,
)
from emudev_memif.regions import check_memory
from emudev_memif.testing import records
from emudev_memif.testing.ends import RING, Client, Server, make_descriptors
from emudev_memif.wire import Hello, MessageType

pytestmark = pytest.mark.usefixtures("tidy")

RECORDED = tomllib.loads((Path(__file__).parent / "golden" / "dpdk-22.11.11.toml").read_text())


# -- sound handshakes


def test_a_server_greets_with_its_limits_as_indices() -> None:
    greeting = ServerProtocol(
        Hello(name=b"emudev", max_s2c_ring=1, max_c2s_ring=1), lambda id: None
    ).pending()
    assert greeting == (records.hello(name=b"emudev", s2c=1, c2s=1), None)


def test_a_server_takes_what_dpdk_sends_and_answers_each_record() -> None:
    server = Server(pairs=2, secret=b"abc")
    events = []
    for number, step in enumerate(RECORDED["client"]):
        make = {
            None: None,
            "memory": lambda: records.memory_file(8454656),
            "eventfd": records.event_file,
        }
        maker = make[step.get("fd")]
        fds = [] if maker is None else [maker()]
        events += server.give(bytes.fromhex(step["hex"]).ljust(128, b"\0"), *fds)
        if number == 0:
            assert events == [Claimed(7, "DPDK 22.11.11")]
            server.protocol.accept()
            server.collect()
    offered = events[1]
    assert isinstance(offered, Offered)
    assert offered.interface == "net_memif0"
    assert [region.size for region in offered.regions] == [8454656]
    assert [(ring.name, ring.place) for ring in offered.rings] == [
        ("C2S ring 0", RingPlace(0, 0x0000, 10)),
        ("C2S ring 1", RingPlace(0, 0x4080, 10)),
        ("S2C ring 0", RingPlace(0, 0x8100, 10)),
        ("S2C ring 1", RingPlace(0, 0xC180, 10)),
    ]
    assert server.sent == [records.ACK] * 6
    server.protocol.connected("memif_emudev_7")
    server.collect()
    assert server.sent[-1] == records.connected(b"memif_emudev_7")
    assert server.protocol.state is State.CONNECTED
    for fd in (*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)):
        os.close(fd)


def test_a_client_sends_one_record_for_each_that_it_gets(client: Client) -> None:
    events = []
    for answer in (
        records.hello(),
        records.ACK,
        records.ACK,
        records.ACK,
        records.ACK,
        records.connected(b"net_memif0"),
    ):
        events += client.give(answer)
    assert client.sent == [
        (records.init(7, b"abc", name=b"emudev"), None),
        (records.add_region(0, 1 << 20), client.memory),
        (records.add_ring(True, 0, 0, 0), client.c2s),
        (records.add_ring(False, 0, 0, RING), client.s2c),
        (records.connect(b"memif_emudev_0"), None),
    ]
    assert [type(event) for event in events] == [Greeted, Accepted, Up]
    assert events[0].server == "by hand"
    assert events[2] == Up("net_memif0")
    assert client.protocol.state is State.CONNECTED


def test_a_client_understands_the_hello_of_dpdk(client: Client) -> None:
    (event,) = client.give(bytes.fromhex(RECORDED["hello"]).ljust(128, b"\0"))
    assert event.server == "DPDK 22.11.11"
    assert (event.hello.max_c2s_ring, event.hello.max_s2c_ring, event.hello.max_log2) == (
        255,
        255,
        14,
    )


def test_a_client_is_told_why_dpdk_leaves(client: Client) -> None:
    client.reach(State.OFFERING)
    events = client.give(bytes.fromhex(RECORDED["wrong_size"]).ljust(128, b"\0"))
    assert events == [Closed("Invalid message size", False)]
    assert client.sent == []


@pytest.mark.parametrize("versions", [(0x200, 0x200), (0x100, 0x200), (0x200, 0x300), (0, 0xFFFF)])
def test_a_client_asks_for_2_0_of_any_range_that_has_it(
    client: Client, versions: tuple[int, int]
) -> None:
    client.give(records.hello(*versions))
    assert client.sent[0][0][2:4] == b"\x00\x02"


def test_regions_and_rings_may_be_mixed_as_long_as_the_region_comes_first(server: Server) -> None:
    server.claim()
    server.give(records.add_region(0), records.memory_file())
    server.give(records.add_ring(False, 0, 0, 0), records.event_file())
    server.give(records.add_region(1), records.memory_file())
    server.give(records.add_ring(True, 0, 1, 0), records.event_file())
    (offered,) = server.give(records.connect())
    assert [(ring.c2s, ring.place.region) for ring in offered.rings] == [(True, 1), (False, 0)]
    for fd in (*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)):
        os.close(fd)


def test_a_secret_of_24_bytes_needs_no_nul() -> None:
    server = Server(secret=b"abcdefghijklmnopqrstuvwx")
    assert server.give(records.init(7, b"abcdefghijklmnopqrstuvwx"))[0] == Claimed(7, "by hand")


def test_no_secret_admits_a_client_that_sends_one(server: Server) -> None:
    assert server.give(records.init(7, b"anything"))[0] == Claimed(7, "by hand")


# -- tables


@pytest.mark.parametrize("table", [SERVER, CLIENT], ids=["server", "client"])
def test_every_state_but_the_end_can_be_left_and_takes_disconnect(table: Any) -> None:
    states = {state for state, _ in table} | set(table.values())
    for state in states - {State.CLOSED}:
        assert table[state, MessageType.DISCONNECT] is State.CLOSED
    assert not any(state is State.CLOSED for state, _ in table)


SERVER_STATES = [State.GREETED, State.CLAIMED, State.OFFERED, State.COMPLETE, State.CONNECTED]
SOUND = {
    MessageType.ACK: records.ACK,
    MessageType.HELLO: records.hello(),
    MessageType.INIT: records.init(7),
    MessageType.ADD_REGION: records.add_region(1),
    MessageType.ADD_RING: records.add_ring(True, 1, 0, 4 * RING),
    MessageType.CONNECT: records.connect(),
    MessageType.CONNECTED: records.connected(),
    MessageType.DISCONNECT: records.disconnect(),
}


def _server_in(state: State) -> tuple[Server, list[int]]:
    """A server in a state, and descriptors that it handed over."""
    server = Server()
    handed: list[int] = []
    if state is State.CLAIMED:
        server.give(records.init(7))
    elif state is State.OFFERED:
        server.offer()
    elif state in (State.COMPLETE, State.CONNECTED):
        server.offer()
        (offered,) = server.give(records.connect())
        handed = [*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)]
        if state is State.CONNECTED:
            server.protocol.connected("x")
            server.collect()
    server.sent.clear()
    assert server.protocol.state is state
    return server, handed


@pytest.mark.parametrize("kind", [*SOUND])
@pytest.mark.parametrize("state", SERVER_STATES, ids=lambda state: state.value)
def test_a_server_takes_what_its_table_has_and_refuses_the_rest(
    state: State, kind: MessageType
) -> None:
    server, handed = _server_in(state)
    fds = {
        MessageType.ADD_REGION: [records.memory_file],
        MessageType.ADD_RING: [records.event_file],
    }.get(kind, [])
    events = server.give(SOUND[kind], *(make() for make in fds))
    if (state, kind) in SERVER:
        assert server.protocol.state is SERVER[state, kind]
    else:
        assert server.refused() == f"Unexpected message: {kind.name} while {state.value}"
    for event in events:
        if isinstance(event, Offered):
            handed += [*(r.fd for r in event.regions), *(r.fd for r in event.rings)]
    server.protocol.gone()
    for fd in handed:
        os.close(fd)


_records = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda kind, rest: kind.to_bytes(2, "little") + rest.ljust(126, b"\0"),
        st.integers(0, 10),
        st.binary(max_size=126),
    ),
    st.sampled_from([*SOUND.values()]),
    st.builds(
        lambda data, at, value: data[:at] + bytes([value]) + data[at + 1 :],
        st.sampled_from([*SOUND.values()]),
        st.integers(0, 127),
        st.integers(0, 255),
    ),
)
_fds = st.lists(st.sampled_from(["memory", "eventfd", "pipe"]), max_size=3)


@given(
    state=st.sampled_from(SERVER_STATES),
    steps=st.lists(st.tuples(_records, _fds, st.booleans()), min_size=1, max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_a_server_survives_anything_in_any_state(
    state: State, steps: list[tuple[bytes, list[str], bool]]
) -> None:
    before = descriptors()
    server, handed = _server_in(state)
    for data, kinds, truncated in steps:
        fds = [fd for kind in kinds for fd in make_descriptors(kind)]
        events = server.give(data, *fds, truncated=truncated)
        assert len(events) <= 1
        for event in events:
            if isinstance(event, Claimed):
                server.protocol.accept()
            elif isinstance(event, Offered):
                handed += [*(r.fd for r in event.regions), *(r.fd for r in event.rings)]
                server.protocol.connected("x")
            elif isinstance(event, Closed):
                assert server.protocol.state is State.CLOSED
        server.collect()
        assert all(len(sent) == 128 for sent in server.sent)
    server.protocol.gone()
    for fd in handed:
        os.close(fd)
    assert descriptors() == before


@given(
    state=st.sampled_from([State.GREETING, State.ASKING, State.OFFERING, State.CONNECTED]),
    steps=st.lists(st.tuples(_records, _fds, st.booleans()), min_size=1, max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_a_client_survives_anything_in_any_state(
    state: State, steps: list[tuple[bytes, list[str], bool]]
) -> None:
    before = descriptors()
    client = Client()
    client.reach(state)
    for data, kinds, truncated in steps:
        fds = [fd for kind in kinds for fd in make_descriptors(kind)]
        events = client.give(data, *fds, truncated=truncated)
        assert len(events) <= 1
    client.protocol.gone()
    client.close()
    assert descriptors() == before


def test_a_check_that_refuses_leaves_the_descriptor_to_be_closed() -> None:
    fd = records.memory_file(4096)
    with pytest.raises(PeerError):
        check_memory(fd, 4097, 0, 1 << 20)
    os.close(fd)  # it was still there
