"""What tests of flows move, and a sink that fills up again and again."""

import itertools

from emudev_net.burst import CSUM_WANTED, GSO_TCPV4, Packet, offload_word, to_gso
from emudev_net.flow import Outcome


def tcp_request(size, mss, to=bytes(6), step=1):
    """A TCP frame that asks to be cut into segments.

    Args:
        size: Bytes of its payload, which begins at 54.
        mss: Bytes of a segment's payload.
        to: The address to which it goes; the headers are zeroes but for that and the lengths.
        step: From byte to byte of the payload.
    """
    ip = bytearray(20)
    ip[0], ip[9] = 0x45, 6
    ip[2:4] = (40 + size).to_bytes(2, "big")
    tcp = bytearray(20)
    tcp[12] = 0x50
    payload = bytes(i * step & 0xFF for i in range(size))
    data = to + bytes(6) + b"\x08\0" + bytes(ip) + bytes(tcp) + payload
    flags = CSUM_WANTED | to_gso(GSO_TCPV4)
    return Packet(data, flags=flags, offload=offload_word(34, 16, 54, mss))


def fill_up(flow, sink, rooms):
    """Run a flow until its source is empty; before each run, the sink has room for so many."""
    for room in itertools.cycle([*rooms, 1]):
        sink.room = room
        if flow.run() is Outcome.EMPTY:
            return
