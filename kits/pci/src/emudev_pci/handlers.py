"""Which methods of a class serve which registers.

`RegisterMap.on_read` and `on_write` mark methods; here the marks are gathered and checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from .registers import HANDLERS, Handler, Reg, RegisterMap, RegisterMapError

__all__ = ["check_maps", "handlers_of"]


def handlers_of(cls: type, map: RegisterMap) -> dict[tuple[str, bool], tuple[str, Handler]]:
    """The handlers of a class for a map: (register, write) to (method name, handler).

    A method of a subclass that overrides a handler by its own name serves in its place, decorated
    or not; one that handles the same register under another name replaces it, too.

    Raises:
        RegisterMapError: One class has two handlers for the same, or a handler that does not take
            the arguments which the register needs.
    """
    found: dict[tuple[str, bool], tuple[str, Handler]] = {}
    for base in reversed(cls.__mro__):
        here: dict[tuple[str, bool], tuple[str, Handler]] = {}
        for name, method in vars(base).items():
            tags: Sequence[Handler] = getattr(method, HANDLERS, ()) if callable(method) else ()
            for tag in tags:
                if tag.map is not map:
                    continue
                key = (tag.register, tag.write)
                if key in here:
                    what = "writes" if tag.write else "reads"
                    raise RegisterMapError(
                        f"{base.__qualname__}: {here[key][0]} and {name} both handle {what} of "
                        f"{tag.register}"
                    )
                _check_arguments(method, name, tag, map[tag.register])
                here[key] = (name, tag)
        found.update(here)
    return found


def _check_arguments(method: Callable[..., Any], name: str, tag: Handler, reg: Reg) -> None:
    wanted = ["self"] + (["index"] if reg.count > 1 else []) + (["value"] if tag.write else [])
    try:
        inspect.signature(method).bind(*wanted)
    except TypeError:
        raise RegisterMapError(
            f"{method.__qualname__}: a handler of {reg.name} takes ({', '.join(wanted)})"
        ) from None


def check_maps(cls: type, maps: Sequence[RegisterMap]) -> None:
    """Check that every handler of a class is for one of its maps.

    Raises:
        RegisterMapError: One is not, so that nobody would ever call it.
    """
    for base in cls.__mro__:
        for name, method in vars(base).items():
            for tag in getattr(method, HANDLERS, ()) if callable(method) else ():
                if not any(tag.map is known for known in maps):
                    raise RegisterMapError(
                        f"{base.__qualname__}.{name} handles {tag.register} of {tag.map.name}, "
                        "which is in none of its BARs"
                    )
