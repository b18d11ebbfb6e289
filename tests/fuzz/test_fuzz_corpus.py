"""Every input of the corpus still passes its target; no fuzzer is needed for that.

The corpus has the inputs that fuzzing starts from, those that led it to new places, and every one
that has ever found a fault.
"""

import importlib.util
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from seeds import CORPUS, SEEDS, write
from targets import TARGETS


@pytest.fixture(autouse=True, scope="module")
def _as_before():
    """What targets change of the process, such as how long resets last, is theirs alone."""
    yield
    mock.patch.stopall()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_passes(name):
    target, needs = TARGETS[name]
    for package in needs:
        pytest.importorskip(package)
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        try:
            target(path.read_bytes())
        except BaseException as error:
            error.add_note(f"of {path}")
            raise


def test_every_target_has_seeds_and_the_corpus_has_them():
    assert set(SEEDS) == set(TARGETS) == {path.name for path in CORPUS.iterdir()}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for path in Path(folder).glob("*/*"):
            kept = CORPUS / path.relative_to(folder)
            assert kept.read_bytes() == path.read_bytes(), (
                f"python {Path(__file__).parent}/seeds.py"
            )


def test_the_corpus_stays_small():
    sizes = [path.stat().st_size for path in CORPUS.glob("*/*")]
    assert len(sizes) < 1000
    assert sum(sizes) < 1 << 20


def test_the_packages_that_targets_need_are_ours():
    ours = {path.name for path in Path(__file__).parents[2].glob("*/*/src/*")}
    for _, needs in TARGETS.values():
        assert set(needs) <= ours
    assert importlib.util.find_spec("emudev_core")
