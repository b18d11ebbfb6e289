"""emudev: emulated devices in a process of their own, served to stock virtual machines.

The names a plugin or a program needs; each module's docstring has the whole story.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import (
    BackendConfig,
    Config,
    ObserverConfig,
    ProviderConfig,
    TransportConfig,
)
from .hooks import hookimpl
from .specs import (
    BackendSpec,
    CommandSpec,
    ObserverSpec,
    ProviderSpec,
    TransportSpec,
)

if TYPE_CHECKING:
    from .host import Host
    from .plugins import load_plugins

__all__ = [
    "__version__",
    "Host",
    "load_plugins",
    "hookimpl",
    "ProviderSpec",
    "TransportSpec",
    "BackendSpec",
    "CommandSpec",
    "ObserverSpec",
    "Config",
    "ProviderConfig",
    "TransportConfig",
    "BackendConfig",
    "ObserverConfig",
]

_LAZY = {"Host": "host", "load_plugins": "plugins"}


def __getattr__(name: str) -> Any:
    """Import what only programs need when it is asked for: plugins load faster without it."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
