"""Numbers of virtchnl: opcodes, status codes, capability flags, events, link speeds.

Source: avf.md sections 4.1, 4.3, 4.4, 4.5 and 4.10 (virtchnl.h).
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "ALLOWED_CAPS",
    "DEFAULT_CAPS",
    "LEGACY_CAPS",
    "AddressType",
    "Cap",
    "EventCode",
    "Op",
    "PtpCap",
    "QueueType",
    "Status",
    "VlanSupport",
    "legacy_speed",
]


class Op(enum.IntEnum):
    """Opcodes that the device answers with more than "not supported"; others are plain numbers."""

    VERSION = 1
    RESET_VF = 2
    GET_VF_RESOURCES = 3
    CONFIG_TX_QUEUE = 4
    CONFIG_RX_QUEUE = 5
    CONFIG_VSI_QUEUES = 6
    CONFIG_IRQ_MAP = 7
    ENABLE_QUEUES = 8
    DISABLE_QUEUES = 9
    ADD_ETH_ADDR = 10
    DEL_ETH_ADDR = 11
    ADD_VLAN = 12
    DEL_VLAN = 13
    CONFIG_PROMISCUOUS_MODE = 14
    GET_STATS = 15
    EVENT = 17
    CONFIG_RSS_HFUNC = 18
    CONFIG_RSS_KEY = 23
    CONFIG_RSS_LUT = 24
    GET_RSS_HENA_CAPS = 25
    SET_RSS_HENA = 26
    ENABLE_VLAN_STRIPPING = 27
    DISABLE_VLAN_STRIPPING = 28
    REQUEST_QUEUES = 29
    ENABLE_CHANNELS = 30
    DISABLE_CHANNELS = 31
    ADD_CLOUD_FILTER = 32
    DEL_CLOUD_FILTER = 33
    GET_SUPPORTED_RXDIDS = 44
    ADD_RSS_CFG = 45
    DEL_RSS_CFG = 46
    ADD_FDIR_FILTER = 47
    DEL_FDIR_FILTER = 48
    GET_MAX_RSS_QREGION = 50
    GET_OFFLOAD_VLAN_V2_CAPS = 51
    ADD_VLAN_V2 = 52
    DEL_VLAN_V2 = 53
    ENABLE_VLAN_STRIPPING_V2 = 54
    DISABLE_VLAN_STRIPPING_V2 = 55
    ENABLE_VLAN_INSERTION_V2 = 56
    DISABLE_VLAN_INSERTION_V2 = 57
    ENABLE_VLAN_FILTERING_V2 = 58
    DISABLE_VLAN_FILTERING_V2 = 59
    PTP_GET_CAPS = 60
    PTP_GET_TIME = 61
    GET_QOS_CAPS = 66
    CONFIG_QUEUE_TC_MAP = 67
    ENABLE_QUEUES_V2 = 107
    DISABLE_QUEUES_V2 = 108
    MAP_QUEUE_VECTOR = 111
    CONFIG_QUEUE_BW = 112
    CONFIG_QUANTA = 113
    FLOW_SUBSCRIBE = 114
    FLOW_UNSUBSCRIBE = 115


class Status(enum.IntEnum):
    """Result of a request, in the low cookie of its reply as a signed number."""

    SUCCESS = 0
    ERR_PARAM = -5
    ERR_NO_MEMORY = -18
    ERR_OPCODE_MISMATCH = -38
    ERR_CQP_COMPL_ERROR = -39
    ERR_INVALID_VF_ID = -40
    ERR_ADMIN_QUEUE_ERROR = -53
    ERR_NOT_SUPPORTED = -64


class Cap(enum.IntFlag):
    """Capability flags of GET_VF_RESOURCES; unknown bits are kept."""

    L2 = 0x0000_0001
    RDMA = 0x0000_0002
    RSS_AQ = 0x0000_0008
    RSS_REG = 0x0000_0010
    WB_ON_ITR = 0x0000_0020
    REQ_QUEUES = 0x0000_0040
    ADV_LINK_SPEED = 0x0000_0080
    INLINE_IPSEC_CRYPTO = 0x0000_0100
    LARGE_NUM_QPAIRS = 0x0000_0200
    CRC = 0x0000_0400
    TC_U32 = 0x0000_0800
    FSUB_PF = 0x0000_4000
    VLAN_V2 = 0x0000_8000
    VLAN = 0x0001_0000
    RX_POLLING = 0x0002_0000
    RSS_PCTYPE_V2 = 0x0004_0000
    RSS_PF = 0x0008_0000
    ENCAP = 0x0010_0000
    ENCAP_CSUM = 0x0020_0000
    RX_ENCAP_CSUM = 0x0040_0000
    ADQ = 0x0080_0000
    ADQ_V2 = 0x0100_0000
    USO = 0x0200_0000
    RX_FLEX_DESC = 0x0400_0000
    ADV_RSS_PF = 0x0800_0000
    FDIR_PF = 0x1000_0000
    QOS = 0x2000_0000
    DCF = 0x4000_0000
    PTP = 0x8000_0000


#: What is offered unless ``caps=`` says otherwise.
DEFAULT_CAPS: Final = (
    Cap.L2
    | Cap.WB_ON_ITR
    | Cap.REQ_QUEUES
    | Cap.ADV_LINK_SPEED
    | Cap.LARGE_NUM_QPAIRS
    | Cap.CRC
    | Cap.VLAN_V2
    | Cap.RSS_PF
    | Cap.USO
    | Cap.RX_FLEX_DESC
    | Cap.ADV_RSS_PF
    | Cap.TC_U32
    | Cap.ADQ
    | Cap.FDIR_PF
    | Cap.FSUB_PF
    | Cap.QOS
    | Cap.PTP
)

#: Everything that is implemented: what ``caps=`` may offer.
ALLOWED_CAPS: Final = DEFAULT_CAPS | Cap.VLAN | Cap.RSS_REG

#: What a driver of virtchnl 1.0 is taken to ask for, since it can't say.
LEGACY_CAPS: Final = Cap.L2 | Cap.VLAN | Cap.RSS_PF


class EventCode(enum.IntEnum):
    """Event of an EVENT message."""

    LINK_CHANGE = 1
    RESET_IMPENDING = 2
    PF_DRIVER_CLOSE = 3


class AddressType(enum.IntEnum):
    """Lower two bits of the type of an address in ADD_ETH_ADDR."""

    LEGACY = 0
    PRIMARY = 1
    EXTRA = 2


class QueueType(enum.IntEnum):
    """Direction of a range of queues, seen from the guest."""

    TX = 0
    RX = 1


class PtpCap(enum.IntFlag):
    """What a driver may do with the clock, in PTP_GET_CAPS."""

    TX_TIMESTAMP = 0x01
    RX_TIMESTAMP = 0x02
    READ_PHC = 0x04
    WRITE_PHC = 0x08
    PHC_REGS = 0x10


class VlanSupport(enum.IntFlag):
    """Bits of the words of GET_OFFLOAD_VLAN_V2_CAPS and of the requests that follow it."""

    ETHERTYPE_8100 = 0x0000_0001
    ETHERTYPE_88A8 = 0x0000_0002
    ETHERTYPE_9100 = 0x0000_0004
    L2TAG1 = 0x0000_0100
    L2TAG2 = 0x0000_0200
    L2TAG2_2 = 0x0000_0400
    PRIO = 0x0100_0000
    FILTER_MASK = 0x1000_0000
    AND = 0x2000_0000
    XOR = 0x4000_0000
    TOGGLE = 0x8000_0000


#: Link speeds, Mbit/s, and the flags that stand for them without ADV_LINK_SPEED.
LEGACY_SPEEDS: Final = {
    100: 0x02,
    1_000: 0x04,
    2_500: 0x01,
    5_000: 0x80,
    10_000: 0x08,
    20_000: 0x20,
    25_000: 0x40,
    40_000: 0x10,
}


def legacy_speed(mbit: int) -> int:
    """The flag for a link speed, Mbit/s: the next lower one that has a flag, 0 below 100 Mbit/s."""
    return max((s, flag) for s, flag in [(0, 0), *LEGACY_SPEEDS.items()] if s <= mbit)[1]
