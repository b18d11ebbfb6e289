"""Frames of a whole device that gives a guest what it sends: as two guests on one host would.

Through the reference driver. Checksums that the sender leaves to the device are still open when the
frame arrives at the receive side, as they are between guests of one host.
"""

import struct
import time

import pytest

pytest.importorskip("emudev_null", reason="the transport inproc")

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.driver.rings import Headers
from emudev_avf.registers import MAP
from emudev_avf.testing.frames import ones_sum
from emudev_core import attributes
from emudev_core.hooks import hookimpl
from emudev_core.host import Host
from emudev_core.queues import rx_queue, tx_queue
from emudev_core.testing.contract import turn_until
from emudev_net import flow as flows
from emudev_net.flow import Flow
from emudev_net.jit import compile_now
from emudev_pci.guest import GuestFunction

DPDK_CAPS = 0xBE0BC7E1
SOURCE, TARGET = bytes([192, 168, 77, 1]), bytes([192, 168, 77, 2])


class Looped:
    """A backend that gives the frames of the guest back to it."""

    def __init__(self, loop):
        self.loop = loop

    @hookimpl
    def emudev_backend_started(self, device):
        source, sink = (device.get_queue_info(q(0)) for q in (tx_queue, rx_queue))
        self.flow = Flow(self.loop, source.kernels, sink.kernels)
        device.get_db_info(source.doorbell).subscribe(self.flow.kick)
        device.set_attr(attributes.LINK, True)

    @hookimpl
    def emudev_backend_event(self, device, event):
        self.flow.kick()

    @hookimpl
    def emudev_backend_stopped(self, device):
        self.flow.close()


class Machine:
    def __init__(self, host, rxdid=0, vlan="802.1q", timestamps=False):
        compile_now((*rings.KERNELS, *flows.KERNELS))
        self.device = host.add(f"emu_iavf,id=0,transport=inproc,vlan={vlan}")
        self.avf = self.device.members[0].plugin
        self.device.register(Looped(host.loop), "looped_0")
        host.start()
        turn_until(host, lambda: self.avf.ready, 60)
        function = GuestFunction(host.connect(self.device), {0: MAP})
        self.driver = AvfDriver(
            function, ring=64, caps=DPDK_CAPS, rxdid=rxdid, timestamps=timestamps
        )
        self.driver.probe()
        self.driver.open()
        self.mac = self.driver.resources.mac

    def setting(self, opcode, outer=0, inner=0):
        self.driver.admin.request(opcode, struct.pack("<IIH6x", outer, inner, 1))

    def allow(self, outer, inner=0):
        """Accept a VLAN: (ethertype, id)."""
        message = struct.pack("<HHI", 1, 1, 0)
        message += struct.pack(
            "<HHHHHHHH16x", inner, 0, 0x8100 if inner else 0, 0, outer[1], 0, outer[0], 0
        )
        self.driver.admin.request(52, message)

    def pass_frame(self, frame, count=1, **keys):
        self.driver.send(frame, **keys)
        got = []
        for _ in range(20):
            got += self.driver.receive(0.001)
            if len(got) >= count:
                break
        return got

    def udp(self, payload, seed=True):
        """A datagram to itself; its checksum field holds the pseudo-header's sum."""
        length = 8 + len(payload)
        pseudo = ones_sum(SOURCE + TARGET + struct.pack(">HH", 17, length))
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 7, 0, 64, 17, 0)
        head = head[:10] + struct.pack(">H", 0xFFFF ^ ones_sum(head + SOURCE + TARGET))
        body = struct.pack(">HHHH", 1000, 2000, length, pseudo if seed else 0)
        return self.mac + self.mac + b"\x08\0" + head + SOURCE + TARGET + body + payload


UDP = Headers(mac=14, ip=20, l4=8, protocol="udp")


@pytest.fixture
def machines():
    hosts = []

    def make(**keys):
        hosts.append(Host())
        return Machine(hosts[-1].__enter__(), **keys)

    yield make
    for host in hosts:
        host.__exit__(None, None, None)


@pytest.mark.parametrize("rxdid", [0, 2, 16, 22])
def test_a_checksum_that_a_local_guest_left_open_arrives_complete_and_good(machines, rxdid):
    machine = machines(rxdid=rxdid)
    (got,) = machine.pass_frame(machine.udp(b"x" * 333), headers=UDP)
    assert got.frame[:40] == machine.udp(b"")[:16] + got.frame[16:40]
    length = len(got.frame) - 34
    assert ones_sum(SOURCE + TARGET + struct.pack(">HH", 17, length) + got.frame[34:]) == 0xFFFF
    assert (got.checked, got.bad, got.ptype) == (True, False, 24)
    assert got.hash is not None
    assert got.mark is None


@pytest.mark.parametrize("rxdid", [0, 22])
def test_datagrams_that_a_local_guest_sends_as_one_arrive_one_by_one(machines, rxdid):
    """USO: the checksum field holds the pseudo-header's sum without a length (avf.md 6.5)."""
    machine = machines(rxdid=rxdid)
    frame = bytearray(machine.udp(b"y" * 2500))
    frame[40:42] = struct.pack(">H", ones_sum(SOURCE + TARGET + b"\0\x11"))
    frame[16:18] = frame[24:26] = b"\0\0"
    headers = Headers(mac=14, ip=20, l4=8, protocol="udp", ip_checksum=True)
    got = machine.pass_frame(bytes(frame), 3, headers=headers, mss=1000)
    assert [len(g.frame) for g in got] == [1042, 1042, 542]
    for one in got:
        length = len(one.frame) - 34
        assert struct.unpack(">H", one.frame[38:40]) == (length,)
        pseudo = SOURCE + TARGET + struct.pack(">HH", 17, length)
        assert ones_sum(pseudo + one.frame[34:]) == 0xFFFF
        assert ones_sum(one.frame[14:34]) == 0xFFFF
        assert (one.checked, one.bad) == (True, False)
    assert machine.driver.statistics().tx_unicast == 3


@pytest.mark.parametrize("rxdid", [0, 22])
def test_two_tags_go_through_descriptors_both_ways(machines, rxdid):
    machine = machines(rxdid=rxdid, vlan="qinq")
    machine.allow((0x88A8, 5), 7)
    machine.setting(54, 2, 1)
    (got,) = machine.pass_frame(machine.udp(b"z" * 50), headers=UDP, vlan=0x2007, vlan2=0x4005)
    assert (got.vlan, got.inner_vlan) == (0x4005, 0x2007)
    assert got.frame[12:14] == b"\x08\0"
    assert got.checked
    machine.setting(55, 2, 1)
    (got,) = machine.pass_frame(machine.udp(b"z" * 50), headers=UDP, vlan=0x2007, vlan2=0x4005)
    assert got.frame[12:22] == bytes.fromhex("88a84005810020070800")
    assert (got.vlan, got.inner_vlan) == (None, None)
    assert machine.pass_frame(machine.udp(b"z"), headers=UDP, vlan=0x2007, vlan2=0x4006) == []
    assert machine.pass_frame(machine.udp(b"z"), headers=UDP, vlan=0x2008, vlan2=0x4005) == []
    dropped = machine.device.get_queue_info(0).kernels.stats().dropped
    assert dropped["vlan-filtered"] == 2


def test_outer_tags_may_have_the_ethertype_of_inner_ones(machines):
    machine = machines(vlan="qinq")
    machine.allow((0x8100, 5), 7)
    machine.setting(56, 1)
    (got,) = machine.pass_frame(machine.udp(b"z" * 50), headers=UDP, vlan=7, vlan2=5)
    assert got.frame[12:22] == bytes.fromhex("81000005810000070800")
    assert (got.checked, got.bad) == (True, False)


def test_counters_grow_over_resets_and_say_why_frames_went(machines):
    machine = machines()
    machine.pass_frame(machine.udp(b"a" * 100), headers=UDP)
    other = b"\x02" * 6 + machine.udp(b"a" * 100)[6:]
    assert machine.pass_frame(other, headers=UDP) == []
    before = machine.driver.statistics()
    assert (before.tx_unicast, before.rx_unicast, before.rx_discards) == (2, 1, 0)
    machine.driver.reset()
    after = machine.driver.statistics()
    assert after == before
    machine.pass_frame(machine.udp(b"a" * 100), headers=UDP)
    after = machine.driver.statistics()
    assert (after.tx_unicast, after.rx_unicast) == (3, 2)
    stats = machine.device.get_queue_info(0).kernels.stats()
    assert (stats.packets, stats.dropped["filtered"]) == (2, 1)


def crc32c(data):
    """RFC 9260, appendix A: reflected polynomial 0x82F63B78."""
    value = 0xFFFF_FFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
    return value ^ 0xFFFF_FFFF


@pytest.mark.parametrize(("size", "rxdid"), [(5, 0), (700, 0), (700, 22)])
def test_the_crc_of_sctp_arrives_complete_and_good(machines, size, rxdid):
    """Little endian in memory at byte 8, over the packet with zeroes there (avf.md 6.5)."""
    machine = machines(rxdid=rxdid)
    packet = struct.pack(">HHII", 1000, 2000, 0x1234, 0) + b"s" * size
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(packet), 7, 0, 64, 132, 0)
    head = head[:10] + struct.pack(">H", 0xFFFF ^ ones_sum(head + SOURCE + TARGET))
    frame = machine.mac + machine.mac + b"\x08\0" + head + SOURCE + TARGET + packet
    (got,) = machine.pass_frame(frame, headers=Headers(mac=14, ip=20, l4=12, protocol="sctp"))
    want = packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]
    assert got.frame[34 : 34 + len(packet)] == want
    assert (got.ptype, got.checked, got.bad) == (27, True, False)
    # As it came, it is verified: nobody has left anything to the device.
    (again,) = machine.pass_frame(got.frame)
    assert (again.checked, again.bad) == (True, False)
    (broken,) = machine.pass_frame(got.frame[:-1] + bytes([got.frame[-1] ^ 1]))
    # Of a short packet that byte is padding.
    assert (broken.checked, broken.bad) == (True, size == 700)


@pytest.mark.parametrize("rxdid", [2, 22])
def test_frames_come_with_their_times_if_the_driver_asks_for_them(machines, rxdid):
    machine = machines(rxdid=rxdid, timestamps=True)
    before = time.time_ns()
    (got,) = machine.pass_frame(machine.udp(b"when"), headers=UDP)
    passed = time.time_ns() - before
    assert got.time is not None
    assert (got.time - before) & 0xFFFF_FFFF <= passed
    (got,) = machines(rxdid=rxdid).pass_frame(machine.udp(b"when"), headers=UDP)
    assert got.time is None
