"""`emudev demo`: the AVF device in one process, the reference driver in this one.

The device is served by `emudev run` over a real vfio-user socket with an echoing backend;
everything printed was seen from the driver's side.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emudev_core.errors import ConfigError, EmudevError
from emudev_core.specs import ConnectContext

from .driver import packets
from .driver.load import Load
from .driver.netdev import AvfDriver, DriverError
from .registers import MAP

if TYPE_CHECKING:
    from emudev_core.plugins import Plugins

__all__ = ["add_arguments", "run"]

GUEST: Final = IPv4Address("192.0.2.2")
HOST: Final = IPv4Address("192.0.2.1")
#: How long the device may take to listen, and to end, seconds.
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `emudev demo`."""
    parser.add_argument("--seconds", type=float, default=1.0, help="of bulk traffic (default: 1)")
    parser.add_argument("--pings", type=int, default=10, help="number of pings (default: 10)")
    parser.add_argument("--size", type=int, default=1514, help="bytes of a bulk frame, 60 to 9014")
    parser.add_argument("--queues", type=int, default=1, help="queue pairs, 1 to 16")
    parser.add_argument("--keep-log", metavar="FILE", help="write the device's log there")


def run(arguments: argparse.Namespace, plugins: Plugins) -> int:
    """Run it; 0 if everything worked, 1 with the reason on stderr if not."""
    if not 60 <= arguments.size <= 9014:
        raise ConfigError(f"a frame has 60 to 9014 bytes, not {arguments.size}", where="--size")
    for kind, names, name in (
        ("transport", plugins.transports, "vfio_user"),
        ("backend", plugins.backends, "echo"),
    ):
        if name not in names:
            raise ConfigError(
                f"the demo needs the {kind} {name!r}",
                hint="install emudev-vfio-user" if kind == "transport" else "install emudev-null",
            )
    folder = Path(tempfile.mkdtemp(prefix="emudev-demo-"))
    try:
        with _device(folder, arguments) as socket_path:
            _drive(socket_path, arguments, plugins)
    except EmudevError as error:
        _say_failed(error, folder / "device.log")
        return 1
    finally:
        if arguments.keep_log:
            shutil.copy(folder / "device.log", arguments.keep_log)
        shutil.rmtree(folder, ignore_errors=True)
    print("demo: everything worked")
    return 0


def _say_failed(error: EmudevError, log: Path) -> None:
    print(f"demo: failed: {error}", file=sys.stderr)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in lines[-15:]:
        print(f"device | {line}", file=sys.stderr)


@contextlib.contextmanager
def _device(folder: Path, arguments: argparse.Namespace) -> Iterator[Path]:
    """The device in a process of its own, from its ready line to its clean end."""
    path = folder / "avf0.sock"
    vdevs = [
        f"emu_iavf,path={path},id=0,queues={arguments.queues}",
        "echo,avf_emu_id=0",
    ]
    command = [sys.executable, "-m", "emudev_core.cli", "run"]
    for vdev in vdevs:
        command += ["--vdev", vdev]
    print("$ emudev run " + " ".join(f"--vdev {v}" for v in vdevs))
    with open(folder / "device.log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    try:
        started = time.monotonic()
        killer = _kill_later(process, START_TIMEOUT)
        line = process.stdout.readline().decode(errors="replace").strip()
        killer.cancel()
        if not line:
            raise DriverError(f"the device ended with {process.wait()} before it was ready")
        print(f"{line}   ({time.monotonic() - started:.2f} s)")
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        process.stdout.close()
    if status != 0:
        raise DriverError(f"the device ended with exit status {status} on SIGTERM")
    if path.exists():
        raise DriverError("the device left its socket behind")
    print("the device ended with exit status 0 and removed its socket")


def _kill_later(process: subprocess.Popen[bytes], seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def _drive(path: Path, arguments: argparse.Namespace, plugins: Plugins) -> None:
    from emudev_pci.guest import GuestFunction

    spec = plugins.transports["vfio_user"]
    assert spec.connect is not None
    client = spec.connect(spec.config(path=str(path)), ConnectContext())
    try:
        function = GuestFunction(client, maps={0: MAP})
        driver = AvfDriver(function, queues=arguments.queues, tell=lambda line: print("  " + line))
        _probe(driver)
        peer = _pings(driver, arguments.pings)
        _bulk(driver, peer, arguments)
        _resets(driver, peer)
        _statistics(driver)
        driver.remove()
        function.close()
    finally:
        client.close()


def _probe(driver: AvfDriver) -> None:
    print("probe")
    started = time.monotonic()
    granted = driver.probe()
    mac = ":".join(f"{b:02x}" for b in granted.mac)
    print(
        f"  {granted.queue_pairs} queue pairs, {granted.vectors} vectors, MTU up to"
        f" {granted.max_mtu}, MAC {mac}"
    )
    names = ", ".join(cap.name or "" for cap in granted.caps)
    print(f"  capabilities {int(granted.caps):#010x}: {names}")
    driver.open()
    print(f"  from probe to link in {(time.monotonic() - started) * 1e3:.0f} ms")


def _ping(driver: AvfDriver, peer: bytes, sequence: int, payload: bytes) -> float:
    """Round-trip time of one ping, seconds."""
    mac = driver.resources.mac
    start = time.perf_counter()
    driver.send(packets.icmp_echo(mac, peer, GUEST, HOST, sequence, payload))
    deadline = start + 1.0
    while (left := deadline - time.perf_counter()) > 0:
        for received in driver.receive(left):
            if packets.is_echo_reply(received.frame, sequence, payload):
                return time.perf_counter() - start
    raise DriverError(f"no answer to ping {sequence} of {len(payload)} bytes within 1 s")


def _pings(driver: AvfDriver, count: int) -> bytes:
    print(f"ping {HOST}")
    mac = driver.resources.mac
    driver.send(packets.arp_request(mac, GUEST, HOST))
    peer = None
    for received in driver.receive(1.0):
        peer = packets.is_arp_reply(received.frame, HOST) or peer
    if peer is None:
        raise DriverError(f"no answer to the ARP request for {HOST} within 1 s")
    times = []
    for sequence in range(count):
        payload = bytes((sequence + i) & 0xFF for i in range(56))
        times.append(_ping(driver, peer, sequence, payload))
        print(f"  64 bytes: icmp_seq={sequence} time={times[-1] * 1e3:.3f} ms")
    for size in (1, 1472, 8972):
        _ping(driver, peer, 1000 + size, bytes(i & 0xFF for i in range(size)))
    ordered = sorted(times)
    print(
        f"  {count} of {count} answered, rtt min/median/max = {ordered[0] * 1e3:.3f}/"
        f"{ordered[len(ordered) // 2] * 1e3:.3f}/{ordered[-1] * 1e3:.3f} ms;"
        " 1, 1472 and 8972 bytes answered too"
    )
    return peer


def _bulk(driver: AvfDriver, peer: bytes, arguments: argparse.Namespace) -> None:
    print(f"bulk: frames of {arguments.size} bytes out and echoed for {arguments.seconds:g} s")
    frame = packets.udp_frame(driver.resources.mac, peer, GUEST, HOST, arguments.size)
    result = Load(driver, frame).run(arguments.seconds)
    if result.received == 0:
        raise DriverError("no frame of the bulk traffic came back")
    if result.received > result.sent or result.bad:
        raise DriverError(f"{result.sent} sent, {result.received} back, {result.bad} damaged")
    rate = result.received / result.seconds
    print(
        f"  sent {result.sent}, back {result.received}: {rate / 1e6:.2f} Mpps,"
        f" {rate * arguments.size * 8 / 1e9:.2f} Gbit/s each way"
    )


def _resets(driver: AvfDriver, peer: bytes) -> None:
    for what, action in (
        ("driver's reset (RESET_VF)", driver.reset),
        ("function level reset", driver.function_level_reset),
    ):
        print(what)
        started = time.monotonic()
        action()
        _ping(driver, peer, 1, b"back again")
        print(f"  back with an answered ping after {(time.monotonic() - started) * 1e3:.0f} ms")


def _statistics(driver: AvfDriver) -> None:
    stats = driver.statistics()
    print(
        f"device counters: rx {stats.rx_unicast} unicast, {stats.rx_bytes} bytes,"
        f" {stats.rx_discards} discarded; tx {stats.tx_unicast} unicast, {stats.tx_bytes} bytes,"
        f" {stats.tx_errors} errors"
    )
