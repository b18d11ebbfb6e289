"""The public types hold for a plugin outside this repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

HERE = Path(__file__).parent


def check(name: str) -> tuple[int, str]:
    """Exit status and output of mypy --strict on a file of this folder."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", name],
        cwd=HERE,
        env={**os.environ, "MYPYPATH": str(HERE.parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_correct_plugin_checks_cleanly() -> None:
    status, output = check("good_plugin.py")
    assert status == 0, output


def test_each_mistake_is_refused_on_its_line_with_its_code() -> None:
    _, output = check("bad_plugin.py")
    source = (HERE / "bad_plugin.py").read_text().splitlines()
    expected = {
        (number, match[1])
        for number, line in enumerate(source, 1)
        if (match := re.search(r"# expect: (\S+)", line))
    }
    found = {
        (int(match[1]), match[2])
        for match in re.finditer(r"bad_plugin\.py:(\d+): error: .*\[([\w-]+)\]$", output, re.M)
    }
    assert found == expected, output
