"""The contract that every transport keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emudev_core.testing import TransportContract


class TestVfioUser(TransportContract):
    transport = "vfio_user"

    def keys(self, folder: Path) -> Mapping[str, str]:
        return {"path": str(folder / "s")}
