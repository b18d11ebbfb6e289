"""Hook specifications: what plugins implement.

`registration` is the only process-wide group; the others belong to one device each and live in its
relay. Hooks with one answer are marked `firstresult`; the others are announced to all.
"""

from __future__ import annotations

from typing import Final

import pluggy

__all__ = ["NAME", "hookimpl", "hookspec"]

#: The name of the project in pluggy and of the entry-point group.
NAME: Final = "emudev"

hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)
