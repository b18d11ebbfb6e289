"""Steps of a preparation: done once, again when what they depend on changes; failures shown."""

import subprocess

import pytest

from emudev_lab import debian
from emudev_lab.errors import LabError
from emudev_lab.lab import Lab
from emudev_lab.preparation import prepare
from emudev_lab.steps import Step, Steps


@pytest.fixture
def said():
    return []


def attempt(folder, said, *steps):
    """Which steps were done, in a run of its own."""
    run = Steps(folder, said.append)
    with run.locked():
        return [step.name for step in steps if run.run(step)]


def step(name, key="1", after="", run=lambda log: None):
    return Step(name, f"making {name}", key, run, after)


def test_a_step_is_done_once(tmp_path, said):
    assert attempt(tmp_path, said, step("a"), step("b")) == ["a", "b"]
    assert attempt(tmp_path, said, step("a"), step("b")) == []
    assert said[0] == "making a ..."
    assert len(said) == 4


def test_a_step_with_another_key_is_done_again_with_those_that_build_on_it(tmp_path, said):
    first = [step("a"), step("b", after="a"), step("c", after="b"), step("d")]
    attempt(tmp_path, said, *first)
    changed = [step("a", key="2"), *first[1:]]
    assert attempt(tmp_path, said, *changed) == ["a", "b", "c"]


def test_a_failed_step_shows_the_end_of_its_log_and_is_tried_again(tmp_path, said):
    def fail(log):
        subprocess.run(["sh", "-c", "echo the reason; exit 3"], stdout=log, check=True)

    with pytest.raises(LabError) as caught:
        attempt(tmp_path, said, step("a", run=fail))
    assert "making a: sh ended with status 3\nthe reason\n" in str(caught.value)
    assert str(tmp_path / "log/a.log") in str(caught.value)
    assert attempt(tmp_path, said, step("a")) == ["a"]


def test_a_failed_repetition_leaves_no_stamp_of_the_time_before(tmp_path, said):
    def fail(log):
        raise LabError("no")

    attempt(tmp_path, said, step("a"))
    with pytest.raises(LabError, match="making a: no"):
        attempt(tmp_path, said, step("a", key="2", run=fail))
    assert not (tmp_path / "stamps/a").exists()


def test_only_debian_12_or_newer_is_prepared(tmp_path, monkeypatch):
    for name, text in {
        "fedora": "ID=fedora\nPRETTY_NAME=Fedora\n",
        "bullseye": 'ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"\n',
    }.items():
        monkeypatch.setattr(debian, "_text", lambda path, text=text: text)
        with pytest.raises(LabError, match="is prepared on Debian 12 or newer") as caught:
            prepare(Lab(tmp_path / name), ["stable"], dpdk=False, again=False, say=print)
        assert "Fedora" in str(caught.value) or "Debian 11" in str(caught.value)
        assert not (tmp_path / name).exists()


def test_only_root_prepares(tmp_path, monkeypatch):
    monkeypatch.setattr(debian, "_text", lambda path: 'ID=debian\nVERSION_ID="12"\n')
    monkeypatch.setattr(debian.os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="prepared by root"):
        prepare(Lab(tmp_path), ["stable"], dpdk=False, again=False, say=print)


def test_the_mirror_is_the_machine_s_debian_archive_and_not_security(tmp_path, monkeypatch):
    text = "Debian Debian-Security http://one.test/s/\nDebian Debian http://two.test/debian/\n"
    done = subprocess.CompletedProcess([], 0, stdout=text)
    monkeypatch.setattr(debian.subprocess, "run", lambda *words, **more: done)
    with open(tmp_path / "log", "wb") as log:
        assert debian.mirror(log) == "http://two.test/debian"


def test_sources_without_a_debian_archive_are_an_error(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout="Other Other http://x.test/\n")
    monkeypatch.setattr(debian.subprocess, "run", lambda *words, **more: done)
    with open(tmp_path / "log", "wb") as log, pytest.raises(LabError, match="no Debian archive"):
        debian.mirror(log)
