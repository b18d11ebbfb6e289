"""Tests with guests are collected where everything that they start is installed."""

from importlib.metadata import entry_points

import pytest

_NEEDED = {"avf", "lab", "tap_backend", "vfio_user"}

if not {entry.name for entry in entry_points(group="emudev")} >= _NEEDED:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def transfer():
    """Sends random bytes from a guest to another one by TCP, and compares what arrives."""

    def send(sender, receiver, address="$HOST_IP", count=5_000_000):
        # A listener whose input ends would end the connection: it reads a pipe that it holds open.
        receiver.sh(
            "rm -f /tmp/got /tmp/in /tmp/all; mkfifo /tmp/in; "
            "(nc -l -p 7001 >/tmp/got <>/tmp/in; touch /tmp/all) & sleep 0.3"
        )
        want = sender.sh(
            f"head -c {count} /dev/urandom >/tmp/put; timeout 60 nc {address} 7001 </tmp/put; "
            "sha256sum </tmp/put"
        )
        receiver.sh("until_true 20 test -e /tmp/all")
        assert receiver.sh("sha256sum </tmp/got") == want

    return send
