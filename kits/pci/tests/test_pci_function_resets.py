"""What a reset of a function forgets and keeps, what is saved, and what is told of it."""

import pytest

from emudev_core.errors import DecodeError
from emudev_core.events import EventChannel, EventKind
from emudev_core.later import Later
from emudev_core.regions import ResetKind
from emudev_pci.guest import GuestError


@pytest.mark.parametrize("how", ["reset", "flr"])
def test_resets_keep_vectors_and_memory_and_forget_the_rest(make_probe, how):
    guest, probe, device = make_probe()
    page = guest.map_memory(4096)
    guest.vectors[0].enable()
    guest.bar[0].PLAIN = 1
    guest.bar[0].TAIL[1] = 9
    guest.config.write32(0x10, 0xFE000000)
    probe.vectors[3].trigger()
    probe.intx_line.set(True)
    probe.told.clear()
    guest.bar[0].SOON = 1
    getattr(guest, how)()
    kind = ResetKind.POWER if how == "reset" else ResetKind.FUNCTION
    assert [t for t in probe.told if t != ("soon", 1)][:2] == [kind, ("bus master", False)]
    assert probe.after == [(kind, 5, False)]
    assert guest.bar[0].PLAIN == 5
    assert guest.bar[0].TAIL[1] == 0
    assert guest.config.read32(0x10) == 4
    assert guest.config.read16(4) == 0
    assert not probe.vectors[3].pending
    assert not probe.intx_line.asserted
    assert device.get_mem_table().find(page.address) is not None
    guest.enable()
    probe.vectors[0].trigger()
    assert guest.vectors[0].wait(1) == 1


def test_the_bit_that_starts_a_reset_reads_0_and_the_others_stay(make_probe):
    guest, probe, _ = make_probe()
    at = guest.capability(0x10) + 8
    guest.config.write16(at, 0x5037)
    assert guest.config.read16(at) == 0x5037
    guest.config.write8(at + 1, 0x80)
    assert ResetKind.FUNCTION in probe.told
    assert guest.config.read16(at) == 0x2010


def test_a_reset_that_takes_time_is_waited_for(make_probe, emudev_host):
    guest, probe, _ = make_probe()
    guest.bar[0].PLAIN = 1
    probe.answer = Later()
    emudev_host.loop.call_later(0.02, probe.answer.finish)
    guest.reset()
    assert probe.answer.done
    assert guest.bar[0].PLAIN == 5
    probe.answer = True


def test_a_write_that_starts_a_long_reset_is_answered_behind_it(make_probe, emudev_host):
    guest, probe, _ = make_probe()
    at = guest.capability(0x10) + 8
    for data in (b"\x00\x80", b"\x00\x80\0\0\0\0"):  # as a number, and in bulk
        guest.bar[0].PLAIN = 1
        probe.answer = Later()
        emudev_host.loop.call_later(0.02, probe.answer.finish)
        guest.config.write(at, data)
        assert probe.answer.done
        assert guest.bar[0].PLAIN == 5
    probe.answer = True


def test_d1_and_d2_are_not_there(make_probe):
    guest, _, _ = make_probe()
    at = guest.capability(1) + 4
    for state, kept in ((3, 3), (1, 3), (2, 3), (0, 0), (1, 0)):
        guest.config.write16(at, state)
        assert guest.config.read16(at) == 8 | kept


def test_a_function_without_pci_express_cant_be_reset_alone(make_probe):
    guest, _, _ = make_probe("emu_probe,id=0,pcie=no")
    assert guest.client.regions()[7].size == 256
    assert guest.extended_capabilities() == {}
    with pytest.raises(GuestError, match="no capability 0x10"):
        guest.flr()


def test_what_was_saved_comes_back_and_nonsense_changes_nothing(make_probe):
    guest, probe, device = make_probe()
    guest.bar[0].PLAIN = 0x77
    guest.config.write8(0x3C, 11)
    probe.vectors[1].trigger()
    guest.bar[0].read32(0)
    saved = device.save()
    device.stop()  # the client goes, and all that it did
    assert probe.regs.PLAIN == 5
    device.restore(saved)
    assert probe.regs.PLAIN == 0x77
    assert probe.bus_master
    assert probe.vectors[1].pending
    assert probe.config_space.read(0x3C, 1) == 11
    state = probe.emudev_save()
    for bad in (
        {"version": 2},
        {"registers": {}},
        {"registers": dict.fromkeys(state["registers"], 7)},
        {"pending": [99]},
        {"config": b""},
        {"msix": b"short"},
        {"device": None},
        {"device": {"told": 2000}},
    ):
        with pytest.raises(DecodeError):
            probe.emudev_restore({**state, **bad})
        assert probe.emudev_save() == state


def test_events_tell_what_a_client_does(make_probe):
    guest, _, device = make_probe()
    channel = EventChannel()
    device.subscribe_event(channel)
    page = guest.map_memory(4096)
    guest.vectors[1].enable()
    guest.reset()
    page.close()
    kinds = [event.kind for event in channel.drain()]
    assert kinds == [EventKind.MEMORY, EventKind.IRQ, EventKind.RESET, EventKind.MEMORY]
    device.unsubscribe_event(channel)
    channel.close()
