"""Stored tracks of a made-up library, as the service streams them: no encoder runs."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.index.contract import Index, Segment
from service.index.iteration import NUM_WRITERS
from service.index.layout import VectorLayout
from service.operations.track_stream import stream_tracks
from tests.support.memory_index import MemoryIndex

NUM_CLIPS = 600
KINDS = ("door", "rain", "dog", "bell")


def unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def make_stream(folder: Path, bundle: Bundle | None = None) -> bytes:
    """Tracks of a library as the service streams them; see `fill_index`."""
    bundle = bundle or load_bundle(starter_path())
    with MemoryIndex.open(folder / "index", layout=VectorLayout.of(bundle.manifest)) as index:
        fill_index(index, bundle)
        return b"".join(stream_tracks(index, release_id="r", bundle=bundle))


def fill_index(
    index: Index, bundle: Bundle, *, tagged: float = 2 / 3, num_clips: int = NUM_CLIPS, segments: int = 1
) -> None:
    """Write a library: sound and picture share a latent, and each has louder noise in a subspace of its own.

    Tracks have the shapes of the bundle. In two spaces each mixes the latent differently. Some files have tags.
    A file has so many segments, all of its kind.
    """
    rng = np.random.default_rng(5)
    latent = rng.standard_normal((num_clips, 1, 24))
    first = np.arange(num_clips) // segments * segments
    latent[:, :, :2] = np.copysign(latent[:, :, :2], latent[first, :, :2])
    mixes: dict[str, np.ndarray[Any, Any]] = {}
    tracks = {}
    for modality, (num_moments, width) in bundle.manifest.tracks.items():
        key = "both" if bundle.manifest.compares else modality
        mix = mixes.setdefault(key, rng.standard_normal((24, width)))
        noise = rng.standard_normal((num_clips, 1, 40)) @ rng.standard_normal((40, width))
        moments = latent + 0.3 * rng.standard_normal((num_clips, num_moments, 24))
        loudness = 1.2 if bundle.manifest.compares else 0.1
        tracks[modality] = unit(moments @ mix + loudness * noise).astype(np.float32)
    files: dict[int, list[Segment]] = {}
    for number in range(num_clips):
        file, place = divmod(number, segments)
        kind = KINDS[int(latent[number, 0, 0] > 0) + 2 * int(latent[number, 0, 1] > 0)]
        segment = Segment(
            asset_id=hashlib.sha256(b"%d" % file).hexdigest(),
            path=f"/library/{kind}/{file}.mp4",
            index=place,
            start_seconds=10.0 * place,
            end_seconds=10.0 * place + 10.0,
            audio_track=tracks["audio"][number],
            video_track=tracks["video"][number],
            metadata={"tags": [kind]} if is_tagged(file, tagged) else {},
        )
        files.setdefault(file, []).append(segment)
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        list(writers.map(lambda whole: index.write_asset(whole, is_last=True), files.values()))


def is_tagged(number: int, share: float) -> bool:
    """Whether a file is among the share of those that have tags: evenly spread."""
    return int((number + 1) * share) > int(number * share)
