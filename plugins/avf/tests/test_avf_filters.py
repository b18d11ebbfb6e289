"""Which frames a port receives; avf.md 4.5, 4.6 and 6.9."""

import pytest

from emudev_avf.filters import mac_known, mac_table, vlan_table
from emudev_net.burst import FIRST, LAST, VLAN_PRESENT, Packet, vlan_word

MAC = bytes.fromhex("525400770002")
GROUP = bytes.fromhex("01005e000001")


def frame(target, tag=b""):
    return target + bytes.fromhex("525400770009") + tag + b"\x88\xb5" + bytes(60)


@pytest.fixture
def guest(guests):
    made = guests()
    made.port.set_promiscuous(False, False)
    made.post(32)
    return made


def passed(guest, *frames):
    guest.deliver(*frames)
    return [data[:6] for data, _ in guest.received()]


def test_without_filters_only_broadcast_passes(guest):
    everyone = b"\xff" * 6
    assert passed(guest, frame(MAC), frame(GROUP), frame(everyone)) == [everyone]
    assert guest.port.filtered == 2
    stats = guest.port.stats()
    assert (stats.rx_discards, stats.rx_broadcast) == (0, 1)


def test_listed_addresses_pass_and_are_classified(guest):
    guest.port.set_macs({MAC}, {GROUP})
    other = bytes.fromhex("525400770003")
    guest.deliver(frame(MAC), frame(GROUP), frame(other), frame(b"\xff" * 6))
    received = guest.received()
    assert [data[:6] for data, _ in received] == [MAC, GROUP, b"\xff" * 6]
    # UMBCAST, bits 10:9: unicast 0, multicast 1, broadcast 2.
    assert [done[0].qword1 >> 9 & 3 for _, done in received] == [0, 1, 2]
    assert guest.port.stats()[1:4] == (1, 1, 1)


@pytest.mark.parametrize(
    ("unicast", "multicast", "want"),
    [(True, False, [MAC]), (False, True, [GROUP]), (True, True, [MAC, GROUP])],
)
def test_promiscuous_modes_are_independent(guest, unicast, multicast, want):
    guest.port.set_promiscuous(unicast, multicast)
    assert passed(guest, frame(MAC), frame(GROUP)) == want


def test_an_address_that_was_removed_passes_no_more(guest):
    guest.port.set_macs({MAC}, set())
    assert passed(guest, frame(MAC)) == [MAC]
    guest.port.set_macs(set(), set())
    assert passed(guest, frame(MAC)) == []


def test_a_table_of_300_addresses_knows_exactly_those():
    addresses = [b"\x01\x00\x5e\x00" + i.to_bytes(2, "big") for i in range(300)]
    addresses += [bytes(6), b"\xff" * 6]
    table = mac_table(addresses)
    for address in addresses:
        assert mac_known(table.address, int.from_bytes(address, "little"))
    for i in range(300, 2000):
        other = b"\x01\x00\x5e\x00" + i.to_bytes(2, "big")
        assert not mac_known(table.address, int.from_bytes(other, "little"))


def longest_probe(table):
    places = list(table)[1:]
    longest = run = 0
    for place in places + places:
        run = 0 if place == -1 else run + 1
        longest = max(longest, run)
    return longest


def test_looks_stay_short_in_a_full_table():
    groups = [b"\x33\x33" + (i * 2654435761 & 0xFFFFFFFF).to_bytes(4, "big") for i in range(1000)]
    row = [b"\x01\x00\x5e" + i.to_bytes(3, "big") for i in range(1000)]
    assert longest_probe(mac_table(groups)) < 40
    assert longest_probe(mac_table(row)) < 40


def test_an_empty_table_knows_nothing():
    assert not mac_known(mac_table([]).address, 0)


TAGGED = {vid: b"\x81\x00" + (0x6000 | vid).to_bytes(2, "big") for vid in (0, 5, 63, 64, 4095)}


def passed_vids(guest, beside=False):
    guest.port.set_macs({MAC}, set())
    for tag in TAGGED.values():
        if beside:
            tci = int.from_bytes(tag[2:], "big")
            guest.deliver(
                Packet(
                    frame(MAC),
                    flags=FIRST | LAST | VLAN_PRESENT,
                    vlan=vlan_word(tci, 0x8100, 0, 0),
                )
            )
        else:
            guest.deliver(frame(MAC, tag))
    return [int.from_bytes(data[14:16], "big") & 0xFFF for data, _ in guest.received()]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("vids", "want"),
    [(None, [0, 5, 63, 64, 4095]), (set(), [0]), ({5, 4095}, [0, 5, 4095]), ({63}, [0, 63])],
)
def test_tagged_frames_pass_if_their_vlan_was_added(guest, vids, want, beside):
    guest.port.set_vlan_filter(vids)
    assert passed_vids(guest, beside) == want


def test_untagged_frames_always_pass_the_vlan_filter(guest):
    guest.port.set_vlan_filter(set())
    guest.port.set_macs({MAC}, set())
    assert passed(guest, frame(MAC)) == [MAC]


def test_unicast_promiscuous_mode_lifts_the_vlan_filter(guest):
    guest.port.set_vlan_filter(set())
    guest.port.set_promiscuous(True, False)
    assert passed_vids(guest) == [0, 5, 63, 64, 4095]


def test_the_vlan_table_is_a_bit_set():
    words = list(vlan_table({1, 63, 64, 4095}))
    assert words[0] & (1 << 64) - 1 == 1 << 63 | 0b11
    assert words[1] == 1
    assert words[63] & (1 << 64) - 1 == 1 << 63
