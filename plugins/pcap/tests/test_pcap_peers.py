"""Capture files of other programs, and what those make of ours: scapy and libpcap."""

from __future__ import annotations

import ctypes
import ctypes.util

import attrs
import pytest

from emudev_net.burst import Burst, Packet

FRAMES = [bytes(12) + b"\x88\xb5" + bytes([i]) * (46 + i * 13 % 1400) for i in range(120)]
#: ns since 1970; multiples of a microsecond, so that every format holds them.
TIMES = [1_700_000_000_123_456_000 + i * 1_000_000_017_000 for i in range(120)]


@pytest.fixture
def replayed(add):
    """The packets and times of a file."""

    def run(path):
        port = add(f"rx_pcap={path}")
        burst = Burst(512)
        port.rx_burst(0, burst)
        found = [(p.data, p.time) for p in burst.packets()]
        port.close()
        return found

    return run


@pytest.fixture
def recorded(add, tmp_path):
    """Writes `FRAMES` with `TIMES`; returns the path."""

    def run(form, snaplen=262_144):
        path = tmp_path / f"ours.{form}"
        port = add(f"tx_pcap={path},tx_format={form},tx_time=packet,snaplen={snaplen}")
        packets = [Packet(f, time=t) for f, t in zip(FRAMES, TIMES, strict=True)]
        port.tx_burst(0, Burst.of(packets, split=100))
        port.close()
        return path

    return run


# -- scapy


@pytest.fixture
def scapy():
    return pytest.importorskip("scapy.utils")


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_files_of_scapy_are_read(scapy, tmp_path, replayed, order, nano):
    path = tmp_path / "scapy.pcap"
    writer = scapy.RawPcapWriter(str(path), linktype=1, endianness=order, nano=nano)
    writer.write_header(FRAMES[0])
    for frame, moment in zip(FRAMES, TIMES, strict=True):
        part = moment % 10**9
        writer.write_packet(frame, sec=moment // 10**9, usec=part if nano else part // 1000)
    writer.close()
    assert replayed(path) == list(zip(FRAMES, TIMES, strict=True))


def test_pcapng_files_of_scapy_are_read(scapy, tmp_path, replayed):
    path = tmp_path / "scapy.pcapng"
    writer = scapy.PcapNgWriter(str(path))
    layer = pytest.importorskip("scapy.layers.l2")
    for frame, moment in zip(FRAMES, TIMES, strict=True):
        packet = layer.Ether(frame)
        packet.time = moment / 1e9
        writer.write(packet)
    writer.close()
    found = replayed(path)
    assert [data for data, _ in found] == FRAMES
    for (_, got), moment in zip(found, TIMES, strict=True):
        assert abs(got - moment) <= 2000  # it computes with floating point


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_scapy_reads_what_the_port_writes(scapy, recorded, form):
    with recorded(form, snaplen=700).open("rb") as file:
        if form == "pcap":
            packets = scapy.RawPcapReader(file)
            found = [(data, m.sec * 10**9 + m.usec, m.wirelen) for data, m in packets]
        else:
            packets = scapy.RawPcapNgReader(file)
            found = [(data, (m.tshigh << 32) + m.tslow, m.wirelen) for data, m in packets]
    expected = [(f[:700], t, len(f)) for f, t in zip(FRAMES, TIMES, strict=True)]
    assert found == expected


# -- libpcap


class Header(ctypes.Structure):
    """struct pcap_pkthdr."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("part", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("wire", ctypes.c_uint32),
    )


@attrs.frozen
class Libpcap:
    lib: ctypes.CDLL

    NANOSECONDS = 1

    def read(self, path):
        error = ctypes.create_string_buffer(256)
        handle = self.lib.pcap_open_offline_with_tstamp_precision(
            str(path).encode(), self.NANOSECONDS, error
        )
        assert handle, error.value
        assert self.lib.pcap_datalink(handle) == 1
        head, data = ctypes.POINTER(Header)(), ctypes.c_void_p()
        found = []
        while self.lib.pcap_next_ex(handle, ctypes.byref(head), ctypes.byref(data)) == 1:
            h = head.contents
            packet = ctypes.string_at(data.value, h.captured)
            found.append((packet, h.seconds * 10**9 + h.part, h.wire))
        text = self.lib.pcap_geterr(handle)
        self.lib.pcap_close(handle)
        assert text == b""
        return found

    def write(self, path, packets):
        handle = self.lib.pcap_open_dead_with_tstamp_precision(1, 65535, self.NANOSECONDS)
        dumper = self.lib.pcap_dump_open(handle, str(path).encode())
        for data, moment in packets:
            head = Header(moment // 10**9, moment % 10**9, len(data), len(data))
            self.lib.pcap_dump(dumper, ctypes.byref(head), data)
        self.lib.pcap_dump_close(dumper)
        self.lib.pcap_close(handle)


@pytest.fixture(scope="module")
def libpcap():
    name = ctypes.util.find_library("pcap")
    if name is None:
        pytest.skip("libpcap is not installed")
    lib = ctypes.CDLL(name)
    for function in (
        "pcap_open_offline_with_tstamp_precision",
        "pcap_open_dead_with_tstamp_precision",
        "pcap_dump_open",
    ):
        getattr(lib, function).restype = ctypes.c_void_p
    lib.pcap_geterr.restype = ctypes.c_char_p
    for function in ("pcap_datalink", "pcap_geterr", "pcap_close", "pcap_dump_close"):
        getattr(lib, function).argtypes = (ctypes.c_void_p,)
    lib.pcap_next_ex.argtypes = (ctypes.c_void_p,) * 3
    lib.pcap_dump_open.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    lib.pcap_dump.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    return Libpcap(lib)


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_libpcap_reads_what_the_port_writes(libpcap, recorded, form):
    found = libpcap.read(recorded(form, snaplen=700))
    assert found == [(f[:700], t, len(f)) for f, t in zip(FRAMES, TIMES, strict=True)]


def test_what_libpcap_writes_is_read(libpcap, tmp_path, replayed):
    packets = [(f, t + 789) for f, t in zip(FRAMES, TIMES, strict=True)]
    libpcap.write(tmp_path / "libpcap.pcap", packets)
    assert replayed(tmp_path / "libpcap.pcap") == packets


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_what_the_port_writes_it_reads(recorded, replayed, form):
    assert replayed(recorded(form)) == list(zip(FRAMES, TIMES, strict=True))
