"""A device that is saved and goes on in another one; what is not taken from a saved state."""

import struct

import pytest

from emudev_avf.testing.requests import LINUX_CAPS, MAC
from emudev_core.errors import DecodeError
from emudev_core.events import EventKind
from emudev_core.regions import ResetKind

ARQLEN, RSTAT, HKEY = 0x8000, 0x8800, 0xCC00


def test_a_saved_device_goes_on_in_another_one(machine, go_on):
    machine.device.set_attr("link", True)
    machine.probe()
    machine.mail.request(7, struct.pack("<H6H", 1, 1, 1, 1, 1, 0, 1))
    machine.mail.request(10, struct.pack("<HH", 1, 1) + MAC + b"\1\0")
    machine.mail.request(
        52, struct.pack("<HHI", 1, 1, 0) + struct.pack("<8xHHHH16x", 5, 0, 0x8100, 0)
    )
    machine.open()
    machine.write(0x0000, 3)
    machine.mail.receive()
    other = go_on(machine)
    assert other.avf.port.rx[0].enabled
    assert other.avf.port.rx[0].doorbell.value == 511
    assert other.avf.port.tx[0].doorbell.value == 3
    assert other.avf.port.rx[0].vector == 1
    assert other.mail.request(15, struct.pack("<HHII", 1, 0, 0, 0))[0] == 0


def test_a_device_with_256_enabled_queues_is_saved_and_goes_on(make, go_on):
    """Bit sets of 256 queues fit no integer of a saved record."""
    machine = make(queues=256).plug()
    machine.probe(caps=0xBE0BC7E1)
    machine.mail.send(29, struct.pack("<H", 256))
    machine.until(lambda: machine.read(ARQLEN) >> 31 == 0)
    machine.until(lambda: machine.read(RSTAT) == 2)
    machine.mail.start()
    status, data = machine.mail.request(3, struct.pack("<I", 0xBE0BC7E1))
    assert (status, struct.unpack_from("<HH", data, 2)) == (0, (256, 63))
    rings = machine.memory.take(2 * 32 * 32)
    for first in range(0, 256, 32):
        message = struct.pack("<HHI", 1, 32, 0)
        for queue in range(first, first + 32):
            message += struct.pack("<HHHHQQ", 1, queue, 32, 0, rings, 0)
            message += struct.pack(
                "<HHIHHIIBBBBQiI", 1, queue, 32, 0, 0, 1536, 9728, 0, 1, 0, 0, rings + 1024, 0, 0
            )
        assert machine.mail.request(6, message)[0] == 0
    every = struct.pack("<HHHH", 1, 0, 2, 0) + struct.pack("<iHH", 0, 0, 256)
    assert machine.mail.request(107, every + struct.pack("<iHH", 1, 0, 256))[0] == 0
    machine.write(0x23FC, 31)
    other = go_on(machine, queues=256)
    assert all(ring.enabled for ring in (*other.avf.port.rx, *other.avf.port.tx))
    assert other.avf.port.rx[255].doorbell.value == 31


@pytest.mark.parametrize("queues", [1, 3])
def test_a_device_of_another_size_is_not_taken(machine, make, queues):
    saved = machine.device.save()
    other = make(queues=queues)
    other.device.stop()
    before = other.device.save()
    with pytest.raises(DecodeError):
        other.device.restore(saved)
    assert other.device.save() == before


@pytest.mark.parametrize(
    "change",
    [
        {"wanted_pairs": 3},
        {"wanted_pairs": -1},
        {"wanted_channels": [{"count": 3, "offset": 0, "rate": 0}]},
        {"wanted_channels": [{"count": 1, "offset": 1, "rate": 0}]},
    ],
    ids=str,
)
def test_a_reset_that_waits_with_what_no_guest_can_want_is_not_taken(machine, change):
    machine.device.stop()
    before = machine.device.save()
    state = machine.avf.emudev_save()
    with pytest.raises(DecodeError):
        machine.avf.emudev_restore({**state, "device": {**state["device"], **change}})
    assert machine.device.save() == before


def goes_on_waiting(machine, make):
    """Another device, to which the state of one went while a reset was announced."""
    other = make()
    other.device.stop()
    other.device.restore(machine.device.save())
    other.device.start()
    return other


def test_queue_pairs_that_wait_for_a_reset_come_with_it_after_they_were_saved(machine, make):
    machine.probe()
    machine.mail.send(29, struct.pack("<H", 1))  # REQUEST_QUEUES
    other = goes_on_waiting(machine, make)
    assert other.avf.vf.queue_pairs == 2
    other.until(lambda: other.avf.vf.queue_pairs == 1)


def test_traffic_classes_that_wait_for_a_reset_come_with_it_after_they_were_saved(machine, make):
    machine.probe(LINUX_CAPS | 0x0080_0000)  # ADQ
    # ENABLE_CHANNELS: two classes of a pair each, the second of at most 100 Mbit/s.
    machine.mail.send(30, struct.pack("<IIHHIQHHIQ", 2, 0, 1, 0, 0, 0, 1, 1, 0, 100))
    other = goes_on_waiting(machine, make)
    assert other.avf.vf.lasting.channels == []
    other.until(lambda: other.avf.vf.lasting.channels)
    assert [(c.offset, c.count, c.rate) for c in other.avf.vf.lasting.channels] == [
        (0, 1, 0),
        (1, 1, 100_000),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"rss_key": b"short"},
        {"rss_lut": b"short"},
        {"rx": {0: {"base": 1 << 63, "length": 32, "buffer_size": 2048}}},
        {"rx": {0: {"base": 4096, "length": 9000, "buffer_size": 2048}}},
        {"rx": {0: {"base": 4096, "length": 32, "buffer_size": 1 << 20}}},
        {"rss_hena": 1 << 70},
        {"rx_vectors": {0: 99}},
        {"tx_vectors": {0: -1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_values_that_no_guest_can_have_set_are_not_taken(machine, change):
    machine.device.stop()
    before = machine.device.save()
    state = machine.avf.emudev_save()
    bad = {**state["device"], "state": {**state["device"]["state"], **change}}
    with pytest.raises(DecodeError):
        machine.avf.emudev_restore({**state, "device": bad})
    assert machine.device.save() == before


def test_what_the_user_has_set_is_saved_and_goes_on(machine, make):
    new = bytes.fromhex("52540000000a")
    for name, value in (
        ("admin_link", "up"),
        ("speed", 10_000),
        ("admin_mtu", 1500),
        ("mac", "52:54:00:00:00:0a"),
    ):
        machine.device.set_attr(name, value)
    saved = machine.device.save()
    other = make()
    other.device.stop()
    other.drain()
    other.device.restore(saved)
    assert other.device.save() == saved
    assert not other.device.get_attr("carrier"), "it is stopped"
    other.device.start()
    links = [event for event in other.drain() if event.kind is EventKind.LINK]
    assert [(event.value, event.text) for event in links] == [(1, "10000 Mbit/s")]
    other.plug()
    data = other.probe()
    # virtchnl_vf_resource: max_mtu in bytes 6 and 7, with the 26 bytes of Ethernet header, two VLAN
    # tags and FCS that iavf takes off; the MAC address of the one VSI from 30 on.
    assert struct.unpack_from("<H", data, 6) == (1526,)
    assert data[30:36] == new
    other.device.reset(ResetKind.POWER)
    assert other.avf.vf.lasting.mac == new


def test_a_mac_address_that_waits_for_a_reset_still_does_so_after_it_was_saved(machine, make):
    machine.probe()
    machine.device.set_attr("mac", "52:54:00:00:00:0a")
    other = make()
    other.device.stop()
    other.device.restore(machine.device.save())
    # The guest sets its old one again before the reset, as its primary address (type 1).
    other.device.start()
    other.device.dma_map(machine.memory.table, machine.memory.region)
    mail = machine.mail
    mail.read, mail.write = other.read, other.write
    assert mail.request(10, struct.pack("<HH", 1, 1) + MAC + b"\1\0")[0] == 0
    assert other.avf.vf.lasting.mac == MAC
    other.device.reset(ResetKind.FUNCTION)
    assert other.avf.vf.lasting.mac == bytes.fromhex("52540000000a")


def test_what_the_user_has_not_set_is_that_of_the_device_that_goes_on(machine, make):
    other = make(mtu=1500, link_speed=1000)
    other.device.set_attr("admin_link", "down")
    other.device.set_attr("admin_mtu", 1400)
    other.device.set_attr("speed", 100)
    other.device.stop()
    other.device.restore(machine.device.save())
    names = ("admin_link", "admin_mtu", "speed")
    assert [other.device.get_attr(name) for name in names] == ["auto", 1500, 1000]


def test_a_state_of_before_settings_were_saved_leaves_the_device_its_own(machine, make):
    machine.device.set_attr("speed", 10_000)
    state = machine.avf.emudev_save()
    del state["device"]["settings"]
    other = make()
    other.device.set_attr("admin_link", "down")
    other.device.set_attr("admin_mtu", 1400)
    other.device.stop()
    assert other.avf.emudev_restore(state)
    names = ("admin_link", "admin_mtu", "speed")
    assert [other.device.get_attr(name) for name in names] == ["down", 1400, 25_000]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"link": "sideways"}, "expected auto, up or down"),
        ({"speed": 0}, "expected 1 to 400000"),
        ({"mtu": 1501}, "expected 68 to 1500"),
        ({"mtu": 67}, "expected 68 to 1500"),
        ({"mac": b"\x01\x00\x5e\x00\x00\x01"}, "expected the MAC address of a station"),
        ({"mac": bytes(6)}, "expected the MAC address of a station"),
        ({"mac": b"short"}, "expected the MAC address of a station"),
        ({"mac_waits": 3}, "mac_waits"),
    ],
)
def test_settings_that_no_user_can_have_made_are_not_taken(make, settings, words):
    machine = make(mtu=1500)
    machine.device.set_attr("admin_link", "down")
    machine.device.set_attr("admin_mtu", 1000)
    machine.device.stop()
    before = machine.device.save()
    state = machine.avf.emudev_save()
    bad = {**state["device"], "settings": settings}
    with pytest.raises(DecodeError, match=words):
        machine.avf.emudev_restore({**state, "device": bad})
    assert machine.device.save() == before


def test_a_device_is_saved_with_the_hash_that_was_just_written(machine):
    machine.probe(caps=LINUX_CAPS & ~0x80000)
    machine.write(HKEY, 7)
    machine.device.save()
    assert machine.avf.vf.state.rss_key == b"\7" + bytes(51)


def test_the_throttles_are_saved(make):
    machine, other = make().plug(), make().plug()
    machine.write(0x2800 + 64, 25)
    other.avf.restore_state(machine.avf.save_state())
    assert other.avf.port.vectors[1].intervals == [0, 25, 0]
