"""What users say in vdev strings and TOML: one class for each thing that the plugin offers.

Ranges and units are checked before anything is made, and shown by ``emudev run --help-vdev``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from emudev_core.config import BackendConfig, ProviderConfig, TransportConfig

__all__ = ["EchoConfig", "InprocConfig", "NullBackendConfig", "NullConfig", "NullPortConfig"]


class NullConfig(ProviderConfig):
    """Keys of the device ``emu_null``."""

    vectors: Annotated[int, Meta(ge=1, le=16, description="interrupt vectors (MSI-X)")] = 2


class InprocConfig(TransportConfig):
    """The transport ``inproc`` needs no keys."""


class NullBackendConfig(BackendConfig):
    """The backend ``null`` needs no keys."""


class EchoConfig(BackendConfig):
    """Keys of the backend ``echo``."""

    mac: Annotated[
        str,
        Meta(
            pattern="^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$",
            examples=["52:54:00:12:34:56"],
            description="address that it answers ARP requests with",
        ),
    ] = "02:65:63:68:6f:00"


class NullPortConfig(BackendConfig):
    """Keys of the port ``net_null``, as DPDK names them."""

    size: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="bytes of each packet that it receives",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = 64
    copy: Annotated[
        bool, Meta(description="copy each packet, as a driver with memory of its own would")
    ] = False
    no_rx: Annotated[bool, Meta(description="receive nothing, and only drop what is sent")] = field(
        name="no-rx", default=False
    )
