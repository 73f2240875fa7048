"""The stored tracks of a library as one tar: what training learns from, without decoding any media.

tracks.json          release, bundle, shapes of the tracks: what they mean
tracks/000000.npz …  segments of whole assets, as in a backup (`service.index.packing`), tracks as float16
end.json             how many assets and segments: without it the stream broke off
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from models.bundle.bundle import Bundle
from service.index.contract import Index
from service.index.opening import index_place
from service.index.packing import pack_segments, read_groups
from service.operations.backup import Member, write_tar
from service.releases.opening import active_release
from service.releases.store import ReleaseNotFound, ReleaseStore
from service.system.settings import Settings

FORMAT_VERSION = 1
ROUTE = "/v1/tracks"


def stream_tracks(index: Index, *, release_id: str, bundle: Bundle) -> Iterator[bytes]:
    """The tar, piece by piece; an asset that is replaced meanwhile is left out."""
    return write_tar(_members(index, release_id, bundle))


def stream_release(settings: Settings, release_id: str | None = None) -> Generator[bytes]:
    """The tar of a release that no other process has open; None for the active one.

    Raises `ReleaseNotFound` if there is no such release, or nothing is indexed with it.
    """
    active_id, bundle = active_release(settings)
    if release_id not in (None, active_id):
        bundle = ReleaseStore(settings.release_folder).load_bundle(release_id)
    name = release_id or active_id
    index = index_place(settings).find(bundle, release_id=name)
    if index is None:
        raise ReleaseNotFound(f"nothing is indexed with release {name}")
    with closing(index):
        yield from stream_tracks(index, release_id=name, bundle=bundle)


def _members(index: Index, release_id: str, bundle: Bundle) -> Iterator[Member]:
    manifest = bundle.manifest
    derived = manifest.derived_from
    yield _document(
        "tracks.json",
        {
            "version": FORMAT_VERSION,
            "release_id": release_id,
            "bundle_id": bundle.bundle_id,
            "derived_from": derived and derived.bundle_id,
            "tracks": {modality: list(shape) for modality, shape in manifest.tracks.items()},
            "similarity": manifest.similarity,
        },
    )
    num_assets = num_segments = 0
    for number, segments in enumerate(read_groups(index)):
        num_segments += len(segments)
        num_assets += len({segment.asset_id for segment in segments})
        content = pack_segments(segments, keeps_rows=False)
        yield Member(name=f"tracks/{number:06d}.npz", num_bytes=len(content), content=content)
    yield _document("end.json", {"num_assets": num_assets, "num_segments": num_segments})


def _document(name: str, fields: dict[str, Any]) -> Member:
    content = (json.dumps(fields) + "\n").encode()
    return Member(name=name, num_bytes=len(content), content=content)
