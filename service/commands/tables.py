"""Tables for a terminal, in which what somebody copies is never cut.

    print_columns(console, ("job", "state", "paths"), rows)

Ids, states and times stay whole. Columns that fold, paths and reasons, share the rest of the line, and break before a
name of a path. If even that is too narrow, the table is wider than the terminal, which then breaks its lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MIN_WIDTH = 20  # of a column that folds
GAP = 3  # between two columns


@dataclass(frozen=True)
class _Folding:
    """Text that breaks before a name of a path, rather than in its middle."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield break_text(self.text, options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = _width(self.text.plain)
        return Measurement(min(width, MIN_WIDTH), width)


def print_columns(
    console: Console,
    names: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    folding: Collection[str] | None = None,
    right: Collection[str] = (),
) -> None:
    """Show rows of text under names. `folding` columns may take several lines (default: the last)."""
    folding = names[-1:] if folding is None else folding
    table = Table(box=box.SIMPLE, show_edge=False)
    total = GAP * len(names) - 1
    for number, name in enumerate(names):
        width = max(_width(str(cell)) for cell in (name, *(row[number] for row in rows)))
        least = min(width, MIN_WIDTH) if name in folding else width
        total += least
        table.add_column(
            Text(name),
            min_width=least,
            no_wrap=name not in folding,
            overflow="fold",
            justify="right" if name in right else "left",
        )
    for row in rows:
        cells = [Text(cell) if isinstance(cell, str) else cell for cell in row]
        table.add_row(*(_Folding(cell) if names[n] in folding else cell for n, cell in enumerate(cells)))
    if total > console.width:
        table.width = total
    console.print(table, crop=False)


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def break_text(text: Text, width: int) -> Text:
    """Break lines longer than `width` cells, if they have a place to: `/library/rain/` `heavy-rain.wav`."""
    if _width(text.plain) <= width:
        return text
    broken = []
    for line in text.plain.split("\n"):
        begun = ""
        for piece in re.findall(r"[^\s/]*(?:/|\s+)|[^\s/]+", line):
            if begun and cell_len(begun + piece.rstrip()) > width:
                broken.append(begun.rstrip())
                begun = ""
            begun += piece
        broken.append(begun.rstrip())
    return Text("\n".join(broken), style=text.style)
