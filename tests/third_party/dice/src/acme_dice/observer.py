"""An observer: how often each register was read, written to a file at the end."""

import json
from collections import Counter
from pathlib import Path

from emudev_core import hookimpl


class ReadCounter:
    """Wraps the register reads of one device, which does not know of it."""

    def __init__(self, config, context):
        self._report = Path(config.report)
        self._device = context.device.name
        self._counts = Counter()

    @hookimpl(wrapper=True)
    def emudev_region_read(self, region, offset):
        """Count it."""
        value = yield
        self._counts[f"{region}:{offset:#x}"] += 1
        return value

    @hookimpl
    def emudev_close(self):
        """Write the counts down."""
        counts = {"device": self._device, "reads": dict(self._counts)}
        self._report.write_text(json.dumps(counts))
