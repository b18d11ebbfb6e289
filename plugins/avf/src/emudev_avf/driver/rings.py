"""The driver's end of a queue pair: it posts buffers, sends frames and takes received ones.

Plain Python, one frame at a time; `load` has the compiled loops. Descriptors and buffers lie in one
guest page range each. Source: avf.md sections 6.1 to 6.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from ..descriptors import (
    DTYPE_DONE,
    DTYPE_MASK,
    FLEX_EOF,
    FLEX_IPE,
    FLEX_L2TAG1P,
    FLEX_L2TAG2P,
    FLEX_L3L4P,
    FLEX_L4E,
    FLEX_RSS_VALID,
    RX_DD,
    RX_EOF,
    RX_ERR_IPE,
    RX_ERR_L4E,
    RX_EXT_FD_ID,
    RX_EXT_L2TAG2P,
    RX_FLTSTAT_RSS,
    RX_L2TAG1P,
    RX_L3L4P,
    RX_SIZE,
    RXDID_LEGACY,
    RXDID_OVS_1,
    RXDID_OVS_2,
    TX_SIZE,
    RxFlexWriteback,
    RxPosted,
    RxWriteback,
    TxContext,
    TxData,
    tx_context_qword1,
    tx_data_qword1,
)
from .adminq import DriverError

if TYPE_CHECKING:
    from emudev_pci.guest import GuestFunction

__all__ = ["Headers", "Received", "RxRing", "TxRing"]

#: What a flexible descriptor says of a frame without a mark.
NO_FLOW: Final = 0xFFFF_FFFF
#: Bytes of a transmit buffer; longer frames take several descriptors.
TX_BUFFER: Final = 4096

EOP: Final = 0x1
RS: Final = 0x2
ICRC: Final = 0x4
IL2TAG1: Final = 0x8
# Of a context descriptor.
TSO: Final = 0x1
IL2TAG2: Final = 0x4


@attrs.frozen
class Headers:
    """The header lengths and requests that a transmit descriptor carries.

    Attributes:
        mac: Bytes of the Ethernet header, without a tag that the device inserts.
        ip: Bytes of the IP header.
        l4: Bytes of the transport header.
        ipv6: Whether the IP header is IPv6.
        protocol: ``tcp``, ``udp``, ``sctp`` or empty.
        ip_checksum: The device computes the IPv4 header checksum.
    """

    mac: int = 14
    ip: int = 20
    l4: int = 20
    ipv6: bool = False
    protocol: str = "tcp"
    ip_checksum: bool = False

    @property
    def command(self) -> int:
        """The IIPT and L4T parts of the command."""
        ip = 0x20 if self.ipv6 else (0x60 if self.ip_checksum else 0x40)
        return ip | {"": 0, "tcp": 0x100, "sctp": 0x200, "udp": 0x300}[self.protocol]


@attrs.frozen
class Received:
    """One received frame and what the device says of it.

    Attributes:
        frame: As delivered, without a stripped tag.
        ptype: Packet type; avf.md 6.10.
        hash: RSS hash, or None.
        vlan: TCI of a stripped tag, or None.
        checked: The device checked the checksums.
        bad: It found one wrong.
        mark: The mark of a flow rule, or None.
        inner_vlan: TCI of a stripped inner tag, or None.
        time: When it came, the low 32 bits of the device's clock of ns, or None.
    """

    frame: bytes
    ptype: int
    hash: int | None
    vlan: int | None
    checked: bool
    bad: bool
    mark: int | None = None
    inner_vlan: int | None = None
    time: int | None = None

    def evolve(self, frame: bytes) -> Received:
        """The same of a frame."""
        return attrs.evolve(self, frame=frame)


def read_legacy(raw: bytes) -> tuple[int, Received | None]:
    """The length of a buffer, and what a legacy descriptor says if it is the last of a frame."""
    done = RxWriteback.unpack(raw)
    word = done.qword1
    if not word & RX_EOF:
        return done.length, None
    return done.length, Received(
        frame=b"",
        ptype=done.ptype,
        hash=done.hash if word & RX_FLTSTAT_RSS == RX_FLTSTAT_RSS else None,
        vlan=done.l2tag1 if word & RX_L2TAG1P else None,
        checked=bool(word & RX_L3L4P),
        bad=bool(word & (RX_ERR_IPE | RX_ERR_L4E)),
        mark=done.fd_id if done.ext_status & RX_EXT_FD_ID else None,
        inner_vlan=done.l2tag2_2 if done.ext_status & RX_EXT_L2TAG2P else None,
    )


def read_flexible(raw: bytes) -> tuple[int, Received | None]:
    """The same of a descriptor in a flexible format."""
    done = RxFlexWriteback.unpack(raw)
    status = done.status_error0
    if not status & FLEX_EOF:
        return done.length, None
    value, flow = done.hash, done.flow
    if done.rxdid in (RXDID_OVS_1, RXDID_OVS_2):
        value, flow = flow, value
    return done.length, Received(
        frame=b"",
        ptype=done.ptype,
        hash=value if status & FLEX_RSS_VALID else None,
        vlan=done.l2tag1 if status & FLEX_L2TAG1P else None,
        checked=bool(status & FLEX_L3L4P),
        bad=bool(status & (FLEX_IPE | FLEX_L4E)),
        mark=None if flow == NO_FLOW else flow,
        inner_vlan=done.l2tag2_2 if done.status_error1 & FLEX_L2TAG2P else None,
        time=done.time,
    )


class TxRing:
    """A transmit ring.

    Args:
        function: The function.
        length: Descriptors, a multiple of 32.
    """

    def __init__(self, function: GuestFunction, length: int = 512) -> None:
        self.length = length
        self._base = (length * TX_SIZE + 4095) & ~4095
        self.page = function.map_memory(self._base + length * TX_BUFFER)
        self.next = 0
        self._clean = 0
        self._last: dict[int, int] = {}  # first descriptor of a frame -> the one with RS

    @property
    def address(self) -> int:
        """Guest address of the descriptors."""
        return self.page.address

    @property
    def buffers(self) -> int:
        """Offset of the buffers in `page`."""
        return self._base

    def resume(self, index: int) -> None:
        """Go on at a descriptor up to which somebody else has used the ring; all are completed."""
        self.next = self._clean = index
        self._last.clear()

    def reset(self) -> None:
        """Forget everything; the device starts at descriptor 0 again."""
        self.page.write(0, bytes(self.length * TX_SIZE))
        self.next = self._clean = 0
        self._last.clear()

    def send(
        self,
        frame: bytes,
        *,
        headers: Headers | None = None,
        mss: int = 0,
        vlan: int | None = None,
        vlan2: int | None = None,
        buffers: int = TX_BUFFER,
    ) -> int:
        """Write the descriptors of one frame.

        Args:
            frame: Ethernet frame without FCS.
            headers: Requests a checksum, or segmentation with `mss`.
            mss: Payload bytes of a segment; 0 does not segment.
            vlan: TCI of a tag for the device to insert, by L2TAG1.
            vlan2: TCI of one to insert by L2TAG2; the outer one if there are both.
            buffers: Bytes for each descriptor, at most 4096.

        Returns:
            The new tail, for the doorbell.

        Raises:
            DriverError: The ring has no room.
        """
        self.reap()
        pieces = [frame[i : i + buffers] for i in range(0, len(frame), buffers)]
        context = bool(mss) or vlan2 is not None
        needed = len(pieces) + context
        if needed >= self.length - (self.next - self._clean) % self.length:
            raise DriverError(f"no room for {needed} descriptors in a ring of {self.length}")
        first = self.next
        lengths = headers or Headers(mac=0, ip=0, l4=0, protocol="")
        command = ICRC | (headers.command if headers else 0) | (0 if vlan is None else IL2TAG1)
        if context:
            payload = len(frame) - lengths.mac - lengths.ip - lengths.l4
            word = tx_context_qword1(
                (TSO if mss else 0) | (0 if vlan2 is None else IL2TAG2),
                tso_length=payload if mss else 0,
                mss=mss,
            )
            self._put(TxContext(tunnel=0, l2tag2=vlan2 or 0, qword1=word).pack())
        for i, piece in enumerate(pieces):
            offset = self._base + self.next * TX_BUFFER
            self.page.write(offset, piece)
            last = EOP | RS if i == len(pieces) - 1 else 0
            qword1 = tx_data_qword1(
                len(piece),
                command | last,
                mac=lengths.mac,
                ip=lengths.ip,
                l4=lengths.l4,
                l2tag1=vlan or 0,
            )
            end = self.next
            self._put(TxData(address=self.page.address + offset, qword1=qword1).pack())
        self._last[first] = end
        return self.next

    def _put(self, descriptor: bytes) -> None:
        self.page.write(self.next * TX_SIZE, descriptor)
        self.next = (self.next + 1) % self.length

    def reap(self) -> int:
        """Take completed frames back; returns how many are still with the device."""
        while self._last:
            first, end = next(iter(self._last.items()))
            if self.page.read_u64(end * TX_SIZE + 8) & DTYPE_MASK != DTYPE_DONE:
                break
            del self._last[first]
            self._clean = (end + 1) % self.length
        return len(self._last)

    def close(self) -> None:
        """Give the memory back."""
        self.page.close()


class RxRing:
    """A receive ring.

    Args:
        function: The function.
        length: Descriptors, a multiple of 32.
        buffer: Bytes of each buffer, a multiple of 128, 1024 to 16256.
        rxdid: Format of the descriptors.
        timestamps: Whether they are to say when frames came.
    """

    def __init__(
        self,
        function: GuestFunction,
        length: int = 512,
        buffer: int = 2048,
        rxdid: int = 0,
        timestamps: bool = False,
    ) -> None:
        self.rxdid = rxdid
        self.timestamps = timestamps
        self.length = length
        self.buffer = buffer
        self._base = (length * RX_SIZE + 4095) & ~4095
        self.page = function.map_memory(self._base + length * buffer)
        self.next = 0
        self._pieces: list[bytes] = []
        self.reset()

    @property
    def address(self) -> int:
        """Guest address of the descriptors."""
        return self.page.address

    @property
    def buffers(self) -> int:
        """Offset of the buffers in `page`."""
        return self._base

    def resume(self, index: int) -> None:
        """Go on at a descriptor up to which somebody else has received."""
        self.next = index
        self._pieces.clear()

    def reset(self) -> None:
        """Post every buffer anew, for a device that starts at descriptor 0."""
        self.next = 0
        self._pieces.clear()
        for i in range(self.length):
            self._post(i)

    @property
    def tail(self) -> int:
        """What the doorbell is to say: all buffers but one are the device's."""
        return (self.next - 1) % self.length

    def _post(self, index: int) -> None:
        address = self.page.address + self._base + index * self.buffer
        self.page.write(index * RX_SIZE, RxPosted(packet=address).pack())

    def receive(self) -> list[Received]:
        """Take the frames that are complete and post their buffers again (write the tail then)."""
        frames = []
        while self.page.read_u64(self.next * RX_SIZE + 8) & RX_DD:
            raw = self.page.read(self.next * RX_SIZE, RX_SIZE)
            read = read_flexible if self.rxdid > RXDID_LEGACY else read_legacy
            length, received = read(raw)
            data = self.page.read(self._base + self.next * self.buffer, length)
            self._post(self.next)
            self.next = (self.next + 1) % self.length
            self._pieces.append(data)
            if received is None:
                continue
            frames.append(received.evolve(b"".join(self._pieces)))
            self._pieces = []
        return frames

    def close(self) -> None:
        """Give the memory back."""
        self.page.close()
