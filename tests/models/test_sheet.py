from pathlib import Path

import pytest

from models.sheet import Sheet, UnreadableSheet, read_sheet


def read(tmp_path: Path, content: str | bytes) -> Sheet:
    file = tmp_path / "sheet.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_sheet(file, column="path")


ROWS = (
    {"path": "a, b.wav", "lufs": "-23,5", "mood": "ruhig; kühl"},
    {"path": "ä.wav", "lufs": "", "mood": "x"},
)
COMMA = 'path,lufs,mood\r\n"a, b.wav","-23,5",ruhig; kühl\r\n\r\nä.wav,,x\r\n,,\r\n'
SEMICOLON = 'path;lufs;mood\r\na, b.wav;-23,5;"ruhig; kühl"\r\n\r\nä.wav;;x\r\n;;\r\n'
TAB = "path\tlufs\tmood\r\na, b.wav\t-23,5\truhig; kühl\r\n\r\nä.wav\t\tx\r\n\t\t\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("text", "separator"), [(COMMA, ","), (SEMICOLON, ";"), (TAB, "\t")])
def test_a_sheet_reads_the_same_however_it_was_saved(
    tmp_path: Path, text: str, separator: str, encoding: str
) -> None:
    sheet = read(tmp_path, text.encode(encoding))
    assert (sheet.columns, sheet.separator) == (("path", "lufs", "mood"), separator)
    assert tuple(row for _, row in sheet.rows) == ROWS
    assert [line for line, _ in sheet.rows] == [2, 4]


def test_utf_16_of_the_other_byte_order_and_the_separator_that_excel_names(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xfe\xff" + TAB.encode("utf-16-be")).rows[0][1] == ROWS[0]
    sheet = read(tmp_path, "sep=|\r\npath|mood\r\na;b,c.wav|x\r\n")
    assert sheet.rows == ((3, {"path": "a;b,c.wav", "mood": "x"}),)


@pytest.mark.parametrize(
    ("first", "separator"),
    [
        ("path", ","),
        ("id;path,x", ","),
        ('"path";"a,b,c"', ";"),
        ("path;a,b,c,d", ";"),
        ("file;take;x", ";"),
        ("", ","),
    ],
)
def test_the_separator_is_one_that_gives_the_column(tmp_path: Path, first: str, separator: str) -> None:
    assert read(tmp_path, first).separator == separator


def test_a_decimal_comma_is_one_only_between_semicolons(tmp_path: Path) -> None:
    semicolons, commas = read(tmp_path, SEMICOLON), read(tmp_path, COMMA)
    assert [semicolons.point(t) for t in ("-23,5", "1.5", "1,2,3", "a,5", "1.234,5", "7")] == [
        "-23.5", "1.5", "1,2,3", "a,5", "1.234,5", "7",
    ]  # fmt: skip
    assert commas.point("-23,5") == "-23,5"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path;x\na.wav;1;2\n", r"line 2 has more cells than .*\(3, 2\): quote cells that hold semicolons"),
        ('path,x\na,1\n"b,2\n', "line 3: "),
        (b"path;x\nm\xfcde.wav;1\n", "line 2 is not UTF-8 text: save it as `CSV UTF-8`"),
        ("path\tx\n".encode("utf-16-le"), "null bytes"),
        (b"\xff\xfep\x00\x00\xd8", "line 1 is not"),  # half a pair of UTF-16
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UnreadableSheet, match=message):
        read(tmp_path, content)
