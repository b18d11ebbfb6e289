"""Every hook is documented in full, and its example runs."""

import importlib.util
import inspect
import types
from pathlib import Path

import pytest

from emudev_core.hooks import hookimpl
from emudev_core.plugins import KINDS, Plugins, Source
from emudev_core.relay import DEVICE_HOOKS
from emudev_core.testing.builders import make_device

ROOT = Path(__file__).parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generator()
SPECS = [(group, f) for group in GENERATE.GROUPS for f in GENERATE.specifications(group)]
NAMES = [f.__name__ for _, f in SPECS]


def test_the_groups_are_all_the_modules():
    modules = {path.stem for path in (ROOT / "emudev_core" / "hooks").glob("*.py")}
    assert modules - {"__init__"} == set(GENERATE.GROUPS) == {*DEVICE_HOOKS, "registration"}
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(("group", "function"), SPECS, ids=NAMES)
def test_it_says_when_it_is_called_and_what_the_answer_means(group, function):
    doc = inspect.getdoc(function)
    parts = GENERATE.sections(function)
    summary = doc.splitlines()[0]
    assert summary.endswith((".", "?"))
    assert "Called" in doc, "who calls it, when, how often"
    assert "Example" in parts
    answers = function.emudev_spec["firstresult"] or group == "registration"
    if answers:
        assert parts.get("Returns"), "what the answer means"
    module = importlib.import_module(f"emudev_core.hooks.{group}")
    assert "thread" in inspect.getdoc(module), "on which thread"


@pytest.mark.parametrize(("group", "function"), SPECS, ids=NAMES)
def test_every_argument_is_typed(group, function):
    hints = function.__annotations__
    assert set(hints) == {*inspect.signature(function).parameters, "return"}


@pytest.mark.parametrize(("group", "function"), SPECS, ids=NAMES)
def test_its_example_runs_and_implements_it(group, function):
    name = function.__name__
    scope = {"hookimpl": hookimpl, "__name__": "example"}
    exec(compile(GENERATE.example(function), name, "exec"), scope)
    if group == "registration":
        module = types.ModuleType("example")
        vars(module).update(scope)
        plugins = Plugins([Source("example", "emudev-example", "1.0", lambda: module)])
        assert plugins.failures == []
        [(kind, record)] = plugins.table()
        assert KINDS[kind][0] == name
        assert record.origin == "emudev-example 1.0"
        return
    [cls] = [v for v in scope.values() if isinstance(v, type) and hasattr(v, name)]
    example = cls()
    device = make_device(example)
    assert [member.plugin for member in device.members] == [example]
    if name in ("emudev_backend_offered", "emudev_region_map"):
        return
    method = getattr(device, name.removeprefix("emudev_"), None)
    assert method is not None or group in ("backend", "lifecycle")


@pytest.mark.parametrize("group", DEVICE_HOOKS)
def test_a_device_has_a_method_for_each_hook(group):
    device = make_device()
    # Backends are told by the device's own start, stop and events.
    told = {"emudev_backend_offered", "emudev_backend_started"}
    told |= {"emudev_backend_stopped", "emudev_backend_event"}
    for function in GENERATE.specifications(group):
        if function.__name__ in told:
            continue
        method = getattr(type(device), function.__name__.removeprefix("emudev_"))
        wanted = list(inspect.signature(function).parameters)
        if group != "lifecycle":
            assert list(inspect.signature(method).parameters)[1:] == wanted


@pytest.mark.parametrize("name", list(GENERATE.PAGES))
def test_the_generated_page_is_fresh(name):
    text = GENERATE.PAGES[name]()
    if text is None:
        pytest.skip("its distribution is not installed")
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == text, "run `tox run -e docs`"


def test_every_hook_is_tested():
    tests = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("tests/unit", "emudev_core/testing")
        for path in (ROOT / folder).glob("*.py")
    )
    registration = (ROOT / "emudev_core" / "testing" / "builders.py").read_text(encoding="utf-8")
    assert "emudev_{kind}s" in registration  # all kinds of records are built by one function
    tests += " ".join(hook for hook, _ in KINDS.values())
    for name in NAMES:
        method = name.removeprefix("emudev_")
        assert name in tests or f".{method}(" in tests, f"no test mentions {name}"
