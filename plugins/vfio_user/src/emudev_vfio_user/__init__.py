"""vfio-user transport of emudev: a server that stock QEMU connects to, and a client.

Public names, loaded when first asked for: `VfioUserServer` (a server without the rest of emudev,
with the calls of the DPDK RFC), `VfioUserClient` (a blocking client).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import VfioUserServer
    from .client import VfioUserClient

__all__ = ["VfioUserClient", "VfioUserServer"]


def __getattr__(name: str) -> Any:
    if name == "VfioUserServer":
        from .api import VfioUserServer

        return VfioUserServer
    if name == "VfioUserClient":
        from .client import VfioUserClient

        return VfioUserClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
