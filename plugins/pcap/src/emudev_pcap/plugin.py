"""What emudev-pcap offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import BackendSpec, hookimpl

from .config import PcapConfig

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

    from .port import PcapPort

__all__ = ["build", "emudev_backends"]


def build(config: PcapConfig, context: BackendContext) -> PcapPort:
    """Make the port; no file is opened before it is started."""
    from .port import PcapPort  # kernels: only when a port is asked for

    return PcapPort(config, context)


@hookimpl
def emudev_backends() -> Iterable[BackendSpec]:
    """The one port: ``net_pcap``."""
    yield BackendSpec(
        name="net_pcap",
        summary="Port of capture files: replays and records pcap and pcapng",
        config=PcapConfig,
        build=build,
        devices=(),
    )
