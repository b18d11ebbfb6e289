"""Messages of rtnetlink, worked out by hand from linux/rtnetlink.h for a little-endian host."""

import socket
import sys

import pytest

from emudev_core.errors import DecodeError
from emudev_core.loop import Loop
from emudev_tap_backend import links
from emudev_tap_backend.links import Link, LinkChange, LinkMonitor, TunFacts, parse_changes

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are little endian")

TAP = bytes.fromhex(
    "8c000000 1000 0000 00000000 00000000"  # 140 bytes, RTM_NEWLINK
    "00 00 0100 05000000 03100000 00000000"  # AF_UNSPEC, ether, index 5, flags with up
    "0900 0300 7461703000 000000"  # IFLA_IFNAME "tap0", padded to 12
    "0800 0400 28230000"  # IFLA_MTU 9000
    "0800 ff0f 01020304"  # an attribute nobody knows
    "5000 1280"  # IFLA_LINKINFO, nested flag set, 80 bytes
    "0800 0100 74756e00"  # kind "tun"
    "4400 0200"  # data, 68 bytes
    "0500 0300 02 000000"  # type 2: tap
    "0500 0400 00 000000"  # no packet information
    "0500 0500 01 000000"  # vnet_hdr
    "0500 0600 01 000000"  # persistent
    "0500 0700 01 000000"  # multi_queue
    "0800 0800 02000000"  # two attached queues
    "0800 0900 01000000"  # one detached
    "0500 6300 07 000000"  # something newer
)
LINK = Link(5, "tap0", True, 9000, "tun", TunFacts("tap", True, True, False, True, 3))


def as_type(message, kind):
    return message[:4] + kind.to_bytes(2, "little") + message[6:]


def test_a_tap_interface_is_read_with_all_its_facts():
    assert len(TAP) == 140
    assert parse_changes(TAP) == [LinkChange(LINK, gone=False)]
    assert LINK.is_tap


def test_a_deleted_interface_is_gone():
    assert parse_changes(as_type(TAP, 17)) == [LinkChange(LINK, gone=True)]


def test_what_a_bridge_says_about_its_port_is_not_about_the_interface():
    # a port that leaves a bridge: RTM_DELLINK with family AF_BRIDGE (7)
    message = bytearray(as_type(TAP, 17))
    message[16] = 7
    assert parse_changes(bytes(message)) == []


def test_several_messages_of_one_datagram_are_read_in_order():
    changes = parse_changes(TAP + as_type(TAP, 17))
    assert [change.gone for change in changes] == [False, True]


def test_other_messages_are_passed_over():
    assert parse_changes(as_type(TAP, 20)) == []


@pytest.mark.parametrize("size", [17, 31, 139])
def test_a_cut_off_message_is_an_error(size):
    with pytest.raises(DecodeError):
        parse_changes(TAP[:size])


def test_a_cut_off_attribute_ends_the_walk():
    message = bytearray(TAP)
    message[34:36] = (3).to_bytes(2, "little")
    message[32:34] = (4000).to_bytes(2, "little")
    ((change),) = parse_changes(bytes(message))
    assert change.link.name == ""


def test_a_question_names_the_interface_and_leaves_statistics_out():
    assert links._query("tap0").hex(" ", 4) == (
        "34000000 12000100 01000000 00000000"  # 52 bytes, RTM_GETLINK, request, sequence 1
        " 00000000 00000000 00000000 00000000"
        " 09000300 74617030 00000000"
        " 08001d00 08000000"
    )


def test_loopback_is_found_and_no_tap():
    link = links.find_link("lo")
    assert (link.index, link.name, link.is_tap, link.described) == (
        1,
        "lo",
        False,
        "hardware or loopback",
    )


def test_a_name_that_nobody_has_is_none():
    assert links.find_link("emudev-nobody") is None


@pytest.fixture
def monitor(monkeypatch):
    """A monitor on one end of a socket pair; the other end plays the kernel."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(links, "_netlink", lambda groups: ours)
    loop = Loop(spin=0)
    seen = []
    made = LinkMonitor(loop, seen.append, lambda: seen.append("lost"))
    yield made, loop, kernel, seen
    made.close()
    made.close()
    kernel.close()
    loop.close()


def test_a_monitor_tells_each_change_on_the_loop(monitor):
    _, loop, kernel, seen = monitor
    kernel.send(TAP)
    kernel.send(as_type(TAP, 17))
    loop.turn(1)
    assert seen == [LinkChange(LINK, False), LinkChange(LINK, True)]


def test_a_broken_datagram_is_logged_and_the_next_one_read(monitor, caplog):
    _, loop, kernel, seen = monitor
    kernel.send(TAP[:40])
    kernel.send(TAP)
    loop.turn(1)
    assert seen == [LinkChange(LINK, False)]
    assert "netlink message of 140 bytes in 40" in caplog.text


def test_lost_messages_are_told(monitor, monkeypatch):
    made, loop, kernel, seen = monitor

    class Overrun:
        def __init__(self, real):
            self.real, self.errors = real, [OSError(105, "No buffer space available")]

        def recv(self, size):
            if self.errors:
                raise self.errors.pop()
            return self.real.recv(size)

        def __getattr__(self, name):
            return getattr(self.real, name)

    made._socket = Overrun(made._socket)
    kernel.send(TAP)
    loop.turn(1)
    assert seen == ["lost", LinkChange(LINK, False)]


def test_a_monitor_may_be_closed_by_what_it_tells(monitor):
    made, loop, kernel, seen = monitor
    made._changed = lambda change: made.close()
    kernel.send(TAP)
    kernel.send(TAP)
    loop.turn(1)
    loop.turn(0)
    assert seen == []
