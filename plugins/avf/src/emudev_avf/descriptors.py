"""Descriptors of the AVF rings, declared, and the numbers of their fields.

The kernels load and store whole 64-bit words and take them apart with the shifts and masks below;
the declared structs are what tests, traces and the reference driver pack and unpack. All of it is
little endian.

Source: avf.md sections 6.2 to 6.8 and 6.10.
"""

from __future__ import annotations

from typing import Final

from emudev_core.wire import Wire, raw, u8, u16, u32, u64, wire

__all__ = [
    "RxFlexWriteback",
    "RxPosted",
    "RxWriteback",
    "TxContext",
    "TxData",
    "tx_context_qword1",
    "tx_data_qword1",
]

TX_SIZE: Final = 16  #: bytes of a transmit descriptor
RX_SIZE: Final = 32  #: bytes of a receive descriptor

# Transmit, qword 1: the type in its lowest four bits.
DTYPE_MASK: Final = 0xF
DTYPE_DATA: Final = 0x0
DTYPE_CONTEXT: Final = 0x1
DTYPE_DONE: Final = 0xF  #: what the device stores when a descriptor is complete

# Transmit data, qword 1.
TX_EOP: Final = 1 << 4
TX_RS: Final = 1 << 5
TX_ICRC: Final = 1 << 6
TX_IL2TAG1: Final = 1 << 7
TX_DUMMY: Final = 1 << 8
TX_IIPT_SHIFT: Final = 9
IIPT_NONE: Final = 0
IIPT_IPV6: Final = 1
IIPT_IPV4: Final = 2
IIPT_IPV4_CSUM: Final = 3
TX_L4T_SHIFT: Final = 12
L4T_NONE: Final = 0
L4T_TCP: Final = 1
L4T_SCTP: Final = 2
L4T_UDP: Final = 3
TX_MACLEN_SHIFT: Final = 16  #: unit 2 bytes
TX_MACLEN_MASK: Final = 0x7F
TX_IPLEN_SHIFT: Final = 23  #: unit 4 bytes
TX_IPLEN_MASK: Final = 0x7F
TX_L4LEN_SHIFT: Final = 30  #: unit 4 bytes
TX_L4LEN_MASK: Final = 0xF
TX_SIZE_SHIFT: Final = 34
TX_SIZE_MASK: Final = 0x3FFF
TX_L2TAG1_SHIFT: Final = 48

# Transmit context: tunnel and L2TAG2 in qword 0, the rest in qword 1.
CTX_EIPT_MASK: Final = 3  #: outer IP header: 0 none, else as IIPT
CTX_EIPLEN_SHIFT: Final = 2  #: unit 4 bytes
CTX_EIPLEN_MASK: Final = 0x7F
CTX_L4TUNT: Final = 3 << 9  #: 0 none, 1 UDP, 2 GRE
CTX_L4TUNLEN_SHIFT: Final = 12  #: what is between outer and inner IP header, unit 2 bytes
CTX_L4TUNLEN_MASK: Final = 0x7F
CTX_L4T_CS: Final = 1 << 23  #: outer UDP checksum
CTX_L2TAG2_SHIFT: Final = 32
CTX_TSO: Final = 1 << 4
CTX_TSYN: Final = 1 << 5
CTX_IL2TAG2: Final = 1 << 6
CTX_TSO_LEN_SHIFT: Final = 30
CTX_TSO_LEN_MASK: Final = 0x3FFFF
CTX_MSS_SHIFT: Final = 50
CTX_MSS_MASK: Final = 0x3FFF

# Receive write-back, qword 1.
RX_DD: Final = 1 << 0
RX_EOF: Final = 1 << 1
RX_L2TAG1P: Final = 1 << 2
RX_L3L4P: Final = 1 << 3
RX_CRCP: Final = 1 << 4
RX_UMBCAST_SHIFT: Final = 9
RX_FLM: Final = 1 << 11
RX_FLTSTAT_FD: Final = 1 << 12
RX_FLTSTAT_RSS: Final = 3 << 12
RX_IPV6EXADD: Final = 1 << 15
RX_ERR_RXE: Final = 1 << 19
RX_ERR_IPE: Final = 1 << 22
RX_ERR_L4E: Final = 1 << 23
RX_ERR_EIPE: Final = 1 << 24
RX_PTYPE_SHIFT: Final = 30
RX_PBUF_SHIFT: Final = 38
RX_PBUF_MASK: Final = 0x3FFF
# Receive write-back, qword 0 and qword 2.
RX_L2TAG1_SHIFT: Final = 16
RX_HASH_SHIFT: Final = 32
RX_EXT_L2TAG2P: Final = 1 << 0
RX_L2TAG2_2_SHIFT: Final = 48
RX_EXT_FD_ID: Final = 1 << 4  #: qword 3 has a flow director id
RX_FD_ID_SHIFT: Final = 32  #: in qword 3

# Receive write-back in a flexible format: its number is the lowest byte of qword 0.
RXDID_LEGACY: Final = 1  #: the one above, 32 bytes; 0 means the same
RXDID_NIC: Final = 2
RXDID_NIC_2: Final = 6
RXDID_GENERIC: Final = 16
RXDID_AUX_VLAN: Final = 17  #: the TCI of a service tag, then that of a customer tag
RXDID_AUX_IPV4: Final = 18  #: time to live and protocol; version, header length and service
RXDID_AUX_IPV6: Final = 19  #: next header and hop limit; version, class, flow label's first bits
RXDID_AUX_IPV6_FLOW: Final = 20  #: flow label's last bits; version, class, its first bits
RXDID_AUX_TCP: Final = 21  #: data offset and flags
RXDID_OVS_1: Final = 22
RXDID_OVS_2: Final = 23
RXDID_AUX_IP_OFFSET: Final = 25  #: where the IP header begins
#: All that a queue can have; 24, of IPsec, is for devices that do it.
RXDIDS: Final = frozenset({1, 2, 6, *range(16, 24), 25})
#: Those with room for a timestamp: where the others have their auxiliary words.
RXDIDS_WITH_TIME: Final = frozenset({2, 6, 16, 22, 23})
FLEX_UMBCAST_SHIFT: Final = 14
FLEX_PTYPE_SHIFT: Final = 16
# Its qword 1, status_error0.
FLEX_DD: Final = 1 << 0
FLEX_EOF: Final = 1 << 1
FLEX_L3L4P: Final = 1 << 3
FLEX_IPE: Final = 1 << 4
FLEX_L4E: Final = 1 << 5
FLEX_EIPE: Final = 1 << 6
FLEX_RXE: Final = 1 << 10
FLEX_CRCP: Final = 1 << 11
FLEX_RSS_VALID: Final = 1 << 12
FLEX_L2TAG1P: Final = 1 << 13
# Its qword 2, status_error1.
FLEX_L2TAG2P: Final = 1 << 11
FLEX_XTRMD4_VALID: Final = 1 << 14  #: there is a first auxiliary word
FLEX_XTRMD5_VALID: Final = 1 << 15  #: and a second one
FLEX_TIME_VALID: Final = 1 << 24  #: the upper half of qword 3 is a timestamp; bit 0 of its low byte

#: Most buffers that a received frame may span; both drivers give up on more (avf.md 6.9).
RX_MAX_BUFFERS: Final = 5


@wire(size=TX_SIZE)
class TxData(Wire):
    """A transmit data descriptor. Source: avf.md 6.2."""

    address: int = u64("guest address of the buffer, any alignment")
    qword1: int = u64("type, command, header lengths, size and L2TAG1; see `tx_data_qword1`")


@wire(size=TX_SIZE)
class TxContext(Wire):
    """A transmit context descriptor, before the data of its packet. Source: avf.md 6.4."""

    tunnel: int = u32("tunnelling parameters, 0 without")
    l2tag2: int = u16("VLAN TCI that IL2TAG2 inserts", default=0)
    reserved: int = u16("zero", default=0)
    qword1: int = u64("type, command, TSO length and MSS; see `tx_context_qword1`", default=1)


@wire(size=RX_SIZE)
class RxPosted(Wire):
    """A receive descriptor as the guest posts it. Source: avf.md 6.6."""

    packet: int = u64("guest address of the packet buffer, any alignment")
    header: int = u64("header buffer: zero, header split is not used", default=0)
    rest: bytes = raw(16, "zero", default=bytes(16))


@wire(size=RX_SIZE)
class RxWriteback(Wire):
    """A receive descriptor as the device writes it back, legacy format. Source: avf.md 6.7."""

    mirror: int = u16("mirror and FCoE fields, zero")
    l2tag1: int = u16("stripped VLAN TCI if L2TAG1P")
    hash: int = u32("RSS hash if FLTSTAT is 3")
    qword1: int = u64("status, errors, packet type and length; DD is bit 0")
    ext_status: int = u16("bit 0: L2TAG2P")
    reserved: int = u16("zero")
    l2tag2_1: int = u16("zero")
    l2tag2_2: int = u16("stripped VLAN TCI if L2TAG2P")
    flex: int = u32("zero")
    fd_id: int = u32("flow director id, if bit 4 of ext_status is set")

    @property
    def length(self) -> int:
        """Bytes in this buffer."""
        return self.qword1 >> RX_PBUF_SHIFT & RX_PBUF_MASK

    @property
    def ptype(self) -> int:
        """Packet type; avf.md 6.10."""
        return self.qword1 >> RX_PTYPE_SHIFT & 0xFF


@wire(size=RX_SIZE)
class RxFlexWriteback(Wire):
    """A receive descriptor as the device writes it back, in a flexible format.

    Source: avf.md 6.8; what the auxiliary words hold: rte_pmd_iavf.h of DPDK.
    """

    rxdid: int = u8("number of the format")
    mirror_umbcast: int = u8("bits 7:6: 0 unicast, 1 multicast, 2 broadcast")
    ptype_flags: int = u16("bits 9:0: packet type")
    pkt_len: int = u16("bits 13:0: bytes in this buffer")
    header_len: int = u16("zero")
    status_error0: int = u16("status and errors; DD is bit 0")
    l2tag1: int = u16("stripped VLAN TCI if bit 13 of status_error0 is set")
    hash: int = u32("RSS hash if bit 12 is set; formats 22 and 23: flow id, all ones without")
    status_error1: int = u16("bit 11: l2tag2_2; bits 14 and 15: auxiliary words")
    flags2: int = u8("zero")
    time_low: int = u8("bit 0: there is a timestamp; its parts of a nanosecond: zero")
    l2tag2_1: int = u16("zero")
    l2tag2_2: int = u16("stripped VLAN TCI")
    flow: int = u32("flow id, all ones without; formats 22 and 23: RSS hash")
    aux0: int = u16("first auxiliary word, or the lower half of a timestamp, ns")
    aux1: int = u16("second auxiliary word, or its upper half")

    @property
    def length(self) -> int:
        """Bytes in this buffer."""
        return self.pkt_len & RX_PBUF_MASK

    @property
    def ptype(self) -> int:
        """Packet type; avf.md 6.10."""
        return self.ptype_flags & 0x3FF

    @property
    def time(self) -> int | None:
        """When the frame came: the low 32 bits of a clock of ns, None without."""
        return self.aux1 << 16 | self.aux0 if self.time_low & 1 else None


def tx_data_qword1(
    size: int,
    command: int,
    *,
    mac: int = 0,
    ip: int = 0,
    l4: int = 0,
    l2tag1: int = 0,
) -> int:
    """Qword 1 of a transmit data descriptor.

    Args:
        size: Bytes in the buffer, 1 to 16383.
        command: The command number as drivers write it: EOP 1, RS 2, ICRC 4, IL2TAG1 8, IIPT from
            0x20, L4T from 0x100.
        mac: Bytes of the Ethernet header, even; 0 if no header length is given.
        ip: Bytes of the IP header, a multiple of 4.
        l4: Bytes of the transport header, a multiple of 4.
        l2tag1: VLAN TCI.
    """
    offset = mac // 2 | ip // 4 << 7 | l4 // 4 << 14
    return (
        DTYPE_DATA
        | command << 4
        | offset << TX_MACLEN_SHIFT
        | size << TX_SIZE_SHIFT
        | l2tag1 << TX_L2TAG1_SHIFT
    )


def tx_context_qword1(command: int, *, tso_length: int = 0, mss: int = 0) -> int:
    """Qword 1 of a transmit context descriptor.

    Args:
        command: As drivers write it: TSO 1, TSYN 2, IL2TAG2 4.
        tso_length: Payload bytes of the whole frame, up to 262143.
        mss: Payload bytes of a segment, up to 16383.
    """
    return DTYPE_CONTEXT | command << 4 | tso_length << CTX_TSO_LEN_SHIFT | mss << CTX_MSS_SHIFT
