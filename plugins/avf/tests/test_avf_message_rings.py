"""A guest whose memory can't be mapped: its rings are mirrored, and carried by messages."""

import shutil
import struct
import tempfile
import time

import pytest

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.driver.rings import Headers
from emudev_avf.registers import MAP
from emudev_core import attributes
from emudev_core.host import Host
from emudev_net.testing import compiled_or_plain, jit  # noqa: F401  # fixtures
from emudev_pci.guest import GuestFunction

PEER = bytes.fromhex("020000000001")


class Machine:
    """A device served over vfio-user, its echoing backend, and a guest in this thread."""

    def __init__(self, folder, **keys):
        self.host = Host()
        more = "".join(f",{key}={value}" for key, value in keys.items())
        self.device = self.host.add(f"emu_iavf,id=0,path={folder}/s{more}")
        self.echo = self.host.add("echo,avf_emu_id=0")
        self.provider = self.device.members[0].plugin
        self.host.start()
        self.until(lambda: self.device.get_attr(attributes.LINK), 60)
        self.function = GuestFunction(self.host.connect(self.device), {0: MAP})
        self.client = self.function.client

    def until(self, condition, seconds=5.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came"
            self.host.loop.turn(0.01)

    def boot(self, by_message=lambda number: True, **options):
        """Bring the driver up; `by_message` says of each piece of memory whether it is mapped."""
        numbers = iter(range(1000))
        make = self.function.map_memory

        def map_memory(size, *args, **kwargs):
            return make(size, *args, by_message=by_message(next(numbers)), **kwargs)

        self.function.map_memory = map_memory
        self.function.enable()
        self.driver = AvfDriver(self.function, **options)
        self.driver.probe()
        self.driver.open()
        return self.driver

    def echoed(self, body, **options):
        """Send a frame, and take the one that comes back."""
        mac = self.driver.resources.mac
        self.driver.send(PEER + mac + body, **options)
        for _ in range(200):
            got = self.driver.receive(0.01)
            if got:
                assert [one.frame[:12] for one in got] == [mac + PEER] * len(got)
                return [one.frame[12:] for one in got]
        raise AssertionError("nothing came back")

    def pause(self):
        """Let device and client go on for a moment."""
        self.client.pause(0.005)

    def close(self):
        self.function.close()
        self.host.close()


@pytest.fixture
def machine(compiled_or_plain):  # noqa: F811
    compiled_or_plain(*rings.KERNELS)
    folders, made = [], []

    def make(**keys):
        folders.append(tempfile.mkdtemp(prefix="emudev-"))
        made.append(Machine(folders[-1], **keys))
        return made[-1]

    yield make
    for one in made:
        one.close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def body(size, seed=1):
    """A frame behind its addresses: the ethertype of local experiments, and a pattern."""
    return b"\x88\xb5" + bytes((i * 7 + seed) & 0xFF for i in range(size - 14))


@pytest.mark.parametrize("size", [60, 1514, 9000])
def test_frames_pass_both_ways_unharmed(machine, size):
    guest = machine()
    guest.boot()
    for seed in range(5):
        assert guest.echoed(body(size, seed)) == [body(size, seed)]


def test_frames_in_several_buffers_are_whole_whatever_their_length(machine):
    guest = machine()
    guest.boot(buffer=2048)
    for size in (2046, 2047, 2048, 2049, 2089, 4095, 4096, 4097, 4110, 6144, 8192, 9702):
        assert guest.echoed(body(size, size)) == [body(size, size)], size


def test_descriptors_that_go_by_message_say_when_their_frames_came(machine):
    guest = machine()
    driver = guest.boot(caps=0xBE0BC7E1, rxdid=2, timestamps=True)
    before = time.time_ns()
    driver.send(PEER + driver.resources.mac + body(100))
    got = []
    guest.until(lambda: got.extend(driver.receive(0.01)) or got)
    assert got[0].time is not None
    assert (got[0].time - before) & 0xFFFF_FFFF <= time.time_ns() - before


def test_more_frames_than_the_ring_holds_come_in_order(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    mac = driver.resources.mac
    back = []
    for number in range(300):
        while driver.tx[0].reap() > 60:
            back += driver.receive(0.0)
            guest.host.loop.turn(0.0)
        driver.send(PEER + mac + body(100, number))
    end = time.monotonic() + 20
    while len(back) < 300 and time.monotonic() < end:
        back += driver.receive(0.05)
    assert [one.frame[12:] for one in back] == [body(100, number) for number in range(300)]


def test_checksums_and_segmentation_are_done_as_ever(machine):
    guest = machine()
    driver = guest.boot()
    mac = driver.resources.mac
    payload = bytes(range(256)) * 20
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
    )
    # The sum of the pseudo-header without the length, as Linux leaves it; avf.md 6.5.
    pseudo = ones(ip[12:20] + struct.pack(">HH", 6, 0))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x18, 1000, pseudo, 0)
    frame = PEER + mac + b"\x08\x00" + ip + tcp + payload
    driver.send(frame, headers=Headers(ip_checksum=True), mss=1000)
    segments = []
    end = time.monotonic() + 10
    while len(segments) < 6 and time.monotonic() < end:
        segments += [one.frame for one in driver.receive(0.05)]
    assert b"".join(one[54:] for one in segments) == payload
    for one in segments:
        length = int.from_bytes(one[16:18], "big")
        assert length == len(one) - 14
        assert ones(one[14:34]) == 0xFFFF
        assert ones(one[26:34] + struct.pack(">HH", 6, length - 20) + one[34:]) == 0xFFFF


@pytest.mark.parametrize("mapped", [0, 1, 2, 3], ids=["send-box", "receive-box", "tx", "rx"])
def test_memory_of_both_kinds_goes_together(machine, mapped):
    guest = machine()
    guest.boot(by_message=lambda number: number != mapped)
    for seed in range(3):
        assert guest.echoed(body(600, seed)) == [body(600, seed)]


def test_buffers_that_cannot_be_mapped_behind_rings_that_can(machine):
    guest = machine()
    driver = guest.boot(by_message=lambda number: False, ring=64)
    assert guest.echoed(body(600)) == [body(600)]
    assert guest.provider.messages.queue(guest.provider.port.tx[0]) is None
    far = GuestFunction.map_memory(guest.function, 1 << 20, by_message=True)
    tx, rx = driver.tx[0], driver.rx[0]
    # Descriptors that are in the mapped rings point to memory that is not from here on.
    frame = PEER + driver.resources.mac + body(700)
    far.write(0, frame)
    index = tx.next
    tx.page.write_u64(index * 16, far.address)
    tx.page.write_u64(index * 16 + 8, 0x30 | len(frame) << 34)
    for slot in range(64):
        rx.page.write_u64(slot * 32, far.address + 4096 * (slot + 1))
        rx.page.write_u64(slot * 32 + 8, 0)
    head = guest.provider.port.rx[0].head
    guest.function.bar[0]["QTX_TAIL1", 0] = (index + 1) % 64
    guest.until(lambda: guest.pause() or rx.page.read_u64(head * 32 + 8) & 1)
    assert far.read(4096 * (head + 1), len(frame)) == frame[6:12] + frame[:6] + frame[12:]
    assert rx.page.read_u64(head * 32 + 8) >> 38 & 0x3FFF == len(frame)
    guest.until(lambda: guest.pause() or tx.page.read_u64(index * 16 + 8) & 0xF == 0xF)
    port = guest.provider.port
    assert port.tx[0].drops["address"] == port.rx[0].drops["address"] == 0


def test_an_address_that_is_nowhere_is_dropped_and_counted(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    tx = driver.tx[0]
    index = tx.next
    tx.page.write_u64(index * 16, 0x7000_0000_0000)
    tx.page.write_u64(index * 16 + 8, 0x30 | 100 << 34)
    guest.function.bar[0]["QTX_TAIL1", 0] = (index + 1) % 64
    guest.until(lambda: guest.pause() or tx.page.read_u64(index * 16 + 8) & 0xF == 0xF)
    assert guest.provider.port.tx[0].drops["address"] == 1


def test_queues_that_were_disabled_and_enabled_again_start_anew(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    for seed in range(3):
        assert guest.echoed(body(600, seed)) == [body(600, seed)]
        driver.close()
        assert not guest.provider.messages.busy
        driver.open()


def test_resets_of_each_kind_under_traffic_leave_a_device_that_works(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    mac = driver.resources.mac
    for reset in (driver.reset, driver.function_level_reset, driver.reset):
        for seed in range(40):
            driver.send(PEER + mac + body(500, seed))
        reset()
        assert guest.echoed(body(700, 3))[-1] == body(700, 3)


def test_nothing_is_stored_after_a_reset_was_answered(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    mac = driver.resources.mac
    for seed in range(40):
        driver.send(PEER + mac + body(500, seed))
    guest.host.loop.turn(0.0)
    guest.client.reset()
    before = bytes(driver.rx[0].page.read(0, driver.rx[0].page.size))
    writes = guest.client.dma_writes
    guest.client.pause(0.1)
    guest.client.info()
    assert guest.client.dma_writes == writes
    assert driver.rx[0].page.read(0, driver.rx[0].page.size) == before


def test_a_client_that_vanishes_in_the_middle_leaves_a_device_for_the_next(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    mac = driver.resources.mac
    for seed in range(40):
        driver.send(PEER + mac + body(500, seed))
    guest.host.loop.turn(0.0)
    guest.function.close()
    guest.until(lambda: guest.provider.messages.queue(guest.provider.port.rx[0]) is None)
    assert not guest.provider.messages.busy
    guest.function = GuestFunction(guest.host.connect(guest.device), {0: MAP})
    guest.client = guest.function.client
    guest.boot(ring=64)
    assert guest.echoed(body(700, 3)) == [body(700, 3)]


def ones(data):
    """The ones' complement sum of 16-bit words."""
    total = sum(
        int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
