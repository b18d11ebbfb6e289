"""Version, resources, reset, statistics. Source: avf.md section 4.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .handlers import SILENT, Answer, check, handler
from .limits import RSS_KEY_SIZE, VSI_ID
from .messages import EthStats, GetVfResources, QueueSelect, Version, VfResources, VsiResource
from .opcodes import LEGACY_CAPS, Op

if TYPE_CHECKING:
    from ..vf import Vf

__all__ = ["check_queue", "check_vsi"]

#: vsi_type of an SR-IOV function; anything else and Linux finds no VSI.
VSI_SRIOV: Final = 6


def check_vsi(vsi: int) -> None:
    """Refuse a request for another VSI than the one that was reported."""
    check(vsi == VSI_ID, "VSI %d, there is only %d", vsi, VSI_ID)


def check_queue(vf: Vf, queue: int, kind: str = "queue") -> None:
    """Refuse a queue that there is not."""
    check(queue < vf.queue_pairs, "%s %d of %d", kind, queue, vf.queue_pairs)


@handler(Op.VERSION)
def version(vf: Vf, payload: bytes) -> Answer:
    """Always succeeds; DPDK insists on 1.1 as the answer."""
    asked = Version.unpack(payload)
    vf.lasting.major, vf.lasting.minor = asked.major, asked.minor
    vf.forget_channels()
    return Answer(Version(major=1, minor=1).pack())


@handler(Op.GET_VF_RESOURCES)
def get_vf_resources(vf: Vf, payload: bytes) -> Answer:
    """Grants capabilities. A driver of 1.0 can't ask: it gets what such a driver knows."""
    if (vf.lasting.major, vf.lasting.minor) < (1, 1):
        wanted = int(LEGACY_CAPS)
    else:
        wanted = GetVfResources.unpack(payload).caps
    granted = vf.grant(wanted)
    head = VfResources(
        num_vsis=1,
        num_queue_pairs=vf.queue_pairs,
        max_vectors=vf.max_vectors,
        max_mtu=vf.max_frame,
        vf_cap_flags=granted,
        rss_key_size=RSS_KEY_SIZE,
        rss_lut_size=vf.lut_size,
    )
    vsi = VsiResource(
        vsi_id=VSI_ID,
        num_queue_pairs=vf.queue_pairs,
        vsi_type=VSI_SRIOV,
        qset_handle=0,
        default_mac_addr=vf.lasting.mac,
    )
    return Answer(head.pack() + vsi.pack())


@handler(Op.RESET_VF)
def reset_vf(vf: Vf, payload: bytes) -> Answer:
    """No reply: the mailbox is gone."""
    vf.outside.begin_reset()
    return SILENT


@handler(Op.GET_STATS)
def get_stats(vf: Vf, payload: bytes) -> Answer:
    """The counters of the port since it was made."""
    check_vsi(QueueSelect.unpack(payload).vsi_id)
    return Answer(EthStats(*(int(n) & 0xFFFF_FFFF_FFFF_FFFF for n in vf.port.stats())).pack())
