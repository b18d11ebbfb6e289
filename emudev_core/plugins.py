"""Discovery: which plugins are installed, and what they offer.

`load_plugins` reads the entry points of the group ``emudev`` itself, each distribution's once (an
editable install may be listed twice), imports each plugin and collects its records inside a guard:
one that fails is kept in `Plugins.failures` with its distribution and version, and the others go
on. There is no global: the result is passed along.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import attrs
import pluggy

from .config import Config
from .errors import ConfigError, PluginError
from .hooks import NAME, registration
from .installed import entry_points
from .names import hint
from .specs import (
    BackendSpec,
    CommandSpec,
    ObserverSpec,
    ProviderSpec,
    Spec,
    TransportSpec,
)

__all__ = ["KINDS", "Plugins", "Source", "find_sources", "load_plugins"]

log = logging.getLogger(__name__)

#: Kinds of records, each with the hook that returns them and its class.
KINDS: Final[Mapping[str, tuple[str, type[Spec]]]] = {
    "provider": ("emudev_providers", ProviderSpec),
    "transport": ("emudev_transports", TransportSpec),
    "backend": ("emudev_backends", BackendSpec),
    "command": ("emudev_commands", CommandSpec),
    "observer": ("emudev_observers", ObserverSpec),
}

#: Keys of a vdev string that are the core's, by kind.
RESERVED: Final[Mapping[str, tuple[str, ...]]] = {
    "provider": ("id", "transport"),
    "transport": ("id", "transport"),
    "backend": ("id",),
    "observer": ("emu",),
}

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_S = TypeVar("_S", bound=Spec)


@attrs.frozen
class Source:
    """One entry point of an installed distribution.

    Attributes:
        name: The entry point's name, as in ``EMUDEV_PLUGINS``.
        distribution: The distribution's name.
        version: Its version.
        load: Imports the plugin.
        package: The top package that it lives in.
    """

    name: str
    distribution: str
    version: str
    load: Callable[[], object] = attrs.field(eq=False, repr=False)
    package: str = ""

    @property
    def origin(self) -> str:
        """Distribution and version, as messages name it."""
        return f"{self.distribution} {self.version}"


def find_sources() -> list[Source]:
    """The installed plugins, sorted by name; the first of two distributions of one name counts."""
    found = [
        Source(
            point.name, point.distribution, point.version, point.load, point.module.split(".")[0]
        )
        for point in entry_points(NAME)
    ]
    return sorted(found, key=lambda source: (source.name, source.distribution))


def load_plugins(
    only: Collection[str] | None = None,
    block: Collection[str] = (),
    *,
    sources: Iterable[Source] | None = None,
) -> Plugins:
    """Load the installed plugins.

    Args:
        only: Names of entry points; None loads all, unless the environment variable
            ``EMUDEV_PLUGINS`` has a list (``avf,null``; empty for none).
        block: Names that are not loaded.
        sources: What to load instead of what is installed.

    Raises:
        ConfigError: `only` names a plugin that is not installed, or two plugins offer one name.
    """
    if only is None and (wanted := os.environ.get("EMUDEV_PLUGINS")) is not None:
        only = [name.strip() for name in wanted.split(",") if name.strip()]
    available = list(find_sources() if sources is None else sources)
    if only is not None:
        known = {source.name for source in available}
        for name in only:
            if name not in known:
                raise ConfigError(f"no plugin {name} is installed", hint=hint(name, known))
        available = [source for source in available if source.name in only]
    return Plugins(source for source in available if source.name not in block)


class Plugins:
    """What the loaded plugins offer; see the module.

    Args:
        sources: What to load.

    Attributes:
        sources: The plugins that were loaded, without those that failed to import.
        failures: What failed, each naming distribution, version and step.

    Raises:
        ConfigError: Two plugins offer one name; both are named.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self.sources: list[Source] = []
        self.failures: list[PluginError] = []
        self._manager = pluggy.PluginManager(NAME)
        self._manager.add_hookspecs(registration)
        self._specs: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        for source in sources:
            self._load(source)
        self._check()

    @property
    def packages(self) -> set[str]:
        """Names of the top packages of the plugins that were loaded."""
        return {source.package for source in self.sources}

    @property
    def providers(self) -> Mapping[str, ProviderSpec]:
        """Device models by name."""
        return self._kind("provider", ProviderSpec)

    @property
    def transports(self) -> Mapping[str, TransportSpec]:
        """Transports by name."""
        return self._kind("transport", TransportSpec)

    @property
    def backends(self) -> Mapping[str, BackendSpec]:
        """Backends by name."""
        return self._kind("backend", BackendSpec)

    @property
    def commands(self) -> Mapping[str, CommandSpec]:
        """Subcommands by name."""
        return self._kind("command", CommandSpec)

    @property
    def observers(self) -> Mapping[str, ObserverSpec]:
        """Observers by name."""
        return self._kind("observer", ObserverSpec)

    def table(self) -> list[tuple[str, Spec]]:
        """All records with their kinds, in the order of `KINDS`, then by name."""
        return [
            (kind, specs[name]) for kind, specs in self._specs.items() for name in sorted(specs)
        ]

    def _kind(self, kind: str, _: type[_S]) -> Mapping[str, _S]:
        return MappingProxyType(self._specs[kind])

    # -- loading

    def _load(self, source: Source) -> None:
        try:
            plugin = source.load()
        except Exception as exc:
            self._fail(source.origin, f"import of {source.name}", exc)
            return
        label = f"{source.distribution}:{source.name}"
        try:
            self._manager.register(plugin, label)
            self._check_pending(plugin)
        except (pluggy.PluginValidationError, ValueError) as exc:
            if self._manager.get_plugin(label) is plugin:
                self._manager.unregister(plugin)
            self._fail(source.origin, "registration", " ".join(str(exc).split()))
            return
        self.sources.append(source)
        for kind, (hook, cls) in KINDS.items():
            for impl in getattr(self._manager.hook, hook).get_hookimpls():
                if impl.plugin is plugin:
                    self._collect(source, kind, hook, cls, impl.function)

    def _check_pending(self, plugin: object) -> None:
        """Refuse hooks that do not exist: a misspelt one would never be called."""
        for caller in self._manager.get_hookcallers(plugin) or []:
            if not caller.has_spec():
                near = hint(caller.name, [hook for hook, _ in KINDS.values()])
                raise ValueError(f"no such hook: {caller.name} ({near})")

    def _collect(
        self, source: Source, kind: str, hook: str, cls: type[Spec], function: Callable[[], Any]
    ) -> None:
        try:
            # A generator's body runs here, inside the guard.
            records = list(function())
        except Exception as exc:
            self._fail(source.origin, hook, exc)
            return
        if os.environ.get("EMUDEV_TRACE_HOOKS", "0") not in ("", "0"):
            names = ", ".join(str(getattr(record, "name", record)) for record in records)
            sys.stderr.write(f"emudev: hook: {source.origin}: {hook}() -> {names or 'nothing'}\n")
        for record in records:
            reason = _fault(record, cls)
            if reason:
                self._fail(source.origin, hook, reason)
                continue
            self._add(kind, attrs.evolve(record, origin=source.origin))

    def _add(self, kind: str, spec: Spec) -> None:
        other = self._specs[kind].get(spec.name)
        if other is not None:
            raise ConfigError(
                f"{kind} {spec.name} is offered twice: by {other.origin} and by {spec.origin}",
                hint="uninstall one, or choose plugins with EMUDEV_PLUGINS",
            )
        if isinstance(spec, ProviderSpec):
            for rival in self.providers.values():
                if rival.stem == spec.stem:
                    raise ConfigError(
                        f"devices {spec.stem}_emudev_N are offered twice: by {rival.name} of "
                        f"{rival.origin} and by {spec.name} of {spec.origin}",
                        hint="uninstall one, or choose plugins with EMUDEV_PLUGINS",
                    )
        self._specs[kind][spec.name] = spec

    def _check(self) -> None:
        """Drop records whose keys would be ambiguous on the command line."""
        for kind, specs in self._specs.items():
            for name, spec in list(specs.items()):
                reason = self._ambiguous(kind, spec)
                if reason:
                    del specs[name]
                    self._fail(spec.origin, KINDS[kind][0], f"{name}: {reason}")

    def _ambiguous(self, kind: str, spec: Any) -> str:
        if kind == "command":
            return ""
        own = keys_of(spec.config)
        reserved = {*RESERVED[kind], *(spec.devices if kind == "backend" else ())}
        clash = sorted(own & reserved)
        if clash:
            return f"the key {clash[0]} is the core's"
        if kind == "provider" and spec.transport in self.transports:
            clash = sorted(own & keys_of(self.transports[spec.transport].config))
            if clash:
                return f"its transport {spec.transport} has the key {clash[0]} too"
        return ""

    def _fail(self, origin: str, hook: str, cause: BaseException | str) -> None:
        error = PluginError(origin, hook, cause)
        error.__cause__ = cause if isinstance(cause, BaseException) else None
        self.failures.append(error)


def keys_of(config: type[Config]) -> set[str]:
    """The keys of a configuration class, as a user types them."""
    return set(config.__struct_encode_fields__)


def _fault(record: object, cls: type[Spec]) -> str:
    if not isinstance(record, cls):
        return f"expected {cls.__name__} records, came {type(record).__name__}"
    if not _NAME.fullmatch(record.name):
        return f"the name {record.name!r} is not of lower case letters, digits and underscores"
    config = getattr(record, "config", None)
    if config is not None and not (isinstance(config, type) and issubclass(config, Config)):
        return f"{record.name}: config is no subclass of Config"
    return ""
