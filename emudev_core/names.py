"""Names that users type: the hint that an error about an unknown one gives."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["hint"]


def hint(name: str, known: Iterable[str]) -> str:
    """What a user who typed `name` may have meant.

    Args:
        name: What came.
        known: What would have been right, in any order.

    Returns:
        ``did you mean path?`` if a known name is near, else ``known: id, path, ...``, or an empty
        text if nothing is known.
    """
    import difflib  # only ever needed for an error

    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(names)}" if names else ""
