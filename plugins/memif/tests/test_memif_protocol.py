"""Both ends without sockets: tables, sound handshakes, and what bad records get.

Expectations: memif.md 2 and 8. Records are built of numbers by `emudev_memif.testing`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.errors import PeerError
from emudev_core.testing.builders import descriptors
from emudev_memif.layout import RingPlace
from emudev_memif.offers import Region, Ring
from emudev_memif.protocol import (
    CLIENT,
    SERVER,
    Accepted,
    Claimed,
    ClientProtocol,
    Closed,
    Greeted,
    Offered,
    ServerProtocol,
    State,
    Up,
)
from emudev_memif.regions import check_eventfd, check_memory
from emudev_memif.testing import (
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
    reason_of,
    record,
)
from emudev_memif.wire import Hello, MessageType

pytestmark = pytest.mark.usefixtures("tidy")

RECORDED = tomllib.loads((Path(__file__).parent / "golden" / "dpdk-22.11.11.toml").read_text())
RING = 128 + 16 * 1024


@attrs.define
class Interface:
    """What a server asks; the checks of descriptors are the real ones."""

    pairs: int = 2
    secret: bytes = b""
    taken: bool = False
    limit: int = 1 << 30

    def check_region(self, fd: int, size: int, before: int) -> None:
        check_memory(fd, size, before, self.limit)

    def check_ring(self, fd: int) -> None:
        check_eventfd(fd)


class Server:
    """A server's end with interface 7, and what it sent."""

    def __init__(self, **keys: Any) -> None:
        self.interface = Interface(**keys)
        self.protocol = ServerProtocol(Hello(name=b"test"), {7: self.interface}.get)
        self.sent: list[bytes] = []
        self._collect()
        self.hello = self.sent.pop()

    def _collect(self) -> None:
        while (waiting := self.protocol.pending()) is not None:
            assert waiting[1] is None  # a server sends no descriptors
            self.sent.append(waiting[0])
            self.protocol.sent()

    def give(self, data: bytes, *fds: int, truncated: bool = False) -> list[Any]:
        events = self.protocol.receive(data, fds, truncated)
        self._collect()
        return events

    def claim(self) -> None:
        """Take it to where regions and rings are awaited."""
        assert self.give(init(7)) == [Claimed(7, "by hand")]
        self.protocol.accept()
        self._collect()
        assert self.sent.pop() == ACK

    def offer(self, rings: int = 1) -> None:
        """Offer a region and so many rings each way."""
        self.claim()
        assert self.give(add_region(0, 1 << 20), memory_file()) == []
        for c2s in (True, False):
            for index in range(rings):
                at = RING * (index if c2s else rings + index)
                assert self.give(add_ring(c2s, index, 0, at), event_file()) == []
        assert self.sent == [ACK] * (1 + 2 * rings)
        self.sent.clear()

    def refused(self) -> str:
        """The reason that was sent, with nothing before it."""
        assert self.protocol.state is State.CLOSED
        (data,) = self.sent
        return reason_of(data)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.protocol.gone()


class Client:
    """A client's end with a region and a ring each way, and what it sent."""

    def __init__(self) -> None:
        self.protocol = ClientProtocol(7, b"abc", "emudev", "memif_emudev_0")
        self.memory, self.c2s, self.s2c = memory_file(), event_file(), event_file()
        self.sent: list[tuple[bytes, int | None]] = []

    def give(self, data: bytes, *fds: int, truncated: bool = False) -> list[Any]:
        events = self.protocol.receive(data, fds, truncated)
        if events and isinstance(events[0], Greeted):
            rings = [
                Ring(True, 0, RingPlace(0, 0, 10), self.c2s),
                Ring(False, 0, RingPlace(0, RING, 10), self.s2c),
            ]
            self.protocol.offer([Region(self.memory, 1 << 20)], rings)
        while (waiting := self.protocol.pending()) is not None:
            self.sent.append(waiting)
            self.protocol.sent()
        return events

    def reach(self, state: State) -> None:
        """Take it to a state by what a sound server sends."""
        steps = {State.GREETING: 0, State.ASKING: 1, State.OFFERING: 2, State.CONNECTED: 6}
        sound = [hello(), ACK, ACK, ACK, ACK, connected()]
        for data in sound[: steps[state]]:
            self.give(data)
        assert self.protocol.state is state
        self.sent.clear()

    def refused(self) -> str:
        assert self.protocol.state is State.CLOSED
        ((data, fd),) = self.sent
        assert fd is None
        return reason_of(data)

    def close(self) -> None:
        for fd in (self.memory, self.c2s, self.s2c):
            os.close(fd)


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.close()


# -- sound handshakes


def test_a_server_greets_with_its_limits_as_indices() -> None:
    greeting = ServerProtocol(
        Hello(name=b"emudev", max_s2c_ring=1, max_c2s_ring=1), lambda id: None
    ).pending()
    assert greeting == (hello(name=b"emudev", s2c=1, c2s=1), None)


def test_a_server_takes_what_dpdk_sends_and_answers_each_record() -> None:
    server = Server(pairs=2, secret=b"abc")
    events = []
    for number, step in enumerate(RECORDED["client"]):
        make = {None: None, "memory": lambda: memory_file(8454656), "eventfd": event_file}
        maker = make[step.get("fd")]
        fds = [] if maker is None else [maker()]
        events += server.give(bytes.fromhex(step["hex"]).ljust(128, b"\0"), *fds)
        if number == 0:
            assert events == [Claimed(7, "DPDK 22.11.11")]
            server.protocol.accept()
            server._collect()
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
    assert server.sent == [ACK] * 6
    server.protocol.connected("memif_emudev_7")
    server._collect()
    assert server.sent[-1] == connected(b"memif_emudev_7")
    assert server.protocol.state is State.CONNECTED
    for fd in (*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)):
        os.close(fd)


def test_a_client_sends_one_record_for_each_that_it_gets(client: Client) -> None:
    events = []
    for answer in (hello(), ACK, ACK, ACK, ACK, connected(b"net_memif0")):
        events += client.give(answer)
    assert client.sent == [
        (init(7, b"abc", name=b"emudev"), None),
        (add_region(0, 1 << 20), client.memory),
        (add_ring(True, 0, 0, 0), client.c2s),
        (add_ring(False, 0, 0, RING), client.s2c),
        (connect(b"memif_emudev_0"), None),
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
    client.give(hello(*versions))
    assert client.sent[0][0][2:4] == b"\x00\x02"


def test_regions_and_rings_may_be_mixed_as_long_as_the_region_comes_first(server: Server) -> None:
    server.claim()
    server.give(add_region(0), memory_file())
    server.give(add_ring(False, 0, 0, 0), event_file())
    server.give(add_region(1), memory_file())
    server.give(add_ring(True, 0, 1, 0), event_file())
    (offered,) = server.give(connect())
    assert [(ring.c2s, ring.place.region) for ring in offered.rings] == [(True, 1), (False, 0)]
    for fd in (*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)):
        os.close(fd)


def test_a_secret_of_24_bytes_needs_no_nul() -> None:
    server = Server(secret=b"abcdefghijklmnopqrstuvwx")
    assert server.give(init(7, b"abcdefghijklmnopqrstuvwx"))[0] == Claimed(7, "by hand")


def test_no_secret_admits_a_client_that_sends_one(server: Server) -> None:
    assert server.give(init(7, b"anything"))[0] == Claimed(7, "by hand")


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


def _descriptors(kind: str, tmp_path: Path) -> list[int]:
    if kind == "memory":
        return [memory_file()]
    if kind == "eventfd":
        return [event_file()]
    if kind == "two":
        return [event_file(), memory_file()]
    if kind == "pipe":
        near, far = os.pipe()
        os.close(near)
        return [far]
    if kind == "disk":
        path = Path(__file__)
        return [os.open(path, os.O_RDONLY)]
    return []


@pytest.mark.parametrize(
    ("data", "kind", "reason"), [b[1:] for b in BAD_OFFERS], ids=[b[0] for b in BAD_OFFERS]
)
def test_a_bad_offer_is_refused_and_every_descriptor_closed(
    server: Server, tmp_path: Path, data: bytes, kind: str, reason: str
) -> None:
    if kind == "disk" and os.statvfs(__file__).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("the tests themselves lie in memory")
    before = descriptors()
    server.claim()
    server.give(add_region(0, 1 << 20), memory_file())
    server.sent.clear()
    (event,) = server.give(data, *_descriptors(kind, tmp_path))
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
    server._collect()
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
    server._collect()
    assert server.refused() == "y" * 95


def test_the_end_without_a_message_closes_what_was_offered(server: Server) -> None:
    before = descriptors()
    server.offer()
    assert server.protocol.gone() == Closed("the peer closed the connection", False)
    assert descriptors() == before


def test_nothing_is_taken_after_the_end_and_its_descriptors_are_closed(server: Server) -> None:
    server.protocol.refuse("over")
    server._collect()
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


# -- tables


@pytest.mark.parametrize("table", [SERVER, CLIENT], ids=["server", "client"])
def test_every_state_but_the_end_can_be_left_and_takes_disconnect(table: Any) -> None:
    states = {state for state, _ in table} | set(table.values())
    for state in states - {State.CLOSED}:
        assert table[state, MessageType.DISCONNECT] is State.CLOSED
    assert not any(state is State.CLOSED for state, _ in table)


SERVER_STATES = [State.GREETED, State.CLAIMED, State.OFFERED, State.COMPLETE, State.CONNECTED]
SOUND = {
    MessageType.ACK: ACK,
    MessageType.HELLO: hello(),
    MessageType.INIT: init(7),
    MessageType.ADD_REGION: add_region(1),
    MessageType.ADD_RING: add_ring(True, 1, 0, 4 * RING),
    MessageType.CONNECT: connect(),
    MessageType.CONNECTED: connected(),
    MessageType.DISCONNECT: disconnect(),
}


def _server_in(state: State) -> tuple[Server, list[int]]:
    """A server in a state, and descriptors that it handed over."""
    server = Server()
    handed: list[int] = []
    if state is State.CLAIMED:
        server.give(init(7))
    elif state is State.OFFERED:
        server.offer()
    elif state in (State.COMPLETE, State.CONNECTED):
        server.offer()
        (offered,) = server.give(connect())
        handed = [*(r.fd for r in offered.regions), *(r.fd for r in offered.rings)]
        if state is State.CONNECTED:
            server.protocol.connected("x")
            server._collect()
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
        MessageType.ADD_REGION: [memory_file],
        MessageType.ADD_RING: [event_file],
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
        fds = [fd for kind in kinds for fd in _descriptors(kind, Path())]
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
        server._collect()
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
        fds = [fd for kind in kinds for fd in _descriptors(kind, Path())]
        events = client.give(data, *fds, truncated=truncated)
        assert len(events) <= 1
    client.protocol.gone()
    client.close()
    assert descriptors() == before


def test_a_check_that_refuses_leaves_the_descriptor_to_be_closed() -> None:
    fd = memory_file(4096)
    with pytest.raises(PeerError):
        check_memory(fd, 4097, 0, 1 << 20)
    os.close(fd)  # it was still there
