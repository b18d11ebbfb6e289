"""A network namespace a test, and frames seen from the host's side of a TAP."""

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import struct
import subprocess

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_names = (f"emudev-tap-{os.getpid()}-{n}" for n in itertools.count())

CLONE_NEWNET = 0x40000000
SOL_PACKET = 263
PACKET_VNET_HDR = 15
ETH_P_ALL = 3


def _setns(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


class Host:
    """The host's side: its interfaces and raw sockets."""

    def __init__(self):
        self._closing = contextlib.ExitStack()

    def ip(self, command):
        """Run ``ip COMMAND`` in the namespace."""
        done = subprocess.run(
            ["ip", *command.split()], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"ip {command}: {done.stderr}"
        return done.stdout

    def packets(self, name, *, headers=True):
        """A raw socket on an interface; with `headers` each frame has a ``virtio_net_hdr`` in front."""
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._closing.callback(made.close)
        if headers:
            made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        made.bind((name, ETH_P_ALL))
        made.settimeout(5)
        return made

    def carrier(self, name):
        """Whether the interface says that somebody is at the other end (IFF_LOWER_UP)."""
        return "LOWER_UP" in self.ip(f"-o link show {name}")

    def close(self):
        self._closing.close()


@pytest.fixture
def host():
    """A network namespace of its own, entered for the test and removed after it."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("ip (iproute2) is not installed")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this kernel has no /dev/net/tun")
    name = next(_names)
    made = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, timeout=20, check=False
    )
    if made.returncode:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    seen = Host()
    try:
        _setns(f"/run/netns/{name}")
        with contextlib.suppress(OSError), open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as f:
            f.write("1")  # no neighbour discovery among the frames
        yield seen
    finally:
        seen.close()
        if _libc.setns(before, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "the namespace of before can't be entered")
        os.close(before)
        subprocess.run(["ip", "netns", "del", name], timeout=20, check=True)


def virtio_header(flags=0, gso=0, header=0, size=0, start=0, offset=0):
    """``struct virtio_net_hdr``, 10 bytes."""
    return struct.pack("<BBHHHH", flags, gso, header, size, start, offset)
