"""A table that people made: CSV with the separator and the encoding of whatever spreadsheet wrote it.

    sheet = read_sheet(Path("takes.csv"), column="path")
    for line, row in sheet.rows: print(line, row["path"])

The separator is `,`, `;` or a tab, found in the line of column names, or named by Excel's `sep=;`. The text is UTF-8,
or UTF-16 if it begins with its mark.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

SEPARATORS = ",;\t"
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class UnreadableSheet(ValueError):
    """A file that is no table of text; the message names the line and what to do."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table.

    Attributes:
        columns: Names of the columns.
        rows: Number of its last line in the file and the cells by column, for each row that is not empty.
        separator: What stands between two cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    separator: str

    def point(self, text: str) -> str:
        """Write a number with a point: where the comma is decimal, spreadsheets separate cells by `;`.

        Args:
            text: A cell.

        Returns:
            `-23.5` for `-23,5` in a table separated by `;`, else the cell as it is.
        """
        is_number = self.separator == ";" and re.fullmatch(r"-?[0-9]+,[0-9]+", text)
        return text.replace(",", ".") if is_number else text


def read_sheet(file: Path, *, column: str) -> Sheet:
    """Read a table.

    Args:
        file: The CSV file.
        column: A column that it should have: the separator is one with which it does.

    Returns:
        The table; whether it has the column is not checked.

    Raises:
        UnreadableSheet: If the encoding is another one, a quote is not closed, or a row has more cells than columns.
    """
    text = _read_text(file.read_bytes())
    named = re.match(r"sep=(.)\r?\n", text)
    start = named.end() if named else 0
    separator = named[1] if named else _find_separator(text, column)
    reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num + bool(named), cells) for cells in reader if cells]
    except csv.Error as exc:
        raise UnreadableSheet(f"line {reader.line_num + bool(named)}: {exc}") from exc
    columns = tuple(name.strip() for name in lines[0][1]) if lines else ()
    for number, cells in lines[1:]:
        if len(cells) > len(columns):
            raise UnreadableSheet(
                f"line {number} has more cells than there are columns ({len(cells)}, {len(columns)}): quote cells that "
                f"hold {NAMES.get(separator, repr(separator))}"
            )
    rows = ((number, dict(zip(columns, cells, strict=False))) for number, cells in lines[1:] if any(cells))
    return Sheet(columns=columns, rows=tuple(rows), separator=separator)


def _read_text(raw: bytes) -> str:
    encoding = next((name for mark, name in ENCODINGS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise UnreadableSheet(f"line {line} is not UTF-8 text: save it as `CSV UTF-8`") from exc
    if "\0" in text:
        raise UnreadableSheet("it holds null bytes and is not UTF-8 text: save it as `CSV UTF-8`")
    return text


def _find_separator(text: str, column: str) -> str:
    """The separator of the column names: one that gives the column, then the one that gives most of them."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def fits(separator: str) -> tuple[bool, int]:
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        return column in names, len(names)

    return max(SEPARATORS, key=fits)
