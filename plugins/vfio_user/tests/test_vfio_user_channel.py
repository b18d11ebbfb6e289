"""Accesses by message that are told by callbacks: order, bounds, and answers of any kind."""

import struct

import pytest

from emudev_core.errors import MemoryAccessError
from emudev_vfio_user.channel import CHUNK, DEPTH, Link, MessageDma

READ, WRITE = 11, 12
REPLY, ERROR = 1, 0x21


class Client:
    """The other end: takes what is sent, and answers when it is told to."""

    def __init__(self, **options):
        self.sent = []  # (id, command, address, count, data)
        self.handling = False
        self.open = True
        self.told = []
        self.channel = MessageDma(
            Link(self.take, self.serve, lambda: self.handling), self.told.append
        )

    def take(self, message):
        if not self.open:
            return False
        msg_id, command, size, flags, _ = struct.unpack_from("<HHIII", message)
        address, count = struct.unpack_from("<QQ", message, 16)
        assert size == len(message)
        assert flags == 0
        self.sent.append((msg_id, command, address, count, message[32:]))
        return True

    def serve(self, seconds):
        return False

    def answer(self, index=0, payload=None, flags=REPLY, error=0):
        msg_id, command, address, count, _ = self.sent.pop(index)
        if payload is None:
            payload = struct.pack("<QQ", address, count)
            if command == READ:
                payload += bytes(count)
        assert self.channel.answered(msg_id, command, flags, error, payload)
        self.channel.pump()

    @property
    def addresses(self):
        return [address for _, _, address, _, _ in self.sent]


@pytest.fixture
def client():
    return Client()


def test_several_requests_are_on_their_way_and_each_is_told_once(client):
    told = []
    for i in range(4):
        client.channel.fetch(0x1000 * i, 16, lambda data, i=i: told.append((i, data)))
    assert client.addresses == [0, 0x1000, 0x2000, 0x3000]
    client.answer(2)
    client.answer(0)
    assert told == [(2, bytes(16)), (0, bytes(16))]
    client.answer()
    client.answer()
    assert [i for i, _ in told] == [2, 0, 1, 3]


def test_an_ordered_store_waits_until_all_before_it_are_answered(client):
    told = []
    client.channel.store(0x1000, b"a" * 8, told.append)
    client.channel.store(0x2000, b"b" * 8, told.append)
    client.channel.store(0x3000, b"c" * 8, told.append, ordered=True)
    client.channel.store(0x4000, b"d" * 8, told.append)
    assert client.addresses == [0x1000, 0x2000]
    client.answer()
    assert client.addresses == [0x2000]
    client.answer()
    assert client.addresses == [0x3000, 0x4000]


def test_what_is_outstanding_is_bounded(client):
    for i in range(200):
        client.channel.fetch(i * 64, 64, lambda data: None)
    assert len(client.sent) == DEPTH
    other = Client()
    for i in range(20):
        other.channel.fetch(i << 16, 16 << 10, lambda data: None)
    assert sum(count for _, _, _, count, _ in other.sent) == CHUNK
    other.answer()
    assert len(other.sent) == 4


def test_a_long_access_is_split_and_joined(client):
    client.channel.chunk = 1000
    got = []
    client.channel.fetch(0x5000, 2500, got.append)
    assert [(a, n) for _, _, a, n, _ in client.sent] == [
        (0x5000, 1000),
        (0x53E8, 1000),
        (0x57D0, 500),
    ]
    for fill in (b"3", b"1", b"1"):
        _, _, address, count, _ = client.sent[-1 if fill == b"3" else 0]
        payload = struct.pack("<QQ", address, count) + fill * count
        client.answer(-1 if fill == b"3" else 0, payload)
    assert got == [b"1" * 2000 + b"3" * 500]


@pytest.mark.parametrize(
    ("flags", "payload"),
    [
        (ERROR, b""),
        (REPLY, b""),
        (REPLY, struct.pack("<QQ", 0x1000, 16)),
        (REPLY, struct.pack("<QQ", 0x1008, 16) + bytes(16)),
        (REPLY, struct.pack("<QQ", 0x1000, 8) + bytes(16)),
        (REPLY, struct.pack("<QQ", 0x1000, 16) + bytes(17)),
    ],
    ids=["error", "empty", "no-data", "other-address", "other-count", "too-long"],
)
def test_an_answer_that_does_not_fit_counts_as_none(client, flags, payload):
    got = []
    client.channel.fetch(0x1000, 16, got.append)
    client.answer(0, payload, flags)
    assert got == [None]


def test_an_answer_to_nothing_or_of_another_kind_is_refused(client):
    got = []
    client.channel.fetch(0x1000, 16, got.append)
    msg_id = client.sent[0][0]
    assert not client.channel.answered(msg_id + 1, READ, REPLY, 0, b"")
    assert not client.channel.answered(msg_id, WRITE, REPLY, 0, b"")
    assert got == []
    client.answer()
    assert got == [bytes(16)]
    assert not client.channel.answered(msg_id, READ, REPLY, 0, b"")


def test_nothing_is_sent_inside_a_handler(client):
    client.handling = True
    client.channel.fetch(0x1000, 16, lambda data: None)
    assert client.sent == []
    assert client.channel.waits
    client.handling = False
    client.channel.pump()
    assert client.addresses == [0x1000]


def test_what_was_not_sent_can_be_taken_back(client):
    told = []
    client.channel.store(0x1000, b"a", told.append)
    first = client.channel.store(0x2000, b"b", told.append, ordered=True)
    second = client.channel.store(0x3000, b"c", told.append)
    assert first.cancel()
    client.answer()
    assert client.addresses == [0x3000]
    assert not second.cancel()
    client.answer()
    assert told == [True, True]


def test_a_connection_that_is_parked_takes_it_later(client):
    got = []
    client.open = False
    client.channel.fetch(0x1000, 16, got.append)
    client.open = True
    client.channel.pump()
    client.answer()
    assert got == [bytes(16)]


def test_a_client_that_leaves_fails_everything_once(client):
    told = []
    client.channel.fetch(0x1000, 16, told.append)
    client.channel.store(0x2000, b"x", told.append, ordered=True)
    client.channel.close()
    assert told == [None, False]
    client.channel.fetch(0x1000, 16, told.append)
    assert told == [None, False, None]
    with pytest.raises(MemoryAccessError, match="has gone"):
        client.channel.read(0x1000, 4)


def test_the_first_message_is_told_of_and_no_other(client):
    assert client.told == []
    for address in (0x1000, 0x2000):
        client.channel.fetch(address, 4, lambda data: None)
    assert client.told == [0x1000]
