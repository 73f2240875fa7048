"""The payload of a point: where the asset's files are, what is known about them, what filters look at.

    {"asset_id", "index", "start_seconds", "end_seconds",                      where the segment is
     "paths", "folders", "media", "truths", "metadata", "labels",              the asset, the same in each segment
     "said_numbers",
     "written_at_seconds", "modalities",                                       of the whole asset
     "num_segments", "last_index", "words"}                                    in the first segment alone

A filter becomes conditions on these keys: `folders` holds every folder above a path, and `labels` one word for each key
and value of the metadata, so that one payload index serves all possible keys and `1`, `"1"` and `true` stay apart.
Bounds of numbers look into `metadata` itself, where a key has an index from the first question on. What files say of
themselves (`media.said`) is in `labels`, `words` and `said_numbers` too, where people said nothing else.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from models.media.names import read_path
from service.index.contract import (
    VALUES,
    Asset,
    Bounds,
    Filter,
    MetadataValue,
    SegmentMatch,
    WordMatch,
    WordQuery,
    is_value,
    values_of,
)
from service.index.failure import InvalidSegment

WORDS = ("asset_id", "paths", "folders", "labels", "modalities")  # keys with a payload index
NUMBERS = ("media.duration_seconds", "media.modified_ns")  # the same
SERVER_WORDS = (*WORDS, "truths")  # embedded, one index more would slow down every flush
TRUTHS = ("is_silent", "is_static")  # facts of `media` that become words, like those of `labels`
SAID_NUMBERS = "said_numbers"
OPEN_KEYS = ("metadata.", f"{SAID_NUMBERS}.")  # whatever people and files say
MAX_OPEN_INDEXES = 8  # of numbers under such keys; embedded, each adds 10 fsyncs to a flush
SAID = "said"  # fact of `media`: what the file says of itself
MAX_LABEL_CHARS = 256  # of what a file says, longer texts are found by their words alone
WHOLE = re.compile(r"0|[1-9][0-9]{0,17}")
NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_RAW_PATH = "\0raw:"  # no path holds a NUL


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """The condition that the value of a key, or an element of its list, is one of some words."""

    key: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Within:
    """The condition that a number, or one of a list, under one of two keys lies within bounds; None for no bound."""

    key: str
    other_key: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys to look under."""
        return (self.key,) if self.other_key is None else (self.key, self.other_key)


Condition = AnyOf | Within


def keys_to_index(conditions: Iterable[Condition]) -> list[str]:
    """Keys of numbers that conditions bound: those of what people and files say have no index at first.

    It is made after the first question, which does not wait for it.
    """
    bounds = [one for one in conditions if isinstance(one, Within)]
    return [key for one in bounds for key in one.keys if key.startswith(OPEN_KEYS)]


def to_head_conditions(query: WordQuery) -> list[Condition]:
    """The conditions of a search for words on the head of an asset, but for the words."""
    return [AnyOf(key="modalities", words=(query.target,)), *to_conditions(query.filter)]


def to_conditions(filter: Filter | None) -> list[Condition]:
    """The conditions of a filter on a payload, all of which must hold."""
    if filter is None:
        return []
    conditions: list[Condition] = []
    if filter.folder is not None:
        folder = str(PurePosixPath(filter.folder))  # as Python names it, or as it is shown
        words = tuple(dict.fromkeys(map(store_path, (folder, read_path(folder)))))
        conditions.append(AnyOf(key="folders", words=words))
    if filter.modality is not None:
        conditions.append(AnyOf(key="modalities", words=(filter.modality,)))
    least, most = filter.min_duration_seconds, filter.max_duration_seconds
    if least is not None or most is not None:
        conditions.append(Within(key="media.duration_seconds", at_least=least, at_most=most))
    after, before = (
        None if seconds is None else max(-1e19, min(seconds * 1e9, 1e19))  # within what JSON can say
        for seconds in (filter.modified_after, filter.modified_before)
    )
    if after is not None or before is not None:
        conditions.append(Within(key="media.modified_ns", at_least=after, below=before))
    for key, truth in zip(TRUTHS, (filter.is_silent, filter.is_static), strict=True):
        if truth is not None:
            conditions.append(AnyOf(key="truths", words=(_label(key, truth),)))
    for key, values in filter.metadata.items():
        if isinstance(values, Bounds):
            bounds = Within(
                key=f'metadata."{key}"',
                other_key=f'{SAID_NUMBERS}."{key}"',
                at_least=values.at_least,
                at_most=values.at_most,
            )
            conditions.append(bounds)
            continue
        words = tuple(_label(key, value) for value in values_of(values))
        conditions.append(AnyOf(key="labels", words=words))
    return conditions


def describe_files(paths: Sequence[str], media: Mapping[str, Any]) -> dict[str, Any]:
    """The payload about an asset's files, repeated paths once; `InvalidSegment` without paths or if it is not JSON."""
    if not paths:
        raise InvalidSegment("an asset needs at least one path, got none")
    unique = list(dict.fromkeys(paths))
    folders = {str(folder) for path in unique for folder in PurePosixPath(path).parents}
    return {
        "paths": [store_path(path) for path in unique],
        "folders": sorted(store_path(folder) for folder in folders),
        "media": check_media(media),
        "truths": [_label(key, media[key]) for key in TRUTHS if isinstance(media.get(key), bool)],
        "written_at_seconds": time.time(),
    }


def describe_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of what people said about an asset; raises `InvalidSegment` for keys or values it cannot hold."""
    held: dict[str, Any] = {}
    labels: dict[str, None] = {}
    for key, given in metadata.items():
        values = given if isinstance(given, list | tuple) else [given]
        if not isinstance(key, str) or not all(map(is_value, values)):
            raise InvalidSegment(
                f"metadata holds {VALUES}, and lists of them under names, got {str(key)[:80]!r}: {str(given)[:80]!r}"
            )
        held[key] = list(values) if isinstance(given, list | tuple) else given
        labels.update({_label(key, value): None for value in values})
    return {"metadata": check_media(held, name="metadata"), "labels": list(labels)}


def describe_labels(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload that a filter of metadata looks at: what people said, and what the file says where they did not.

    What a file says is text; one that is a number is within bounds too, and found as a number if it is whole.
    """
    labels: dict[str, None] = {}
    numbers: dict[str, list[float]] = {}
    said: Mapping[str, str | list[str]] = payload["media"].get(SAID, {})
    for key in said.keys() - payload["metadata"].keys():
        given = said[key]
        for value in [given] if isinstance(given, str) else given:
            if len(value) <= MAX_LABEL_CHARS:
                labels[_label(key, value)] = None
            if WHOLE.fullmatch(value):
                labels[_label(key, int(value))] = None
            if NUMBER.fullmatch(value):
                numbers.setdefault(key, []).append(float(value))
    return {"labels": [*describe_metadata(payload["metadata"])["labels"], *labels], SAID_NUMBERS: numbers}


def _label(key: str, value: MetadataValue) -> str:
    """One word for a key and its value: `["take",3]`, for 3.0 too."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps([key, whole], separators=(",", ":"))


def check_media(media: Mapping[str, Any], *, name: str = "media") -> dict[str, Any]:
    """The facts as JSON gives them back, tuples as lists; raises `InvalidSegment` if a value is not JSON."""
    try:
        text = json.dumps(dict(media), allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as exc:
        raise InvalidSegment(f"{name} must hold JSON values only: {exc}") from exc
    facts: dict[str, Any] = json.loads(text)
    return facts


def store_path(path: str) -> str:
    """A path as a payload can hold it: names that are not UTF-8 become the hex of their bytes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _RAW_PATH + os.fsencode(path).hex()
    return path


def load_path(stored: str) -> str:
    """The path of which `store_path` made this."""
    return os.fsdecode(bytes.fromhex(stored[len(_RAW_PATH) :])) if stored.startswith(_RAW_PATH) else stored


def to_asset(payload: Mapping[str, Any]) -> Asset:
    """The asset, from the payload of its first segment."""
    paths = tuple(load_path(path) for path in payload["paths"])
    return Asset(
        asset_id=payload["asset_id"],
        path=paths[0],
        paths=paths,
        num_segments=payload["num_segments"],
        modalities=tuple(payload["modalities"]),
        media=payload["media"],
        metadata=payload["metadata"],
    )


def to_word_match(payload: Mapping[str, Any]) -> WordMatch:
    """A match of an asset, from the payload of its first segment."""
    return WordMatch(
        asset=to_asset(payload), start_seconds=payload["start_seconds"], end_seconds=payload["end_seconds"]
    )


def to_match(payload: Mapping[str, Any], moments: Sequence[float], weights: Sequence[float]) -> SegmentMatch:
    """A match of a segment, from its payload, its similarities and their weights, (T,); their mean is the score."""
    return SegmentMatch(
        asset_id=payload["asset_id"],
        path=load_path(payload["paths"][0]),
        start_seconds=payload["start_seconds"],
        end_seconds=payload["end_seconds"],
        score=math.fsum(map(operator.mul, moments, weights)) / math.fsum(weights),
        moments=tuple(moments),
        media=payload["media"],
        metadata=payload["metadata"],
    )
