"""Labels of a library's files, from what is known of them already; any share may be missing.

    read_labels(assets, ["metadata:tags", "folder", "ucs", "csv:labels.csv"])

A file's first source that says anything counts. A label that fewer than `MIN_FILES` files have is left out.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.stored_tracks import StoredAsset

MIN_FILES = 2
UCS_NAME = re.compile(r"([A-Z]{2,6}[A-Z][a-z][A-Za-z]*|[A-Z]{3,5}[A-Za-z]+)_.+")
"""A name of the Universal Category System starts with its category: `DOORWood_Squeak.wav`."""

Read = Callable[[StoredAsset], set[str]]


class UnknownLabels(ValueError):
    """A source of labels is not one, or says nothing about any file."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of N files.

    Attributes:
        names: The C labels.
        truth: Which file has which, bool, shape (N, C).
        has_many: Whether a file may have several.
    """

    names: tuple[str, ...]
    truth: NDArray[np.bool_]
    has_many: bool

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """Which files have any label, bool, shape (N,)."""
        return np.asarray(self.truth.any(axis=1))


def read_labels(assets: Sequence[StoredAsset], sources: Sequence[str]) -> Labels:
    """Read the labels of files.

    Args:
        assets: The files.
        sources: `metadata:KEY`, `folder`, `ucs` or `csv:FILE`, in the order in which they count.

    Returns:
        Labels; `truth` has a row for each file.

    Raises:
        UnknownLabels: If a source is unknown or cannot be read, or fewer than two labels remain.
    """
    readers = [_reader(source) for source in sources]
    found: list[set[str]] = []
    for asset in assets:
        found.append(next((labels for read in readers if (labels := read(asset))), set()))
    counts = Counter(label for labels in found for label in labels)
    names = tuple(sorted(label for label, number in counts.items() if number >= MIN_FILES))
    if len(names) < 2:
        raise UnknownLabels(
            f"{', '.join(sources)} give {len(names)} labels that {MIN_FILES} files or more have; 2 are needed"
        )
    places = {name: number for number, name in enumerate(names)}
    truth = np.zeros((len(assets), len(names)), bool)
    for row, labels in enumerate(found):
        truth[row, [places[label] for label in labels if label in places]] = True
    return Labels(names=names, truth=truth, has_many=bool((truth.sum(axis=1) > 1).any()))


def _reader(source: str) -> Read:
    kind, _, rest = source.partition(":")
    if kind == "metadata" and rest:
        return lambda asset: texts_of(asset.metadata.get(rest))
    if source == "folder":
        return lambda asset: texts_of(PurePath(asset.paths[0]).parent.name)
    if source == "ucs":
        return lambda asset: {
            match[1] for path in asset.paths if (match := UCS_NAME.fullmatch(PurePath(path).stem))
        }
    if kind == "csv" and rest:
        table = _read_table(Path(rest))
        return lambda asset: set().union(*(table.get(key, set()) for key in _keys(asset)))
    raise UnknownLabels(f"labels come from metadata:KEY, folder, ucs or csv:FILE, not {source!r}")


def texts_of(value: Any) -> set[str]:
    """The texts of a value of metadata: itself, or each of a list; empty ones are left out."""
    values = value if isinstance(value, list) else [value]
    return {str(one).strip() for one in values if one is not None and str(one).strip()}


def _keys(asset: StoredAsset) -> set[str]:
    return {asset.asset_id, *asset.paths, *(PurePath(path).name for path in asset.paths)}


def _read_table(file: Path) -> Mapping[str, set[str]]:
    """Labels by path, file name or asset id, from columns `path` and `label`; a label a row, or parted by `;`."""
    table: dict[str, set[str]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            for row in csv.DictReader(opened):
                labels = {label.strip() for label in row["label"].split(";") if label.strip()}
                table.setdefault(row["path"].strip(), set()).update(labels)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as exc:
        raise UnknownLabels(f"{file} is no CSV with the columns path and label: {exc!r}") from exc
    return table
