"""The command line: ``emudev COMMAND``; one module a command, and those that plugins offer."""

from .program import main

__all__ = ["main"]
