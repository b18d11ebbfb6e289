"""Rows as text: aligned columns, or a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["columns", "markdown"]


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under a head, each column as wide as its widest cell."""
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)
