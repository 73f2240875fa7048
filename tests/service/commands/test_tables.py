"""Tables: ids whole, paths broken where they have a place to break, brackets as they are."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from service.commands.tables import break_text, print_columns

ID = "8f14e45fceea467a9c1d2b3a4f5e6d7c"


def show(names: list[str], rows: list[tuple[str, ...]], *, width: int, **options: list[str]) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_columns(console, names, rows, **options)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_ids_states_and_times_are_whole(width: int) -> None:
    row = (ID, "cancelled", "2026-11-22 00:34", "/library/" + "x" * 60 + "/a.wav")
    lines = show(["job", "state", "asked for", "paths"], [row], width=width)
    assert any(all(cell in line for cell in row[:3]) for line in lines)
    assert all(cell_len(line) <= max(width, 88) for line in lines)  # 32 + 9 + 16 + 20, and 11 between


def test_a_path_is_broken_before_a_name() -> None:
    path = "/library/rain/heavy-rain-on-a-tin-roof.wav"
    lines = show(["#", "file"], [("1", path)], width=40)
    assert [line.split()[-1] for line in lines[2:]] == ["/library/rain/", "heavy-rain-on-a-tin-roof.wav"]
    assert break_text(Text(path), 42).plain == path
    assert break_text(Text("a b/c d"), 4).plain == "a b/\nc d"


def test_a_name_without_a_place_to_break_is_folded_and_not_lost() -> None:
    name = "abcdefghij" * 6
    lines = show(["#", "file"], [("1", name)], width=40)
    assert "".join(line[3:].strip() for line in lines[2:]) == name


def test_two_columns_share_what_is_left() -> None:
    rows = [("/a.wav", "empty", "the file is empty: 0 bytes, and it was so the last time too")]
    lines = show(["file", "code", "reason"], rows, width=60, folding=["file", "reason"])
    assert all(cell_len(line) <= 60 for line in lines)
    assert len(lines) == 4  # the reason takes what the short path leaves


def test_brackets_are_no_markup() -> None:
    rows = [("pip install 'foley-av[openvino]'", "[red]x[/red]")]
    text = "\n".join(show(["[bold]a", "b"], rows, width=80))
    assert all(cell in text for cell in ("[bold]a", *rows[0]))
