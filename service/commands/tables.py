"""Tables for a terminal, in which what somebody copies is never cut.

    print_columns(console, ("job", "state", "paths"), rows)

Ids, states and times stay whole; of what is longer than a line, paths and reasons, the rest of the line is made use of.
Where even that is too narrow, the table is wider than the terminal, which then breaks its lines. Cells are text as it
is: brackets in them are no markup.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

LEAST_WIDTH = 20  # of a column that folds
GAP = 3  # between two columns


def print_columns(
    console: Console,
    names: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    folding: Collection[str] | None = None,
    right: Collection[str] = (),
) -> None:
    """Show rows of text under names.

    Args:
        console: Where to print.
        names: Name of each column.
        rows: As many cells each.
        folding: Columns that may take several lines. Default: the last.
        right: Columns that stand at their right edge.
    """
    folding = names[-1:] if folding is None else folding
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [
        max(
            cell_len(line)
            for text in (name, *(row[number].plain for row in cells))
            for line in text.split("\n")
        )
        for number, name in enumerate(names)
    ]
    _share(widths, [names.index(name) for name in folding], room=console.width - GAP * len(names) + 1)
    total = sum(widths) + GAP * len(names) - 1
    table = Table(box=box.SIMPLE, show_edge=False, width=total if total > console.width else None)
    for name, width in zip(names, widths, strict=True):
        table.add_column(
            Text(name), width=width, overflow="fold", justify="right" if name in right else "left"
        )
    for row in cells:
        table.add_row(*(break_text(cell, width) for cell, width in zip(row, widths, strict=True)))
    console.print(table, crop=False)


def _share(widths: list[int], folding: Sequence[int], *, room: int) -> None:
    """Share what the whole columns leave among those that fold, in place; what a narrow one leaves goes to the others.

    Args:
        widths: Cells that each column would need.
        folding: Which of them fold.
        room: Cells there are for all columns.
    """
    left = room - sum(width for number, width in enumerate(widths) if number not in folding)
    waiting = sorted(folding, key=widths.__getitem__)
    for position, number in enumerate(waiting):
        share = left // (len(waiting) - position)
        widths[number] = min(widths[number], max(share, LEAST_WIDTH))
        left -= widths[number]


def break_text(text: Text, width: int) -> Text:
    """Break text that is too long, paths before a name in them rather than in its middle.

    Args:
        text: One or more lines.
        width: Cells there are.

    Returns:
        The text with line breaks: `/library/rain/` `heavy-rain.wav` of 15 cells. A piece without a place to break
        stays as it is.
    """
    lines = text.plain.split("\n")
    if max(map(cell_len, lines)) <= width:
        return text
    broken = []
    for line in lines:
        begun = ""
        for piece in re.findall(r"[^\s/]*(?:/|\s+)|[^\s/]+", line):
            if begun and cell_len(begun + piece.rstrip()) > width:
                broken.append(begun.rstrip())
                begun = ""
            begun += piece
        broken.append(begun.rstrip())
    return Text("\n".join(broken), style=text.style)
