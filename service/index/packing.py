"""Segments as bytes of our own, for backups, streams of tracks and derived releases, whatever engine the index uses.

A file is an `.npz` of plain arrays: the facts of n segments as JSON lines, and for each modality the tracks of those
that have it: the rows that they were read from, with their codec, or float16 if that loses nothing. Assets are whole
within a file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.codec import TrackCodec, encoding_of
from service.index.contract import Asset, Index, Segment
from service.index.iteration import iter_assets, iter_segments
from service.system.modality import MODALITIES, Modality, Track
from service.system.storage import BITS, Storage

FILE_SEGMENTS = 512
FACTS = ("asset_id", "path", "index", "start_seconds", "end_seconds", "media", "paths", "metadata")


def read_groups(index: Index, assets: Iterable[Asset] | None = None) -> Iterator[list[Segment]]:
    """Read assets of an index (None: all); each list is the segments of as many whole assets as make a file.

    An asset that is deleted meanwhile is left out; one that is written meanwhile may be.
    """
    group: list[Segment] = []
    for asset in iter_assets(index) if assets is None else assets:
        segments = list(iter_segments(index, asset))
        if len(segments) == asset.num_segments:  # else it was replaced meanwhile: they may be of two versions
            group += segments
        if len(group) >= FILE_SEGMENTS:
            yield group
            group = []
    if group:
        yield group


def pack_segments(segments: Sequence[Segment], *, keeps_rows: bool = True) -> bytes:
    """The content of a file with the segments of whole assets; all as tracks unless it `keeps_rows`."""
    lines = [json.dumps({name: getattr(s, name) for name in FACTS}, default=_plain) for s in segments]
    arrays: dict[str, NDArray[Any]] = {"facts": np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)}
    for modality in MODALITIES:
        tracks = {n: t for n, s in enumerate(segments) if (t := getattr(s, f"{modality}_track")) is not None}
        arrays[f"{modality}_rows"] = np.array(list(tracks), dtype=np.int64)
        if tracks:
            encodings = [encoding_of(track) for track in tracks.values()] if keeps_rows else [None]
            codecs = {encoding and encoding[0] for encoding in encodings}
            if len(codecs) == 1 and (codec := codecs.pop()):
                arrays[f"{modality}_codec"] = np.array(json.dumps(asdict(codec)))
                arrays[f"{modality}_encoded"] = np.stack([row for _, row in filter(None, encodings)])
            else:
                arrays[f"{modality}_tracks"] = _shrink(np.stack(list(tracks.values())))  # (n, T, D)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else list(value)  # type: ignore[call-overload]


def _shrink(tracks: NDArray[np.float32]) -> NDArray[Any]:
    half = tracks.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), tracks) else tracks


def unpack_assets(content: bytes) -> list[list[Segment]]:
    """The segments of each asset in a file that `pack_segments` made; other files raise `ValueError`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        facts = [json.loads(line) for line in arrays["facts"].tobytes().decode().split("\n")]
        tracks = {modality: _read_tracks(arrays, modality) for modality in MODALITIES}
    segments = [
        Segment(
            **{**fact, "paths": tuple(fact["paths"])},
            audio_track=tracks["audio"].get(number),
            video_track=tracks["video"].get(number),
        )
        for number, fact in enumerate(facts)
    ]
    return [list(asset) for _, asset in groupby(segments, key=lambda segment: segment.asset_id)]


def find_storage(content: bytes) -> Storage | None:
    """How the index stored the tracks of such a file; None if it has none."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for modality in MODALITIES:
            if f"{modality}_codec" in arrays:
                bits = _codec(arrays, modality).bits
                return next(storage for storage, those in BITS.items() if those == bits)
            if f"{modality}_tracks" in arrays:
                return "float16"
    return None


def _codec(arrays: Mapping[str, NDArray[Any]], modality: Modality) -> TrackCodec:
    return TrackCodec(**json.loads(str(arrays[f"{modality}_codec"])))


def _read_tracks(arrays: Mapping[str, NDArray[Any]], modality: Modality) -> dict[int, Track]:
    """Tracks by the number of their segment."""
    rows = arrays[f"{modality}_rows"].tolist()
    if rows and f"{modality}_codec" in arrays:
        found = _codec(arrays, modality).read(arrays[f"{modality}_encoded"])
        return dict(zip(rows, found, strict=True))
    return dict(zip(rows, arrays[f"{modality}_tracks"].astype(np.float32), strict=True)) if rows else {}
