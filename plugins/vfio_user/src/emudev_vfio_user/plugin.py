"""What emudev-vfio-user offers: the transport ``vfio_user``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import hookimpl
from emudev_core.specs import ConnectContext, TransportContext, TransportSpec

from .config import VfioUserConfig

if TYPE_CHECKING:
    from .client import VfioUserClient
    from .server import Server

__all__ = ["emudev_transports"]


def serve(config: VfioUserConfig, context: TransportContext) -> Server:
    """The device's end."""
    from .server import Server  # loaded only when a device is served

    return Server(config, context.device, context.loop)


def connect(config: VfioUserConfig, context: ConnectContext) -> VfioUserClient:
    """A client's end."""
    from .client import VfioUserClient

    return VfioUserClient(config.path, loop=context.loop)


@hookimpl
def emudev_transports() -> Iterable[TransportSpec]:
    """See `emudev_core.hooks.registration`."""
    yield TransportSpec(
        name="vfio_user",
        summary="vfio-user socket for QEMU's vfio-user-pci",
        config=VfioUserConfig,
        serve=serve,
        connect=connect,
    )
