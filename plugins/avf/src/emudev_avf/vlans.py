"""VLANs of a VF: what is offered, what its driver has set up, and how that looks to the data plane.

Four offers (the ``vlan`` key), since drivers take what they are offered and each of these is other
code in them:

- ``802.1q``: single tags 0x8100, in L2TAG1 both ways;
- ``802.1ad``: single tags, 0x8100 or 0x88A8 at a driver's choice, in L2TAG1 both ways;
- ``qinq``: an outer tag 0x8100, 0x88A8 or 0x9100, and an inner one 0x8100. Received, the outer tag
  is in L2TAG1 and the inner one in L2TAG2_2, where DPDK looks for them; sent, the outer one is in
  L2TAG2 and the inner one in L2TAG1, as hardware nests them;
- ``inner``: single tags 0x8100, which requests call inner ones.

Source: avf.md section 4.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

from .rings import TagPlace
from .virtchnl.messages import VlanV2Caps
from .virtchnl.opcodes import VlanSupport as V

if TYPE_CHECKING:
    from .rings import Port

__all__ = ["OFFERS", "TPIDS", "VlanOffer", "VlanState", "show_vlans"]

TPID: Final = 0x8100
#: The ethertypes that the bits of a request stand for.
TPIDS: Final[Mapping[V, int]] = {
    V.ETHERTYPE_8100: 0x8100,
    V.ETHERTYPE_88A8: 0x88A8,
    V.ETHERTYPE_9100: 0x9100,
}
#: Filters of a kind of tags: every id but 0 and 4095, which are reserved.
MAX_FILTERS: Final = 4094


@attrs.define
class VlanState:
    """What a driver has set up; every reset clears it.

    Attributes:
        outer: Accepted VLAN ids by the ethertype of the outer, or only, tag.
        inner: Accepted VLAN ids of inner tags; empty: all of them.
        unfiltered: Bits of the outer ethertypes whose filtering is off.
        strip: Ethertype of the outer tag that is taken out, 0: none is.
        strip_inner: Whether the inner tag is taken out.
        insert: Ethertype of an outer tag that is inserted.
    """

    outer: dict[int, set[int]] = attrs.field(factory=dict)
    inner: set[int] = attrs.field(factory=set)
    unfiltered: int = 0
    strip: int = 0
    strip_inner: bool = False
    insert: int = TPID

    def vids(self, tpid: int = TPID) -> set[int]:
        """The accepted ids of outer tags of an ethertype."""
        return self.outer.setdefault(tpid, set())


@attrs.frozen
class VlanOffer:
    """What a driver may do with VLANs.

    Attributes:
        caps: The reply to GET_OFFLOAD_VLAN_V2_CAPS.
        outer: Ethertypes of outer tags, those of the only tag included.
        inner: Whether there are inner tags behind outer ones.
        called_inner: Whether requests call the only tag an inner one.
    """

    caps: VlanV2Caps
    outer: V = V.ETHERTYPE_8100
    inner: bool = False
    called_inner: bool = False


_FILTERED: Final = V.TOGGLE | V.ETHERTYPE_8100
_SINGLE: Final = V.TOGGLE | V.ETHERTYPE_8100 | V.L2TAG1
_BOTH: Final = V.ETHERTYPE_8100 | V.ETHERTYPE_88A8
_ALL: Final = _BOTH | V.ETHERTYPE_9100

#: By the value of ``vlan``.
OFFERS: Final[Mapping[str, VlanOffer]] = {
    "802.1q": VlanOffer(
        VlanV2Caps(
            filtering_outer=_FILTERED,
            filtering_ethertype_init=V.ETHERTYPE_8100,
            max_filters=MAX_FILTERS,
            stripping_outer=_SINGLE,
            insertion_outer=_SINGLE,
            offload_ethertype_init=V.ETHERTYPE_8100,
        )
    ),
    "802.1ad": VlanOffer(
        VlanV2Caps(
            filtering_outer=V.TOGGLE | _BOTH | V.AND,
            filtering_ethertype_init=_BOTH,
            max_filters=2 * MAX_FILTERS,
            stripping_outer=V.TOGGLE | _BOTH | V.XOR | V.L2TAG1,
            insertion_outer=V.TOGGLE | _BOTH | V.XOR | V.L2TAG1,
            offload_ethertype_init=V.ETHERTYPE_8100,
        ),
        outer=_BOTH,
    ),
    "qinq": VlanOffer(
        VlanV2Caps(
            filtering_outer=V.TOGGLE | _ALL | V.AND,
            filtering_inner=V.ETHERTYPE_8100,
            filtering_ethertype_init=_ALL,
            max_filters=4 * MAX_FILTERS,
            stripping_outer=V.TOGGLE | _ALL | V.XOR | V.L2TAG1,
            stripping_inner=V.TOGGLE | V.ETHERTYPE_8100 | V.L2TAG2_2,
            insertion_outer=V.TOGGLE | _ALL | V.XOR | V.L2TAG2,
            insertion_inner=V.TOGGLE | V.ETHERTYPE_8100 | V.L2TAG1,
            offload_ethertype_init=V.ETHERTYPE_8100,
        ),
        outer=_ALL,
        inner=True,
    ),
    "inner": VlanOffer(
        VlanV2Caps(
            filtering_inner=_FILTERED,
            filtering_ethertype_init=V.ETHERTYPE_8100,
            max_filters=MAX_FILTERS,
            stripping_inner=_SINGLE,
            insertion_inner=_SINGLE,
            offload_ethertype_init=V.ETHERTYPE_8100,
        ),
        called_inner=True,
    ),
}


def show_vlans(port: Port, state: VlanState, offer: VlanOffer, *, filtering: bool) -> None:
    """Bring filters and offloads to the data plane.

    Args:
        port: The data plane.
        state: What the driver has set up.
        offer: What it was offered.
        filtering: False: a driver that can't name its VLANs gets all of them.
    """
    wanted = offer.outer & ~state.unfiltered if filtering else V(0)
    vids, service, other = (
        state.vids(tpid) if bit in wanted else None for bit, tpid in TPIDS.items()
    )
    port.set_vlan_filter(vids, service, other, state.inner or None)
    insert = (TPID, state.insert, state.insert) if offer.inner else None
    port.set_vlan_offload(
        TagPlace.L2TAG1 if state.strip else TagPlace.NONE,
        TagPlace.L2TAG2 if state.strip_inner else TagPlace.NONE,
        strip_tpid=state.strip,
        insert_tpids=insert or (state.insert, state.insert, 0x88A8),
    )
