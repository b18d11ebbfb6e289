"""Log records as lines on stderr. Only the command line configures logging."""

from __future__ import annotations

import logging
import sys
from typing import Final

from ..plugins import Plugins

__all__ = ["LEVELS", "set_up_logging"]

LEVELS: Final = ("error", "warning", "info", "debug")


class _Lines(logging.Formatter):
    """``emudev: text``, with the level unless it is information; a traceback only for debugging."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"emudev: {level}{record.getMessage()}"
        if self._verbose:
            text = f"{text}  [{record.name}]"
            if record.exc_info and record.exc_info[0] is not None:
                text = f"{text}\n{self.formatException(record.exc_info)}"
        return text


class _Ours(logging.Filter):
    """Lets other libraries speak from warnings on only."""

    def __init__(self, packages: set[str]) -> None:
        super().__init__()
        self._packages = packages

    def filter(self, record: logging.LogRecord) -> bool:
        package = record.name.partition(".")[0]
        ours = package.startswith("emudev") or package in self._packages
        return ours or record.levelno >= logging.WARNING


def set_up_logging(level: str, plugins: Plugins) -> None:
    """Show records of `level` and above on stderr.

    Args:
        level: One of `LEVELS`.
        plugins: Whose packages may speak below warnings too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(verbose=level == "debug"))
    handler.addFilter(_Ours(plugins.packages))
    root = logging.getLogger()
    for former in [h for h in root.handlers if isinstance(h.formatter, _Lines)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
