"""Rows of a benchmark, and the Markdown table that they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        what: The work.
        value: The figure with its unit.
        bound: What was asked for, with its unit.
        kept: Whether it was reached.
        note: Where it falls short: the reason found.
        ratio: To what it is compared with, for the plot; 0: not in the plot.
        target: The ratio that was asked for; 0: none.
    """

    what: str
    value: str
    bound: str
    kept: bool
    note: str = ""
    ratio: float = 0.0
    target: float = 0.0


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| work | measured | asked for | reached | note |", "|---|---:|---:|---|---|"]
    lines += [
        f"| {r.what} | {r.value} | {r.bound} | {'yes' if r.kept else '**no**'} | {r.note} |"
        for r in rows
    ]
    return "\n".join(lines)


def print_rows(rows: Iterable[Row]) -> None:
    """Print the table."""
    print(markdown(rows))
