"""One fuzzed target in a process of its own: ``child.py TARGET [libFuzzer's options]``.

Kernels run as plain Python (EMUDEV_JIT=0), so that what they do is covered like everything else.
"""

from __future__ import annotations

import logging
import os
import sys

os.environ["EMUDEV_JIT"] = "0"

import atheris

OURS = ["emudev_core", "emudev_net", "emudev_pci", "emudev_avf", "emudev_vfio_user", "emudev_memif"]

with atheris.instrument_imports(include=OURS, enable_loader_override=False):
    import targets

    # They are imported when they are needed: once is enough to have all of them covered.
    target, _ = targets.TARGETS[sys.argv[1]]
    target(b"\4\1\1\1")


def main() -> None:
    """Fuzz until the time is over, or something is found."""
    logging.disable(logging.CRITICAL)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


main()
