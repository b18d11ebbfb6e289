"""What emudev-tap-backend offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import BackendSpec, hookimpl

from .config import TapConfig

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

    from .backend import TapBackend

__all__ = ["build", "emudev_backends"]


def build(config: TapConfig, context: BackendContext) -> TapBackend:
    """Make the backend; nothing is opened before it is started."""
    from .backend import TapBackend  # kernels and netlink: only when a TAP is asked for

    return TapBackend(config, context)


@hookimpl
def emudev_backends() -> Iterable[BackendSpec]:
    """The one backend: ``tap_backend``."""
    yield BackendSpec(
        name="tap_backend",
        summary="TAP interface of the Linux kernel",
        config=TapConfig,
        build=build,
    )
