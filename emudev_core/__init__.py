"""emudev: emulated devices in a process of their own, served to stock virtual machines.

The names a plugin or a program needs; each module's docstring has the whole story.
"""

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

__all__ = [
    "__version__",
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
