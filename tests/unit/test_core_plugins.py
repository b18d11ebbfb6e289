"""Discovery with real distributions: folders with a package and a *.dist-info, on sys.path."""

import sys

import pytest

from emudev_core.errors import ConfigError
from emudev_core.plugins import find_sources, load_plugins

GOOD = """
from emudev_core import BackendConfig, BackendSpec, hookimpl

@hookimpl
def emudev_backends():
    yield BackendSpec(name="{name}", summary="drops all", config=BackendConfig, build=None)
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Installs fake distributions in a folder of its own; the real ones do not count."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.delenv("EMUDEV_PLUGINS", raising=False)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def install(distribution, text, *, version="1.2", folder=folder, point=None):
        package = distribution.replace("-", "_")
        (folder / f"{package}.py").write_text(text)
        info = folder / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        name = point or distribution.removeprefix("fake-")
        (info / "entry_points.txt").write_text(f"[emudev]\n{name} = {package}\n")
        return name

    yield install
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]


def load(*names):
    return load_plugins(only=names)


def test_an_installed_plugin_is_found_with_its_distribution_and_version(site):
    site("fake-sink", GOOD.format(name="fake_sink"))
    plugins = load("sink")
    assert plugins.failures == []
    assert plugins.backends["fake_sink"].origin == "fake-sink 1.2"
    assert plugins.table() == [("backend", plugins.backends["fake_sink"])]


def test_a_plugin_that_fails_to_import_is_named_and_the_others_go_on(site):
    site("fake-broken", "import no_such_module_at_all\n", version="0.3")
    site("fake-sink", GOOD.format(name="fake_sink"))
    plugins = load("broken", "sink")
    assert list(plugins.backends) == ["fake_sink"]
    [failure] = plugins.failures
    assert str(failure) == (
        "plugin fake-broken 0.3 failed in import of broken: ModuleNotFoundError: "
        "No module named 'no_such_module_at_all'"
    )


def test_a_plugin_that_raises_in_a_hook_is_named_and_the_others_go_on(site):
    site(
        "fake-raises",
        GOOD.format(name="fake_raises").replace("    yield", "    yield 1 / 0\n    yield"),
    )
    site("fake-sink", GOOD.format(name="fake_sink"))
    plugins = load("raises", "sink")
    assert list(plugins.backends) == ["fake_sink"]
    assert "fake-raises 1.2 failed in emudev_backends: ZeroDivisionError" in str(
        plugins.failures[0]
    )


def test_a_syntax_error_does_not_escape(site):
    site("fake-syntax", "def (:\n")
    assert "SyntaxError" in str(load("syntax").failures[0])


def test_a_distribution_that_is_listed_twice_counts_once(site, tmp_path, monkeypatch):
    site("fake-sink", GOOD.format(name="fake_sink"))
    second = tmp_path / "second"
    second.mkdir()
    site("fake-sink", GOOD.format(name="fake_sink"), folder=second)
    monkeypatch.setattr(sys, "path", [*sys.path, str(second), sys.path[0]])
    assert [s.name for s in find_sources()].count("sink") == 1
    assert load("sink").failures == []


def test_two_distributions_that_offer_one_name_are_both_named(site):
    site("fake-one", GOOD.format(name="fake_sink"))
    site("fake-two", GOOD.format(name="fake_sink"), version="7")
    with pytest.raises(ConfigError) as caught:
        load("one", "two")
    assert "backend fake_sink is offered twice: by fake-one 1.2 and by fake-two 7" in str(
        caught.value
    )
    assert "EMUDEV_PLUGINS" in str(caught.value)


PROVIDER = """
from emudev_core import ProviderConfig, ProviderSpec, TransportConfig, TransportSpec, hookimpl

class Config(ProviderConfig):
    path: str = ""

class Other(TransportConfig):
    path: str = ""

@hookimpl
def emudev_providers():
    return [ProviderSpec(name="{name}", device="{stem}", summary="", config={config}, build=None,
                         transport="fake_pipe")]

@hookimpl
def emudev_transports():
    return [TransportSpec(name="fake_pipe", summary="", config=Other, serve=None)] if {pipe} else []
"""


def test_two_distributions_that_offer_one_stem_are_both_named(site):
    one = {"name": "emu_a", "stem": "x", "config": "ProviderConfig", "pipe": False}
    site("fake-one", PROVIDER.format(**one))
    site("fake-two", PROVIDER.format(**{**one, "name": "emu_b"}))
    with pytest.raises(ConfigError, match=r"x_emudev_N.*fake-one 1\.2.*fake-two 1\.2"):
        load("one", "two")


def test_a_key_that_provider_and_transport_both_have_is_refused(site):
    site("fake-x", PROVIDER.format(name="emu_x", stem="x", config="Config", pipe=True))
    plugins = load("x")
    assert dict(plugins.providers) == {}
    assert "emu_x: its transport fake_pipe has the key path too" in str(plugins.failures[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace("def emudev_backends", "def emudev_backend"), "did you mean emudev_backends"),
        (GOOD.replace("backends():", "backends(config):"), "config"),
        (
            GOOD.replace("yield BackendSpec", "yield dict"),
            "expected BackendSpec records, came dict",
        ),
        (GOOD.replace("{name}", "Fake-Sink"), "'Fake-Sink' is not of lower case"),
        (GOOD.replace("=BackendConfig", "=dict"), "config is no subclass of Config"),
        (GOOD.replace("yield", "return None #"), "TypeError"),
    ],
)
def test_what_a_plugin_gets_wrong_is_said(site, text, reason):
    site("fake-wrong", text.format(name="fake_sink"))
    plugins = load("wrong")
    assert dict(plugins.backends) == {}
    assert reason in str(plugins.failures[0])


def test_only_named_plugins_are_loaded(site, monkeypatch):
    site("fake-sink", GOOD.format(name="fake_sink"))
    site("fake-bomb", "raise SystemError\n")
    monkeypatch.setenv("EMUDEV_PLUGINS", "sink")
    plugins = load_plugins()
    assert [s.name for s in plugins.sources] == ["sink"]
    assert plugins.failures == []
    monkeypatch.setenv("EMUDEV_PLUGINS", "")
    assert load_plugins().table() == []


def test_blocked_plugins_are_not_loaded(site):
    site("fake-sink", GOOD.format(name="fake_sink"))
    site("fake-bomb", "raise SystemError\n")
    names = [source.name for source in find_sources()]
    plugins = load_plugins(only=names, block=[name for name in names if name != "sink"])
    assert [s.name for s in plugins.sources] == ["sink"]


def test_a_name_that_is_not_installed_is_the_users_mistake(site, monkeypatch):
    site("fake-sink", GOOD.format(name="fake_sink"))
    monkeypatch.setenv("EMUDEV_PLUGINS", "sinc")
    with pytest.raises(ConfigError, match=r"no plugin sinc is installed \(did you mean sink\?\)"):
        load_plugins()


def test_registration_is_traced_too(site, monkeypatch, capsys):
    site("fake-sink", GOOD.format(name="fake_sink"))
    monkeypatch.setenv("EMUDEV_TRACE_HOOKS", "1")
    load("sink")
    assert capsys.readouterr().err == (
        "emudev: hook: fake-sink 1.2: emudev_backends() -> fake_sink\n"
    )
