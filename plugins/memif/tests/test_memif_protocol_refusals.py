"""What bad records get, at both ends and without sockets.

Expectations: memif.md 2 and 8. Records are built of numbers by `emudev_memif.testing`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from emudev_core.testing.builders import descriptors
from emudev_memif.protocol import Closed, State
from emudev_memif.testing.ends import RING, Client, Server, make_descriptors
from emudev_memif.testing.records import (
    ACK,
    add_region,
    add_ring,
    connect,
    connected,
    disconnect,
    event_file,
    hello,
    init,
    memory_file,
    record,
)

pytestmark = pytest.mark.usefixtures("tidy")


# -- what bad records get: a server


def _bad_init(**keys: Any) -> bytes:
    return init(**{"id": 7, **keys})


#: Name, interface's keys, record, words of the reason: sent where INIT is awaited.
BAD_INIT: list[tuple[str, dict[str, Any], bytes, str]] = [
    ("empty", {}, b"", "Invalid message size"),
    ("one byte short", {}, init(7)[:127], "Invalid message size"),
    ("one byte long", {}, init(7) + b"\0", "Invalid message size"),
    ("256 bytes", {}, init(7) * 2, "Invalid message size"),
    ("type 0", {}, record("H", 0), "Invalid message type: 0"),
    ("type 9", {}, record("H", 9), "Invalid message type: 9"),
    ("type 0x0103", {}, record("H", 0x103), "Invalid message type: 259"),
    ("ACK", {}, ACK, "Unexpected message: ACK"),
    ("HELLO", {}, hello(), "Unexpected message: HELLO"),
    ("CONNECTED", {}, connected(), "Unexpected message: CONNECTED"),
    ("ADD_REGION", {}, add_region(), "Unexpected message: ADD_REGION"),
    ("ADD_RING", {}, add_ring(), "Unexpected message: ADD_RING"),
    ("CONNECT", {}, connect(), "Unexpected message: CONNECT"),
    ("version 1.9", {}, _bad_init(version=0x0109), "Unsupported version 0x0109"),
    ("version 2.1", {}, _bad_init(version=0x0201), "Unsupported version 0x0201"),
    ("version 0", {}, _bad_init(version=0), "Unsupported version 0x0000"),
    ("id 8", {}, _bad_init(id=8), "ID not found"),
    ("id 0xffffffff", {}, _bad_init(id=0xFFFF_FFFF), "ID not found"),
    ("mode IP", {}, _bad_init(mode=1), "Mode mismatch"),
    ("mode 255", {}, _bad_init(mode=255), "Mode mismatch"),
    ("no secret", {"secret": b"abc"}, _bad_init(), "Secret required"),
    ("a wrong secret", {"secret": b"abc"}, _bad_init(secret=b"abd"), "Incorrect secret"),
    ("a longer secret", {"secret": b"abc"}, _bad_init(secret=b"abcd"), "Incorrect secret"),
    ("a shorter secret", {"secret": b"abc"}, _bad_init(secret=b"ab"), "Incorrect secret"),
    ("24 bytes of secret", {"secret": b"abc"}, _bad_init(secret=b"a" * 24), "Incorrect secret"),
    ("taken", {"taken": True}, _bad_init(), "Already connected"),
]


@pytest.mark.parametrize(
    ("keys", "data", "reason"), [b[1:] for b in BAD_INIT], ids=[b[0] for b in BAD_INIT]
)
def test_a_bad_first_record_is_refused_with_its_reason(
    keys: dict[str, Any], data: bytes, reason: str
) -> None:
    server = Server(**keys)
    (event,) = server.give(data)
    assert isinstance(event, Closed)
    assert event.refused
    assert server.refused().startswith(reason)
    assert event.reason.startswith(reason)


#: Name, record, kind of descriptor, words of the reason: sent where region 0 of 1 MiB is there.
BAD_OFFERS: list[tuple[str, bytes, str, str]] = [
    ("a second INIT", init(7), "", "Unexpected message: INIT"),
    ("HELLO", hello(), "", "Unexpected message: HELLO"),
    ("ACK", ACK, "", "Unexpected message: ACK"),
    ("CONNECTED", connected(), "", "Unexpected message: CONNECTED"),
    ("CONNECT without rings", connect(), "", "CONNECT without rings"),
    ("region 0 again", add_region(0), "memory", "Invalid region index: expected 1, came 0"),
    ("region 2", add_region(2), "memory", "Invalid region index: expected 1, came 2"),
    ("region 65535", add_region(65535), "memory", "Invalid region index: expected 1"),
    ("an empty region", add_region(1, 0), "memory", "Invalid region size: region 1 is empty"),
    ("a region beyond its file", add_region(1, 0x10_0001), "memory", "Invalid region size"),
    ("2**64 - 1 bytes", add_region(1, 2**64 - 1), "memory", "Invalid region size"),
    ("a region above the ceiling", add_region(1, 1 << 30), "memory", "Invalid region size"),
    ("an eventfd as a region", add_region(1), "eventfd", "Invalid region: its descriptor"),
    ("a pipe as a region", add_region(1), "pipe", "Invalid region: its descriptor"),
    ("a disk's file as a region", add_region(1, 1), "disk", "Invalid region: its file is not in"),
    ("a region without descriptor", add_region(1), "", "ADD_REGION comes with a file descriptor"),
    ("a region with two", add_region(1), "two", "ADD_REGION comes with a file descriptor, not 2"),
    ("C2S ring 2 of 2", add_ring(index=2), "eventfd", "Invalid ring index: C2S ring 2"),
    ("S2C ring 2 of 2", add_ring(False, 2), "eventfd", "Invalid ring index: S2C ring 2"),
    ("ring 65535", add_ring(index=65535), "eventfd", "Invalid ring index"),
    ("log2 0", add_ring(log2=0), "eventfd", "Invalid ring size: log2 is 0"),
    ("log2 15", add_ring(log2=15), "eventfd", "Invalid ring size: log2 is 15"),
    ("log2 255", add_ring(log2=255), "eventfd", "Invalid ring size: log2 is 255"),
    ("a ring in region 1", add_ring(region=1), "eventfd", "Invalid region index"),
    ("a ring in region 65535", add_ring(region=65535), "eventfd", "Invalid region index"),
    ("offset 8", add_ring(offset=8), "eventfd", "Invalid ring offset: C2S ring 0 at 0x8"),
    ("offset 1", add_ring(offset=1), "eventfd", "Invalid ring offset"),
    ("16 bytes beyond", add_ring(offset=(1 << 20) - RING + 16), "eventfd", "C2S ring 0 ends at"),
    ("the end of 32 bits", add_ring(offset=0xFFFF_FFF0), "eventfd", "C2S ring 0 ends at"),
    ("a private header", add_ring(private=4), "eventfd", "Invalid private header size: 4"),
    ("a ring without descriptor", add_ring(), "", "ADD_RING comes with a file descriptor"),
    ("a ring with two", add_ring(), "two", "ADD_RING comes with a file descriptor, not 2"),
    ("memory as a ring's", add_ring(), "memory", "Invalid ring: its descriptor is not an event"),
    ("a pipe as a ring's", add_ring(), "pipe", "Invalid ring: its descriptor is not an eventfd"),
]


@pytest.mark.parametrize(
    ("data", "kind", "reason"), [b[1:] for b in BAD_OFFERS], ids=[b[0] for b in BAD_OFFERS]
)
def test_a_bad_offer_is_refused_and_every_descriptor_closed(
    server: Server, data: bytes, kind: str, reason: str
) -> None:
    if kind == "disk" and os.statvfs(__file__).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("the tests themselves lie in memory")
    before = descriptors()
    server.claim()
    server.give(add_region(0, 1 << 20), memory_file())
    server.sent.clear()
    (event,) = server.give(data, *make_descriptors(kind))
    assert isinstance(event, Closed)
    assert server.refused().startswith(reason)
    assert descriptors() == before


@pytest.mark.parametrize("data", [init(7), connect()], ids=["INIT", "CONNECT"])
def test_a_descriptor_where_none_is_due_is_refused_and_closed(server: Server, data: bytes) -> None:
    if data[0] == 6:
        server.offer()
    (event,) = server.give(data, event_file())
    assert "comes with no file descriptor, not 1" in event.reason
    assert server.refused() == event.reason


def test_lost_descriptors_are_refused_though_one_came(server: Server) -> None:
    server.claim()
    server.give(add_region(), memory_file(), truncated=True)
    assert server.refused() == "ADD_REGION lost file descriptors on its way"


def test_a_ring_that_came_twice_is_refused(server: Server) -> None:
    server.offer()
    server.give(add_ring(True, 0, 0, 4 * RING), event_file())
    assert server.refused() == "Invalid ring index: C2S ring 0 came twice"


@pytest.mark.parametrize("offset", [0x10, RING - 16, 2 * RING - 16])
def test_rings_that_overlap_are_refused(server: Server, offset: int) -> None:
    server.offer()  # at 0 and at RING
    server.give(add_ring(True, 1, 0, offset), event_file())
    assert "overlaps" in server.refused()


def test_rings_next_to_each_other_and_at_the_very_end_are_taken(server: Server) -> None:
    server.offer()
    assert server.give(add_ring(True, 1, 0, 2 * RING), event_file()) == []
    assert server.give(add_ring(False, 1, 0, (1 << 20) - RING), event_file()) == []
    assert server.sent == [ACK, ACK]


def test_the_second_ring_of_dpdk_with_rsize_1_is_taken(server: Server) -> None:
    server.claim()
    server.give(add_region(), memory_file())
    server.give(add_ring(True, 0, 0, 0, 1), event_file())
    assert server.give(add_ring(False, 0, 0, 160, 1), event_file()) == []


def test_a_hole_in_the_ring_indices_is_refused_at_connect(server: Server) -> None:
    server.claim()
    server.give(add_region(), memory_file())
    server.give(add_ring(True, 1), event_file())
    server.sent.clear()
    server.give(connect())
    assert server.refused() == "C2S ring 1 without C2S ring 0"


def test_region_256_is_one_too_many(server: Server) -> None:
    server.claim()
    file = memory_file(4096)
    try:
        for index in range(256):
            assert server.give(add_region(index, 4096), os.dup(file)) == []
        server.sent.clear()
        server.give(add_region(256, 4096), os.dup(file))
    finally:
        os.close(file)
    assert server.refused() == "Invalid region index: at most 256 regions are taken"


def test_the_ceiling_counts_all_regions() -> None:
    server = Server(limit=3 << 20)
    server.claim()
    for index in range(3):
        assert server.give(add_region(index), memory_file()) == []
    server.sent.clear()
    server.give(add_region(3), memory_file())
    assert server.refused().startswith("Invalid region size: 4194304 bytes in all, 3145728")


@pytest.mark.parametrize("connects", [False, True])
def test_nothing_but_disconnect_is_taken_once_it_is_up(server: Server, connects: bool) -> None:
    server.offer()
    (offered,) = server.give(connect())
    server.protocol.connected("x")
    server.collect()
    server.sent.clear()
    server.give(connect() if connects else add_region(1), *([] if connects else [memory_file()]))
    assert server.refused().startswith("Unexpected message:")
    for fd in (*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)):
        os.close(fd)


def test_a_client_that_leaves_says_why_and_gets_no_answer(server: Server) -> None:
    before = descriptors()
    server.offer()
    assert server.give(disconnect(b"bye")) == [Closed("bye", False)]
    assert server.sent == []
    assert descriptors() == before


def test_a_reason_without_a_nul_is_taken_to_its_end(server: Server) -> None:
    assert server.give(disconnect(b"x" * 96)) == [Closed("x" * 96, False)]


def test_a_reason_that_is_too_long_is_cut(server: Server) -> None:
    server.protocol.refuse("y" * 200)
    server.collect()
    assert server.refused() == "y" * 95


def test_the_end_without_a_message_closes_what_was_offered(server: Server) -> None:
    before = descriptors()
    server.offer()
    assert server.protocol.gone() == Closed("the peer closed the connection", False)
    assert descriptors() == before


def test_nothing_is_taken_after_the_end_and_its_descriptors_are_closed(server: Server) -> None:
    server.protocol.refuse("over")
    server.collect()
    assert server.give(add_region(), memory_file()) == []
    assert len(server.sent) == 1


# -- what bad records get: a client

BAD_ANSWERS: list[tuple[str, State, bytes, str]] = [
    ("ACK before HELLO", State.GREETING, ACK, "Unexpected message: ACK"),
    ("CONNECTED before HELLO", State.GREETING, connected(), "Unexpected message: CONNECTED"),
    ("INIT", State.GREETING, init(), "Unexpected message: INIT"),
    ("a short HELLO", State.GREETING, hello()[:45], "Invalid message size"),
    ("versions up to 1.9", State.GREETING, hello(0x100, 0x1FF), "Unsupported version"),
    ("versions from 2.1", State.GREETING, hello(0x201, 0x300), "Unsupported version"),
    ("no versions", State.GREETING, hello(0x300, 0x100), "Unsupported version"),
    ("a second HELLO", State.ASKING, hello(), "Unexpected message: HELLO"),
    ("CONNECTED early", State.ASKING, connected(), "Unexpected message: CONNECTED"),
    ("CONNECTED before CONNECT", State.OFFERING, connected(), "CONNECTED before CONNECT"),
    ("CONNECT", State.OFFERING, connect(), "Unexpected message: CONNECT"),
    ("ACK when up", State.CONNECTED, ACK, "Unexpected message: ACK"),
    ("CONNECTED again", State.CONNECTED, connected(), "Unexpected message: CONNECTED"),
    ("type 12", State.OFFERING, record("H", 12), "Invalid message type: 12"),
]


@pytest.mark.parametrize(
    ("state", "data", "reason"), [b[1:] for b in BAD_ANSWERS], ids=[b[0] for b in BAD_ANSWERS]
)
def test_a_bad_answer_is_refused_with_its_reason(
    client: Client, state: State, data: bytes, reason: str
) -> None:
    client.reach(state)
    (event,) = client.give(data)
    assert isinstance(event, Closed)
    assert client.refused().startswith(reason)


def test_an_ack_too_many_is_an_answer_without_a_question(client: Client) -> None:
    client.reach(State.OFFERING)
    for _ in range(3):
        client.give(ACK)
    client.sent.clear()
    client.give(ACK)
    assert client.refused() == "ACK without a question"


@pytest.mark.parametrize("state", [State.GREETING, State.ASKING, State.OFFERING])
def test_a_server_has_no_descriptors_to_give(client: Client, state: State) -> None:
    client.reach(state)
    client.give(hello() if state is State.GREETING else ACK, event_file())
    assert "comes with no file descriptor" in client.refused()
