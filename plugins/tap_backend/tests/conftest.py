"""A network namespace a test, and frames seen from the host's side of a TAP."""

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emudev_core.attributes import AttributeInfo
from emudev_core.device import Device
from emudev_core.errors import DeviceError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.loop import Loop
from emudev_core.queues import (
    DeviceInfo,
    Direction,
    Doorbell,
    Offload,
    QueueInfo,
    QueueKernels,
)
from emudev_core.specs import BackendContext
from emudev_tap_backend.config import TapConfig

# The tests import helpers that stand beside this file, too.
sys.path.insert(0, str(Path(__file__).parent))

_libc = ctypes.CDLL(None, use_errno=True)
_names = (f"emudev-tap-{os.getpid()}-{n}" for n in itertools.count())

CLONE_NEWNET = 0x40000000
SOL_PACKET = 263
PACKET_VNET_HDR = 15
ETH_P_ALL = 3

# flags of a burst row
FIRST = 1
LAST = 2


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
        """A raw socket on an interface; with `headers` frames have a ``virtio_net_hdr``."""
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
def namespace():
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
    try:
        _setns(f"/run/netns/{name}")
        with (
            contextlib.suppress(OSError),
            open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as f,
        ):
            f.write("1")  # no neighbour discovery among the frames
        yield name
    finally:
        if _libc.setns(before, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "the namespace of before can't be entered")
        os.close(before)
        subprocess.run(["ip", "netns", "del", name], timeout=20, check=True)


@pytest.fixture
def host(namespace):
    """The host's side, in a namespace of its own."""
    made = Host()
    yield made
    made.close()


# -- a NIC in memory


_NATIVE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Kernel:
    """A queue kernel that is a Python function, at an address that compiled code can call."""

    def __init__(self, function):
        self._function = lambda state, burst, rows: function(burst, rows)
        self._native = _NATIVE(self._function)
        self.address = ctypes.cast(self._native, ctypes.c_void_p).value

    def __call__(self, state, burst, rows, /):
        return self._function(state, burst, rows)


def table(burst, rows):
    """The int64[rows, 8] at an address."""
    return [(ctypes.c_int64 * 8).from_address(burst + 64 * row) for row in range(rows)]


class FakeQueue:
    """A queue of the NIC: what the guest sends, or what it got and has room for."""

    def __init__(self, number):
        self.number = number
        self.enabled = False
        self.to_send = []  # packets: lists of (buffer, flags, offload word)
        self.got = []  # (bytes, flags, offload word)
        self.room = 1 << 30
        self.pushes = 0
        self._word = (ctypes.c_uint32 * 1)()
        self.doorbell = Doorbell(number, ctypes.addressof(self._word))
        self.kernels = (
            QueueKernels(0, None, Kernel(self._push), None, Kernel(lambda *_: 0))
            if number % 2 == 0
            else QueueKernels(
                0, Kernel(self._peek), None, Kernel(self._release), Kernel(lambda *_: 0)
            )
        )

    def send(self, *segments, flags=0, offload=0):
        """Let the guest send one packet of some segments."""
        last = len(segments) - 1
        rows = []
        for i, data in enumerate(segments):
            buffer = (ctypes.c_char * len(data)).from_buffer_copy(data)
            mark = (FIRST if i == 0 else 0) | (LAST if i == last else 0)
            rows.append((buffer, mark | (flags if i == 0 else 0), offload if i == 0 else 0))
        self.to_send.append(rows)

    def _peek(self, burst, capacity):
        count = 0
        if not self.enabled:
            return 0
        for packet in self.to_send:
            if count + len(packet) > capacity:
                break
            for (buffer, flags, offload), row in zip(
                packet, table(burst + 64 * count, len(packet)), strict=True
            ):
                row[:] = [ctypes.addressof(buffer), len(buffer), flags, offload, 0, 0, 0, 0]
            count += len(packet)
        return count

    def _release(self, burst, rows):
        while rows > 0:
            rows -= len(self.to_send.pop(0))
        assert rows == 0, "half a packet was released"
        return 0

    def _push(self, burst, rows):
        self.pushes += 1
        taken = 0
        parts = []
        for i, row in enumerate(table(burst, rows)):
            if row[2] & FIRST:
                parts = []
                head = row
            parts.append(ctypes.string_at(row[0], row[1]))
            if row[2] & LAST:
                if self.room == 0 or not self.enabled:
                    break
                self.room -= 1
                self.got.append((b"".join(parts), head[2], head[3]))
                taken = i + 1
        return taken


class FakeNic:
    """A provider with queues in memory.

    Args:
        pairs: Queue pairs.
        attributes: Writable attributes and their values.
    """

    def __init__(self, pairs=1, attributes=None):
        self.pairs = pairs
        self.queues = [FakeQueue(n) for n in range(2 * pairs)]
        self.attributes = attributes or {"link": False}
        self.links = []
        self.channels = []

    def enable(self, *queues, enabled=True):
        """Enable or disable queues, and say so."""
        for number in queues or range(len(self.queues)):
            self.queues[number].enabled = enabled
            self.post(Event(EventKind.QUEUE_STATE, number, int(enabled)))

    def post(self, event):
        for channel in self.channels:
            channel.post(event)

    @hookimpl
    def emudev_get_dev_info(self):
        return DeviceInfo("fake", max_queue_pairs=self.pairs, doorbells=2 * self.pairs)

    @hookimpl
    def emudev_get_queue_info(self, queue):
        q = self.queues[queue]
        way = Direction.TX if queue % 2 else Direction.RX
        return QueueInfo(queue, way, 0, 0, queue, None, q.enabled, q.kernels)

    @hookimpl
    def emudev_get_db_info(self, doorbell):
        return self.queues[doorbell].doorbell

    @hookimpl
    def emudev_get_attributes(self):
        return [AttributeInfo(n, type(v), "", writable=True) for n, v in self.attributes.items()]

    @hookimpl
    def emudev_set_attr(self, name, value):
        if name not in self.attributes:
            raise DeviceError(name)
        self.attributes[name] = value
        if name == "link":
            self.links.append(value)
        return True

    @hookimpl
    def emudev_subscribe_event(self, channel):
        self.channels.append(channel)
        return True

    @hookimpl
    def emudev_unsubscribe_event(self, channel):
        self.channels.remove(channel)
        return True


@pytest.fixture
def make_nic():
    """The class `FakeNic`."""
    return FakeNic


class Joined:
    """A NIC in memory, joined to a TAP by the backend, on a loop of its own."""

    def __init__(self):
        self.loop = Loop(spin=0)
        self.nic = None
        self.device = None
        self.backend = None

    def start(self, pairs=1, *, enable=True, attributes=None, **keys):
        """Make and start everything; the queues are enabled afterwards."""
        from emudev_tap_backend.backend import TapBackend

        self.nic = FakeNic(pairs, attributes)
        self.device = Device("fake_emudev_0", 0, "fake", self.loop)
        self.device.register(self.nic, "fake_0")
        context = BackendContext("tap_backend_0", {"emu": self.device}, self.loop)
        self.backend = TapBackend(TapConfig(**{"iface": "tap0", **keys}), context)
        self.device.register(self.backend, "tap_backend_0")
        self.device.configure()
        self.device.start()
        if enable:
            self.nic.enable()
            self.until(lambda: True)
        return self.nic

    def until(self, condition, seconds=5.0):
        """Turn the loop until something is so, and a few times more for what must not happen."""
        end = time.monotonic() + seconds
        self.loop.turn(0)
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.loop.turn(0.05)
        for _ in range(3):
            self.loop.turn(0)

    def close(self):
        if self.device is not None:
            self.device.close()
        self.loop.close()


@pytest.fixture
def joined(host):
    """See `Joined`; in a network namespace of its own."""
    made = Joined()
    yield made
    made.close()


class FakeTap:
    """Descriptors in the place of a TAP's; what was asked of the interface is noted.

    Args:
        queues: How many.
        timeout: How long the host's ends wait for a frame, seconds; 0 only looks.
    """

    header = 10
    takes = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO
    name = "fake"

    def __init__(self, queues, timeout=0):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(queues)]
        self.ours = [ours for ours, _ in pairs]
        self.hosts = [host for _, host in pairs]
        for ours in self.ours:
            ours.setblocking(False)
        for host in self.hosts:
            host.settimeout(timeout)
        self.fds = [ours.fileno() for ours in self.ours]
        self.carrier = None
        self.queues = {}

    def set_carrier(self, on):
        self.carrier = on

    def set_queue(self, queue, attached):
        self.queues[queue] = attached

    def close(self):
        for end in (*self.ours, *self.hosts):
            end.close()


@pytest.fixture
def make_setup(make_nic):
    """Makes a kind of `Setup` of so many pairs of the NIC and queues of the TAP; keys as it has."""
    made = []

    def make(kind, pairs=1, queues=1, timeout=0, **keys):
        made.append(kind(make_nic(pairs), FakeTap(queues, timeout), **keys))
        return made[-1]

    yield make
    for one in made:
        one.close()
