"""All numbers of docs/benchmarks.md, made again.

tox run -e bench                 everything (about 10 minutes)
python bench/run.py --quick      fewer rounds
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import guest_traffic
import register_access
import startup
from table import markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
DISTRIBUTIONS = ("emudev-core", "llvmlite")


def header() -> str:
    """What was measured on what."""
    versions = ", ".join(f"{d} {importlib.metadata.version(d)}" for d in DISTRIBUTIONS)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return f"""# Measurements

Taken {today} on {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python
{platform.python_version()}, {versions}. Made by `tox run -e bench`; absolute figures move
by tens of per cent from hour to hour: what counts is the comparison with the peer in the same run.

How each figure is taken stands at the head of its script in `bench/`. Guests are stock Linux under
QEMU with software emulation, one vCPU, a TAP on the host.
"""


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--skip-guests", action="store_true", help="no QEMU")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 3
    parts = [header()]
    parts.append("## Start\n\n" + markdown(startup.measure(2 * rounds + 1)))
    parts.append("\n## Register access\n\n" + markdown(register_access.measure(rounds)))
    if not arguments.skip_guests:
        parts.append("\n## Guests\n\n" + markdown(guest_traffic.measure(rounds, 4)))
    PAGE.write_text("\n".join(parts) + "\n")
    print(PAGE.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
