"""Base classes of configuration records.

A plugin declares what it can be told as a subclass; msgspec's ``Meta`` holds range, unit and
description, ``msgspec.field(name=...)`` a dashed name. vdev strings and TOML both end here, and
nothing is created or opened before all configurations are valid.

Subclasses are frozen, take keywords only and refuse unknown fields without saying so.
"""

from __future__ import annotations

from typing import Any, dataclass_transform

import msgspec

__all__ = ["BackendConfig", "Config", "ObserverConfig", "ProviderConfig", "TransportConfig"]


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


class ProviderConfig(Config):
    """Base of a provider's configuration; ``id`` and ``transport`` are the core's."""


class TransportConfig(Config):
    """Base of a transport's configuration; its keys stand in the provider's vdev string."""


class BackendConfig(Config):
    """Base of a backend's configuration; its device keys (``emu=``) are the core's."""


class ObserverConfig(Config):
    """Base of an observer's configuration; ``emu`` is the core's."""
