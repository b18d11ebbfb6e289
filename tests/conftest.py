"""What several folders of tests share: somebody else's distribution, installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def acme_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `pip install` put acme-dice, from a copy outside the repository."""
    folder = tmp_path_factory.mktemp("acme")
    source = Path(__file__).parent / "third_party" / "dice"
    shutil.copytree(source, folder / "acme-dice")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["--no-deps", "--target", str(folder / "site"), str(folder / "acme-dice")]
    if importlib.util.find_spec("hatchling"):
        command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "site"
