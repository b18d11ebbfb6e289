"""emudev: emulated devices in a process of their own, served to stock virtual machines.

The names a plugin or a program needs; each module's docstring has the whole story. They are
imported when they are asked for, so that a plugin pays for what it uses.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .config import BackendConfig, Config, ObserverConfig, ProviderConfig, TransportConfig
    from .hooks import hookimpl
    from .host import Host
    from .plugins import load_plugins
    from .specs import BackendSpec, CommandSpec, ObserverSpec, ProviderSpec, TransportSpec

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


def __getattr__(name: str) -> Any:
    """Import one of the names above from the module that defines it."""
    from importlib import import_module

    if name == "hookimpl":
        module = "hooks"
    elif name == "Host":
        module = "host"
    elif name == "load_plugins":
        module = "plugins"
    elif name in __all__:
        module = "config" if name.endswith("Config") else "specs"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
