"""What tests of plugins are built with; needs ``emudev-core[testing]`` and no plugin.

`contracts` has the suites that every provider, transport and backend passes: import one, say what
is under test, and pytest does the rest.

    from emudev_core.testing import BackendContract

    class TestSink(BackendContract):
        vdev = "sink"

`builders` makes plugins, devices and guest memory; `loopback` is a transport inside the process,
`exerciser` a device that answers everything, `port` one whose queues carry frames. `control` has
a client of bytes for control sockets.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contracts import (
        BackendContract,
        FrameBackendContract,
        ProviderContract,
        TransportContract,
    )

__all__ = ["BackendContract", "FrameBackendContract", "ProviderContract", "TransportContract"]


def __getattr__(name: str) -> Any:
    """Import the suites, which need pytest, when one is asked for."""
    if name in __all__:
        from . import contracts

        return getattr(contracts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
