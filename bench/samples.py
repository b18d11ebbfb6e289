"""Samples: how long the threads of a process ran and waited, and medians of what was undisturbed.

A sample is thrown away when the busiest thread of the device under test waited for a core for more
than 12 % of the time: on a machine with other work this matters more than the number of rounds.
Source: datapath.md section 1; proc(5), schedstat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Share of a sample that a thread may wait for its core.
MOST_WAIT: Final = 0.12
SECONDS: Final = 0.6
SETTLE: Final = 1.0


def threads(process: int) -> dict[int, tuple[int, int]]:
    """How long each thread of a process ran and waited for a core, ns, by its number."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):  # it has ended
            ran, waited, _ = map(int, (task / "schedstat").read_text().split())
            found[int(task.name)] = ran, waited
    return found


def cpu_seconds(process: int) -> float:
    """How long a process has run until now, all threads together."""
    return sum(ran for ran, _ in threads(process).values()) / 1e9


class Busiest:
    """What the busiest thread of a process waited for its core since this was made.

    Args:
        process: Its number.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        self._before = threads(process)
        self._start = time.perf_counter()

    def wait(self) -> float:
        """The share of the time that it waited."""
        took = (time.perf_counter() - self._start) * 1e9
        found = threads(self._process)
        shares = [
            (ran - self._before[thread][0], (waited - self._before[thread][1]) / took)
            for thread, (ran, waited) in found.items()
            if thread in self._before
        ]
        return max(shares)[1]


@dataclass
class Series:
    """Samples of one kind.

    Attributes:
        kept: Millions of packets a second.
        disturbed: The same of those that were thrown away.
    """

    kept: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)

    def take(self, sample: Callable[[], tuple[float, float]], tries: int) -> None:
        """Add one undisturbed sample, if there is one within some tries.

        Args:
            sample: Answers a rate, and the share that the device's thread waited.
            tries: At most.
        """
        for _ in range(tries):
            rate, waited = sample()
            if waited <= MOST_WAIT:
                self.kept.append(rate)
                return
            self.disturbed.append(rate)

    @property
    def median(self) -> float:
        """Of the undisturbed ones; if there is none, of all."""
        return statistics.median(self.kept or self.disturbed)
