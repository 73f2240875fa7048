"""Stored tracks of a made-up library, as the service streams them: no encoder runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle.bundle import Bundle, load_bundle, starter_path
from service.index.contract import Index, Segment
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


def fill_index(index: Index, bundle: Bundle) -> None:
    """Write a library: sound and picture share a latent, and each has louder noise in a subspace of its own.

    Tracks have the shapes of the bundle. In two spaces each mixes the latent differently. Two of three files have tags.
    """
    rng = np.random.default_rng(5)
    latent = rng.standard_normal((NUM_CLIPS, 1, 24))
    mixes: dict[str, np.ndarray[Any, Any]] = {}
    tracks = {}
    for modality, (num_moments, width) in bundle.manifest.tracks.items():
        key = "both" if bundle.manifest.compares else modality
        mix = mixes.setdefault(key, rng.standard_normal((24, width)))
        noise = rng.standard_normal((NUM_CLIPS, 1, 40)) @ rng.standard_normal((40, width))
        moments = latent + 0.3 * rng.standard_normal((NUM_CLIPS, num_moments, 24))
        loudness = 1.2 if bundle.manifest.compares else 0.1
        tracks[modality] = unit(moments @ mix + loudness * noise).astype(np.float32)
    for number in range(NUM_CLIPS):
        asset_id = hashlib.sha256(b"%d" % number).hexdigest()
        kind = KINDS[int(latent[number, 0, 0] > 0) + 2 * int(latent[number, 0, 1] > 0)]
        segment = Segment(
            asset_id=asset_id,
            path=f"/library/{kind}/{number}.mp4",
            index=0,
            start_seconds=0.0,
            end_seconds=10.0,
            audio_track=tracks["audio"][number],
            video_track=tracks["video"][number],
            metadata={"tags": [kind]} if number % 3 else {},
        )
        index.write_asset([segment], is_last=True)
