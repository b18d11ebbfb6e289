"""MAC addresses and promiscuous modes. Source: avf.md section 4.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..filters import PROMISCUOUS_MULTICAST, PROMISCUOUS_UNICAST
from .base import check_vsi
from .handlers import OK, Answer, Refused, check, elements, handler
from .limits import MAX_ADDRESSES
from .messages import EthAddr, EthAddrHead, Promiscuous
from .opcodes import AddressType, Op, Status

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []

BROADCAST: Final = b"\xff" * 6
TYPE_MASK: Final = 3


def addresses(payload: bytes) -> list[EthAddr]:
    """The addresses of a request; none of them is zero."""
    head = EthAddrHead.unpack(payload)
    check_vsi(head.vsi_id)
    found = elements(EthAddr, payload, head.num_elements, EthAddrHead.SIZE)
    check(all(any(element.addr) for element in found), "the address 00:00:00:00:00:00")
    return found


@handler(Op.ADD_ETH_ADDR)
def add_eth_addr(vf: Vf, payload: bytes) -> Answer:
    """An address that is there already is fine; broadcast is always accepted anyway.

    The unicast address last added as primary is what resources report from now on (avf.md 4.5,
    "The MAC rule"): the next reset must not take a guest's own address away.
    """
    found = addresses(payload)
    added = vf.state.addresses | {e.addr for e in found if e.addr != BROADCAST}
    if len(added) > MAX_ADDRESSES:
        raise Refused(Status.ERR_NO_MEMORY, f"more than {MAX_ADDRESSES} addresses")
    vf.state.addresses = added
    for element in found:
        if element.type & TYPE_MASK == AddressType.PRIMARY and not element.addr[0] & 1:
            vf.lasting.mac = element.addr
    vf.show_addresses()
    vf.filters_changed()
    return OK


@handler(Op.DEL_ETH_ADDR)
def del_eth_addr(vf: Vf, payload: bytes) -> Answer:
    """An address that is not there is fine."""
    vf.state.addresses -= {element.addr for element in addresses(payload)}
    vf.show_addresses()
    vf.filters_changed()
    return OK


@handler(Op.CONFIG_PROMISCUOUS_MODE)
def config_promiscuous_mode(vf: Vf, payload: bytes) -> Answer:
    """Absolute, not a difference."""
    request = Promiscuous.unpack(payload)
    check_vsi(request.vsi_id)
    vf.state.promiscuous = request.flags & (PROMISCUOUS_UNICAST | PROMISCUOUS_MULTICAST)
    vf.show_addresses()
    vf.filters_changed()
    return OK
