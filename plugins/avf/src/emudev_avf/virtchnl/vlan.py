"""VLANs: filters, stripping, insertion, in both versions. Source: avf.md section 4.6.

Single 802.1Q tags (0x8100), which travel in L2TAG1 both ways. A tag that a transmit descriptor asks
for is inserted in any case, so that enabling and disabling insertion changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .base import check_vsi
from .handlers import OK, Answer, check, elements, handler
from .messages import VlanFilter, VlanFilterHead, VlanHead, VlanId, VlanSetting, VlanV2Caps
from .opcodes import Cap, Op, VlanSupport

if TYPE_CHECKING:
    from ..vf import Vf

__all__ = ["CAPS"]

MAX_VID: Final = 4095
TPID: Final = 0x8100
#: Every id but 0 and 4095, which are reserved.
MAX_FILTERS: Final = 4094

_8100: Final = VlanSupport.ETHERTYPE_8100
_TOGGLE: Final = VlanSupport.TOGGLE

#: The reply to GET_OFFLOAD_VLAN_V2_CAPS.
CAPS: Final = VlanV2Caps(
    filtering_outer=_8100 | _TOGGLE,
    filtering_ethertype_init=_8100,
    max_filters=MAX_FILTERS,
    stripping_outer=_8100 | _TOGGLE | VlanSupport.L2TAG1,
    insertion_outer=_8100 | _TOGGLE | VlanSupport.L2TAG1,
    offload_ethertype_init=_8100,
    ethertype_match=0,
)


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
    vf.state.vlans |= vids(payload)
    show_filter(vf)
    return OK


@handler(Op.DEL_VLAN, gate=Cap.VLAN)
def del_vlan(vf: Vf, payload: bytes) -> Answer:
    """An id that is not there is fine: as an error it makes a driver reset for ever."""
    vf.state.vlans -= vids(payload)
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
    vf.state.strip = on
    vf.show_vlans()
    return OK


# -- version 2


@handler(Op.GET_OFFLOAD_VLAN_V2_CAPS, gate=Cap.VLAN_V2)
def get_offload_vlan_v2_caps(vf: Vf, payload: bytes) -> Answer:
    """Must succeed: Linux never gets beyond a failure."""
    return Answer(CAPS.pack())


def filter_vids(payload: bytes) -> set[int]:
    """The VLAN ids of a version 2 request: outer 802.1Q tags only, without a mask."""
    head = VlanFilterHead.unpack(payload)
    check_vsi(head.vport_id)
    found = set()
    for f in elements(VlanFilter, payload, head.num_elements, VlanFilterHead.SIZE):
        check(not (f.inner_tci or f.inner_tci_mask or f.inner_tpid), "a filter on an inner tag")
        check(f.outer_tpid == TPID, "ethertype %#06x", f.outer_tpid)
        check(f.outer_tci_mask == 0, "mask %#06x", f.outer_tci_mask)
        check(f.outer_tci <= MAX_VID, "VLAN id %d", f.outer_tci)
        found.add(f.outer_tci)
    return found


@handler(Op.ADD_VLAN_V2, gate=Cap.VLAN_V2)
def add_vlan_v2(vf: Vf, payload: bytes) -> Answer:
    """A filter that is there already is fine."""
    vf.state.vlans |= filter_vids(payload)
    show_filter(vf)
    return OK


@handler(Op.DEL_VLAN_V2, gate=Cap.VLAN_V2)
def del_vlan_v2(vf: Vf, payload: bytes) -> Answer:
    """A filter that is not there is fine."""
    vf.state.vlans -= filter_vids(payload)
    show_filter(vf)
    return OK


def check_setting(payload: bytes) -> None:
    """Refuse a setting for anything but outer 802.1Q tags."""
    setting = VlanSetting.unpack(payload)
    check_vsi(setting.vport_id)
    check(
        setting.outer_ethertype == _8100 and setting.inner_ethertype == 0,
        "ethertypes %#x (outer) and %#x (inner)",
        setting.outer_ethertype,
        setting.inner_ethertype,
    )


@handler(Op.ENABLE_VLAN_STRIPPING_V2, gate=Cap.VLAN_V2)
def enable_vlan_stripping_v2(vf: Vf, payload: bytes) -> Answer:
    """Tags of received frames go to L2TAG1."""
    check_setting(payload)
    return strip(vf, True)


@handler(Op.DISABLE_VLAN_STRIPPING_V2, gate=Cap.VLAN_V2)
def disable_vlan_stripping_v2(vf: Vf, payload: bytes) -> Answer:
    """Tags stay in the frames."""
    check_setting(payload)
    return strip(vf, False)


@handler(Op.ENABLE_VLAN_INSERTION_V2, gate=Cap.VLAN_V2)
def enable_vlan_insertion_v2(vf: Vf, payload: bytes) -> Answer:
    """Advisory."""
    check_setting(payload)
    return OK


@handler(Op.DISABLE_VLAN_INSERTION_V2, gate=Cap.VLAN_V2)
def disable_vlan_insertion_v2(vf: Vf, payload: bytes) -> Answer:
    """Advisory; DPDK gives up if it fails."""
    check_setting(payload)
    return OK


@handler(Op.ENABLE_VLAN_FILTERING_V2, gate=Cap.VLAN_V2)
def enable_vlan_filtering_v2(vf: Vf, payload: bytes) -> Answer:
    """Frames with unknown ids are dropped, as at first."""
    check_setting(payload)
    vf.state.vlan_filter = True
    show_filter(vf)
    return OK


@handler(Op.DISABLE_VLAN_FILTERING_V2, gate=Cap.VLAN_V2)
def disable_vlan_filtering_v2(vf: Vf, payload: bytes) -> Answer:
    """Frames with any id are received."""
    check_setting(payload)
    vf.state.vlan_filter = False
    show_filter(vf)
    return OK
