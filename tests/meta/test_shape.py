"""Every distribution has the same shape, and names and versions agree."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("*/*/pyproject.toml"))
PLUGINS = [folder for folder in FOLDERS if folder.parent.name == "plugins"]


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def emudev_needs(folder):
    return {
        re.split(r"[\s~=<>!\[;]", need)[0]
        for need in project(folder)["project"]["dependencies"]
        if need.startswith("emudev-")
    }


BY_NAME = {project(folder)["project"]["name"]: folder for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_one_short_name_decides_all(folder):
    short = folder.name
    table = project(folder)["project"]
    assert table["name"] == f"emudev-{short.replace('_', '-')}"
    package = folder / "src" / f"emudev_{short}"
    for name in ("__init__.py", "py.typed"):
        assert (package / name).exists(), name
    assert (folder / "README.md").exists()
    assert any((folder / "tests").glob("test_*.py"))
    assert not (folder / "tests" / "__init__.py").exists()
    points = table.get("entry-points", {}).get("emudev", {})
    if folder in PLUGINS:
        assert points == {short: f"emudev_{short}.plugin"}
    else:
        assert points == {}, "a kit is a library"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_versions_and_licences_agree(folder):
    table = project(folder)
    assert table["tool"]["hatch"]["version"]["path"] == "../../emudev_core/_version.py"
    assert table["project"]["dynamic"] == ["version"]
    assert table["project"]["license"] == "Apache-2.0"
    assert table["project"]["requires-python"] == ">=3.11"
    needs = " ".join(table["project"]["dependencies"])
    assert re.search(r"emudev-core ?~= ?0\.1", needs)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_importing_the_package_runs_a_docstring_and_lazy_names_only(folder):
    text = (folder / "src" / f"emudev_{folder.name}" / "__init__.py").read_text(encoding="utf-8")
    assert text.startswith('"""')
    for line in text.splitlines():
        assert not re.match(r"(from|import) (?!__future__|typing|importlib)", line), line


def test_test_files_have_distinct_names():
    files = [*ROOT.glob("*/*/tests/**/test_*.py"), *ROOT.glob("tests/**/test_*.py")]
    names = [path.name for path in files if "third_party" not in path.parts]
    assert sorted(names) == sorted(set(names))


def needed(name, seen=()):
    """The folders of a distribution and of all that it needs."""
    folders = {BY_NAME[name].name}
    for need in emudev_needs(BY_NAME[name]):
        if need in BY_NAME and need not in seen:
            folders |= needed(need, (*seen, name))
    return folders


def test_tox_installs_what_each_distribution_declares():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    deps = tox["testenv"]["deps"].splitlines()
    paths = {}
    for line in deps:
        match = re.match(r"([\w,]+): -e \{toxinidir\}/(?:kits|plugins)/(\w+)$", line.strip())
        if match:
            paths[match[2]] = set(match[1].split(","))
    for name, folder in BY_NAME.items():
        for path in needed(name):
            assert folder.name in paths.get(path, ()), f"tox -e {folder.name} lacks {path}"
    everywhere = tox["dists"]["paths"]
    for folder in FOLDERS:
        assert f"{folder.parent.name}/{folder.name}" in everywhere


def test_nobody_says_how_the_work_was_organised():
    todo = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for pattern in ("emudev_core/**/*.py", "kits/**/*.py", "plugins/**/*.py"):
        for path in ROOT.glob(pattern):
            assert not todo.search(path.read_text(encoding="utf-8")), path


def test_files_tell_one_story():
    long = {}
    for pattern in ("emudev_core/**/*.py", "kits/*/src/**/*.py", "plugins/*/src/**/*.py"):
        for path in ROOT.glob(pattern):
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > 600:
                long[str(path.relative_to(ROOT))] = count
    assert long == {}
