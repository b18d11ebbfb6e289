"""The pytest plugin where no guest can run: honest skips, errors in CI, nothing heavy loaded."""

import os
import subprocess
import sys

import pytest

from emudev_lab import pytest_plugin

pytest_plugins = ["pytester"]

ONE_TEST = """
    import pytest

    @pytest.mark.guest(kernel="stable")
    def test_boot(guest):
        assert guest.sh("uname -s") == "Linux"
"""


@pytest.fixture
def outer(pytester, monkeypatch):
    """A run of pytest inside this one, as root unless told otherwise, without a lab."""
    monkeypatch.setenv("EMUDEV_LAB", str(pytester.path / "nothing"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    pytester.makepyfile(ONE_TEST)
    return pytester


def test_without_a_lab_the_test_is_skipped_with_the_remedy(outer):
    result = outer.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no guest lab in *run `emudev lab prepare`*"])


def test_without_root_the_test_is_skipped_even_in_ci(outer, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("CI", "true")
    result = outer.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*guests need root*"])


def test_in_ci_a_missing_lab_is_an_error(outer, monkeypatch):
    monkeypatch.setenv("CI", "true")
    result = outer.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no guest lab in *"])


def test_a_misspelt_argument_of_the_marker_is_an_error(outer):
    outer.makepyfile(ONE_TEST.replace("kernel=", "kernle="))
    result = outer.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*marker guest: *kernle*"])


def test_the_marker_is_documented(outer):
    result = outer.runpytest("--markers", "--strict-markers")
    result.stdout.fnmatch_lines(["@pytest.mark.guest(kernel='stable', *"])


def test_loading_the_plugin_loads_nothing_of_the_lab():
    code = (
        "import sys, emudev_lab.pytest_plugin, emudev_lab.plugin;"
        "print([m for m in sys.modules if m.startswith(('emudev_lab.', 'numpy', 'numba'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['emudev_lab.pytest_plugin', 'emudev_lab.plugin']"
    assert pytest_plugin.__all__ == ["emudev", "guest"]
