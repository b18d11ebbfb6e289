"""Base classes of configuration records.

A plugin declares what it can be told as a subclass; msgspec's ``Meta`` holds range, unit and
description, ``msgspec.field(name=...)`` a dashed name. vdev strings and TOML both end here, and
nothing is created or opened before all configurations are valid.

Subclasses are frozen, take keywords only and refuse unknown fields without saying so. One that uses
something of the machine that two can't have, such as a socket's path, tells so by `Config.claims`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Self, dataclass_transform

import attrs
import msgspec

__all__ = [
    "BackendConfig",
    "Claim",
    "Config",
    "ObserverConfig",
    "ProviderConfig",
    "TransportConfig",
]


@attrs.frozen
class Claim:
    """Something of this machine that a configuration will use, so that no other may.

    Attributes:
        thing: What, for people, and the same text for the same thing: ``interface tap0``.
        key: The key of the configuration that asks for it.
        sharers: Claims of one thing with the same name here do not exclude each other; empty: it
            is for one only.
    """

    thing: str
    key: str
    sharers: str = ""

    @classmethod
    def file(cls, path: str, key: str, sharers: str = "") -> Self:
        """A claim of a file or a socket, however its path is spelt; it need not be there yet."""
        return cls(f"the path {os.path.realpath(path)}", key, sharers)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class ConfigMeta(msgspec.StructMeta):
    """Gives each configuration class the options that all have."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> Any:
        """Make the class; options that it states itself win."""
        common = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
        return super().__new__(mcls, name, bases, namespace, **{**common, **options})


class Config(msgspec.Struct, metaclass=ConfigMeta):
    """Base of all configurations."""

    def claims(self) -> Iterable[Claim]:
        """What the plugin will open or make of which there is one on the machine.

        Asked for before anything is built: two entries that claim one thing are a mistake of the
        user's, whose message names both.
        """
        return ()


class ProviderConfig(Config):
    """Base of a provider's configuration; ``id`` and ``transport`` are the core's."""


class TransportConfig(Config):
    """Base of a transport's configuration; its keys stand in the provider's vdev string."""


class BackendConfig(Config):
    """Base of a backend's configuration; its device keys (``emu=``) are the core's."""


class ObserverConfig(Config):
    """Base of an observer's configuration; ``emu`` is the core's."""
