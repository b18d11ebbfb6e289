"""Entries to a plan: every name resolved, every key given to the class that it belongs to.

A provider's keys go to its own configuration, else to that of its transport; ``id`` and
``transport`` are the core's. A backend's device keys (``emu=avf_emudev_0``, or RFC v1's
``avf_emu_id=0``) are resolved before its own configuration is read. Nothing is created or opened
here: all mistakes show first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from .config import (
    BackendConfig,
    Claim,
    Config,
    ObserverConfig,
    ProviderConfig,
    TransportConfig,
)
from .conversion import convert, read_number
from .errors import ConfigError
from .names import hint
from .plugins import RESERVED, Plugins, keys_of
from .registry import device_name
from .specs import BackendSpec, ObserverSpec, ProviderSpec, TransportSpec
from .vdev import Entry

__all__ = ["BackendPlan", "DevicePlan", "ObserverPlan", "Plan", "Planner"]

_T = TypeVar("_T")
_SHORT = "_emu_id"


@attrs.frozen
class DevicePlan:
    """A device to be made.

    Attributes:
        name: Its name, such as ``avf_emudev_0``.
        spec: Its provider.
        config: The provider's configuration.
        transport: Its transport; None if the provider names none.
        transport_config: The transport's configuration.
    """

    name: str
    spec: ProviderSpec
    config: ProviderConfig
    transport: TransportSpec | None = None
    transport_config: TransportConfig | None = None


@attrs.frozen
class BackendPlan:
    """A backend to be made.

    Attributes:
        name: Its name, such as ``tap_backend_0``.
        spec: What it is.
        config: Its configuration.
        devices: Names of its devices by key.
    """

    name: str
    spec: BackendSpec
    config: BackendConfig
    devices: Mapping[str, str]


@attrs.frozen
class ObserverPlan:
    """An observer to be made.

    Attributes:
        spec: What it is.
        config: Its configuration.
        device: Name of the device.
    """

    spec: ObserverSpec
    config: ObserverConfig
    device: str


@attrs.frozen
class Plan:
    """All that is to be made, in the order in which it was asked for.

    Attributes:
        devices: Devices.
        backends: Backends.
        observers: Observers.
    """

    devices: tuple[DevicePlan, ...] = ()
    backends: tuple[BackendPlan, ...] = ()
    observers: tuple[ObserverPlan, ...] = ()


@attrs.frozen
class _Claimed:
    """A claim, and who made it."""

    claim: Claim
    owner: str
    where: str


class Planner:
    """Resolves entries one after the other, and remembers the names that are taken.

    Args:
        plugins: What is installed.

    Attributes:
        devices: Names of the devices planned so far.
    """

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self.devices: dict[str, str] = {}
        self._backends: dict[str, str] = {}
        self._served: dict[str, str] = {}
        self._claims: list[_Claimed] = []

    def plan(self, vdevs: Sequence[Entry], observers: Iterable[Entry] = ()) -> Plan:
        """Resolve all entries; devices first, so that the order does not matter.

        Raises:
            ConfigError: The first mistake: unknown driver, device or key, wrong type, duplicate id.
        """
        for entry in vdevs:
            self._known(entry)
        providers = [e for e in vdevs if e.driver in self._plugins.providers]
        # Numbers that were asked for are taken before free ones are given out.
        order = sorted(providers, key=lambda entry: "id" not in entry.values)
        made = {id(entry): self.device(entry) for entry in order}
        return Plan(
            devices=tuple(made[id(entry)] for entry in providers),
            backends=tuple(
                self.backend(e) for e in vdevs if e.driver not in self._plugins.providers
            ),
            observers=tuple(self.observer(entry) for entry in observers),
        )

    def is_device(self, entry: Entry) -> bool:
        """Whether an entry names a provider (else a backend).

        Raises:
            ConfigError: It names neither.
        """
        self._known(entry)
        return entry.driver in self._plugins.providers

    def _known(self, entry: Entry) -> None:
        drivers = {**self._plugins.providers, **self._plugins.backends}
        if entry.driver not in drivers:
            raise self._unknown(entry, "driver", drivers)

    def _unknown(self, entry: Entry, what: str, known: Iterable[str]) -> ConfigError:
        near = hint(entry.driver, known) or f"no plugin offers any {what}"
        broken = "; ".join(str(failure) for failure in self._plugins.failures)
        return ConfigError(
            f"unknown {what} {entry.driver!r}",
            where=entry.where.removesuffix(f" {entry.driver}"),
            hint=f"{near}; {broken}" if broken else near,
        )

    def forget(self, name: str) -> None:
        """Give back the name of a device or backend that was not made, and what it claimed."""
        self.devices.pop(name, None)
        self._backends.pop(name, None)
        self._served = {device: by for device, by in self._served.items() if by != name}
        self._claims = [claimed for claimed in self._claims if claimed.owner != name]

    def _claim(self, entry: Entry, owner: str, *configs: Config | None) -> None:
        """Keep what an entry's configurations claim, all or nothing.

        Raises:
            ConfigError: Another entry has claimed it, or this one twice; the message names both.
        """
        made: list[_Claimed] = []
        for claim in _claims_of(configs):
            where = entry.at(claim.key)
            for other in (*self._claims, *made):
                shared = claim.sharers and claim.sharers == other.claim.sharers
                if other.claim.thing == claim.thing and not shared:
                    raise ConfigError(
                        f"{claim.thing} can't be used by {owner} and by {other.owner} "
                        f"({other.where})",
                        where=where,
                    )
            made.append(_Claimed(claim, owner, where))
        self._claims += made

    def adopt(self, plan: Plan) -> None:
        """Take over what another planner gave out, so that its names and claims are taken here."""
        for device in plan.devices:
            self.devices.setdefault(device.name, device.spec.name)
            self._take(device.name, device.config, device.transport_config)
        for backend in plan.backends:
            self._backends.setdefault(backend.name, backend.spec.name)
            self._served |= dict.fromkeys(backend.devices.values(), backend.name)
            self._take(backend.name, backend.config)

    def _take(self, owner: str, *configs: Config | None) -> None:
        self._claims += [_Claimed(claim, owner, owner) for claim in _claims_of(configs)]

    # -- devices

    def device(self, entry: Entry) -> DevicePlan:
        """Resolve an entry that names a provider."""
        spec = self._plugins.providers[entry.driver]
        values = dict(entry.values)
        name = self._device_name(entry, spec, values)
        transport = self._transport(entry, values.pop("transport", spec.transport))
        own = keys_of(spec.config)
        carried = keys_of(transport.config) if transport is not None else set()
        for key in values:
            if key not in own | carried:
                known = own | carried | set(RESERVED["provider"])
                raise ConfigError("unknown key", where=entry.at(key), hint=hint(key, known))
            if key in own and key in carried and transport is not None:
                raise ConfigError(
                    f"both {spec.name} and its transport {transport.name} have this key",
                    where=entry.at(key),
                )
        config = convert(entry, {k: v for k, v in values.items() if k in own}, spec.config)
        transport_config = None
        if transport is not None:
            rest = {k: v for k, v in values.items() if k in carried}
            transport_config = convert(entry, rest, transport.config)
        self._claim(entry, name, config, transport_config)
        self.devices[name] = entry.where
        return DevicePlan(name, spec, config, transport, transport_config)

    def _device_name(self, entry: Entry, spec: ProviderSpec, values: dict[str, Any]) -> str:
        number = self._number(entry, values)
        if number is None:
            number = 0
            while device_name(spec.stem, number) in self.devices:
                number += 1
        name = device_name(spec.stem, number)
        if name in self.devices:
            raise ConfigError(
                f"{number} is taken: {name} is there already ({self.devices[name]})",
                where=entry.at("id"),
            )
        return name

    def _number(self, entry: Entry, values: dict[str, Any]) -> int | None:
        if "id" not in values:
            return None
        return self._natural(entry, "id", values.pop("id"))

    def _natural(self, entry: Entry, key: str, value: Any) -> int:
        number = read_number(value) if entry.text and isinstance(value, str) else value
        if type(number) is not int or number < 0:
            raise ConfigError(f"expected int >= 0, came {value!r}", where=entry.at(key))
        return number

    def _transport(self, entry: Entry, name: Any) -> TransportSpec | None:
        if name == "":
            return None
        known = self._plugins.transports
        if name not in known:
            near = hint(str(name), known) or "no plugin offers any transport"
            raise ConfigError(f"unknown transport {name!r}", where=entry.at("transport"), hint=near)
        return known[name]

    # -- backends and observers

    def backend(self, entry: Entry) -> BackendPlan:
        """Resolve an entry that names a backend, after the devices that it may name."""
        spec = self._plugins.backends[entry.driver]
        values = dict(entry.values)
        number = self._number(entry, values)
        if number is None:
            number = 0
            while f"{spec.name}_{number}" in self._backends:
                number += 1
        name = f"{spec.name}_{number}"
        if name in self._backends:
            raise ConfigError(
                f"{number} is taken: {name} is there already ({self._backends[name]})",
                where=entry.at("id"),
            )
        devices = self._devices_of(entry, spec.devices, values)
        self._keys(entry, values, keys_of(spec.config) | {"id", *spec.devices}, spec.devices)
        self._all_named(entry, spec.devices, devices)
        config = convert(entry, values, spec.config)
        for key, device in devices.items():
            if device in self._served:
                raise ConfigError(
                    f"{device} has a backend already: {self._served[device]}", where=entry.at(key)
                )
        self._claim(entry, name, config)
        self._served |= dict.fromkeys(devices.values(), name)
        self._backends[name] = entry.where
        return BackendPlan(name, spec, config, devices)

    def observer(self, entry: Entry) -> ObserverPlan:
        """Resolve an entry that names an observer, after the device that it names."""
        if entry.driver not in self._plugins.observers:
            raise self._unknown(entry, "observer", self._plugins.observers)
        spec = self._plugins.observers[entry.driver]
        values = dict(entry.values)
        devices = self._devices_of(entry, ("emu",), values)
        self._keys(entry, values, keys_of(spec.config) | {"emu"}, ("emu",))
        self._all_named(entry, ("emu",), devices)
        return ObserverPlan(spec, convert(entry, values, spec.config), devices["emu"])

    def _keys(
        self, entry: Entry, values: Mapping[str, Any], known: set[str], devices: Sequence[str]
    ) -> None:
        short = {stem + _SHORT for stem in self._stems()} if "emu" in devices else set()
        for key in values:
            if key not in known:
                near = hint(key, known | short)
                raise ConfigError("unknown key", where=entry.at(key), hint=near)

    def _stems(self) -> set[str]:
        return {spec.stem for spec in self._plugins.providers.values()}

    def _devices_of(
        self, entry: Entry, wanted: Sequence[str], values: dict[str, Any]
    ) -> dict[str, str]:
        """Take the device keys out of `values`."""
        found: dict[str, str] = {}
        stems = self._stems()
        for key in list(values):
            stem = key.removesuffix(_SHORT)
            if key in wanted:
                target, name = key, values.pop(key)
            elif "emu" in wanted and key.endswith(_SHORT) and stem in stems:
                target = "emu"
                name = device_name(stem, self._natural(entry, key, values.pop(key)))
            else:
                continue
            if target in found:
                raise ConfigError("the device is named twice", where=entry.at(key))
            if name not in self.devices:
                near = hint(str(name), self.devices) or "there is no device"
                raise ConfigError(f"no device {name}", where=entry.at(key), hint=near)
            found[target] = name
        return found

    def _all_named(self, entry: Entry, wanted: Sequence[str], found: Mapping[str, str]) -> None:
        for key in wanted:
            if key not in found:
                known = ", ".join(self.devices) or "there is none"
                raise ConfigError(
                    f"expected {key}=DEVICE", where=entry.where, hint=f"known: {known}"
                )


def _claims_of(configs: Iterable[Config | None]) -> list[Claim]:
    return [claim for config in configs if config is not None for claim in config.claims()]
