"""Fuzz all targets for a time, guided by coverage; exit 1 if something is found.

    python tests/fuzz/run.py [--seconds 60] [--target NAME]... [--keep]
    python tests/fuzz/run.py --replay FILE --target NAME

Every run starts from the corpus. An input that finds a fault is kept below `tests/fuzz/found`,
and run again by ``--replay``; mend the fault and move it into the corpus. ``--keep``
adds to the corpus what has led to new places, the shortest first.

Where atheris is not to be had (it comes for some versions of CPython on Linux), inputs of the
corpus are changed at random instead, without guidance, and a line says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seeds import CORPUS
from targets import TARGETS

HERE = Path(__file__).parent
FOUND = HERE / "found"
#: Seconds that an input may take, and MiB that a target may use.
SLOW, MEMORY = 20, 2048
LONGEST = 4096
#: Inputs of a target that the corpus may have, and bytes of one that is added.
MOST_KEPT, LONGEST_KEPT = 80, 400


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of all targets together")
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="only these")
    parser.add_argument("--keep", action="store_true", help="let the corpus grow")
    parser.add_argument("--replay", type=Path, help="run one input and nothing else")
    arguments = parser.parse_args()
    names = arguments.target or [n for n, (_, needs) in TARGETS.items() if all(map(_there, needs))]
    if arguments.replay:
        for name in names:
            TARGETS[name][0](arguments.replay.read_bytes())
        return 0
    guided = _there("atheris")
    if not guided:
        print("atheris is not installed: the corpus is changed at random, without guidance")
    failed = []
    for name in names:
        print(f"{name}: {arguments.seconds / len(names):.0f} s", flush=True)
        run = _guided if guided else _unguided
        if not run(name, arguments.seconds / len(names), arguments.keep):
            failed.append(name)
    for name in failed:
        print(f"{name}: a fault was found, see above", file=sys.stderr)
    return 1 if failed else 0


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _child(name: str, *options: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "child.py"), name, *options]
    return subprocess.run(command, check=False, text=True, capture_output=True, **more)  # type: ignore[call-overload,no-any-return]


def _guided(name: str, seconds: float, keep: bool) -> bool:
    """Fuzz one target by atheris; whether nothing was found."""
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="emudev-fuzz-") as folder:
        grown = Path(folder) / "corpus"
        grown.mkdir()
        done = _child(
            name,
            f"-max_total_time={max(1, round(seconds))}",
            f"-timeout={SLOW}",
            f"-rss_limit_mb={MEMORY}",
            f"-max_len={LONGEST}",
            f"-artifact_prefix={FOUND}/{name}-",
            "-print_final_stats=1",
            str(grown),
            str(CORPUS / name),
        )
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-8000:], sep="\n", file=sys.stderr)
            return False
        for line in done.stderr.splitlines():
            if line.startswith(("stat::number_of_executed_units", "stat::new_units_added")):
                print(f"  {line.removeprefix('stat::')}")
        if keep:
            _keep(CORPUS / name, grown)
    with_nothing = not any(FOUND.iterdir())
    if with_nothing:
        FOUND.rmdir()
    return True


def _keep(corpus: Path, grown: Path) -> None:
    """Take the shortest of the inputs that led to new places into the corpus."""
    room = MOST_KEPT - len(list(corpus.iterdir()))
    found = sorted(grown.iterdir(), key=lambda path: path.stat().st_size)
    for path in found[: max(0, room)]:
        if path.stat().st_size <= LONGEST_KEPT:
            (corpus / path.name[:16]).write_bytes(path.read_bytes())


def _unguided(name: str, seconds: float, keep: bool) -> bool:
    """Change inputs at random; whether nothing was found. Nothing is kept but faults."""
    target = TARGETS[name][0]
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    seed = int.from_bytes(os.urandom(4), "little")
    choose = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = bytearray(choose.choice(inputs))
        for _ in range(choose.randint(1, 8)):
            _change(data, choose, inputs)
        count += 1
        try:
            target(bytes(data[:LONGEST]))
        except Exception as error:
            FOUND.mkdir(exist_ok=True)
            path = FOUND / f"{name}-{seed:08x}-{count}"
            path.write_bytes(data)
            print(f"{path}: {error!r}", file=sys.stderr)
            return False
    print(f"  number_of_executed_units: {count}")
    return True


def _change(data: bytearray, choose: random.Random, inputs: list[bytes]) -> None:
    at = choose.randrange(len(data) + 1)
    what = choose.randrange(4)
    if what == 0 and at < len(data):
        data[at] = choose.choice([0, 1, 0xFF, 0x7F, choose.randrange(256)])
    elif what == 1:
        data[at:at] = choose.randbytes(choose.randint(1, 8))
    elif what == 2:
        del data[at : at + choose.randint(1, 8)]
    else:
        other = choose.choice(inputs)
        data[at:at] = other[choose.randrange(len(other) + 1) :][:64]


if __name__ == "__main__":
    sys.exit(main())
