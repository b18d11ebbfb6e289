"""What runs on the host's side beside a guest: small frames at a rate, and a host behind a tag."""

import pytest

from emudev_lab import blast, tagged_host

ADDRESS = bytes([192, 168, 177, 1])
ASKER, ASKER_MAC = bytes([192, 168, 177, 2]), bytes.fromhex("525400770002")

# RFC 826: hardware type 1, protocol 0x0800, lengths 6 and 4, operation 1 (request).
ARP_REQUEST = (
    b"\xff" * 6 + ASKER_MAC + bytes.fromhex("0806 0001 0800 06 04 0001")
    + ASKER_MAC + ASKER + bytes(6) + ADDRESS
)  # fmt: skip

# An echo request, id 0x4D2, number 1, eight bytes of data. Its checksum by hand (RFC 1071):
# 0800 + 04D2 + 0001 + 6162 + 6364 + 6566 + 6768 = 1 9E67 -> 9E68 -> complement 6197.
# The IPv4 header: 4500 + 0024 + 0001 + 4000 + 4001 + C0A8 + B102 + C0A8 + B101
# = 3 A879 -> A87C -> complement 5783.
ECHO = (
    tagged_host.MAC + ASKER_MAC + bytes.fromhex("0800 4500 0024 0001 4000 4001 5783")
    + ASKER + ADDRESS + bytes.fromhex("0800 6197 04D2 0001") + b"abcdefgh"
)  # fmt: skip


def test_the_host_behind_a_tag_answers_arp_for_its_address():
    answer = tagged_host.answer(ARP_REQUEST, ADDRESS)
    assert answer == (
        ASKER_MAC + tagged_host.MAC + bytes.fromhex("0806 0001 0800 06 04 0002")
        + tagged_host.MAC + ADDRESS + ASKER_MAC + ASKER
    )  # fmt: skip


def test_the_host_behind_a_tag_answers_a_ping():
    # Without the type 8 the sum is 1 9667 -> 9668 -> complement 6997.
    assert tagged_host.answer(ECHO, ADDRESS) == (
        ASKER_MAC + tagged_host.MAC + bytes.fromhex("0800 4500 0024 0001 4000 4001 5783")
        + ADDRESS + ASKER + bytes.fromhex("0000 6997 04D2 0001") + b"abcdefgh"
    )  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [
        ARP_REQUEST[:-1] + b"\x09",
        ARP_REQUEST[:20] + b"\0\2" + ARP_REQUEST[22:],
        ECHO[:30] + b"\x0a\0\0\1" + ECHO[34:],
        ECHO[:23] + b"\x11" + ECHO[24:],
        ECHO[:34] + b"\0" + ECHO[35:],
        ECHO[:30],
        b"",
    ],
)
def test_what_is_not_for_it_is_not_answered(frame):
    assert tagged_host.answer(frame, ADDRESS) is None


def test_padding_behind_the_packet_is_not_echoed():
    answer = tagged_host.answer(ECHO + bytes(10), ADDRESS)
    assert answer is not None
    assert len(answer) == len(ECHO)


def test_a_blast_keeps_its_rate_and_counts_what_was_taken():
    taken = []

    def send(frame):
        if len(taken) == 50:
            raise BlockingIOError
        taken.append(frame)

    # 0.2 s at 1000 a second are at most 200, of which only 50 find room.
    assert blast.blast(send, 1000, 0.2, size=64) == 50
    assert {len(frame) for frame in taken} == {64}
    assert taken[0][:6] == b"\xff" * 6
    assert blast.blast(taken.append, 100, 0.1) <= 10
