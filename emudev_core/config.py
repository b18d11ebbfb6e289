"""Base classes of configuration records.

A plugin declares what it can be told as a subclass; msgspec's ``Meta`` holds range, unit and
description, ``msgspec.field(name=...)`` a dashed name. vdev strings and TOML both end here, and
nothing is created or opened before all configurations are valid.
"""

from __future__ import annotations

import msgspec

__all__ = ["BackendConfig", "Config", "ObserverConfig", "ProviderConfig", "TransportConfig"]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all configurations."""


class ProviderConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a provider's configuration; ``id`` and ``transport`` are the core's."""


class TransportConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a transport's configuration; its keys stand in the provider's vdev string."""


class BackendConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a backend's configuration; its device keys (``emu=``) are the core's."""


class ObserverConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of an observer's configuration; ``emu`` is the core's."""
