"""Receive side scaling: key, lookup table, hashed types. Source: avf.md section 4.7."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import check_vsi
from .handlers import OK, Answer, check, handler
from .limits import HENA_CAPS, RSS_KEY_SIZE
from .messages import RssHena, RssKeyHead, RssLutHead
from .opcodes import Cap, Op

if TYPE_CHECKING:
    from ..vf import Vf

__all__: list[str] = []


@handler(Op.CONFIG_RSS_KEY, gate=Cap.RSS_PF)
def config_rss_key(vf: Vf, payload: bytes) -> Answer:
    """52 bytes, or none to turn the hash off."""
    head = RssKeyHead.unpack(payload)
    check_vsi(head.vsi_id)
    check(head.key_len in (0, RSS_KEY_SIZE), "a key of %d bytes", head.key_len)
    key = payload[RssKeyHead.SIZE : RssKeyHead.SIZE + head.key_len]
    check(len(key) == head.key_len, "%d bytes of %d", len(key), head.key_len)
    vf.state.rss_key = key
    vf.show_rss()
    return OK


@handler(Op.CONFIG_RSS_LUT, gate=Cap.RSS_PF)
def config_rss_lut(vf: Vf, payload: bytes) -> Answer:
    """As many queues as were reported (64, or 512), or none to turn the hash off."""
    head = RssLutHead.unpack(payload)
    check_vsi(head.vsi_id)
    check(head.lut_entries in (0, vf.lut_size), "a table of %d entries", head.lut_entries)
    lut = payload[RssLutHead.SIZE : RssLutHead.SIZE + head.lut_entries]
    check(len(lut) == head.lut_entries, "%d entries of %d", len(lut), head.lut_entries)
    check(all(queue < vf.queue_pairs for queue in lut), "queues up to %d", max(lut, default=0))
    vf.state.rss_lut = lut
    vf.show_rss()
    return OK


@handler(Op.GET_RSS_HENA_CAPS, gate=Cap.RSS_PF)
def get_rss_hena_caps(vf: Vf, payload: bytes) -> Answer:
    """What SET_RSS_HENA takes."""
    return Answer(RssHena(hena=HENA_CAPS).pack())


@handler(Op.SET_RSS_HENA, gate=Cap.RSS_PF)
def set_rss_hena(vf: Vf, payload: bytes) -> Answer:
    """0 turns the hash off."""
    hena = RssHena.unpack(payload).hena
    check(hena & ~HENA_CAPS == 0, "packet types %#x", hena)
    vf.state.rss_hena = hena
    vf.show_rss()
    return OK
