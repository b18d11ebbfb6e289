"""Bulk traffic of the reference driver: rings kept busy by compiled loops.

The transmit buffers are filled with one frame once; `fill` then only writes descriptors. `collect`
takes received frames, compares a word of each with what was sent, and posts the buffers again.
Python writes the doorbells, once for each batch, as a driver does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import attrs

from emudev_net.jit import compile_now, queue_kernel
from emudev_net.primitives import Words, load64, load64_acquire, store64, store64_release

from ..descriptors import (
    DTYPE_DONE,
    DTYPE_MASK,
    RX_DD,
    RX_EOF,
    RX_PBUF_MASK,
    RX_PBUF_SHIFT,
    RX_SIZE,
    TX_SIZE,
    tx_data_qword1,
)
from ..registers import MAP
from .rings import EOP, ICRC, RS, TX_BUFFER

if TYPE_CHECKING:
    from .netdev import AvfDriver

__all__ = ["Load", "LoadResult"]

# Words of both loops.
RING: Final = 0  #: address of the descriptors in this process
LENGTH: Final = 1  #: descriptors
NEXT: Final = 2  #: the next one to write, or to look at
CLEAN: Final = 3  #: transmit: the oldest one that is not completed
BUFFERS: Final = 4  #: guest address of the first buffer
STRIDE: Final = 5  #: bytes from one buffer to the next
QWORD1: Final = 6  #: transmit: what each descriptor says
FRAMES: Final = 7  #: frames sent, or received whole
BYTES: Final = 8  #: bytes received
BAD: Final = 9  #: frames that differ from what was sent
HOST: Final = 10  #: receive: address of the first buffer in this process
CHECK: Final = 11  #: receive: where in a frame the compared word lies
WANTED: Final = 12  #: receive: the word
WORDS: Final = 16

#: Descriptors written for each doorbell.
BATCH: Final = 64


@queue_kernel
def fill(state: int, _burst: int, budget: int) -> int:
    """Take completed descriptors back and write up to `budget` new ones; returns how many."""
    ring = load64(state + 8 * RING)
    length = load64(state + 8 * LENGTH)
    index = load64(state + 8 * NEXT)
    clean = load64(state + 8 * CLEAN)
    while clean != index:
        if load64_acquire(ring + clean * TX_SIZE + 8) & DTYPE_MASK != DTYPE_DONE:
            break
        clean = clean + 1 if clean + 1 < length else 0
    used = index - clean
    if used < 0:
        used += length
    room = min(length - 1 - used, budget)
    qword1 = load64(state + 8 * QWORD1)
    buffers = load64(state + 8 * BUFFERS)
    stride = load64(state + 8 * STRIDE)
    for _ in range(room):
        store64(ring + index * TX_SIZE, buffers + index * stride)
        store64_release(ring + index * TX_SIZE + 8, qword1)
        index = index + 1 if index + 1 < length else 0
    store64(state + 8 * NEXT, index)
    store64(state + 8 * CLEAN, clean)
    store64(state + 8 * FRAMES, load64(state + 8 * FRAMES) + room)
    return room


@queue_kernel
def collect(state: int, _burst: int, budget: int) -> int:
    """Take up to `budget` received descriptors and post their buffers again; returns how many."""
    ring = load64(state + 8 * RING)
    length = load64(state + 8 * LENGTH)
    index = load64(state + 8 * NEXT)
    buffers = load64(state + 8 * BUFFERS)
    stride = load64(state + 8 * STRIDE)
    check = load64(state + 8 * HOST) + load64(state + 8 * CHECK)
    wanted = load64(state + 8 * WANTED)
    taken = 0
    frames = 0
    octets = 0
    bad = 0
    first = True
    while taken < budget:
        descriptor = ring + index * RX_SIZE
        qword1 = load64_acquire(descriptor + 8)
        if qword1 & RX_DD == 0:
            break
        if first and load64(check + index * stride) != wanted:
            bad += 1
        first = qword1 & RX_EOF != 0
        frames += qword1 >> 1 & 1
        octets += qword1 >> RX_PBUF_SHIFT & RX_PBUF_MASK
        store64(descriptor, buffers + index * stride)
        store64(descriptor + 16, 0)
        store64(descriptor + 24, 0)
        store64_release(descriptor + 8, 0)
        index = index + 1 if index + 1 < length else 0
        taken += 1
    store64(state + 8 * NEXT, index)
    store64(state + 8 * FRAMES, load64(state + 8 * FRAMES) + frames)
    store64(state + 8 * BYTES, load64(state + 8 * BYTES) + octets)
    store64(state + 8 * BAD, load64(state + 8 * BAD) + bad)
    return taken


@attrs.frozen
class LoadResult:
    """What a run saw.

    Attributes:
        seconds: How long it ran.
        sent: Frames given to the device.
        received: Frames that came back.
        received_bytes: Their bytes.
        bad: Frames that came back changed behind their addresses.
    """

    seconds: float
    sent: int
    received: int
    received_bytes: int
    bad: int


class Load:
    """Traffic on queue pair 0 of an open driver.

    Args:
        driver: The driver; nothing else may use its rings meanwhile.
        frame: What to send, at most 4096 bytes.
    """

    def __init__(self, driver: AvfDriver, frame: bytes) -> None:
        self._driver = driver
        tx, rx = driver.tx[0], driver.rx[0]
        if len(frame) > TX_BUFFER:
            raise ValueError(f"a frame of bulk traffic has at most {TX_BUFFER} bytes")
        compile_now([fill, collect])
        while tx.reap():
            driver.function.pause(0.001)
        rx.receive()
        self._driver.function.bar[0].write32(MAP.offset("QRX_TAIL1", 0), rx.tail)
        for i in range(tx.length):
            tx.page.write(tx.buffers + i * TX_BUFFER, frame)
        self._tx = Words(WORDS)
        self._tx[RING] = tx.page.host
        self._tx[LENGTH] = tx.length
        self._tx[NEXT] = self._tx[CLEAN] = tx.next
        self._tx[BUFFERS] = tx.page.address + tx.buffers
        self._tx[STRIDE] = TX_BUFFER
        self._tx[QWORD1] = tx_data_qword1(len(frame), EOP | RS | ICRC)
        self._rx = Words(WORDS)
        self._rx[RING] = rx.page.host
        self._rx[LENGTH] = rx.length
        self._rx[NEXT] = rx.next
        self._rx[BUFFERS] = rx.page.address + rx.buffers
        self._rx[STRIDE] = rx.buffer
        self._rx[HOST] = rx.page.host + rx.buffers
        self._rx[CHECK] = 42
        self._rx[WANTED] = int.from_bytes(frame[42:50], "little", signed=True)

    def run(self, seconds: float) -> LoadResult:
        """Send and collect for some time, then wait for what is still under way."""
        driver, bar = self._driver, self._driver.function.bar[0]
        tx_tail, rx_tail = MAP.offset("QTX_TAIL1", 0), MAP.offset("QRX_TAIL1", 0)
        tx, rx = self._tx, self._rx
        start = time.perf_counter()
        end = start + seconds
        settled = end + 0.5
        posted = 0
        while (now := time.perf_counter()) < settled:
            sent = fill(tx.address, 0, BATCH) if now < end else 0
            if sent:
                bar.write32(tx_tail, tx[NEXT])
            taken = collect(rx.address, 0, 4 * BATCH)
            posted += taken
            if posted >= BATCH or (taken == 0 and posted):
                bar.write32(rx_tail, (rx[NEXT] - 1) % rx[LENGTH])
                posted = 0
            if not sent and not taken:
                if now >= end and rx[FRAMES] >= tx[FRAMES]:
                    break
                driver.function.pause(0.0001)
        seconds = min(time.perf_counter(), end) - start
        driver.tx[0].resume(tx[NEXT])
        driver.rx[0].resume(rx[NEXT])
        return LoadResult(seconds, tx[FRAMES], rx[FRAMES], rx[BYTES], rx[BAD])
