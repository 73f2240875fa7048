"""A release of a bundle with learned heads, derived from its parent's stored tracks: no media is decoded.

The bundle says that its tracks are heads of its parent's. That is believed only if its golden tracks are the heads of
the parent's within 1e-4, and if `NUM_SAMPLED` assets that are embedded from their media agree (cosine ≥ .999 of every
embedding, .98 if tracks are stored as `compact`). Otherwise everything is embedded, as for any bundle.

The process that builds asks for the assets it lacks; the one that has the parent's index open sends their segments, a
length and a packed group each (`service.index.packing`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Bundle, load_bundle, unit_rows
from service.encode.engines.contract import EncoderFailure
from service.encode.engines.onnx_cpu import CPU, open_session, session_options
from service.index.contract import Asset, Index, Segment
from service.index.iteration import NUM_WRITERS, SEGMENTS_PER_CALL, write_in_parts
from service.index.packing import pack_segments, read_groups, unpack_assets
from service.index.points import NORM_TOLERANCE
from service.releases.documents import DerivedAgreement
from service.system.files import replace_file
from service.system.modality import MODALITIES, Modality, Track
from service.system.storage import Storage

NUM_SAMPLED = 16
MAX_WRITERS = 64  # what is written together shares a flush
SEGMENTS_WAITING = 128  # that wait for their flush: a call must not take longer than the index allows
MIN_COSINES: Mapping[Storage, float] = {"float16": 0.999, "fine": 0.999, "compact": 0.98}
"""Of an embedding that is derived and one that is made from the media, by how the coarser of both is stored."""
GOLDEN_TOLERANCE = 1e-4
LENGTH = struct.Struct("<Q")
VERIFIED = "derived.json"
"""Beside the release's bundle once the claim was checked: a build that is resumed does not check it again."""


class ClaimFails(Exception):
    """A bundle's tracks are not the heads of its parent's."""


class Heads:
    """The heads of a bundle, open, and how it weighs moments; tracks of a modality without a head stay as they are.

    Those that have other lengths than 1 where the bundle compares by cosine are scaled.
    """

    def __init__(self, bundle: Bundle, *, num_threads: int) -> None:
        derivation = bundle.manifest.derived_from
        assert derivation is not None, "asked only of a derived bundle"
        self.sessions = {
            modality: open_session(
                bundle.path / derivation.heads[modality], session_options(num_threads), [CPU]
            )
            for modality in MODALITIES
            if modality in derivation.heads
        }
        self._is_unit = bundle.manifest.similarity == "cosine"
        self._moments = bundle.moments()

    def adapt(self, modality: Modality, tracks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adapt tracks (N, T, D) to (N, T', D'); raises `ClaimFails` if the graph fails or gives what is no track."""
        if modality not in self.sessions:
            return unit_rows(tracks) if self._is_unit else tracks
        try:
            adapted: NDArray[np.float32] = self.sessions[modality].run(["adapted"], {"rows": tracks})[0]
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types
            raise ClaimFails(f"the head of {modality} failed: {exc}") from exc
        if not np.isfinite(adapted).all():
            raise ClaimFails(f"the head of {modality} gave a number that is not finite")
        return adapted

    def adapt_segments(self, segments: Sequence[Segment]) -> list[Segment]:
        """The segments with their tracks adapted."""
        found = list(segments)
        for modality in MODALITIES:
            places = [n for n, segment in enumerate(segments) if _track(segment, modality) is not None]
            if not places:
                continue
            tracks = np.stack([_required(segments[place], modality) for place in places])
            if modality not in self.sessions and (not self._is_unit or are_unit(tracks)):
                continue
            for place, track in zip(places, self.adapt(modality, tracks), strict=True):
                found[place] = _with_track(found[place], modality, track)
        return self._weigh(found)

    def _weigh(self, segments: list[Segment]) -> list[Segment]:
        both = [
            n for n, one in enumerate(segments) if one.audio_track is not None and one.video_track is not None
        ]
        if self._moments is None or not both:
            return segments
        audio, video = (np.stack([_required(segments[n], modality) for n in both]) for modality in MODALITIES)
        for place, track in zip(both, self._moments.fold(audio, video), strict=True):
            segments[place] = _with_track(segments[place], "audio", track)
        return segments


def are_unit(tracks: NDArray[np.float32]) -> bool:
    """Whether all moments have the length 1, within what storing them costs."""
    return bool(np.abs(np.linalg.norm(tracks, axis=-1) - 1).max() < NORM_TOLERANCE)


def open_heads(bundle: Bundle, parent: Path, *, num_threads: int) -> Heads:
    """Open the heads of a bundle, and compare golden tracks with those of its parent; raises `ClaimFails`."""
    try:
        heads = Heads(bundle, num_threads=num_threads)
    except EncoderFailure as exc:
        raise ClaimFails(str(exc)) from exc
    given = load_bundle(parent).golden().tracks
    for modality, expected in bundle.golden().tracks.items():
        if modality not in given:
            raise ClaimFails(f"the parent embeds no {modality}")
        adapted = heads.adapt(cast(Modality, modality), given[modality][None])[0]
        if adapted.shape != expected.shape:
            raise ClaimFails(f"the head of {modality} gives {adapted.shape}, not {expected.shape}")
        difference = float(np.abs(adapted - expected).max())
        if not difference <= GOLDEN_TOLERANCE:
            raise ClaimFails(f"the golden track of {modality} differs from the head's by {difference:.1e}")
    return heads


def choose_sample(missing: Sequence[Asset]) -> list[Asset]:
    """Assets that are embedded to check the claim, evenly spread."""
    step = max(1, len(missing) // NUM_SAMPLED)
    return list(missing[::step][:NUM_SAMPLED])


def derive(
    assets: Sequence[Sequence[Segment]],
    heads: Heads,
    index: Index,
    *,
    sampled: frozenset[str],
    min_cosine: float = MIN_COSINES["float16"],
) -> list[float]:
    """Write assets with adapted tracks; first those of the sample are compared with what was embedded of them.

    Returns the lowest cosine of each that was compared. Raises `ClaimFails` if one does not agree; then none of the
    assets was written.
    """
    adapted = iter(heads.adapt_segments([segment for segments in assets for segment in segments]))
    compared: list[list[Segment]] = []
    derived: list[list[Segment]] = []
    embedded = index.get_assets([s[0].asset_id for s in assets if s[0].asset_id in sampled])
    for segments in assets:
        is_embedded = segments[0].asset_id in embedded
        (compared if is_embedded else derived).append(list(islice(adapted, len(segments))))
    cosines = [_compare(segments, index, min_cosine) for segments in compared]
    with ThreadPoolExecutor(count_writers(map(len, derived)), thread_name_prefix="derive") as writers:
        for _ in writers.map(lambda segments: write_in_parts(index, segments), derived):
            pass
    return cosines


def count_writers(lengths: Iterable[int]) -> int:
    """How many assets of so many segments are written at a time: many of short ones."""
    longest = min(SEGMENTS_PER_CALL, max(lengths, default=1))
    return max(NUM_WRITERS, min(MAX_WRITERS, SEGMENTS_WAITING // longest))


def _compare(adapted: Sequence[Segment], index: Index, min_cosine: float) -> float:
    lowest = 1.0
    for segment in adapted:
        for modality in MODALITIES:
            expected = _track(segment, modality)
            found = index.get_track(segment.asset_id, index=segment.index, modality=modality)
            if expected is None or found is None:
                continue  # a stream that decodes differently now says nothing about the heads
            lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
            cosine = float(((expected * found).sum(axis=1) / lengths).min())
            if not cosine >= min_cosine:
                raise ClaimFails(
                    f"{modality} of {segment.path} embedded from its file has a cosine of {cosine:.4f}"
                )
            lowest = min(lowest, cosine)
    return lowest


def mark_verified(folder: Path, agreement: DerivedAgreement) -> None:
    """Note durably that the claim of a release holds, and how well."""
    replace_file(folder / VERIFIED, json.dumps(agreement) + "\n")


def is_verified(folder: Path) -> bool:
    """Whether the claim of a release was found to hold."""
    return (folder / VERIFIED).exists()


def read_agreement(folder: Path) -> DerivedAgreement | None:
    """How near derived tracks were to embedded ones; None if no file was compared, or a release of before is asked."""
    try:
        found = json.loads((folder / VERIFIED).read_text())
    except FileNotFoundError:
        return None
    return cast("DerivedAgreement", found) if "lowest_cosine" in found else None


def send_segments(stream: IO[bytes], index: Index, assets: Iterable[Asset]) -> None:
    """Send the segments of assets, group by group."""
    for group in read_groups(index, assets):
        content = pack_segments(group)
        stream.write(LENGTH.pack(len(content)))
        stream.write(content)
    stream.flush()


def receive_segments(stream: IO[bytes]) -> Iterator[list[list[Segment]]]:
    """Receive what `send_segments` sends, until the stream ends: the segments of some whole assets each."""
    while len(header := stream.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(header)
        content = stream.read(length)
        if len(content) < length:
            return  # the sender was killed
        yield unpack_assets(content)


def _track(segment: Segment, modality: Modality) -> Track | None:
    return segment.audio_track if modality == "audio" else segment.video_track


def _required(segment: Segment, modality: Modality) -> Track:
    track = _track(segment, modality)
    assert track is not None
    return track


def _with_track(segment: Segment, modality: Modality, track: Track) -> Segment:
    return replace(segment, audio_track=track) if modality == "audio" else replace(segment, video_track=track)
