"""Whose fault an exception is: the plugin in whose code it was raised."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator

from .relay import Member

__all__ = ["culprit"]


def culprit(
    error: BaseException, members: Iterable[Member], *, by_package: bool = True
) -> Member | None:
    """The member of a relay in whose code an exception was raised, innermost first.

    Args:
        error: With its traceback.
        members: Who may have raised it.
        by_package: Look at packages too where no frame belongs to a member's own object.

    Returns:
        The member whose object a frame belongs to, else one whose package it is; None if no frame
        is of any of them.
    """
    known = list(members)
    objects = {id(member.plugin): member for member in known}
    packages = {_package(type(member.plugin).__module__): member for member in reversed(known)}
    packages.pop("emudev_core", None)  # the loop and the relay are in every traceback
    neighbour = None
    for frame in _frames(error):
        member = objects.get(id(frame.f_locals.get("self")))
        if member is not None:
            return member
        if neighbour is None and by_package:
            neighbour = packages.get(_package(frame.f_globals.get("__name__", "")))
    return neighbour


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    yield from reversed(frames)


def _package(module: str) -> str:
    return module.partition(".")[0]
