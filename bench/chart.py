"""A plot of rows: a bar for each ratio, a mark where it was to reach, a line at the peer's 1.

`svg` makes it as text, so that a page can show it without anything being installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from table import Row

_LABEL: Final = 330  # pixels for the words at the left
_WIDTH: Final = 420  # for the bars
_LINE: Final = 24
_TOP: Final = 34

_STYLE: Final = """
text { font: 12px sans-serif; fill: #222 } .small { font-size: 11px; fill: #666 }
.kept { fill: #4477aa } .short { fill: #cc6677 } .target { stroke: #222; stroke-width: 2 }
.grid { stroke: #ddd } .one { stroke: #666; stroke-dasharray: 4 3 }
"""


def svg(rows: Iterable[Row], title: str) -> str:
    """The plot of the rows that have a ratio.

    Args:
        rows: In the order from top to bottom.
        title: Above it.
    """
    shown = [row for row in rows if row.ratio > 0]
    most = max([1.0, *(max(row.ratio, row.target) for row in shown)]) * 1.12
    scale = _WIDTH / most
    height = _TOP + _LINE * len(shown) + 26
    bottom = _TOP + _LINE * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LABEL + _WIDTH + 20} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="18">{escape(title)}</text>',
    ]
    step = 0.5 if most <= 4 else 1.0
    tick = 0.0
    while tick <= most:
        x = _LABEL + tick * scale
        kind = "one" if tick == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="26" x2="{x:.1f}" y2="{bottom}"/>')
        place = f'x="{x:.1f}" y="{bottom + 16}" text-anchor="middle"'
        parts.append(f'<text class="small" {place}>{tick:g}</text>')
        tick += step
    for number, row in enumerate(shown):
        y = _TOP + _LINE * number
        kind = "kept" if row.kept else "short"
        label = escape(row.what.replace("`", ""))
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{label}</text>')
        parts.append(
            f'<rect class="{kind}" x="{_LABEL}" y="{y + 3}" width="{row.ratio * scale:.1f}" '
            f'height="{_LINE - 8}"/>'
        )
        end = _LABEL + row.ratio * scale
        parts.append(f'<text class="small" x="{end + 5:.1f}" y="{y + 15}">{row.ratio:.2f}</text>')
        if row.target:
            x = _LABEL + row.target * scale
            parts.append(
                f'<line class="target" x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + _LINE - 2}"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"
