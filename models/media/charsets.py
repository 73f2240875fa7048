"""Text whose encoding nobody declares."""

from __future__ import annotations

import re

# kana, or signs side by side that touch no Latin letter: what Western text in this encoding looks like by chance does
JAPANESE = re.compile(r"[\u3041-\u30ff]|(?<![A-Za-z])[\u4e00-\u9fff]{2,}(?![A-Za-z])")
BY_CHANCE = re.compile(r"[A-Za-z][\u4e00-\u9fff\uff61-\uff9f]|[\u4e00-\u9fff\uff61-\uff9f][A-Za-z]")


def read_text(data: bytes) -> str:
    """Decode bytes as UTF-8, else as Shift-JIS where they look Japanese, else as Windows-1252, else as Latin-1."""
    for charset in ("utf-8-sig", "cp932", "cp1252"):
        try:
            text = data.decode(charset)
        except UnicodeDecodeError as exc:
            if charset == "utf-8-sig" and exc.reason == "unexpected end of data" and exc.start:
                return data[: exc.start].decode(charset)  # a field of fixed length cut the last sign
            continue
        if charset != "cp932" or (JAPANESE.search(text) and not BY_CHANCE.search(text)):
            return text
    return data.decode("latin-1")


def restore_text(text: str) -> str:
    """Decode what was read as UTF-8 with `surrogateescape`, by what its bytes look like."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return read_text(text.encode("utf-8", "surrogateescape"))
    return text
