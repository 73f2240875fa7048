"""What the user's files are called: texts that words are learned from; any share of the files may have none.

    read_captions(assets, ["metadata:title", "metadata:tags", "ucs", "filename"])

Unlike labels, texts of all sources count: a clip meets one of them at a time.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from training.adapting.labels import UCS_NAME, texts_of
from training.data.stored_tracks import StoredAsset

SOURCES = (
    "metadata:caption",
    "metadata:description",
    "metadata:title",
    "metadata:tags",
    "ucs",
    "filename",
)
"""Where texts come from if nothing else is said."""
MIN_LETTERS = 3
_PARTS = re.compile(r"[^\W\d_]+")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

Read = Callable[[StoredAsset], str]


class UnknownCaptions(ValueError):
    """A source of texts is not one, or the texts say nothing."""


def read_captions(assets: Sequence[StoredAsset], sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Read the texts of files.

    Args:
        assets: The files.
        sources: `metadata:KEY`, `filename`, `folder`, `ucs` or `csv:FILE` (columns path and caption).

    Returns:
        The texts of each file, none twice; none at all if nothing is said of it.

    Raises:
        UnknownCaptions: If a source is unknown or cannot be read, or the files have no text, or all the same one.
    """  # noqa: DOC503 - raised here and where sources are read
    readers = [_reader(source) for source in sources]
    found = [
        tuple(dict.fromkeys(text for read in readers if (text := read(asset).strip()))) for asset in assets
    ]
    named = ", ".join(sources)
    texts = {text for some in found for text in some}
    if not texts:
        raise UnknownCaptions(f"none of {len(assets)} files has words in {named}: give titles or tags first")
    if len(texts) == 1:
        number = sum(map(bool, found))
        raise UnknownCaptions(
            f"{number} files have words in {named}, and all the same ones, {min(texts)!r}: nothing can be learned"
        )
    return found


def words_of(name: str) -> str:
    """The words in a name: `DOORWood_Squeak-02.wav` → door wood squeak; words of one or two letters are left out."""
    parts = [part for piece in _PARTS.findall(name) for part in _HUMPS.split(piece)]
    return " ".join(part.lower() for part in parts if len(part) >= MIN_LETTERS)


def _reader(source: str) -> Read:
    kind, _, rest = source.partition(":")
    if kind == "metadata" and rest:
        return lambda asset: ", ".join(sorted(texts_of(asset.metadata.get(rest))))
    if source == "filename":
        return lambda asset: words_of(PurePath(asset.paths[0]).stem)
    if source == "folder":
        return lambda asset: words_of(PurePath(asset.paths[0]).parent.name)
    if source == "ucs":
        return lambda asset: next(
            (
                words_of(found[1])
                for path in asset.paths
                if (found := UCS_NAME.fullmatch(PurePath(path).stem))
            ),
            "",
        )
    if kind == "csv" and rest:
        table = _read_table(Path(rest))
        return lambda asset: next(
            (
                table[key]
                for key in (*asset.paths, *(PurePath(path).name for path in asset.paths))
                if key in table
            ),
            "",
        )
    raise UnknownCaptions(f"texts come from metadata:KEY, filename, folder, ucs or csv:FILE, not {source!r}")


def _read_table(file: Path) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            return {row["path"].strip(): row["caption"].strip() for row in csv.DictReader(opened)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as exc:
        raise UnknownCaptions(f"{file} is no CSV with the columns path and caption: {exc!r}") from exc
