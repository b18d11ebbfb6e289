"""All numbers of docs/benchmarks.md, and its plot, made again.

tox run -e bench                    everything (about 25 minutes)
tox run -e bench -- --quick         fewer and shorter rounds
tox run -e bench -- --only DPDK     the sections whose title holds this; the others stay as they are
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import forwarding
import guest_pairs
import guest_traffic
import idle_memif
import register_access
import startup
from chart import svg
from duts import dpdk_version, missing
from table import Row, markdown

from emudev_lab.errors import LabError
from emudev_lab.lab import Lab

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
PLOT = DOCS / "benchmarks.svg"
DISTRIBUTIONS = ("emudev-core", "llvmlite")


def machine() -> str:
    """The name of the processor."""
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()


def peers() -> str:
    """Versions of the programs that are compared with."""
    found = [f"DPDK {dpdk_version()} (Debian)"] if not missing() else []
    with contextlib.suppress(LabError, OSError):
        command = [*Lab().command("qemu-system-x86_64"), "--version"]
        done = subprocess.run(command, capture_output=True, text=True)
        found += [f"QEMU {version}" for version in re.findall(r"version (\S+)", done.stdout)[:1]]
    return ", ".join(found)


def header() -> str:
    """What was measured on what."""
    versions = ", ".join(f"{d} {importlib.metadata.version(d)}" for d in DISTRIBUTIONS)
    if others := peers():
        versions += f"; {others}"
    return f"""# Measurements

Taken on {os.cpu_count()} cores of {machine()}, Linux {platform.release()},
Python {platform.python_version()}, {versions}. Made by `tox run -e bench`; absolute figures move
by tens of per cent from hour to hour: what counts is the comparison with the peer in the same run.

How each figure is taken stands at the head of its script in `bench/`. Guests are stock Linux under
QEMU with software emulation, one vCPU, a TAP on the host.
"""


def data_path(quick: bool, guests: bool) -> str:
    """The section about DPDK, and its plot."""
    if reason := missing():
        return f"Not measured: {reason}."
    timing = forwarding.Timing(1, 0.3, 0.5) if quick else forwarding.Timing()
    rows: list[Row] = forwarding.measure(timing)
    rows += idle_memif.measure(3.0 if quick else 10.0, 10 if quick else 50)
    if guests:
        rows += guest_pairs.measure(1 if quick else 3, 3 if quick else 5)
    PLOT.write_text(
        svg(rows, "Rate, as a multiple of the peer's; the marks are what was asked for")
    )
    return f"""One forwarding thread on core 1, peers on core 0, the programs by turns in each round
(`python bench/forwarding.py`; the method is at its head). Ratios are to DPDK's testpmd on the same
work, for the guests to QEMU's e1000e.

![The ratios as bars]({PLOT.name})

{markdown(rows)}"""


def kept_sections() -> dict[str, str]:
    """The sections of the page as it is."""
    text = PAGE.read_text() if PAGE.exists() else ""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--skip-guests", action="store_true", help="no QEMU")
    parser.add_argument("--only", default="", metavar="TITLE", help="sections with this in it")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 3
    guests = not arguments.skip_guests
    sections: dict[str, Callable[[], str]] = {
        "Start": lambda: markdown(startup.measure(2 * rounds + 1)),
        "Register access": lambda: markdown(register_access.measure(rounds)),
        "Data path against DPDK": lambda: data_path(arguments.quick, guests),
        "Guests": lambda: f"{markdown(guest_traffic.measure(rounds, 4))}\n\n{guest_traffic.WHY}",
    }
    if not guests:
        del sections["Guests"]
    kept = kept_sections()
    parts = [header()]
    for title, measure in sections.items():
        if arguments.only.lower() in title.lower():
            today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            kept[title] = f"Taken {today}.\n\n{measure()}"
        if title in kept:
            parts.append(f"## {title}\n\n{kept[title]}\n")
    PAGE.write_text("\n".join(parts))
    print(PAGE.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
