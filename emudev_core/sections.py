"""What a plugin shows of itself: sections of rows, for `emudev ctl show` and for programs.

A section is a name and a function that reads its rows when somebody asks. A row is a mapping from
column to value; all values are plain ones, so that they can be printed and encoded. A provider, its
transport and its backends give theirs by the hook `emudev_get_state`.

    table = SectionTable()
    table.add("filters", "what the guest receives", self._filters, hex=("address",))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

__all__ = ["Row", "Section", "SectionTable", "Value"]

Value = bool | int | float | str | None
Row = Mapping[str, Value]


@attrs.frozen
class Section:
    """One part of what a plugin shows.

    Attributes:
        name: Lower case letters, digits and dashes; unique within the plugin.
        doc: What it shows, in one line.
        read: Returns its rows, on the loop's thread, without waiting. All rows have the same
            columns, in the same order.
        hex: Columns whose numbers are shown to people as hexadecimal ones.
    """

    name: str
    doc: str
    read: Callable[[], Iterable[Row]]
    hex: tuple[str, ...] = ()


class SectionTable:
    """The sections of one plugin; whoever knows the plugin may add to them.

    For the loop's thread.
    """

    def __init__(self) -> None:
        self._sections: dict[str, Section] = {}

    def add(
        self,
        name: str,
        doc: str,
        read: Callable[[], Iterable[Row]],
        hex: tuple[str, ...] = (),
    ) -> None:
        """Add a section, or replace the one of that name; see `Section`."""
        self._sections[name] = Section(name, doc, read, hex)

    def all(self) -> list[Section]:
        """All of them, in the order in which they were added."""
        return list(self._sections.values())
