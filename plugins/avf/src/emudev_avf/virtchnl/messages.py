"""Wire structs of virtchnl: payloads of requests, replies and events, little endian.

Requests with a row of elements are a head and an element here; `handlers.elements` takes them
apart.
Source: avf.md sections 4.2, 4.5, 4.6, 4.7 and 4.10 (virtchnl.h).
"""

from __future__ import annotations

from emudev_core.wire import Wire, raw, s32, u8, u16, u32, u64, wire

__all__ = [
    "EthAddr",
    "EthAddrHead",
    "EthStats",
    "FlowDelete",
    "GetVfResources",
    "IrqMapHead",
    "PfEvent",
    "PhcTime",
    "Promiscuous",
    "PtpCaps",
    "PtpCapsBehindRegs",
    "QosCap",
    "QosCapsHead",
    "Quanta",
    "QueueBandwidth",
    "QueueBandwidthHead",
    "QueueChunk",
    "QueueChunksHead",
    "QueueSelect",
    "QueueVector",
    "QueueVectorsHead",
    "RequestQueues",
    "RssHena",
    "RssHfunc",
    "RssKeyHead",
    "RssLutHead",
    "RssRegion",
    "Rxdids",
    "RxQueueInfo",
    "TcMapHead",
    "TcPriorities",
    "TcQueues",
    "TxQueueInfo",
    "VectorMap",
    "Version",
    "VfResources",
    "VlanFilter",
    "VlanFilterHead",
    "VlanHead",
    "VlanId",
    "VlanSetting",
    "VlanV2Caps",
    "VsiQueuesHead",
    "VsiResource",
]


@wire(size=8)
class Version(Wire):
    """VERSION, both ways."""

    major: int = u32("1")
    minor: int = u32("0 or 1")


@wire(size=4)
class GetVfResources(Wire):
    """GET_VF_RESOURCES, request."""

    caps: int = u32("capability flags that the driver would use")


@wire(size=20)
class VfResources(Wire):
    """GET_VF_RESOURCES, head of the reply; a `VsiResource` follows for each VSI."""

    num_vsis: int = u16("number of VSIs: 1")
    num_queue_pairs: int = u16("queue pairs, 1 to 16; up to 256 for who asked for more")
    max_vectors: int = u16("interrupt vectors, the mailbox' included; at least 2")
    max_mtu: int = u16("longest frame, bytes, two tags and FCS included; 0 for no limit")
    vf_cap_flags: int = u32("granted capability flags")
    rss_key_size: int = u32("bytes of the hash key: 52")
    rss_lut_size: int = u32("entries of the lookup table: 64, or 512 for more than 64 queue pairs")


@wire(size=16)
class VsiResource(Wire):
    """GET_VF_RESOURCES, one VSI of the reply."""

    vsi_id: int = u16("id that later requests carry")
    num_queue_pairs: int = u16("queue pairs of the VSI")
    vsi_type: int = s32("6 for SR-IOV")
    qset_handle: int = u16("0")
    default_mac_addr: bytes = raw(6, "the interface's address")


@wire(size=24)
class TxQueueInfo(Wire):
    """CONFIG_TX_QUEUE, and the first part of a pair in CONFIG_VSI_QUEUES."""

    vsi_id: int = u16("the VSI")
    queue_id: int = u16("number of the queue pair")
    ring_len: int = u16("descriptors, a multiple of 8; 0 leaves the queue alone")
    headwb_enabled: int = u16("ignored", default=0)
    dma_ring_addr: int = u64("guest address of the ring, 128-byte aligned", default=0)
    dma_headwb_addr: int = u64("ignored", default=0)


@wire(size=40)
class RxQueueInfo(Wire):
    """CONFIG_RX_QUEUE, and the second part of a pair in CONFIG_VSI_QUEUES."""

    vsi_id: int = u16("the VSI")
    queue_id: int = u16("number of the queue pair")
    ring_len: int = u32("descriptors, a multiple of 32; 0 leaves the queue alone")
    hdr_size: int = u16("bytes of a header buffer: 0", default=0)
    splithdr_enabled: int = u16("header split: 0", default=0)
    databuffer_size: int = u32("bytes of a buffer, a multiple of 128, 1024 to 16256", default=0)
    max_pkt_size: int = u32("longest frame, bytes, 64 to 16382", default=0)
    crc_disable: int = u8("1: frames keep their FCS", default=0)
    rxdid: int = u8("descriptor format, with RX_FLEX_DESC; 0, 1: legacy, 32 bytes", default=0)
    flags: int = u8("bit 0: receive timestamps", default=0)
    pad1: int = u8("zero", default=0)
    dma_ring_addr: int = u64("guest address of the ring, 128-byte aligned", default=0)
    rx_split_pos: int = s32("0", default=0)
    pad2: int = u32("zero", default=0)


@wire(size=8)
class VsiQueuesHead(Wire):
    """CONFIG_VSI_QUEUES, head; for each pair a `TxQueueInfo` and a `RxQueueInfo` follow."""

    vsi_id: int = u16("the VSI")
    num_queue_pairs: int = u16("number of pairs that follow")
    pad1: int = u32("zero", default=0)


@wire(size=2)
class IrqMapHead(Wire):
    """CONFIG_IRQ_MAP, head; the `VectorMap` entries that follow are 2-byte aligned only."""

    num_vectors: int = u16("number of entries")


@wire(size=12)
class VectorMap(Wire):
    """CONFIG_IRQ_MAP, one entry: the queues that a vector serves."""

    vsi_id: int = u16("the VSI")
    vector_id: int = u16("interrupt vector, 0 for the mailbox'")
    rxq_map: int = u16("bit set of receive queues")
    txq_map: int = u16("bit set of transmit queues")
    rxitr_idx: int = u16("throttle of receive queues: 0 to 2, or 3 for none", default=0)
    txitr_idx: int = u16("throttle of transmit queues", default=0)


@wire(size=12)
class QueueSelect(Wire):
    """ENABLE_QUEUES, DISABLE_QUEUES, GET_STATS (where only the VSI counts)."""

    vsi_id: int = u16("the VSI")
    pad1: int = u16("zero", default=0)
    rx_queues: int = u32("bit set of receive queues", default=0)
    tx_queues: int = u32("bit set of transmit queues", default=0)


@wire(size=4)
class EthAddrHead(Wire):
    """ADD_ETH_ADDR, DEL_ETH_ADDR, head; `EthAddr` elements follow."""

    vsi_id: int = u16("the VSI")
    num_elements: int = u16("number of addresses")


@wire(size=8)
class EthAddr(Wire):
    """One MAC address."""

    addr: bytes = raw(6, "the address")
    type: int = u8("lower two bits: an AddressType", default=0)
    pad1: int = u8("zero", default=0)


@wire(size=4)
class VlanHead(Wire):
    """ADD_VLAN, DEL_VLAN, head; `VlanId` elements follow."""

    vsi_id: int = u16("the VSI")
    num_elements: int = u16("number of ids")


@wire(size=2)
class VlanId(Wire):
    """One VLAN id."""

    vlan_id: int = u16("0 to 4095")


@wire(size=4)
class Promiscuous(Wire):
    """CONFIG_PROMISCUOUS_MODE."""

    vsi_id: int = u16("the VSI")
    flags: int = u16("bit 0: all unicast frames; bit 1: all multicast frames")


@wire(size=96)
class EthStats(Wire):
    """GET_STATS, reply: counters since power-on, seen from the guest."""

    rx_bytes: int = u64("bytes received")
    rx_unicast: int = u64("unicast frames for the guest, discarded ones too")
    rx_multicast: int = u64("multicast frames, likewise")
    rx_broadcast: int = u64("broadcast frames, likewise")
    rx_discards: int = u64("frames for the guest that found no way to it")
    rx_unknown_protocol: int = u64("0")
    tx_bytes: int = u64("bytes sent")
    tx_unicast: int = u64("unicast frames sent")
    tx_multicast: int = u64("multicast frames sent")
    tx_broadcast: int = u64("broadcast frames sent")
    tx_discards: int = u64("frames dropped on their way out")
    tx_errors: int = u64("frames that could not be sent as described")


@wire(size=16)
class PfEvent(Wire):
    """EVENT, from the PF side."""

    event: int = s32("an EventCode")
    link_speed: int = u32("Mbit/s with ADV_LINK_SPEED, else a flag", default=0)
    link_status: int = u8("1 = up", default=0)
    pad1: bytes = raw(3, "zero", default=bytes(3))
    severity: int = s32("255 for an impending reset, else 0", default=0)


@wire(size=4)
class RssKeyHead(Wire):
    """CONFIG_RSS_KEY, head; the key follows."""

    vsi_id: int = u16("the VSI")
    key_len: int = u16("bytes of the key")


@wire(size=4)
class RssLutHead(Wire):
    """CONFIG_RSS_LUT, head; one byte, a queue, follows for each entry."""

    vsi_id: int = u16("the VSI")
    lut_entries: int = u16("entries")


@wire(size=8)
class RssHena(Wire):
    """GET_RSS_HENA_CAPS, reply; SET_RSS_HENA, request."""

    hena: int = u64("bit set of hashed packet types")


@wire(size=8)
class RssHfunc(Wire):
    """CONFIG_RSS_HFUNC."""

    vsi_id: int = u16("the VSI")
    rss_algorithm: int = u16("a RssFunction", default=0)
    reserved: int = u32("zero", default=0)


@wire(size=2)
class RequestQueues(Wire):
    """REQUEST_QUEUES, request and, where it was not accepted, reply."""

    num_queue_pairs: int = u16("wanted; in the reply the most that can be had")


@wire(size=8)
class QueueChunksHead(Wire):
    """ENABLE_QUEUES_V2, DISABLE_QUEUES_V2, head; `QueueChunk` elements follow."""

    vport_id: int = u16("the VSI")
    pad1: int = u16("zero", default=0)
    num_chunks: int = u16("number of ranges", default=0)
    reserved: int = u16("zero", default=0)


@wire(size=8)
class QueueChunk(Wire):
    """A range of queues of one direction."""

    type: int = s32("a QueueType")
    start_queue_id: int = u16("the first queue", default=0)
    num_queues: int = u16("how many", default=0)


@wire(size=8)
class QueueVectorsHead(Wire):
    """MAP_QUEUE_VECTOR, head; `QueueVector` elements follow."""

    vport_id: int = u16("the VSI")
    num_qv_maps: int = u16("number of elements", default=0)
    pad1: int = u32("zero", default=0)


@wire(size=16)
class QueueVector(Wire):
    """The vector of one queue."""

    queue_id: int = u16("number of the queue")
    vector_id: int = u16("interrupt vector, 0 for the mailbox'", default=0)
    pad1: int = u32("zero", default=0)
    itr_idx: int = s32("throttle 0 to 2, or 3 for none", default=0)
    queue_type: int = s32("a QueueType", default=0)


@wire(size=8)
class RssRegion(Wire):
    """GET_MAX_RSS_QREGION, reply."""

    vport_id: int = u16("the VSI")
    qregion_width: int = u16("the table of the hash may name 2 to this power queues", default=0)
    pad1: int = u32("zero", default=0)


@wire(size=4)
class QosCapsHead(Wire):
    """GET_QOS_CAPS, head of the reply; `QosCap` elements follow."""

    vsi_id: int = u16("the VSI")
    num_elem: int = u16("traffic classes")


@wire(size=40)
class QosCap(Wire):
    """A traffic class."""

    tc_num: int = u8("its number")
    tc_prio: int = u8("bit set of the user priorities that are in it")
    arbiter: int = u8("0: strict, 2: weighted", default=0)
    weight: int = u8("1 if strict", default=0)
    type: int = s32("0: the rates are those of a shaper", default=0)
    committed: int = u32("rate that it is sure to get, kbit/s", default=0)
    peak: int = u32("rate that it can't exceed, kbit/s", default=0)
    pad1: bytes = raw(24, "zero", default=bytes(24))


@wire(size=8)
class TcMapHead(Wire):
    """CONFIG_QUEUE_TC_MAP, both ways, head; a `TcQueues` or `TcPriorities` a class follows."""

    vsi_id: int = u16("the VSI")
    num_tc: int = u16("traffic classes")
    num_queue_pairs: int = u16("queue pairs of all of them", default=0)
    pad1: int = u16("zero", default=0)


@wire(size=4)
class TcQueues(Wire):
    """The queues of a traffic class."""

    start_queue_id: int = u16("the first one")
    queue_count: int = u16("how many", default=0)


@wire(size=4)
class TcPriorities(Wire):
    """What a traffic class is chosen by."""

    prio_type: int = u16("0: by user priority")
    valid_prio_bitmap: int = u16("bit set of the priorities", default=0)


@wire(size=4)
class QueueBandwidthHead(Wire):
    """CONFIG_QUEUE_BW, head; `QueueBandwidth` elements follow."""

    vsi_id: int = u16("the VSI")
    num_queues: int = u16("number of elements")


@wire(size=12)
class QueueBandwidth(Wire):
    """The limits of one transmit queue."""

    queue_id: int = u16("number of the queue")
    tc: int = u8("its traffic class", default=0)
    pad1: int = u8("zero", default=0)
    committed: int = u32("rate that it is sure to get, kbit/s", default=0)
    peak: int = u32("rate that it can't exceed, kbit/s; 0 for no limit", default=0)


@wire(size=12)
class Quanta(Wire):
    """CONFIG_QUANTA: bytes that a queue may send in its turn."""

    quanta_size: int = u16("bytes")
    pad1: int = u16("zero", default=0)
    type: int = s32("a QueueType", default=0)
    start_queue_id: int = u16("the first queue", default=0)
    num_queues: int = u16("how many", default=0)


@wire(size=8)
class Rxdids(Wire):
    """GET_SUPPORTED_RXDIDS, reply."""

    supported: int = u64("bit set of the formats of receive descriptors")


@wire(size=40)
class VlanV2Caps(Wire):
    """GET_OFFLOAD_VLAN_V2_CAPS, reply; words are sets of VlanSupport."""

    filtering_outer: int = u32("filters on outer tags", default=0)
    filtering_inner: int = u32("filters on inner tags", default=0)
    filtering_ethertype_init: int = u32("ethertypes that are filtered at first", default=0)
    max_filters: int = u16("how many filters there may be", default=0)
    pad1: int = u16("zero", default=0)
    stripping_outer: int = u32("stripping of outer tags", default=0)
    stripping_inner: int = u32("stripping of inner tags", default=0)
    insertion_outer: int = u32("insertion of outer tags", default=0)
    insertion_inner: int = u32("insertion of inner tags", default=0)
    offload_ethertype_init: int = u32("ethertypes that are offloaded at first", default=0)
    ethertype_match: int = u8("0: stripping and insertion have the same ethertype", default=0)
    pad2: bytes = raw(3, "zero", default=bytes(3))


@wire(size=8)
class VlanFilterHead(Wire):
    """ADD_VLAN_V2, DEL_VLAN_V2, head; `VlanFilter` elements follow."""

    vport_id: int = u16("the VSI")
    num_elements: int = u16("number of filters")
    pad1: int = u32("zero", default=0)


@wire(size=32)
class VlanFilter(Wire):
    """One VLAN filter; an unused half is zero."""

    inner_tci: int = u16("inner tag", default=0)
    inner_tci_mask: int = u16("which bits of it count", default=0)
    inner_tpid: int = u16("its ethertype, 0x8100", default=0)
    pad1: int = u16("zero", default=0)
    outer_tci: int = u16("outer tag", default=0)
    outer_tci_mask: int = u16("which bits of it count", default=0)
    outer_tpid: int = u16("its ethertype, 0x8100", default=0)
    pad2: int = u16("zero", default=0)
    pad3: bytes = raw(16, "zero", default=bytes(16))


@wire(size=16)
class VlanSetting(Wire):
    """ENABLE/DISABLE_VLAN_STRIPPING_V2, _INSERTION_V2 and _FILTERING_V2."""

    outer_ethertype: int = u32("ethertypes of outer tags, a set of VlanSupport", default=0)
    inner_ethertype: int = u32("ethertypes of inner tags, a set of VlanSupport", default=0)
    vport_id: int = u16("the VSI", default=0)
    pad1: bytes = raw(6, "zero", default=bytes(6))


@wire(size=12)
class FlowDelete(Wire):
    """DEL_FDIR_FILTER and FLOW_UNSUBSCRIBE, both ways."""

    vsi_id: int = u16("the VSI")
    pad1: int = u16("zero", default=0)
    flow_id: int = u32("as the reply to the rule's request gave it", default=0)
    status: int = s32("in the reply: what became of it", default=0)


@wire(size=48)
class PtpCaps(Wire):
    """PTP_GET_CAPS, both ways, as Linux has it: the flags come first, the rest is reserved."""

    caps: int = u32("a set of PtpCap: wanted; in the reply granted", default=0)
    reserved: bytes = raw(44, "zero", default=bytes(44))


@wire(size=48)
class PtpCapsBehindRegs(Wire):
    """PTP_GET_CAPS, both ways, as DPDK has it: the flags come behind the place of the registers."""

    clock_hi: int = u32("offset of the clock's upper half, with PHC_REGS", default=0)
    clock_lo: int = u32("offset of the clock's lower half, with PHC_REGS", default=0)
    pcie_region: int = u8("BAR of both, with PHC_REGS", default=0)
    reserved1: bytes = raw(15, "zero", default=bytes(15))
    caps: int = u32("a set of PtpCap: wanted; in the reply granted", default=0)
    max_adj: int = s32("largest change of the frequency, ppb, with WRITE_PHC", default=0)
    tx_tstamp_idx: int = u8("the timestamp register, with TX_TIMESTAMP", default=0)
    n_ext_ts: int = u8("external timestamps", default=0)
    n_per_out: int = u8("periodic outputs", default=0)
    n_pins: int = u8("pins", default=0)
    tx_tstamp_format: int = u8("format of transmit timestamps, with TX_TIMESTAMP", default=0)
    reserved2: bytes = raw(11, "zero", default=bytes(11))


@wire(size=16)
class PhcTime(Wire):
    """PTP_GET_TIME; the request's contents do not count."""

    time: int = u64("the clock, ns since 1970", default=0)
    reserved: bytes = raw(8, "zero", default=bytes(8))
