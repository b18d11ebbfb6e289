"""Every command, table, name and link that a page shows is right."""

import ast
import configparser
import importlib
import importlib.util
import re
import shlex
import types
from pathlib import Path

import pytest

from emudev_core.cli.program import COMMANDS, make_parser
from emudev_core.cli.request import read_plan
from emudev_core.conversion import keys
from emudev_core.plan import Planner
from emudev_core.plugins import load_plugins
from emudev_core.vdev import parse_toml, parse_vdev

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "kits/*/README.md", "plugins/*/README.md")
    for path in ROOT.glob(pattern)
)
PLUGINS = load_plugins()
#: Drivers that pages show as somebody else's.
FOREIGN = {"emu_dice", "counter", "count_reads"}
#: What the distributions of this repository offer, installed or not: drivers, transports, commands.
OURS = {
    name
    for path in ROOT.glob("plugins/*/src/*/plugin.py")
    for name in re.findall(r'\bname="(\w+)"', path.read_text(encoding="utf-8"))
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def fenced(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shown(page, program):
    """Commands of a program: in blocks, and between backticks of the text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    start = rf"(?:[A-Z_]+=\S* )?(?:python -m )?{program}\b"
    found = re.findall(rf"^(?: {{4,}}|)({start} \S.*)$", _blocks(text), re.MULTILINE)
    found += [" ".join(c.split()) for c in re.findall(rf"`({start} [^`]+)`", text)]
    # What stands behind many blanks explains the command.
    return [re.split(r" {3,}", command)[0].strip() for command in found]


def _blocks(text):
    """The indented and fenced lines."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            lines.append(line)
    return "\n".join(lines)


COMMANDS_SHOWN = [
    pytest.param(page, command, id=f"{page.relative_to(ROOT)}: {command[:60]}")
    for page in PAGES
    for command in shown(page, "emudev")
]


@pytest.mark.parametrize(("page", "command"), COMMANDS_SHOWN)
def test_commands_of_emudev_are_accepted(page, command):
    # A synopsis: of each choice the first, and what is optional is given.
    command = re.sub(r"\[([^]]*)\]", r"\1", command)
    command = re.sub(r"([a-z]+)(\|[a-z]+)+", r"\1", command)
    command = command.replace("{sock}", "/run/x.sock").replace("{tap}", "tap0")
    command = command.replace("=SOCKET", "=/run/x.sock").replace("id=N", "id=0")
    words = shlex.split(command)[1:]
    commands = {spec.name: spec for spec in COMMANDS} | dict(PLUGINS.commands)
    if words[0] in OURS - commands.keys():
        pytest.skip(f"{words[0]} is not installed")
    if len(words) == 1 and not words[0].startswith("-"):
        assert words[0] in commands
        return
    try:
        arguments = make_parser(commands).parse_args(words)
    except SystemExit as exc:
        assert exc.code == 0, "refused"  # noqa: PT017 - of --help
        return
    if words[0] == "regs":
        known = arguments.provider in PLUGINS.providers
        assert known or arguments.provider in OURS
    if words[0] in ("run", "check") and (arguments.vdev or arguments.observe):
        check_vdevs(arguments)


def check_vdevs(arguments):
    drivers = {parse_vdev(text).driver for text in [*arguments.vdev, *arguments.observe]}
    known = {*PLUGINS.providers, *PLUGINS.backends, *PLUGINS.observers}
    assert drivers <= known | OURS | FOREIGN
    if drivers & FOREIGN:
        arguments.vdev = [t for t in arguments.vdev if parse_vdev(t).driver not in FOREIGN]
        arguments.observe = []
    if (drivers & OURS) - known or "vfio_user" not in PLUGINS.transports:
        pytest.skip("not all of it is installed")
    if arguments.vdev:
        read_plan(arguments, PLUGINS)


@each_page
def test_tables_of_configuration_are_accepted(page, tmp_path):
    for number, text in enumerate(fenced(page, "toml")):
        if "[[vdev]]" not in text:
            continue
        # A table that is shown alone names a device that is not part of it.
        device = '[[vdev]]\ndriver = "emu_iavf"\npath = "/run/avf0.sock"\nid = 0\n'
        path = tmp_path / f"{number}.toml"
        path.write_text(text if "emu_iavf" in text else device + text)
        vdevs, observers = parse_toml(path)
        names = {entry.driver for entry in vdevs}
        assert names <= OURS | FOREIGN
        observers = [entry for entry in observers if entry.driver not in FOREIGN]
        if not names <= {*PLUGINS.providers, *PLUGINS.backends}:
            pytest.skip("not all of it is installed")
        Planner(PLUGINS).plan(vdevs, observers)


@each_page
def test_code_compiles_and_what_it_imports_is_there(page):
    if page.name == "hooks.md":
        return  # generated of docstrings, whose examples run in test_hooks_documented
    missing = set()
    for code in fenced(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            package = node.module.partition(".")[0]
            if package == "emudev_dice":
                continue
            if importlib.util.find_spec(package) is None:
                missing.add(package)
                continue
            module = importlib.import_module(node.module)
            for alias in node.names:
                there = hasattr(module, alias.name) or importlib.util.find_spec(
                    f"{node.module}.{alias.name}"
                )
                assert there, f"from {node.module} import {alias.name}"
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")


def test_the_kernels_of_the_net_kits_page_run():
    pytest.importorskip("emudev_net", reason="emudev-net is not installed")
    path = ROOT / "kits" / "net" / "README.md"
    for code in fenced(path, "python"):
        module = types.ModuleType("shown")
        shown_code = code.replace("compile_all(", "_ = (lambda *a, **k: None)(")
        exec(compile(shown_code, str(path), "exec"), vars(module))


@each_page
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#?)([^)\s]*)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{target}#{anchor}"


@each_page
def test_environments_of_tox_exist(page):
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    sections = {name.removeprefix("testenv:") for name in tox.sections()}
    labels = tox["tox"]["labels"]
    factors = {path.parent.name for path in ROOT.glob("*/*/pyproject.toml")} | {"core", "all"}
    for command in shown(page, "tox"):
        words = shlex.split(command)
        if "-m" in words:
            assert re.search(rf"^{words[words.index('-m') + 1]} =", labels, re.MULTILINE), command
            continue
        for name in words[words.index("-e") + 1].split(","):
            assert name in sections or set(name.split("-")) <= factors, command
        for path in [word for word in words if "/" in word]:
            assert (ROOT / path).exists(), command


@each_page
def test_targets_of_make_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in shown(page, "make"):
        if command.startswith("make ") and re.fullmatch(r"make [a-z]+", command):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command


@each_page
def test_folders_of_tests_exist(page):
    for command in shown(page, "pytest"):
        for word in shlex.split(command):
            if word.startswith(("plugins/", "kits/", "tests/")):
                assert (ROOT / word).exists(), command


@each_page
def test_folders_that_pip_installs_are_distributions(page):
    for command in shown(page, "pip"):
        for word in shlex.split(command):
            if word.startswith("./"):
                assert (ROOT / word / "pyproject.toml").exists(), command


@each_page
def test_variables_of_the_environment_are_read_somewhere(page):
    named = set(re.findall(r"\bEMUDEV_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    sources = "".join(
        path.read_text(encoding="utf-8")
        for pattern in ("emudev_core/**/*.py", "kits/*/src/**/*.py", "plugins/*/src/**/*.py")
        for path in ROOT.glob(pattern)
    )
    for name in named:
        assert f'"{name}"' in sources, name


def test_the_readme_of_each_distribution_has_the_keys_of_its_plugins():
    for table in (PLUGINS.providers, PLUGINS.transports, PLUGINS.backends, PLUGINS.observers):
        for record in table.values():
            name = record.origin.split()[0]
            folder = ROOT / "plugins" / name.removeprefix("emudev-").replace("-", "_")
            if not folder.exists():
                continue  # somebody else's
            text = (folder / "README.md").read_text(encoding="utf-8")
            for key in keys(record.config):
                assert f"`{key.name}`" in text, f"{name}: {record.name}: {key.name}"


def test_the_readme_lists_every_distribution_and_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("*/*/pyproject.toml"):
        folder = path.parent.relative_to(ROOT)
        assert f"[emudev-{folder.name.replace('_', '-')}]({folder})" in text
    for name in {spec.name for spec in COMMANDS} | {"demo", "lab"}:
        assert f"| `emudev {name}" in text
    for page in (ROOT / "docs").glob("*.md"):
        reached = f"docs/{page.name}" in text
        for other in (ROOT / "docs").glob("*.md"):
            reached = reached or f"]({page.name}" in other.read_text(encoding="utf-8")
        assert reached, f"nothing leads to {page.name}"
