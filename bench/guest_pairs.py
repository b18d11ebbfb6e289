"""TCP between two stock Linux guests: through `emudev testpmd`, and on `e1000e` over a bridge.

    python bench/guest_pairs.py [--rounds 3] [--seconds 4]

Each round boots two guests on two `emu_iavf` devices, which ``emudev testpmd --forward-mode=io``
joins, and then the same two on QEMU's own `e1000e`, whose TAPs are ports of one Linux bridge.
iperf3 runs in one guest against the other, a stream one way and then the other. Guests are emulated
in software, one vCPU each; on two cores QEMU takes most of the time whatever the NIC. Both kinds of
thread of testpmd are tried: polling takes a core away from the guests, `--interrupt` does not.
Needs root and the prepared lab.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable
from typing import Final, TypeAlias

from table import Row, print_rows

from emudev_lab.fixtures import Emudev, LazyGuest, Options
from emudev_lab.qemu import Nic

MACS: Final = ("52:54:00:77:00:02", "52:54:00:77:00:03")
ADDRESSES: Final = ("192.168.77.2", "192.168.77.3")
PORT: Final = 5301

#: Two guests that reach each other by the addresses above.
Pair: TypeAlias = tuple[LazyGuest, LazyGuest]


def _guest(side: Emudev, number: int, nic: Nic) -> LazyGuest:
    here, there = ADDRESSES[number], ADDRESSES[1 - number]
    variables = {
        "GUEST_IP": here,
        "HOST_IP": there,
        "GUEST_IP6": f"fd77::{2 + number}",
        "HOST_IP6": f"fd77::{3 - number}",
    }
    return side.another(nic, variables=variables)


def through_testpmd(side: Emudev, own: str) -> Pair:
    """Two devices, joined by ``io``."""
    vdevs = [
        f"--vdev emu_iavf,path={{sock{number or ''}}},id={number},mac={mac} "
        f"--vdev net_avfbe,id={number},avf_emu_id={number}"
        for number, mac in enumerate(MACS)
    ]
    command = f"emudev testpmd {' '.join(vdevs)} -- --forward-mode=io --stats-period 1000 {own}"
    server = side.command(command)
    one, two = (_guest(side, n, Nic("vfio-user", server.sockets[n])) for n in range(2))
    return one, two


def over_a_bridge(side: Emudev) -> Pair:
    """Two e1000e on a bridge in the namespace."""
    one, two = (_guest(side, n, Nic("e1000e", tap=n, mac=MACS[n])) for n in range(2))
    side.side.add_taps(2)
    side.host("ip link add hub type bridge && ip link set hub up")
    side.host("for tap in tap0 tap1; do ip link set $tap master hub; done")
    return one, two


def transfer(join: Callable[[Emudev], Pair], seconds: int) -> tuple[float, float]:
    """Boot a pair; Mbit/s from the first to the second, and back."""
    side = Emudev(Options(kernel="stable"))
    failed = True
    try:
        first, second = join(side)
        second.sh("nic_up")
        first.sh("nic_up; until_true 20 ping -q -c 1 -W 1 $HOST_IP")
        second.sh(f"iperf3 -s -p {PORT} >/dev/null 2>&1 & sleep 0.5")
        rates = []
        for turn in ("", "-R"):
            out = first.sh(
                f"iperf3 -c $HOST_IP -p {PORT} -t {seconds} -f m -i 0 {turn}", timeout=60 + seconds
            )
            (found,) = re.findall(r"([\d.]+) Mbits/sec +receiver", out)
            rates.append(float(found))
        failed = False
        return rates[0], rates[1]
    finally:
        side.close()
        side.clean(keep=failed)


KINDS: Final[dict[str, Callable[[Emudev], Pair]]] = {
    "polling": lambda side: through_testpmd(side, ""),
    "interrupt": lambda side: through_testpmd(side, "--interrupt"),
    "e1000e": over_a_bridge,
}


def measure(rounds: int, seconds: int) -> list[Row]:
    """The rows of the table."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, join in KINDS.items():
            found[kind].append(transfer(join, seconds))
    # Two equal guests: both directions are samples of the same work.
    rate = {kind: statistics.median(r for pair in all for r in pair) for kind, all in found.items()}
    rows = []
    for kind in ("interrupt", "polling"):
        ratio = rate[kind] / rate["e1000e"]
        asked = kind == "interrupt"
        rows.append(
            Row(
                f"guest to guest TCP, `emudev testpmd` io, {kind}",
                f"{rate[kind]:,.0f} Mbit/s, {ratio:.2f} x e1000e on a bridge",
                "at least 1.50 x" if asked else "-",
                not asked or ratio >= 1.5,
                f"e1000e: {rate['e1000e']:,.0f}",
                ratio=ratio,
                target=1.5 if asked else 0,
            )
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    arguments = parser.parse_args()
    print_rows(measure(arguments.rounds, arguments.seconds))
