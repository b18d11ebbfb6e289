"""How long the program takes to be there: import, help, and from start to a listening socket.

    python bench/startup.py [--rounds 5]

Cold means an empty kernel cache (`EMUDEV_CACHE` in a new folder). Medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import Row, print_rows

EMUDEV = [sys.executable, "-m", "emudev_core.cli"]


def timed(argv: list[str], env: dict[str, str] | None = None) -> float:
    """Seconds that a command takes; it must succeed."""
    start = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=env)
    return time.perf_counter() - start


def ready(env: dict[str, str]) -> float:
    """Seconds from the start of `emudev run` to its line on stdout."""
    folder = Path(tempfile.mkdtemp(prefix="emudev-bench-"))
    try:
        start = time.perf_counter()
        process = subprocess.Popen(
            [
                *(*EMUDEV, "run", "--vdev", f"emu_iavf,path={folder}/avf0.sock,id=0"),
                *("--vdev", "echo,avf_emu_id=0"),
            ],
            stdout=subprocess.PIPE,
            env=env,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - start
        if not line:
            raise RuntimeError("emudev run ended before it was ready")
        # Let kernels that compile in the background be finished and cached.
        time.sleep(2.0)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        return took
    finally:
        shutil.rmtree(folder)


def measure(rounds: int) -> list[Row]:
    """The rows of the table."""
    python = min(timed([sys.executable, "-c", "pass"]) for _ in range(rounds))
    load = statistics.median(
        timed([sys.executable, "-c", "import emudev_core"]) - python for _ in range(rounds)
    )
    shown = statistics.median(timed([*EMUDEV, "--help"]) for _ in range(rounds))
    warm_env = dict(os.environ)
    ready(warm_env)
    warm = statistics.median(ready(warm_env) for _ in range(rounds))
    cold = []
    for _ in range(min(rounds, 3)):
        cache = tempfile.mkdtemp(prefix="emudev-bench-cache-")
        cold.append(ready({**os.environ, "EMUDEV_CACHE": cache}))
        shutil.rmtree(cache)
    return [
        Row("import emudev_core", f"{load * 1e3:.0f} ms", "60 ms", load < 0.060),
        Row("emudev --help", f"{shown * 1e3:.0f} ms", "200 ms", shown < 0.2),
        Row("ready, warm kernel cache", f"{warm:.2f} s", "0.6 s", warm < 0.6),
        Row("ready, cold", f"{statistics.median(cold):.2f} s", "6 s", statistics.median(cold) < 6),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    print_rows(measure(parser.parse_args().rounds))
