"""Somebody else's device in a guest: `lspci` shows it, and somebody's observer counts its reads."""

import json
import os
import re

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.guest(drivers=False)]

SLOT = "0000:00:04.0"
# Command: memory space and bus master. Source: PCI Local Bus Specification 3.0, 6.2.2.
ENABLE = f"setpci -s {SLOT} COMMAND=0006"
# acme_dice/device.py of the third party.
ROLL, SIDES = 0x00, 0x04
CONFIG_SPACE = 7  # the region's number. Source: Linux, include/uapi/linux/vfio.h


@pytest.fixture
def path_with_acme(acme_site, monkeypatch):
    """Programs that a test starts find the distribution, as if it were in their environment."""
    given = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(acme_site), given])))


@pytest.fixture
def dice(path_with_acme, emudev):
    """The dice, served and observed."""
    report = emudev.folder / "reads.json"
    server = emudev(
        "emu_dice,id=0,path={sock},sides=20",
        options=("--observe", f"count_reads,emu=dice_emudev_0,report={report}"),
    )
    server.report = report
    return server


def test_lspci_shows_it_and_the_observer_counts_what_the_guest_reads(dice, guest):
    # Unclassified device, not VGA compatible: 00ff. Source: pci.ids, "C 00".
    shown = guest.sh(f"lspci -nn -s {SLOT}")
    assert re.fullmatch(r"00:04\.0 .*\[00ff\]: .*\[1234:d1ce\]", shown), shown
    # Its BAR 0, of 4 KiB, got an address.
    start, end, _ = guest.sh(f"head -n 1 /sys/bus/pci/devices/{SLOT}/resource").split()
    assert int(start, 16) > 0
    assert int(end, 16) - int(start, 16) == 0xFFF
    # Somebody in the guest throws it: no driver has it, so /dev/mem reaches its registers.
    guest.sh(ENABLE)
    assert guest.sh(f"busybox devmem $(({start} + {SIDES})) 32") == "0x00000014"
    rolls = guest.sh(
        f"i=0; while [ $i -lt 25 ]; do busybox devmem $(({start} + {ROLL})) 32; i=$((i + 1)); done"
    ).split()
    assert len(rolls) == 25
    assert {int(roll, 16) for roll in rolls} <= set(range(1, 21))

    guest.power_off()
    assert dice.stop() == []
    counted = json.loads(dice.report.read_text())
    assert counted["device"] == "dice_emudev_0"
    reads = counted["reads"]
    assert reads[f"0:{ROLL:#x}"] == 25
    assert reads[f"0:{SIDES:#x}"] == 1
    # The guest's kernel looked for it on its bus, by its ids.
    assert reads[f"{CONFIG_SPACE}:0x0"] >= 1
