"""A guest that sends by virtio-net and costs next to nothing.

It is the twin of `avf_guest` for DPDK's `net_vhost`, which serves it over a vhost-user socket.

What a VMM does on the socket is done here in Python; then a compiled loop drives the transmit
queue: split ring, one descriptor a packet with the 12-byte header in front, indices only, no
interrupts, no payload written. Source: virtio 1.2 sections 2.7 and 5.1.6; vhost-user protocol
specification (QEMU, docs/interop/vhost-user.rst).
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct
from pathlib import Path
from typing import Final

from memif_peers import BATCH, GUEST, SENT, STOP, Ends, memif_receive

from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    load16_acquire,
    load64,
    load64_relaxed,
    pause,
    store16_release,
    store64,
    store64_relaxed,
)

RING: Final = 1024
STRIDE: Final = 2048
HEADER: Final = 12  # struct virtio_net_hdr_v1
FIRST: Final = 0x1000_0000  # guest address of the memory

# Where a queue's parts lie from the start of its 64 KiB.
_AVAIL: Final = 0x8000
_USED: Final = 0xA000
_QUEUE: Final = 0x10000

_VERSION_1: Final = 1 << 32
_PROTOCOL_FEATURES: Final = 1 << 30

# Words of the guest.
V_DESCRIPTORS = GUEST + 8 * 0
V_AVAIL = GUEST + 8 * 1
V_USED = GUEST + 8 * 2
V_NEXT = GUEST + 8 * 3  # the index of the available ring
V_BUFFERS = GUEST + 8 * 4  # guest address
V_BYTES = GUEST + 8 * 5  # of a packet with its header


@inline
def virtio_send(state: int) -> int:
    """Fill what room there is, at most a batch; answers packets."""
    descriptors = load64(state + V_DESCRIPTORS)
    available = load64(state + V_AVAIL)
    at = load64(state + V_NEXT)
    room = RING - ((at - load16_acquire(load64(state + V_USED) + 2)) & 0xFFFF)
    count = min(room, BATCH)
    if count <= 0:
        return 0
    # The available ring says 0, 1, 2, ... from the start: descriptors are used in order.
    size = load64(state + V_BYTES)
    buffers = load64(state + V_BUFFERS)
    for i in range(at, at + count):
        slot = i & (RING - 1)
        store64(descriptors + slot * 16, buffers + slot * STRIDE)
        store64(descriptors + slot * 16 + 8, size)
    at = (at + count) & 0xFFFF
    store64(state + V_NEXT, at)
    store16_release(available + 2, at)
    store64_relaxed(state + SENT, load64(state + SENT) + count)
    return count


@queue_kernel
def virtio_to_memif(state: int, _burst: int, _rows: int) -> int:
    """Send by virtio and receive by memif until told to stop."""
    while load64_relaxed(state + STOP) == 0:
        sent = virtio_send(state)
        if memif_receive(state) + sent == 0:
            pause()
    return 0


class VirtioGuest:
    """A guest with the device up.

    Args:
        path: Of the vhost-user socket.
        frame: What it sends.
    """

    def __init__(self, path: Path, frame: bytes) -> None:
        self._size = 2 * _QUEUE + RING * STRIDE
        self._fd = os.memfd_create("virtio-guest")
        os.ftruncate(self._fd, self._size)
        self._memory = mmap.mmap(self._fd, self._size, mmap.MAP_SHARED)
        view = ctypes.c_char.from_buffer(self._memory)
        self._host = ctypes.addressof(view)
        del view
        self._frame = frame
        self._fds: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(5)
        self._socket.connect(str(path))
        for i in range(RING):
            at = 2 * _QUEUE + i * STRIDE
            self._memory[at + HEADER : at + HEADER + len(frame)] = frame
            struct.pack_into("<H", self._memory, _QUEUE + _AVAIL + 4 + 2 * i, i)
        self._memory[_QUEUE + _AVAIL] = 1  # VRING_AVAIL_F_NO_INTERRUPT
        self._join()

    def _send(self, request: int, payload: bytes = b"", *fds: int) -> None:
        message = struct.pack("<III", request, 1, len(payload)) + payload
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        self._socket.sendmsg([message], [rights] if fds else [])

    def _ask(self, request: int) -> int:
        """A request that is answered by 64 bits."""
        self._send(request)
        answer = self._socket.recv(20, socket.MSG_WAITALL)
        return int.from_bytes(answer[12:], "little")

    def _join(self) -> None:
        features = self._ask(1)  # GET_FEATURES
        self._send(3)  # SET_OWNER
        self._send(2, struct.pack("<Q", features & (_VERSION_1 | _PROTOCOL_FEATURES)))
        if features & _PROTOCOL_FEATURES:
            self._ask(15)  # GET_PROTOCOL_FEATURES
            self._send(16, bytes(8))  # SET_PROTOCOL_FEATURES: none
        table = struct.pack("<IIQQQQ", 1, 0, FIRST, self._size, self._host, 0)
        self._send(5, table, self._fd)  # SET_MEM_TABLE
        for queue in range(2):
            at = self._host + queue * _QUEUE
            self._send(8, struct.pack("<II", queue, RING))  # SET_VRING_NUM
            self._send(10, struct.pack("<II", queue, 0))  # SET_VRING_BASE
            places = struct.pack("<IIQQQQ", queue, 0, at, at + _USED, at + _AVAIL, 0)
            self._send(9, places)  # SET_VRING_ADDR
            for request in (13, 12):  # SET_VRING_CALL, SET_VRING_KICK
                self._fds.append(os.eventfd(0, os.EFD_NONBLOCK))
                self._send(request, struct.pack("<Q", queue), self._fds[-1])
        for queue in range(2):
            self._send(18, struct.pack("<II", queue, 1))  # SET_VRING_ENABLE
        os.eventfd_write(self._fds[-1], 1)

    def fill(self, ends: Ends) -> None:
        """Set up the words of `virtio_to_memif`."""
        queue = self._host + _QUEUE
        values = {
            V_DESCRIPTORS: queue,
            V_AVAIL: queue + _AVAIL,
            V_USED: queue + _USED,
            V_BUFFERS: FIRST + 2 * _QUEUE,
            V_BYTES: HEADER + len(self._frame),
        }
        for word, value in values.items():
            ends.set(word, value)

    def close(self) -> None:
        """Go, as a guest that is ended does; no loop may run any more."""
        self._socket.close()
        for fd in (*self._fds, self._fd):
            os.close(fd)
        self._memory.close()
