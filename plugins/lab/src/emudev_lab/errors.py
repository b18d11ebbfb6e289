"""Errors of the lab, all of them `emudev_core.errors.EmudevError`.

LabError            the lab can't do what was asked: not prepared, no such script, no rights
├── GuestError      the guest did not boot, did not answer in time, or ended by itself
└── CommandError    a command ended with another status than 0
"""

from __future__ import annotations

from emudev_core.errors import EmudevError

__all__ = ["CommandError", "GuestError", "LabError"]


class LabError(EmudevError):
    """The lab can't do what was asked."""


class GuestError(LabError):
    """The guest did not boot, did not answer in time, or ended by itself."""


class CommandError(LabError):
    """A command in the guest or on the host side that failed.

    Args:
        command: What was run.
        status: Its exit status.
        output: What it printed, standard error included.
    """

    def __init__(self, command: str, status: int, output: str) -> None:
        super().__init__(f"exit status {status} of: {command}\n{output}".rstrip())
        self.command = command
        self.status = status
        self.output = output
