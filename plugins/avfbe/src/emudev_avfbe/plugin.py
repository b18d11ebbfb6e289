"""What emudev-avfbe offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import BackendSpec, hookimpl

from .config import AvfbeConfig

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

    from .port import AvfbePort

__all__ = ["build", "emudev_backends"]


def build(config: AvfbeConfig, context: BackendContext) -> AvfbePort:
    """Make the port; an application configures and starts it."""
    from .port import AvfbePort  # the net kit: only when a port is asked for

    return AvfbePort(config, context)


@hookimpl
def emudev_backends() -> Iterable[BackendSpec]:
    """The one backend: ``net_avfbe``."""
    yield BackendSpec(
        name="net_avfbe",
        summary="Ethdev port for applications such as testpmd",
        config=AvfbeConfig,
        build=build,
    )
