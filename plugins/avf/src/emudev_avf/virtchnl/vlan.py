"""VLANs: filters, stripping, insertion, in both versions. Source: avf.md section 4.6.

What may be asked for is in `vlans.OFFERS`. A tag that a transmit descriptor asks for is inserted in
any case: enabling insertion only says which ethertype it gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..vlans import TPIDS
from .base import check_vsi
from .handlers import OK, Answer, check, elements, handler
from .messages import VlanFilter, VlanFilterHead, VlanHead, VlanId, VlanSetting
from .opcodes import Cap, Op, VlanSupport

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

MAX_VID: Final = 4095
TPID: Final = 0x8100
_8100: Final = VlanSupport.ETHERTYPE_8100


def show_filter(vf: Vf) -> None:
    """Bring the filter to the data plane, and tell the subscribers."""
    vf.show_vlans()
    vf.filters_changed()


# -- version 1


def vids(payload: bytes) -> set[int]:
    """The VLAN ids of a version 1 request."""
    head = VlanHead.unpack(payload)
    check_vsi(head.vsi_id)
    found = {e.vlan_id for e in elements(VlanId, payload, head.num_elements, VlanHead.SIZE)}
    check(max(found) <= MAX_VID, "VLAN id %d", max(found))
    return found


@handler(Op.ADD_VLAN, gate=Cap.VLAN)
def add_vlan(vf: Vf, payload: bytes) -> Answer:
    """An id that is there already is fine."""
    vf.state.vlan.vids().update(vids(payload))
    show_filter(vf)
    return OK


@handler(Op.DEL_VLAN, gate=Cap.VLAN)
def del_vlan(vf: Vf, payload: bytes) -> Answer:
    """An id that is not there is fine: as an error it makes a driver reset for ever."""
    vf.state.vlan.vids().difference_update(vids(payload))
    show_filter(vf)
    return OK


@handler(Op.ENABLE_VLAN_STRIPPING, gate=Cap.VLAN)
def enable_vlan_stripping(vf: Vf, payload: bytes) -> Answer:
    """Of 0x8100."""
    return strip(vf, True)


@handler(Op.DISABLE_VLAN_STRIPPING, gate=Cap.VLAN)
def disable_vlan_stripping(vf: Vf, payload: bytes) -> Answer:
    """Tags stay in the frames."""
    return strip(vf, False)


def strip(vf: Vf, on: bool) -> Answer:
    """Set whether tags are taken out of received frames."""
    vf.state.vlan.strip = TPID if on else 0
    vf.show_vlans()
    return OK


# -- version 2


@handler(Op.GET_OFFLOAD_VLAN_V2_CAPS, gate=Cap.VLAN_V2)
def get_offload_vlan_v2_caps(vf: Vf, payload: bytes) -> Answer:
    """Must succeed: Linux never gets beyond a failure."""
    return Answer(vf.vlan_offer.caps.pack())


def check_tag(tci: int, mask: int, tpid: int, tpids: list[int]) -> bool:
    """Check one half of a filter; returns whether it is used."""
    if not (tci or mask or tpid):
        return False
    check(tpid in tpids, "a filter on ethertype %#06x", tpid)
    check(mask == 0, "mask %#06x", mask)
    check(tci <= MAX_VID, "VLAN id %d", tci)
    return True


def read_filters(vf: Vf, payload: bytes) -> tuple[dict[int, set[int]], set[int]]:
    """The VLAN ids of a version 2 request: of outer tags by ethertype, and of inner tags.

    The two halves of a filter are two filters, as hardware has them.
    """
    head = VlanFilterHead.unpack(payload)
    check_vsi(head.vport_id)
    offer = vf.vlan_offer
    outer_tpids = [tpid for bit, tpid in TPIDS.items() if bit in offer.outer]
    inner_tpids = [TPID] if offer.inner or offer.called_inner else []
    outer: dict[int, set[int]] = {}
    inner: set[int] = set()
    for f in elements(VlanFilter, payload, head.num_elements, VlanFilterHead.SIZE):
        used = False
        if check_tag(
            f.outer_tci, f.outer_tci_mask, f.outer_tpid, [] if offer.called_inner else outer_tpids
        ):
            outer.setdefault(f.outer_tpid, set()).add(f.outer_tci)
            used = True
        if check_tag(f.inner_tci, f.inner_tci_mask, f.inner_tpid, inner_tpids):
            inner.add(f.inner_tci)
            used = True
        check(used, "a filter on nothing")
    if offer.called_inner:
        return {TPID: inner}, set()
    return outer, inner


@handler(Op.ADD_VLAN_V2, gate=Cap.VLAN_V2)
def add_vlan_v2(vf: Vf, payload: bytes) -> Answer:
    """A filter that is there already is fine."""
    outer, inner = read_filters(vf, payload)
    for tpid, found in outer.items():
        vf.state.vlan.vids(tpid).update(found)
    vf.state.vlan.inner |= inner
    show_filter(vf)
    return OK


@handler(Op.DEL_VLAN_V2, gate=Cap.VLAN_V2)
def del_vlan_v2(vf: Vf, payload: bytes) -> Answer:
    """A filter that is not there is fine."""
    outer, inner = read_filters(vf, payload)
    for tpid, found in outer.items():
        vf.state.vlan.vids(tpid).difference_update(found)
    vf.state.vlan.inner -= inner
    show_filter(vf)
    return OK


def read_setting(vf: Vf, payload: bytes) -> tuple[VlanSupport, bool]:
    """Check a setting: the ethertype of outer tags, or 0, and whether it is about inner tags."""
    setting = VlanSetting.unpack(payload)
    check_vsi(setting.vport_id)
    offer = vf.vlan_offer
    outer, inner = VlanSupport(setting.outer_ethertype), setting.inner_ethertype
    single = outer in TPIDS and outer in offer.outer and not offer.called_inner
    check(not outer or single, "outer ethertypes %#x", outer)
    inside = inner == _8100 and (offer.inner or offer.called_inner)
    check(not inner or inside, "inner ethertypes %#x", inner)
    check(outer or inner, "no ethertype")
    if offer.called_inner:
        return _8100, False
    return outer, bool(inner)


@handler(Op.ENABLE_VLAN_STRIPPING_V2, gate=Cap.VLAN_V2)
def enable_vlan_stripping_v2(vf: Vf, payload: bytes) -> Answer:
    """One ethertype of outer tags at a time; tags that are inserted get it, too."""
    outer, inner = read_setting(vf, payload)
    state = vf.state.vlan
    if outer:
        state.strip = state.insert = TPIDS[outer]
    state.strip_inner |= inner
    vf.show_vlans()
    return OK


@handler(Op.DISABLE_VLAN_STRIPPING_V2, gate=Cap.VLAN_V2)
def disable_vlan_stripping_v2(vf: Vf, payload: bytes) -> Answer:
    """Tags stay in the frames."""
    outer, inner = read_setting(vf, payload)
    state = vf.state.vlan
    if outer:
        state.strip = 0
    if inner:
        state.strip_inner = False
    vf.show_vlans()
    return OK


@handler(Op.ENABLE_VLAN_INSERTION_V2, gate=Cap.VLAN_V2)
def enable_vlan_insertion_v2(vf: Vf, payload: bytes) -> Answer:
    """Says what ethertype outer tags get."""
    outer, _ = read_setting(vf, payload)
    state = vf.state.vlan
    if outer:
        state.insert = TPIDS[outer]
    vf.show_vlans()
    return OK


@handler(Op.DISABLE_VLAN_INSERTION_V2, gate=Cap.VLAN_V2)
def disable_vlan_insertion_v2(vf: Vf, payload: bytes) -> Answer:
    """Advisory; DPDK gives up if it fails."""
    read_setting(vf, payload)
    return OK


def set_filtering(vf: Vf, payload: bytes, on: bool) -> Answer:
    """Set whether frames of a kind of outer tags with unknown ids are dropped."""
    outer, inner = read_setting(vf, payload)
    check(not inner, "filtering of inner tags can't be set")
    state = vf.state.vlan
    state.unfiltered = int(state.unfiltered & ~outer if on else state.unfiltered | outer)
    show_filter(vf)
    return OK


@handler(Op.ENABLE_VLAN_FILTERING_V2, gate=Cap.VLAN_V2)
def enable_vlan_filtering_v2(vf: Vf, payload: bytes) -> Answer:
    """Frames with unknown ids are dropped, as at first."""
    return set_filtering(vf, payload, True)


@handler(Op.DISABLE_VLAN_FILTERING_V2, gate=Cap.VLAN_V2)
def disable_vlan_filtering_v2(vf: Vf, payload: bytes) -> Answer:
    """Frames with any id are received."""
    return set_filtering(vf, payload, False)
