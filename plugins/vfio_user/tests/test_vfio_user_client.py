"""The client: what it asks for, what it serves, and what it does when the other end is not well."""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from emudev_core.client import DeviceClient
from emudev_core.errors import PeerError, TransportError
from emudev_vfio_user.client import VfioUserClient
from emudev_vfio_user.version import accept


def test_it_fits_the_contract_of_a_device_client(bench: Any) -> None:
    assert isinstance(bench.client(), DeviceClient)


def test_it_works_from_another_thread_without_a_loop(bench: Any) -> None:
    found: list[Any] = []

    def drive() -> None:
        with VfioUserClient(bench.path) as client:
            client.region_write(0, 0, b"abcd")
            found.append(client.region_read(0, 0, 4))
            memory = bytearray(b"guest memory")
            client.dma_map(0, len(memory), memory=memory)
            client.pause(0.2)
            found.append(bytes(memory))

    thread = threading.Thread(target=drive)
    thread.start()
    bench.turn_until(lambda: bench.model.table.regions)
    assert bench.model.table.read(0, 5) == b"guest"
    bench.model.table.write(6, b"MEMORY")
    bench.turn_until(lambda: not thread.is_alive())
    assert found == [b"abcd", b"guest MEMORY"]


def test_bulk_reads_are_answered_in_order_whatever_their_number(bench: Any) -> None:
    client = bench.client()
    bench.model.bar0[:] = os.urandom(len(bench.model.bar0))
    wanted = [(0, 4 * i, 4) for i in range(2000)] + [(0, 0, 0x8000)] * 50
    found = client.region_read_many(wanted)
    assert found == [bytes(bench.model.bar0[o : o + n]) for _, o, n in wanted]


def test_bulk_writes_and_posted_writes_arrive_in_order(bench: Any) -> None:
    client = bench.client()
    client.region_write_many([(0, 4 * i, struct.pack("<I", i)) for i in range(1000)])
    client.region_write_many([(0, 0, struct.pack("<I", i)) for i in range(5000)], posted=True)
    assert client.region_read(0, 0, 4) == struct.pack("<I", 4999)
    assert client.region_read(0, 3996, 4) == struct.pack("<I", 999)


def test_message_ids_wrap(bench: Any) -> None:
    client = bench.client()
    client._next_id = 0xFFF0
    assert len(client.region_read_many([(0, 0, 4)] * 64)) == 64


def test_an_error_reply_raises_with_its_errno_and_harms_nothing(bench: Any) -> None:
    client = bench.client()
    with pytest.raises(PeerError) as caught:
        client.region_read(0, 0xFFFF, 4)
    assert caught.value.errno == 22
    assert len(client.region_read(0, 0, 4)) == 4


def test_nobody_listening_is_a_transport_error_that_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"can't connect to .*/none"):
        VfioUserClient(str(tmp_path / "none"))


def test_a_server_that_goes_is_a_transport_error(bench: Any) -> None:
    client = bench.client()
    bench.device.stop()
    with pytest.raises(TransportError, match="has gone"):
        client.info()


def test_a_server_that_does_not_answer_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(TransportError, match=r"no answer within 0.05 s"):
        VfioUserClient(ours, timeout=0.05)
    theirs.close()


def _fake_server() -> tuple[VfioUserClient, socket.socket]:
    ours, theirs = socket.socketpair()
    client = VfioUserClient(ours, greet=False, timeout=1)
    thread = threading.Thread(target=lambda: _greet(theirs))
    thread.start()
    client.negotiate()
    thread.join()
    return client, theirs


def _greet(sock: socket.socket) -> None:
    data = sock.recv(4096)
    msg_id = struct.unpack_from("<H", data)[0]
    reply = accept(data[16:])[1]
    sock.sendall(struct.pack("<HHIII", msg_id, 1, 16 + len(reply), 1, 0) + reply)


@pytest.mark.parametrize(
    ("command", "payload", "number"),
    [
        (11, struct.pack("<QQ", 0x9000, 4), 19),
        (11, struct.pack("<QQ", 0xFFE, 4), 19),
        (12, struct.pack("<QQ", 0x2000, 4) + b"abcd", 19),  # read-only for the device
        (11, struct.pack("<QQ", 0, (1 << 20) + 1), 7),
        (12, struct.pack("<QQ", 0, 5) + b"abcd", 7),
        (9, bytes(16), 38),
        (11, bytes(8), 22),
    ],
)
def test_what_it_can_not_serve_is_refused_like_qemu_does(
    command: int, payload: bytes, number: int
) -> None:
    client, server = _fake_server()

    def map_both() -> None:
        for _ in range(2):
            msg_id = struct.unpack_from("<H", server.recv(48))[0]
            server.sendall(struct.pack("<HHIII", msg_id, 2, 16, 1, 0))

    thread = threading.Thread(target=map_both)
    thread.start()
    client.dma_map(0, 0x1000, memory=bytearray(0x1000))
    client.dma_map(0x2000, 0x1000, memory=bytearray(0x1000), writable=False)
    thread.join()
    server.sendall(struct.pack("<HHIII", 77, command, 16 + len(payload), 0, 0) + payload)
    client.pause(0.05)
    assert struct.unpack("<HHIII", server.recv(64)) == (77, command, 16, 0x21, number)
    client.close()
    server.close()


def test_a_reply_with_an_unknown_id_ends_the_connection() -> None:
    client, server = _fake_server()
    server.sendall(struct.pack("<HHIII", 999, 4, 16, 1, 0))
    client.pause(0.02)
    with pytest.raises(TransportError, match="unknown id 0x3e7"):
        client.info()
    client.close()
    server.close()


def test_waiting_for_a_signal_lets_the_device_run(bench: Any, eventfds: Any) -> None:
    client = bench.client()
    fd = eventfds(1)[0]
    client.irq_bind(2, 0, fd)
    assert not client.wait(fd, 0.01)
    bench.loop.call_later(0.01, lambda: os.eventfd_write(bench.model.vectors[2, 0], 1))
    assert client.wait(fd, 2)


def test_memory_is_given_by_descriptor_or_by_buffer(bench: Any) -> None:
    client = bench.client()
    with pytest.raises(ValueError, match="either a descriptor or memory"):
        client.dma_map(0, 4096)
    with pytest.raises(ValueError, match="memory has 10 bytes, 4096 are to be mapped"):
        client.dma_map(0, 4096, memory=bytearray(10))
