"""A guest that sends by the AVF device and costs next to nothing.

The reference driver brings the device up over its vfio-user socket, then compiled loops take over
its transmit ring and write descriptors and doorbells, but no payload.

Descriptors ask for a report each, as Linux writes them. A doorbell is a message on the socket, the
one that the driver would send: it goes out for each quarter of the ring, or at once when the device
has nothing left to do.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Final

from memif_peers import BATCH, GUEST, SENT, STOP, Ends, memif_receive

from emudev_avf.descriptors import DTYPE_DONE, DTYPE_MASK, TX_SIZE, tx_data_qword1
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.driver.rings import EOP, ICRC, RS
from emudev_avf.registers import MAP
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    load64,
    load64_acquire,
    load64_relaxed,
    pause,
    store32,
    store64,
    store64_relaxed,
    store64_release,
    write,
)
from emudev_pci.guest import GuestFunction
from emudev_vfio_user.client import VfioUserClient
from emudev_vfio_user.messages import POSTED, Command, Header, RegionAccess

RING: Final = 1024
STRIDE: Final = 2048  #: bytes from buffer to buffer, as memif and virtio have it

# Words of the guest.
G_RING = GUEST + 8 * 0  # address of the descriptors
G_LENGTH = GUEST + 8 * 1
G_NEXT = GUEST + 8 * 2
G_CLEAN = GUEST + 8 * 3  # the oldest descriptor that is not completed
G_BUFFERS = GUEST + 8 * 4  # guest address of the first buffer
G_STRIDE = GUEST + 8 * 5
G_QWORD1 = GUEST + 8 * 6  # what each descriptor says
G_SOCKET = GUEST + 8 * 7
G_MESSAGE = GUEST + 8 * 8  # address of a doorbell's message, its value at the end
G_BYTES = GUEST + 8 * 9
G_TOLD = GUEST + 8 * 10  # the tail that the device knows


@inline
def avf_send(state: int) -> int:
    """Take completed descriptors back, write what there is room for, and ring if it is time."""
    ring = load64(state + G_RING)
    length = load64(state + G_LENGTH)
    index = load64(state + G_NEXT)
    clean = load64(state + G_CLEAN)
    looks = 0
    while clean != index and looks < BATCH:
        if load64_acquire(ring + clean * TX_SIZE + 8) & DTYPE_MASK != DTYPE_DONE:
            break
        clean = clean + 1 if clean + 1 < length else 0
        looks += 1
    store64(state + G_CLEAN, clean)
    used = index - clean
    if used < 0:
        used += length
    count = min(length - 1 - used, BATCH)
    qword1 = load64(state + G_QWORD1)
    buffers = load64(state + G_BUFFERS)
    stride = load64(state + G_STRIDE)
    for _ in range(count):
        store64(ring + index * TX_SIZE, buffers + index * stride)
        store64_release(ring + index * TX_SIZE + 8, qword1)
        index = index + 1 if index + 1 < length else 0
    store64(state + G_NEXT, index)
    told = load64(state + G_TOLD)
    waiting = index - told
    if waiting < 0:
        waiting += length
    if waiting >= length // 4 or (waiting > 0 and clean == told):
        message = load64(state + G_MESSAGE)
        size = load64(state + G_BYTES)
        store32(message + size - 4, index)
        if write(load64(state + G_SOCKET), message, size) == size:
            store64(state + G_TOLD, index)
    store64_relaxed(state + SENT, load64(state + SENT) + count)
    return count + looks


@queue_kernel
def avf_to_memif(state: int, _burst: int, _rows: int) -> int:
    """Send by AVF and receive by memif until told to stop."""
    while load64_relaxed(state + STOP) == 0:
        sent = avf_send(state)
        if memif_receive(state) + sent == 0:
            pause()
    return 0


class AvfGuest:
    """A guest with the device up.

    Args:
        path: Of the device's socket.
        frame: What it sends.
    """

    def __init__(self, path: Path, frame: bytes) -> None:
        client = VfioUserClient(str(path))
        self.function = GuestFunction(client, maps={0: MAP})
        self._driver = AvfDriver(self.function, ring=RING)
        self._driver.probe()
        self._driver.open()
        self._frame = frame
        self._socket = client.fileno()
        head = Header(msg_id=0xFFFF, command=Command.REGION_WRITE, msg_size=36, flags=POSTED)
        access = RegionAccess(offset=MAP.offset("QTX_TAIL1", 0), region=0, count=4)
        message = head.pack() + access.pack() + struct.pack("<I", 0)
        self._message = ctypes.create_string_buffer(message, len(message))

    def fill(self, ends: Ends) -> None:
        """Set up the words of `avf_to_memif`."""
        tx = self._driver.tx[0]
        for i in range(tx.length):
            tx.page.write(tx.buffers + i * STRIDE, self._frame)
        values = {
            G_RING: tx.page.host,
            G_LENGTH: tx.length,
            G_BUFFERS: tx.page.address + tx.buffers,
            G_STRIDE: STRIDE,
            G_QWORD1: tx_data_qword1(len(self._frame), EOP | RS | ICRC),
            G_SOCKET: self._socket,
            G_MESSAGE: ctypes.addressof(self._message),
            G_BYTES: len(self._message),
        }
        for word, value in values.items():
            ends.set(word, value)

    def close(self) -> None:
        """Go, as a guest that is ended does."""
        self.function.close()
