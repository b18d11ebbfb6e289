"""Somebody else's distribution, installed from a folder outside the repository."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "dice"

NEEDS = [name for name in ("emudev_pci", "emudev_vfio_user") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(bool(NEEDS), reason=f"not installed: {', '.join(NEEDS)}")


@pytest.fixture
def environment(acme_site):
    """An environment in which python finds it, as it does in that of `pip install`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMUDEV_")}
    path = os.pathsep.join(filter(None, [str(acme_site), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path}


@pytest.fixture
def short_folder():
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="emudev-") as folder:
        yield Path(folder)


def emudev(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "emudev_core.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


def test_the_provider_is_as_short_as_it_should_be():
    lines = (SOURCE / "src" / "acme_dice" / "device.py").read_text().splitlines()
    assert len(lines) <= 60


def test_it_is_listed_with_its_distribution_and_version(environment):
    listed = json.loads(emudev(environment, "plugins", "--json").stdout)
    mine = {(p["kind"], p["name"], p["version"]) for p in listed["plugins"] if "acme" in str(p)}
    assert mine == {("provider", "emu_dice", "3.1"), ("observer", "count_reads", "3.1")}
    assert [f for f in listed["failed"] if "acme" in f["plugin"]] == []


def test_its_registers_and_keys_are_shown(environment):
    done = emudev(environment, "regs", "emu_dice")
    assert "Number of sides, 2 to 1000." in done.stdout
    done = emudev(environment, "run", "--help-vdev", "emu_dice")
    assert "sides=int 2 to 1000  (default 6)" in done.stdout
    assert "keys of its transport vfio_user (emudev-vfio-user" in done.stdout


def test_its_mistakes_are_explained_as_ours(environment):
    done = emudev(environment, "check", "--vdev", "emu_dice,path=/tmp/x,side=7")
    assert done.returncode == 2
    assert done.stderr == (
        "emudev: error: --vdev emu_dice: side: unknown key (did you mean sides?)\n"
    )


def test_it_is_served_over_vfio_user_and_observed(environment, short_folder):
    from emudev_core.plugins import load_plugins
    from emudev_core.specs import ConnectContext
    from emudev_pci.guest import GuestFunction

    socket, report = short_folder / "dice.sock", short_folder / "reads.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "emudev_core.cli", "run"),
            *("--vdev", f"emu_dice,path={socket},id=3,sides=20"),
            *("--observe", f"count_reads,emu=dice_emudev_3,report={report}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        line = process.stdout.readline()
        assert "dice_emudev_3" in line, process.stderr.read()
        assert str(socket) in line
        spec = load_plugins().transports["vfio_user"]
        client = spec.connect(spec.config(path=str(socket)), ConnectContext())
        try:
            assert client.region_read(7, 0, 4) == bytes.fromhex("3412ced1")
            sides = client.region_read(0, 4, 4)
            rolls = [int.from_bytes(client.region_read(0, 0, 4), "little") for _ in range(50)]
            assert int.from_bytes(sides, "little") == 20
            assert set(rolls) <= set(range(1, 21))
            function = GuestFunction(client)
            function.enable()
            page = function.map_memory(4096)
            client.region_write(0, 0x10, page.address.to_bytes(8, "little"))
            vector = function.vectors[0]
            vector.enable()
            client.region_write(0, 8, bytes(4))
            assert vector.wait(timeout=2)
            assert 1 <= page.read_u32(0) <= 20
            function.close()
        finally:
            client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert not socket.exists()
    counted = json.loads(report.read_text())
    assert counted["device"] == "dice_emudev_3"
    assert counted["reads"]["0:0x0"] == 50
    assert counted["reads"]["0:0x4"] == 1
