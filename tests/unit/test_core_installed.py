"""Entry points on sys.path: folders, zip files, and what is odd about them."""

import sys
import zipfile

import pytest

from emudev_core.installed import EntryPoint, entry_points

POINTS = (
    "[console_scripts]\nx = y:z\n\n[emudev]\n# a comment\nbox = fake_box.plugin : HERE [extra]\n"
)
METADATA = "Metadata-Version: 2.1\nName: Fake.Box\nVersion: 1.0rc1\n\nVersion: of the text\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    info = folder / "fake_box-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


FOUND = EntryPoint("box", "fake_box.plugin : HERE", "Fake.Box", "1.0rc1")


def test_only_the_lines_of_the_group_count(site):
    assert list(entry_points("emudev")) == [FOUND]
    assert [point.name for point in entry_points("console_scripts")] == ["x"]
    assert list(entry_points("other")) == []


def test_the_attribute_is_fetched(site):
    (site / "fake_box").mkdir()
    (site / "fake_box" / "__init__.py").write_text("")
    (site / "fake_box" / "plugin.py").write_text("class HERE:\n    value = 7\n")
    assert FOUND.load().value == 7
    assert FOUND.module == "fake_box.plugin"


def test_a_folder_that_is_listed_twice_or_not_there_counts_once(site, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(site), str(site), "/no/such/folder", str(site) + "/"])
    assert list(entry_points("emudev")) == [FOUND]


def test_names_are_compared_as_installers_do(site, tmp_path, monkeypatch):
    old = tmp_path / "source" / "fake_box.egg-info"
    old.mkdir(parents=True)
    (old / "PKG-INFO").write_text("Name: fake-box\nVersion: 0.9\n")
    (old / "entry_points.txt").write_text("[emudev]\nbox = fake_box\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(old.parent)])
    assert list(entry_points("emudev")) == [FOUND]
    monkeypatch.setattr(sys, "path", list(reversed(sys.path)))
    assert [point.version for point in entry_points("emudev")] == ["0.9"]


def test_a_distribution_without_metadata_is_named_after_its_folder(site):
    (site / "fake_box-1.0.dist-info" / "METADATA").unlink()
    [point] = entry_points("emudev")
    assert (point.distribution, point.version) == ("fake_box", "unknown")


def test_zip_files_are_looked_into(tmp_path, monkeypatch):
    path = tmp_path / "box.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fake_box-1.0.dist-info/METADATA", METADATA)
        archive.writestr("fake_box-1.0.dist-info/entry_points.txt", POINTS)
    monkeypatch.setattr(sys, "path", [str(path)])
    assert list(entry_points("emudev")) == [FOUND]
