"""A stock Linux guest on `emu_iavf` + `tap_backend`, side by side with one on QEMU's `e1000e`.

    python bench/guest_traffic.py [--rounds 3] [--seconds 4]

Each round boots both in turn with `emudev lab run perf` (one vCPU, software emulation, TAP on the
host) and the medians of the rounds are compared. Needs root and the prepared lab.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from table import Row, print_rows

OURS = (
    *("--vdev", "emu_iavf,path={sock},id=0,mac=52:54:00:77:00:02"),
    *("--vdev", "tap_backend,iface={tap},avf_emu_id=0"),
)
THEIRS = ("--nic", "e1000e")

#: What a round trip costs more than inside QEMU, whatever the device does.
WAKE_UPS = "ours wakes a second process for the doorbell and QEMU for the interrupt"

#: (what, key of the script's results, unit, whether more is better)
FIGURES = (
    ("TCP up", "TCP_UP_MBPS", "Mbit/s", True),
    ("TCP down", "TCP_DOWN_MBPS", "Mbit/s", True),
    ("pktgen 60 B up", "PKTGEN_UP_PPS", "pps", True),
    ("ping round trip", "PING_RTT_AVG_MS", "ms", False),
)


def boot(nic: tuple[str, ...], seconds: int, idle: int) -> dict[str, float]:
    """One boot; the numbers that the script printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "emudev_core.cli", "lab", "run", "perf", *nic, "--quiet"),
            *("--set", f"DUR={seconds}", "--set", f"IDLE={idle}"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the guest on {nic} failed:\n{done.stdout}\n{done.stderr}")
    numbers = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        try:
            numbers[key] = float(value)
        except ValueError:
            continue
    return numbers


def measure(rounds: int, seconds: int) -> list[Row]:
    """The rows of the table."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(boot(OURS, seconds, idle=5))
        theirs.append(boot(THEIRS, seconds, idle=0))
    rows = []
    for what, key, unit, more in FIGURES:
        a = statistics.median(r[key] for r in ours)
        b = statistics.median(r[key] for r in theirs)
        ratio = a / b
        rows.append(
            Row(
                f"guest: {what}",
                f"{a:,.3f} {unit}, {ratio:.2f} x e1000e"
                if unit == "ms"
                else f"{a:,.0f} {unit}, {ratio:.2f} x e1000e",
                "at least 1.00 x" if more else "at most 1.00 x",
                ratio >= 1 if more else ratio <= 1,
                f"e1000e: {b:,.3f}; {WAKE_UPS}" if unit == "ms" else f"e1000e: {b:,.0f}",
            )
        )
    idle = statistics.median(r["CPU_idle_SERVER_PCT"] for r in ours)
    rows.append(
        Row("idle with a connected guest", f"{idle:.2f} % of a core", "below 0.5 %", idle < 0.5)
    )
    own = max(r["SERVER0_OWN_KIB"] for r in ours) / 1024
    rows.append(
        Row("memory with traffic (RssAnon + RssFile)", f"{own:.0f} MiB", "below 200 MiB", own < 200)
    )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    arguments = parser.parse_args()
    print_rows(measure(arguments.rounds, arguments.seconds))
