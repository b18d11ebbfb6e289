"""What emudev-wire offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import BackendSpec, hookimpl

from .config import WireConfig

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

    from .backend import WireBackend

__all__ = ["build", "emudev_backends"]


def build(config: WireConfig, context: BackendContext) -> WireBackend:
    """Make the wire; nothing moves before a device is started."""
    from .backend import WireBackend  # the net kit: only when a wire is asked for

    return WireBackend(config, context)


@hookimpl
def emudev_backends() -> Iterable[BackendSpec]:
    """The one backend: ``wire``."""
    yield BackendSpec(
        name="wire",
        summary="Joins two devices, queue to queue",
        config=WireConfig,
        build=build,
        devices=("a", "b"),
    )
