"""What a port tells and is told, in records named as in DPDK's ``rte_ethdev.h``.

And the states of a port with every way from one to the next: `step_port` is pure, the actions are
in `emudev_net.port`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from emudev_core.errors import LifecycleError
from emudev_core.queues import Offload

__all__ = [
    "ETHERNET_OVERHEAD",
    "MIN_MTU",
    "NEXT",
    "SPEED_UNKNOWN",
    "LinkStatus",
    "PortConfig",
    "PortEvent",
    "PortEventKind",
    "PortInfo",
    "PortState",
    "PortStats",
    "PortStep",
    "step_port",
]

#: Bytes of a frame that its MTU does not count: the Ethernet header and one VLAN tag; no FCS.
ETHERNET_OVERHEAD: Final = 18
#: Source: RFC 791; DPDK's RTE_ETHER_MIN_MTU.
MIN_MTU: Final = 68
#: Source: DPDK, RTE_ETH_SPEED_NUM_UNKNOWN.
SPEED_UNKNOWN: Final = 0xFFFFFFFF


class PortState(enum.Enum):
    """Where a port is in its life."""

    NEW = "new"
    CONFIGURED = "configured"
    STARTED = "started"
    STOPPED = "stopped"
    FAILED = "failed"
    CLOSED = "closed"


class PortStep(enum.Enum):
    """What moves it on."""

    CONFIGURE = "configure"
    SETUP = "set up a queue"
    START = "start"
    STOP = "stop"
    FAIL = "fail"
    CLOSE = "close"


_S, _P = PortState, PortStep

#: Every transition; what is not here is refused. `close` stops a started port first.
NEXT: Final[Mapping[tuple[PortState, PortStep], PortState]] = {
    (_S.NEW, _P.CONFIGURE): _S.CONFIGURED,
    (_S.CONFIGURED, _P.CONFIGURE): _S.CONFIGURED,
    (_S.STOPPED, _P.CONFIGURE): _S.CONFIGURED,
    (_S.FAILED, _P.CONFIGURE): _S.CONFIGURED,
    (_S.CONFIGURED, _P.SETUP): _S.CONFIGURED,
    (_S.STOPPED, _P.SETUP): _S.STOPPED,
    (_S.CONFIGURED, _P.START): _S.STARTED,
    (_S.STOPPED, _P.START): _S.STARTED,
    (_S.STARTED, _P.STOP): _S.STOPPED,
    **{(s, _P.FAIL): _S.FAILED for s in _S if s not in (_S.FAILED, _S.CLOSED)},
    **{(s, _P.CLOSE): _S.CLOSED for s in _S if s is not _S.CLOSED},
}


def step_port(state: PortState, step: PortStep, name: str = "port") -> PortState:
    """The state after a step.

    Raises:
        LifecycleError: It is not allowed; the message names what is.
    """
    try:
        return NEXT[state, step]
    except KeyError:
        can = ", ".join(s.value for s in PortStep if (state, s) in NEXT and s is not PortStep.FAIL)
        raise LifecycleError(
            f"{name} is {state.value}: can't {step.value} (allowed: {can or 'nothing more'})"
        ) from None


@attrs.frozen
class PortConfig:
    """How a port is to be used (``struct rte_eth_conf``).

    Attributes:
        mtu: Bytes of payload of the largest frame; None keeps what the port has.
        tx_offloads: Of what the port takes as it is, what it is to be given; None: all of it. The
            software stage of a flow does the rest.
        promiscuous: None keeps what the port has.
    """

    mtu: int | None = None
    tx_offloads: Offload | None = None
    promiscuous: bool | None = None


@attrs.frozen
class PortInfo:
    """What a port is and can do (``struct rte_eth_dev_info``).

    Attributes:
        driver: Name of its driver, such as ``net_avfbe``.
        device: What is behind it, such as ``avf_emudev_0``; empty: nothing.
        max_rx_queues: Receive queues that it has at most.
        max_tx_queues: Transmit queues that it has at most.
        max_frame: Largest frame that it sends, bytes, without FCS.
        min_mtu: Smallest MTU that can be set.
        max_mtu: Largest MTU that can be set.
        rx_offloads: What received packets may still want: a checksum completed, to be segmented, a
            tag beside them.
        tx_offloads: What it takes as it is.
        parallel: Different queues may be used on different threads at the same time.
        nb_rx_queues: Receive queues configured now; the base class fills it in.
        nb_tx_queues: Transmit queues configured now; the base class fills it in.
    """

    driver: str
    device: str = ""
    max_rx_queues: int = 1
    max_tx_queues: int = 1
    max_frame: int = 1518
    min_mtu: int = MIN_MTU
    max_mtu: int = 1500
    rx_offloads: Offload = Offload.NONE
    tx_offloads: Offload = Offload.NONE
    parallel: bool = True
    nb_rx_queues: int = 0
    nb_tx_queues: int = 0


@attrs.frozen
class PortStats:
    """Counters since the port was made or `Port.reset_stats` (``struct rte_eth_stats``).

    Bytes are without FCS.

    Attributes:
        ipackets: Packets received: shown by a receive queue and released.
        opackets: Packets sent: taken by a transmit queue and not dropped there.
        ibytes: Their bytes.
        obytes: Their bytes.
        imissed: Packets that were lost because nobody fetched them in time.
        ierrors: Packets for the port that were lost for any other reason.
        oerrors: Packets that a transmit queue took and dropped.
        rx_nombuf: Packets for which the port had no memory.
    """

    ipackets: int = 0
    opackets: int = 0
    ibytes: int = 0
    obytes: int = 0
    imissed: int = 0
    ierrors: int = 0
    oerrors: int = 0
    rx_nombuf: int = 0


@attrs.frozen
class LinkStatus:
    """The link of a port (``struct rte_eth_link``).

    Attributes:
        up: Frames can pass.
        speed: Mbit/s; `SPEED_UNKNOWN` if it has none.
        full_duplex: Both ways at a time.
        autoneg: The speed was agreed upon, not set.
    """

    up: bool
    speed: int = SPEED_UNKNOWN
    full_duplex: bool = True
    autoneg: bool = True


class PortEventKind(enum.Enum):
    """What happened to a port (``enum rte_eth_event_type``)."""

    LINK = "link"  #: INTR_LSC: the link is up (`value` 1) or down (0)
    QUEUE_STATE = "queue-state"  #: QUEUE_STATE: the peer enabled (1) or disabled (0) `queue`
    RESET = "reset"  #: INTR_RESET: the peer reset its end; queues that it enables again go on
    PEER = "peer"  #: a peer came (1) or went (0)
    REMOVED = "removed"  #: INTR_RMV: what is behind the port is gone for good; `text` says why
    ERROR = "error"  #: the port failed and is down; `text` says why
    STATE = "state"  #: the port was configured, started, stopped or closed; `text` is the state


@attrs.frozen
class PortEvent:
    """One event of a port.

    Attributes:
        kind: What happened.
        queue: For `QUEUE_STATE`: the port's queue; ``rx`` says of which direction. Else -1.
        value: Meaning by kind.
        text: For people.
        rx: For `QUEUE_STATE`: a receive queue of the port (the peer's transmit queue).
    """

    kind: PortEventKind
    queue: int = -1
    value: int = 0
    text: str = ""
    rx: bool = False
