"""What people say about assets: merged over HTTP, or read from a file beside the media.

    for annotation in read_annotations(Path("takes.csv")):
        print(annotation.path, annotation.values)

A CSV file (`models.sheet`) has a column `path` and a column for each key; a JSON file is a list of objects with `path`
and keys, or an object of objects by path. Paths are absolute or relative to the file. In CSV, `12` and `-23.5` are
numbers (`-23,5` too between `;`), `true` and `false` are booleans, a JSON list is a list, an empty cell is ignored, and
all else is text.
`service.commands.annotation` applies it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.sheet import read_sheet
from service.index.contract import Asset, Index, MetadataValue, is_value
from service.index.failure import InvalidSegment
from service.index.payload import describe_metadata
from service.library.locations import is_url
from service.system.failure import Failure

MAX_KEYS = 64
MAX_KEY_CHARS = 128
MAX_TEXT_CHARS = 1024
MAX_LIST_VALUES = 64
PATH_KEY = "path"
# 007 stays text, because as a number it would not come back as it was written; so does 3e8, unlike the 1e-07 of JSON
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]+)?")
_MERGING = threading.Lock()


class InvalidMetadata(Failure):
    """Metadata that cannot be stored, or a file that is not one of metadata."""

    code = "invalid_parameter"

    @property
    def errors(self) -> list[dict[str, str]]:
        """The parameter at fault, for an answer over HTTP."""
        return [{"parameter": "metadata", "message": str(self)}]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What a file says about one media file."""

    path: str
    values: Mapping[str, Any]


def merge_metadata(index: Index, asset_id: str, changes: Mapping[str, Any]) -> Asset | None:
    """Change the metadata of an asset: None removes a key, keys that are not named keep their values (RFC 7396).

    Returns the asset as it is now, None if there is none. Two merges in one process take turns. If several processes
    serve one index, the later of two that read the same state wins.
    """
    return change_metadata(index, asset_id, lambda _: changes)


def change_metadata(
    index: Index, asset_id: str, choose: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Asset | None:
    """`merge_metadata` with changes that are chosen by what the metadata are."""
    with _MERGING:
        asset = index.get_asset(asset_id)
        if asset is None:
            return None
        merged = {**asset.metadata, **choose(asset.metadata)}
        merged = {key: value for key, value in merged.items() if value is not None}
        check_size(merged)
        if merged != asset.metadata and not index.set_metadata(asset_id, merged):
            return None
        return index.get_asset(asset_id)


def inherit_metadata(index: Index, asset_id: str, metadata: Mapping[str, Any]) -> bool:
    """Give an asset what people said of another; a key with two values gets a list of both. False if that fails."""
    with _MERGING:
        asset = index.get_asset(asset_id)
        if asset is None:
            return False
        merged = {**metadata, **asset.metadata}
        for key in metadata.keys() & asset.metadata.keys():
            own, others = (
                v[key] if isinstance(v[key], list) else [v[key]] for v in (asset.metadata, metadata)
            )
            if more := [value for value in others if repr(value) not in map(repr, own)]:
                merged[key] = [*own, *more]
        try:
            check_size(merged)
        except InvalidMetadata:
            return False
        return merged == asset.metadata or index.set_metadata(asset_id, merged)


def check_size(metadata: Mapping[str, Any]) -> None:
    """Raise `InvalidMetadata` if an asset's metadata is too large, or a value is of a kind it cannot have."""
    if len(metadata) > MAX_KEYS:
        raise InvalidMetadata(f"an asset may have {MAX_KEYS} keys, got {len(metadata)}")
    for key, given in metadata.items():
        values = given if isinstance(given, list) else [given]
        if len(key) > MAX_KEY_CHARS or len(values) > MAX_LIST_VALUES:
            raise InvalidMetadata(
                f"a key may have {MAX_KEY_CHARS} characters and {MAX_LIST_VALUES} values, got {key[:80]!r}"
            )
        if any(isinstance(value, str) and len(value) > MAX_TEXT_CHARS for value in values):
            raise InvalidMetadata(f"a text may have {MAX_TEXT_CHARS} characters, {key!r} has more")
    try:
        describe_metadata(metadata)
    except InvalidSegment as exc:
        raise InvalidMetadata(str(exc)) from exc


def read_annotations(file: Path) -> Iterator[Annotation]:
    """Read a file of metadata, CSV or JSON by the end of its name; raises `InvalidMetadata` if it is neither."""
    try:
        rows = list(_read_json(file) if file.suffix.lower() == ".json" else _read_csv(file))
    except ValueError as exc:
        raise InvalidMetadata(f"{file} cannot be read: {exc}") from exc
    for number, row in enumerate(rows, start=1):
        path = row.pop(PATH_KEY, None)
        if not isinstance(path, str) or not path:
            raise InvalidMetadata(f"{file}: row {number} has no {PATH_KEY!r}")
        try:
            check_size(row)
        except InvalidMetadata as exc:
            raise InvalidMetadata(f"{file}: row {number}: {exc}") from exc
        place = path if is_url(path) else os.path.normpath(file.absolute().parent / path)
        yield Annotation(path=place, values=row)


def _read_csv(file: Path) -> Iterator[dict[str, Any]]:
    sheet = read_sheet(file, column=PATH_KEY)
    if PATH_KEY not in sheet.columns:
        raise ValueError(
            f"it has no column {PATH_KEY!r}, but {', '.join(map(repr, sheet.columns)) or 'none'}"
        )
    for _, row in sheet.rows:
        yield {k: text if k == PATH_KEY else read_value(sheet.point(text)) for k, text in row.items() if text}


def read_value(text: str) -> MetadataValue | list[MetadataValue]:
    """Read a value that people wrote as plain text: `3`, `-23.5`, `true`, `["a", 7]`, `calm`."""
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            found: list[MetadataValue] = json.loads(text)
            return found
    if text in ("true", "false"):
        return text == "true"
    if not NUMBER.fullmatch(text) or text == "-0":
        return text
    if text.lstrip("-").isdigit():
        return int(text) if len(text.lstrip("-")) < 19 else text
    return float(text) if is_value(float(text)) else text


def _read_json(file: Path) -> Iterator[dict[str, Any]]:
    document = json.loads(file.read_bytes())  # UTF-8, -16 or -32, with a mark or without
    if isinstance(document, dict):
        document = [{PATH_KEY: path, **_to_row(values)} for path, values in document.items()]
    if not isinstance(document, list):
        raise ValueError("it must be a list of objects, or an object of objects by path")
    for row in document:
        yield dict(_to_row(row))


def _to_row(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it must hold objects, got {str(value)[:80]!r}")
    return value
