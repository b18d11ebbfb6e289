"""For all tests of the repository: what can be collected here, and how long properties are tried.

Tests of a distribution that is not installed are not collected, so that every environment of tox
may name the same folders; the report's head says which ones are missing.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test, settings

ROOT = Path(__file__).parent
FOLDERS = {path.parent: f"emudev_{path.parent.name}" for path in ROOT.glob("*/*/pyproject.toml")}
MISSING = {folder for folder, package in FOLDERS.items() if not importlib.util.find_spec(package)}

#: How many times as many examples as its test says a property is tried with, in the nightly run.
NIGHTLY_FACTOR = 20

# Machines that run guests beside the tests are slow at times; time is bounded by pytest-timeout.
# What the gate tries is the same each time, so that a failure is one of the change.
settings.register_profile(
    "emudev", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.register_profile(
    "nightly", deadline=None, print_blob=True, max_examples=100 * NIGHTLY_FACTOR
)
settings.load_profile("emudev")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of what is not installed."""
    return True if collection_path in MISSING else None


def pytest_report_header() -> str | None:
    """Name what is not installed."""
    names = ", ".join(sorted(str(folder.relative_to(ROOT)) for folder in MISSING))
    return f"not installed, so not tested: {names}" if names else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Try the properties that name a number of examples longer as well."""
    if config.getoption("hypothesis_profile", None) != "nightly":
        return
    seen = set()
    for item in items:
        test = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
        if test is None or id(test) in seen or not is_hypothesis_test(test):
            continue
        seen.add(id(test))
        # `settings` may be applied once only, so the applied ones are replaced.
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if own is not None and getattr(test, "_hypothesis_internal_settings_applied", False):
            longer = settings(own, max_examples=own.max_examples * NIGHTLY_FACTOR)
            test._hypothesis_internal_use_settings = longer
