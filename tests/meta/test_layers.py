"""An import only ever points down: plugins, kits, core; and registration stays free of cost."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KITS = sorted(path.parent for path in (ROOT / "kits").glob("*/pyproject.toml"))
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
CORE_NEEDS = {"pluggy", "attrs", "attr", "msgspec"}
TESTING_NEEDS = {"pytest", "hypothesis"}


def imports(path):
    """(line, top package, whether it runs at import) of each absolute import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        for name in names:
            yield node.lineno, name, id(node) not in deferred


def packages(folder):
    return [path for path in (folder / "src").iterdir() if path.name.startswith("emudev_")]


def sources(folder):
    return sorted(path for package in packages(folder) for path in package.rglob("*.py"))


KIT_NAMES = {package.name for kit in KITS for package in packages(kit)}
PLUGIN_NAMES = {package.name for plugin in PLUGINS for package in packages(plugin)}


def test_the_core_needs_the_standard_library_pluggy_attrs_and_msgspec():
    for path in sorted((ROOT / "emudev_core").rglob("*.py")):
        allowed = set(sys.stdlib_module_names) | CORE_NEEDS | {"emudev_core"}
        if "testing" in path.parts:
            allowed |= TESTING_NEEDS
        for line, name, _ in imports(path):
            assert name.partition(".")[0] in allowed, f"{path}:{line}: {name}"


@pytest.mark.parametrize("kit", KITS, ids=lambda path: path.name)
def test_a_kit_imports_no_plugin(kit):
    for path in sources(kit):
        for line, name, _ in imports(path):
            assert name.partition(".")[0] not in PLUGIN_NAMES, f"{path}:{line}: {name}"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_no_other_plugin(plugin):
    own = {package.name for package in packages(plugin)}
    for path in sources(plugin):
        for line, name, _ in imports(path):
            assert name.partition(".")[0] not in PLUGIN_NAMES - own, f"{path}:{line}: {name}"


@pytest.mark.parametrize("folder", [*KITS, *PLUGINS], ids=lambda path: path.name)
def test_what_is_imported_is_declared(folder):
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    declared = {
        re.split(r"[\s~=<>!\[;]", need)[0].replace("-", "_").lower()
        for group in (project["dependencies"], *project.get("optional-dependencies", {}).values())
        for need in group
    }
    own = {package.name for package in packages(folder)}
    known = set(sys.stdlib_module_names) | declared | own | CORE_NEEDS
    if "testing" in (folder / "pyproject.toml").read_text() or folder.name == "lab":
        known |= TESTING_NEEDS
    for path in sources(folder):
        for line, name, _ in imports(path):
            top = name.partition(".")[0]
            if path.stem in ("testing", "conftest") or "testing" in path.parts:
                continue
            assert top in known, f"{path}:{line}: {name} is not among the dependencies"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_registration_imports_the_core_and_its_own_configuration_only(plugin):
    for package in packages(plugin):
        assert (package / "plugin.py").exists()
        for line, name, now in imports(package / "plugin.py"):
            top = name.partition(".")[0]
            heavy = now and top not in {*sys.stdlib_module_names, *CORE_NEEDS, "emudev_core"}
            assert not heavy, f"{package}/plugin.py:{line}: {name}"


PROBE = """
import json, sys
from emudev_core.plugins import load_plugins
plugins = load_plugins()
print(json.dumps({"modules": sorted(sys.modules), "failures": [str(f) for f in plugins.failures]}))
"""


def run(*command):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EMUDEV_")}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_every_installed_plugin_imports_nothing_heavy():
    found = json.loads(run("-c", PROBE))
    assert found["failures"] == []
    heavy = {"numpy", "numba", "llvmlite", "scapy", "pyroute2", "asyncio", "hypothesis", "pytest"}
    assert heavy & set(found["modules"]) == set()


def test_a_plain_import_of_the_core_is_cheap():
    text = run(
        "-c",
        "import time; start = time.perf_counter(); import emudev_core; "
        "print(time.perf_counter() - start)",
    )
    assert float(text) < 0.06


def test_help_is_quick():
    program = "import sys; from emudev_core.cli import main; sys.exit(main(['--help']))"
    probe = (
        "import resource, subprocess, sys; "
        f"subprocess.run([sys.executable, '-c', {program!r}], stdout=subprocess.DEVNULL); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime)"
    )
    # Processor time, since other tests may run beside this one.
    assert min(float(run("-c", probe)) for _ in range(3)) < 0.3


def test_only_the_loop_waits_for_descriptors():
    waiting = re.compile(r"\b(import (asyncio|selectors)|from (asyncio|selectors) )")
    for folder in [ROOT / "emudev_core", *KITS, *PLUGINS]:
        for path in sorted(folder.rglob("*.py")):
            if "tests" not in path.parts:
                assert not waiting.search(path.read_text(encoding="utf-8")), path
