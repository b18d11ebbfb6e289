"""What applications rely on in every port, for ports of capture files."""

from __future__ import annotations

import struct

import pytest

from emudev_net.testing import PortContract

PCAP = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


@pytest.fixture
def captured(tmp_path):
    """A file of one frame."""
    path = tmp_path / "in.pcap"
    path.write_bytes(PCAP + struct.pack("<IIII", 1, 0, 60, 60) + bytes(60))
    return path


class TestPortThatReadsAndWrites(PortContract):
    vdev = "net_pcap"

    @pytest.fixture(autouse=True)
    def files(self, captured, tmp_path):
        self.vdev = f"net_pcap,rx_pcap={captured},tx_pcap={tmp_path / 'out.pcap'}"


class TestPortThatReadsAnew(PortContract):
    vdev = "net_pcap"

    @pytest.fixture(autouse=True)
    def files(self, captured):
        self.vdev = f"net_pcap,rx_pcap={captured},infinite_rx=1,rx_memory=0,rx_timing=recorded"


class TestPortThatWritesPcapng(PortContract):
    vdev = "net_pcap"

    @pytest.fixture(autouse=True)
    def files(self, tmp_path):
        self.vdev = f"net_pcap,tx_pcap={tmp_path / 'out.pcapng'},tx_format=pcapng"
