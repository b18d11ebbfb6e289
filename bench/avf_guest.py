"""A guest that sends by the AVF device and costs next to nothing.

The reference driver brings the device up over its vfio-user socket, then compiled loops take over
its transmit ring and write descriptors and doorbells, but no payload.

Descriptors ask for a report each, as Linux writes them. The device offers its transmit tails as
memory (`doorbells=mapped`), so a doorbell is a store, as it is for a guest whose VMM has mapped
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from memif_peers import BATCH, GUEST, SENT, STOP, Ends, memif_receive

from emudev_avf.descriptors import DTYPE_DONE, DTYPE_MASK, TX_SIZE, tx_data_qword1
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.driver.rings import EOP, ICRC, RS
from emudev_avf.registers import MAP
from emudev_core.memory import Mapping
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    load64,
    load64_acquire,
    load64_relaxed,
    pause,
    store32_release,
    store64,
    store64_relaxed,
    store64_release,
)
from emudev_pci.guest import GuestFunction
from emudev_vfio_user.client import VfioUserClient

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
G_TAIL = GUEST + 8 * 7  # address of the doorbell


@inline
def avf_send(state: int) -> int:
    """Take completed descriptors back, write what there is room for, and ring."""
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
    if count > 0:
        store32_release(load64(state + G_TAIL), index)
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
        bar = client.regions()[0]
        assert bar.fd is not None, "the device offers no doorbells to map"
        area = bar.areas[0]
        self._doorbells = Mapping(bar.fd, bar.fd_offset + area.offset, area.size)
        self._tail = self._doorbells.address + MAP.offset("QTX_TAIL1", 0) - area.offset

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
            G_TAIL: self._tail,
        }
        for word, value in values.items():
            ends.set(word, value)

    def close(self) -> None:
        """Go, as a guest that is ended does; no loop may run any more."""
        self._doorbells.close()
        self.function.close()
