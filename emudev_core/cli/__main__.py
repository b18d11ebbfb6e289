"""``python -m emudev_core.cli``: the same as ``emudev``."""

import sys

from .program import main

sys.exit(main())
