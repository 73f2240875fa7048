"""Bundles that embed sound alone, or sound and picture in spaces of their own, or compare by dot product.

What they can do works as with any other; what they cannot is refused in a sentence that says so.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.bundle.bundle import Bundle
from models.media.clip import DecodeLimits, NoStream
from service.decode.decoder import Decoder
from service.encode.encoder import Encoder
from service.http.encodings import write_embeddings
from service.http.queries import TrackQuery
from service.index.contract import VectorQuery
from service.index.iteration import iter_assets
from service.index.layout import VectorLayout
from service.index.packing import pack_segments, read_groups, unpack_assets
from service.library.indexing import index_paths
from service.operations.clip_timing import time_clip, write_golden_clip
from service.releases import building
from service.releases.documents import describe_bundle
from service.releases.gates import Generation
from service.releases.mirroring import mirror
from service.releases.store import Release
from service.search.audit import audit_release
from service.search.file_query import embed_file, search_file
from service.search.matching import SearchAnswer
from service.search.options import SearchOptions
from service.search.snapshot import QueryLimits, Snapshot
from service.search.sources import ScoreOutOfRange
from service.search.stored_query import search_asset
from service.system.modality import NotComparable, NotEmbedded
from service.system.settings import Settings
from tests.support.bundles import described_bundle
from tests.support.gates import TRIAL
from tests.support.index_contract import make_id, make_segment
from tests.support.memory_index import MemoryIndex
from tests.support.tiny_bundles import make_tiny

KINDS: dict[str, dict[str, Any]] = {
    "heard": {"tracks": {"audio": (1, 24)}},
    "apart": {"tracks": {"audio": (1, 24), "video": (4, 20)}, "shares_space": False},
    "dot": {"tracks": {"audio": (1, 24), "video": (1, 24)}, "similarity": "dot"},
}
LIMITS = QueryLimits(decode=DecodeLimits())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: make_tiny(folder / name, name=name, **fields) for name, fields in KINDS.items()}


@pytest.fixture(scope="module")
def media(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with both, one with sound alone and one with picture alone."""
    folder = tmp_path_factory.mktemp("media")
    golden, spec = bundles["apart"].golden(), bundles["apart"].manifest.clip_spec
    write_golden_clip(golden, folder / "both.mp4", spec=spec)
    write_golden_clip(replace(golden, frames=golden.frames[:0]), folder / "sound.mp4", spec=spec)
    write_golden_clip(replace(golden, samples=golden.samples[:0]), folder / "picture.mp4", spec=spec)
    return folder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(num_workers=1) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def snapshots(
    bundles: dict[str, Bundle], media: Path, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Snapshot]:
    """The library, indexed with each bundle."""
    found = {}
    for name, bundle in bundles.items():
        index = MemoryIndex.open(tmp_path_factory.mktemp("index"), layout=VectorLayout.of(bundle.manifest))
        encoder = Encoder(bundle, device="cpu", precision="fp32", num_threads=1)
        found[name] = Snapshot(encoder=encoder, index=index, bundle=bundle)
        report = index_paths([media], snapshot=found[name], decoder=decoder)
        failed = [(Path(one.path).name, one.code, one.reason) for one in report.failed]
        nothing = "the file has no audio that can be decoded, and heard-"
        assert len(failed) == (name == "heard")
        assert all(one[:2] == ("picture.mp4", "no_stream") and one[2].startswith(nothing) for one in failed)
    return found


Find = Callable[..., SearchAnswer]


@pytest.fixture(scope="module")
def find(snapshots: dict[str, Snapshot], media: Path, decoder: Decoder) -> Find:
    def find(kind: str, file: str, **options: Any) -> SearchAnswer:
        wanted = SearchOptions(**options)
        return search_file(media / file, wanted, snapshot=snapshots[kind], decoder=decoder, limits=LIMITS)

    return find


def names(answer: SearchAnswer) -> list[str]:
    return [Path(result.match.path).name for result in answer.results]


def test_sound_alone_finds_sound_and_says_what_it_cannot(find: Find, snapshots: dict[str, Snapshot]) -> None:
    answer = find("heard", "both.mp4", target="audio")
    assert (answer.source, sorted(names(answer))) == ("audio", ["both.mp4", "sound.mp4"])
    assert {asset.modalities for asset in iter_assets(snapshots["heard"].index)} == {("audio",)}
    for refused in (
        {"target": "video"},
        {"target": "audio", "source": "video"},
        {"target": "video", "source": "video"},
    ):
        with pytest.raises(NotEmbedded, match=r"^the active bundle heard-\w+ embeds audio, no video$"):
            find("heard", "both.mp4", **refused)
    with pytest.raises(NotEmbedded, match="embeds audio, no video"):
        find("heard", "picture.mp4", target="audio")
    for source in (None, "audio"):
        options = SearchOptions(target="video", source=source)  # type: ignore[arg-type]
        with pytest.raises(NotEmbedded):
            search_asset(make_id("none"), options, snapshot=snapshots["heard"])


def test_two_spaces_find_like_with_like(find: Find, snapshots: dict[str, Snapshot]) -> None:
    for target, other in (("audio", "sound.mp4"), ("video", "picture.mp4")):
        answer = find("apart", "both.mp4", target=target)
        assert (answer.source, sorted(names(answer))) == (target, sorted(["both.mp4", other]))
        assert len(answer.results[0].match.moments) == snapshots["apart"].layout.tracks[answer.target][0]
        with pytest.raises(NotComparable, match="does not compare sound and picture: search with"):
            find("apart", other, target="video" if target == "audio" else "audio")
    asset = next(a for a in iter_assets(snapshots["apart"].index) if len(a.modalities) == 2)
    answer = search_asset(asset.asset_id, SearchOptions(target="video"), snapshot=snapshots["apart"])
    assert (answer.source, sorted(names(answer))) == ("video", ["both.mp4", "picture.mp4"])
    with pytest.raises(NotComparable):
        search_asset(
            asset.asset_id, SearchOptions(target="video", source="audio"), snapshot=snapshots["apart"]
        )


def test_scores_of_dot_products_have_no_bounds(find: Find, snapshots: dict[str, Snapshot]) -> None:
    answer = find("dot", "both.mp4", target="audio", source="audio")
    track = next(iter(snapshots["dot"].index.read_segments(answer.results[0].match.asset_id, limit=1)))
    assert track.audio_track is not None
    assert answer.results[0].match.score == pytest.approx(
        float(np.square(track.audio_track).sum(axis=1).mean()), rel=0.01
    )
    assert answer.results[0].match.score > 1.0
    assert (answer.similarity, answer.to_json()["similarity"]) == ("dot", "dot")
    assert names(find("dot", "both.mp4", target="audio", min_score=1.5)) != []
    with pytest.raises(ScoreOutOfRange, match=r"are cosines, from -1 to 1, got 1\.5"):
        find("heard", "both.mp4", target="audio", min_score=1.5)


def test_a_still_picture_is_a_query(
    find: Find, bundles: dict[str, Bundle], media: Path, tmp_path: Path, decoder: Decoder
) -> None:
    frame = Image.fromarray(bundles["apart"].golden().frames[0]).resize((640, 360))
    frame.save(tmp_path / "still.jpg", quality=95)
    answer = find("apart", str(tmp_path / "still.jpg"), target="video")
    assert (answer.source, answer.num_query_segments) == ("video", 1)
    assert sorted(names(answer)[:2]) == ["both.mp4", "picture.mp4"]
    assert find("dot", str(tmp_path / "still.jpg"), target="audio").source == "video"
    with pytest.raises(NotEmbedded, match="no video"):
        find("heard", str(tmp_path / "still.jpg"), target="audio")
    with pytest.raises(NoStream, match="the query has no audio to search from"):
        find("dot", str(tmp_path / "still.jpg"), target="audio", source="audio")


def test_embeddings_are_those_that_the_bundle_makes(
    snapshots: dict[str, Snapshot], media: Path, decoder: Decoder
) -> None:
    def embed(kind: str, file: str, modality: Any = None) -> Any:
        return embed_file(
            media / file, modality=modality, snapshot=snapshots[kind], decoder=decoder, limits=LIMITS
        )

    assert set(embed("heard", "both.mp4").segments[0].tracks) == {"audio"}
    with pytest.raises(NotEmbedded):
        embed("heard", "both.mp4", "video")
    with pytest.raises(NoStream, match="no audio"):
        embed("heard", "picture.mp4")
    body, _ = write_embeddings(embed("apart", "both.mp4"), "base64")
    assert b'"width":null,"shapes":{"audio":[1,24],"video":[4,20]}' in body
    track = embed("apart", "both.mp4").segments[0].tracks["video"]
    text = np.asarray(track, "<f2").tobytes()
    query = TrackQuery(target="video", track=base64.b64encode(text).decode())
    answer = query.answer(Settings(), snapshots["apart"])
    assert answer.source == "video"
    assert set(names(answer)[:2]) == {"both.mp4", "picture.mp4"}


def test_the_audit_and_the_doctor(snapshots: dict[str, Snapshot], media: Path, decoder: Decoder) -> None:
    for kind, refusal in (("heard", NotEmbedded), ("apart", NotComparable)):
        with pytest.raises(refusal):
            audit_release(snapshots[kind], max_offset_seconds=10)
    for kind, search in (("heard", True), ("apart", True), ("dot", True)):
        encoder, index = snapshots[kind].encoder, snapshots[kind].index
        assert isinstance(encoder, Encoder)
        timed = time_clip(media / "both.mp4", encoder=encoder, decoder=decoder, index=index)
        stages = [stage.name for stage in timed.stages]
        assert ("search" in stages) == search
        assert any("picture" in stage for stage in stages[1:]) == (kind != "heard")


def test_a_backup_keeps_both_shapes(snapshots: dict[str, Snapshot]) -> None:
    for snapshot in snapshots.values():
        (group,) = read_groups(snapshot.index)
        (again,) = [[segment for asset in unpack_assets(pack_segments(group)) for segment in asset]]
        for before, after in zip(group, again, strict=True):
            for name in ("audio_track", "video_track"):
                np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_a_release_that_embeds_less_loses_nothing_of_the_other(
    snapshots: dict[str, Snapshot], bundles: dict[str, Bundle], decoder: Decoder, tmp_path: Path
) -> None:
    """Built beside one that embeds both, it lacks what it cannot embed; switched back to, the other still has it."""
    both, wanted = snapshots["dot"], list(iter_assets(snapshots["dot"].index))
    picture = next(asset for asset in wanted if asset.modalities == ("video",))
    with MemoryIndex.open(tmp_path / "index", layout=snapshots["heard"].layout) as index:
        heard = replace(snapshots["heard"], index=index)
        report = mirror(wanted, snapshot=heard, decoder=decoder, source=both.bundle)
        assert (report.num_embedded, report.failed) == (2, ())
        assert report.missing == report.beyond == (picture.asset_id,)
        unseen = list(iter_assets(index))
        index.set_paths(
            unseen[0].asset_id, paths=["/moved.mp4"], media={**unseen[0].media, "is_static": None}
        )
        index.delete_asset(unseen[1].asset_id)
        report = mirror(
            list(iter_assets(index)), snapshot=both, decoder=decoder, embeds=False, source=heard.bundle
        )
    left = {asset.asset_id: asset for asset in iter_assets(both.index)}
    assert left.keys() == {unseen[0].asset_id, picture.asset_id}, "a picture is nothing that it could know of"
    assert (report.num_deleted, left[unseen[0].asset_id].path) == (1, "/moved.mp4")
    before = next(asset for asset in wanted if asset.asset_id == unseen[0].asset_id)
    assert left[unseen[0].asset_id].media["is_static"] == before.media["is_static"]


class _Store:
    """A store of releases that keeps a calibration in memory."""

    def __init__(self) -> None:
        self.calibrations: list[object] = []

    def save_calibration(self, _: str, calibration: object) -> None:
        self.calibrations.append(calibration)


def make_generation(folder: Path, bundle: Bundle, *, seconds: float, noise: float) -> Generation:
    """An index of 40 assets of 20 s, cut into segments of some length: sound and picture of one are alike."""
    layout = VectorLayout.of(bundle.manifest)
    index = MemoryIndex.open(folder, layout=layout)
    rng = np.random.default_rng(round(10 * seconds))
    for number in range(40):
        segments = []
        for place in range(round(20 / seconds)):
            shared = rng.standard_normal(8)
            tracks = {}
            for modality, (moments, width) in layout.tracks.items():
                rows = np.tile(np.resize(shared, width), (moments, 1)) + noise * rng.standard_normal(
                    (moments, width)
                )
                tracks[f"{modality}_track"] = np.asarray(
                    rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32
                )
            span = {"start_seconds": seconds * place, "end_seconds": seconds * (place + 1)}
            segments.append(make_segment(number, place, **span, **tracks))
        index.write_asset(segments, is_last=True)
    return Generation(bundle=bundle, index=index)


@pytest.mark.parametrize("kind", ["other family", "sound alone", "no common space", "sound alone is active"])
def test_gates_compare_families_on_the_library(kind: str, tmp_path: Path) -> None:
    spec = described_bundle().manifest.clip_spec
    ours = described_bundle(bundle_id="ours")
    others = {
        "other family": described_bundle(
            bundle_id="theirs",
            family="theirs",
            tracks={"audio": (1, 16), "video": (1, 16)},
            clip_spec=replace(spec, segment_seconds=4.0),
        ),
        "sound alone": described_bundle(bundle_id="theirs", tracks={"audio": (1, 16)}),
        "no common space": described_bundle(bundle_id="theirs", shares_space=False),
    }
    other = others[kind.removesuffix(" is active")]
    first = make_generation(tmp_path / "ours", ours, seconds=10.0, noise=2.0)
    second = make_generation(
        tmp_path / "theirs", other, seconds=other.manifest.clip_spec.segment_seconds, noise=0.2
    )
    new, active = (first, second) if kind.endswith("is active") else (second, first)
    store = _Store()
    release = Release(
        release_id="r", bundle_id="r", outcome="building", created_at=0.0, library={"num_assets": 40}
    )
    found = building._measure(Settings(), store, release, TRIAL, "limited", new=new, active=active)  # type: ignore[arg-type]
    assert found.outcome == "ready"
    gates = {gate["gate"]: gate for gate in found.gates["gates"]}
    if kind == "other family":
        assert not [words for words in found.gates["undecided"] if "could not be compared" in words]
        assert gates["recall_video_to_audio"]["value"] > gates["recall_video_to_audio"]["active"]  # type: ignore[operator]
        assert gates["overlap"]["limit"] is None
    else:
        reason = "does not compare sound" if kind == "no common space" else "embeds audio, no video"
        assert [reason in words for words in found.gates["undecided"]] == [True]
        assert not any(name.startswith(("recall", "overlap")) for name in gates)
    assert len(store.calibrations) == (new.bundle.manifest.compares)


def test_what_a_bundle_says_of_itself(bundles: dict[str, Bundle], snapshots: dict[str, Snapshot]) -> None:
    assert describe_bundle(bundles["apart"].manifest) == {
        "tracks": {"audio": (1, 24), "video": (4, 20)},
        "compares": False,
        "similarity": "cosine",
        "text_targets": [],
        "attribution": [],
        "weighs_moments": False,
    }
    track = np.full((1, 24), 24**-0.5, np.float32)
    with pytest.raises(NotEmbedded, match="the index holds audio, no video"):
        snapshots["heard"].index.search(VectorQuery(track=track, target="video", limit=1))
