"""Guests of AVF devices, forwarded on the loop's thread: traffic, resets, guests that go."""

from __future__ import annotations

import contextlib

import pytest

pytest.importorskip("emudev_avf")
pytest.importorskip("emudev_avfbe")
pytest.importorskip("emudev_null", reason="the transport inproc")

from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.registers import MAP
from emudev_core.host import Host
from emudev_core.lifecycle import State
from emudev_core.testing.contract import turn_until
from emudev_net.jit import jit_wanted
from emudev_pci.guest import GuestFunction
from emudev_testpmd.engine import Engine
from emudev_testpmd.options import Options
from emudev_testpmd.records import NoticeKind

HOST_MAC = bytes.fromhex("02aabbccdd01")


class Joined:
    """Two devices, their guests, and the engine between them."""

    def __init__(self, host):
        self.host = host
        self.devices = [host.add(f"emu_iavf,id={n},transport=inproc") for n in (0, 1)]
        ports = [host.add(f"net_avfbe,id={n},avf_emu_id={n}") for n in (0, 1)]
        self.engine = Engine(host.loop, ports, Options(interrupt=True))
        self.notices = []
        self.engine.subscribe(self.notices.append)
        host.start()
        self.engine.port_start()
        self.engine.start()
        self.ports = ports
        turn_until(host, lambda: all(port.ready for port in ports), 60)
        self.guests = [self.boot(n) for n in (0, 1)]

    def boot(self, end):
        guest = AvfDriver(GuestFunction(self.host.connect(self.devices[end]), {0: MAP}), queues=1)
        guest.probe()
        guest.open()
        turn_until(self.host, lambda: self.ports[end].link().up)
        return guest

    def frame(self, target, mark):
        return self.guests[target].resources.mac + HOST_MAC + b"\x88\xb5" + bytes([mark]) * 86

    def check(self, count=20):
        """Frames pass both ways, whole and in order."""
        for end in (0, 1):
            sent = [self.frame(1 - end, mark) for mark in range(count)]
            for frame in sent:
                self.guests[end].send(frame)
            found = []
            for _ in range(200):
                found += [r.frame for r in self.guests[1 - end].receive(0.005)]
                if len(found) >= count:
                    break
            assert found == sent


@pytest.fixture(params=["compiled", "plain"])
def joined(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setenv("EMUDEV_JIT", "0")
    elif not jit_wanted():
        pytest.skip("kernels are not compiled here")
    with Host() as host, contextlib.ExitStack() as closing:
        joined = Joined(host)
        closing.callback(joined.engine.close)
        assert not joined.engine.layout().threads
        yield joined
        for guest, device in zip(joined.guests, joined.devices, strict=True):
            if device.state is not State.ERROR:
                guest.remove()
            guest.function.close()


def test_guests_reach_each_other_and_all_is_counted(joined):
    joined.check()
    totals = joined.engine.stop()
    assert [(s.rx_packets, s.tx_packets, s.tx_dropped) for s in totals.streams] == [(20, 20, 0)] * 2
    assert [(p.stats.ipackets, p.stats.opackets) for p in totals.ports] == [(20, 20)] * 2


def test_what_is_sent_while_nothing_is_forwarded_waits_for_the_next_start(joined):
    joined.engine.stop()
    joined.guests[0].send(joined.frame(1, 7))
    for _ in range(5):
        joined.host.loop.turn(0)
    assert joined.guests[1].receive(0.005) == []
    joined.engine.start()
    found = []
    turn_until(joined.host, lambda: found.extend(joined.guests[1].receive(0.005)) or found)
    assert [r.frame for r in found] == [joined.frame(1, 7)]


@pytest.mark.parametrize("how", ["reset", "function_level_reset"])
def test_frames_pass_again_after_resets_under_traffic(joined, how):
    for round_ in range(3):
        for mark in range(10):
            joined.guests[round_ & 1].send(joined.frame(1 - (round_ & 1), mark))
        getattr(joined.guests[0], how)()
        turn_until(joined.host, lambda: joined.ports[0].link().up)
        joined.guests[1].receive(0.005)
        joined.guests[0].receive(0.005)
        joined.check(5)
    assert joined.engine.running
    assert [n for n in joined.notices if n.kind is NoticeKind.FAILED] == []


def test_a_guest_that_is_killed_comes_back_and_a_device_that_fails_does_not(joined):
    joined.guests[0].function.close()
    turn_until(joined.host, lambda: not joined.ports[0].link().up)
    for mark in range(5):
        joined.guests[1].send(joined.frame(1, mark))
    joined.host.loop.turn(0)
    joined.guests[0] = joined.boot(0)
    joined.check()
    joined.devices[0].fail("it broke")
    turn_until(joined.host, lambda: any(n.kind is NoticeKind.FAILED for n in joined.notices))
    for mark in range(5):
        joined.guests[1].send(joined.frame(1, mark))
    joined.host.loop.turn(0)
    assert joined.engine.running
    joined.engine.stop()
    assert not joined.engine.running
