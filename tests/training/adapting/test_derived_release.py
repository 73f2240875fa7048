"""A release of an adapted bundle: computed from the parent's stored tracks, equal to an embedded one, and not believed
without a check."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest
import torch

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.joining import write_head
from service.foley import Foley, open_foley
from service.index.contract import Asset, Index, Segment, VectorQuery
from service.index.iteration import iter_assets, write_in_parts
from service.index.layout import VectorLayout
from service.index.opening import index_place
from service.index.packing import pack_segments, read_groups, unpack_assets
from service.library.indexing import index_paths
from service.releases import building
from service.releases.building import BuildFailed, BuildProgress, build_release
from service.releases.deriving import NUM_SAMPLED, ClaimFails, count_writers, derive, open_heads
from service.releases.documents import Trial, explain_derived
from service.releases.store import Release, ReleaseStore
from service.system.settings import Settings
from tests.support.bundles import rehash
from tests.support.libraries import write_tones
from tests.support.memory_index import MemoryIndex
from training.adapting.bundles import write_adapted
from training.adapting.heads import TrackHead

NUM_FILES = 20


@pytest.fixture(scope="module")
def foley(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[Foley]:
    folder = tmp_path_factory.mktemp("deriving")
    write_tones(folder / "media", NUM_FILES)
    settings = Settings(
        data=folder / "data",
        bundle=bundle_path,
        device="cpu",
        precision="fp32",
        min_free_bytes=0,
        num_threads=1,
        decode_workers=1,
    )
    with open_foley(settings) as foley:
        assert not index_paths([folder / "media"], snapshot=foley.snapshot(), decoder=foley.decoder).failed
        yield foley


@pytest.fixture(scope="module", autouse=True)
def one_trial() -> Iterator[None]:
    """All bundles here have graphs of the same cost: the first one is tried for all."""
    try_bundle, found = building.try_bundle, list[Trial]()

    def remember(settings: Settings, folder: Path, *, active: Path | None) -> Trial:
        if not found:
            found.append(try_bundle(settings, folder, active=active))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "try_bundle", remember)
        yield


def random_heads() -> dict[str, TrackHead]:
    torch.manual_seed(1)
    heads = {name: TrackHead(128, 16) for name in ("audio", "video")}
    for head in heads.values():
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return heads


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Bundle:
    output = tmp_path_factory.mktemp("bundles") / "adapted"
    return write_adapted(load_bundle(bundle_path), random_heads(), output, name="adapted", training={})


def build(foley: Foley, bundle: Bundle, tell: Callable[[BuildProgress], None] | None = None) -> Release:
    store = ReleaseStore(foley.settings.release_folder)
    with foley.releases.lease() as active:
        return build_release(foley.settings, store, active, bundle, on_progress=tell)


def test_a_derived_release_is_an_embedded_one(foley: Foley, adapted: Bundle, tmp_path: Path) -> None:
    release = build(foley, adapted)
    assert (release.library["num_derived"], release.library["num_embedded"]) == (NUM_FILES - 16, 16)
    found = release.library["derived_agreement"]
    assert (found["num_compared"], found["storage"]) == (16, foley.index.storage)
    assert 0.999 <= found["lowest_cosine"] <= 1.00001
    assert f"lowest cosine of an embedding is {found['lowest_cosine']:.5f}" in str(
        explain_derived(release.library)
    )
    assert not release.missing
    liar = shutil.copytree(adapted.path, tmp_path / "liar")
    heads = random_heads()
    write_head(
        {name: 2 * array.detach().numpy() for name, array in heads["audio"].state_dict().items()},
        liar / "audio.head.onnx",
    )
    rehash(liar, name="liar")
    embedded = build(foley, load_bundle(liar))
    assert (embedded.library["num_derived"], embedded.library["num_embedded"]) == (0, NUM_FILES)
    assert "derived_agreement" not in embedded.library
    assert explain_derived(embedded.library) is None
    store, place = ReleaseStore(foley.settings.release_folder), index_place(foley.settings)
    indexes = [
        place.open(store.load_bundle(one.release_id), release_id=one.release_id)
        for one in (release, embedded)
    ]
    try:
        assets = list(iter_assets(indexes[0]))
        assert len(assets) == NUM_FILES
        for asset in assets:
            one, other = (index.get_track(asset.asset_id, index=0, modality="audio") for index in indexes)
            assert one is not None
            assert other is not None
            assert (one * other).sum(axis=1).min() >= 0.999
    finally:
        for index in indexes:
            index.close()


def test_assets_embedded_from_their_files_must_agree(foley: Foley, adapted: Bundle, tmp_path: Path) -> None:
    """The control: what the parent embedded is not adapted. Nothing is written beside what does not agree."""
    heads = open_heads(adapted, foley.settings.bundle, num_threads=1)
    index = MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(adapted.manifest))
    with foley.releases.lease() as active:
        groups = [unpack_assets(pack_segments(group)) for group in read_groups(active.index)]
    (first, *others) = [segments for group in groups for segments in group]
    assert others
    write_in_parts(index, first)
    with pytest.raises(ClaimFails, match=r"embedded from its file has a cosine of 0\.\d+"):
        derive([*others, first], heads, index, sampled=frozenset([first[0].asset_id]))
    assert index.info().num_assets == 1


def test_golden_tracks_must_be_the_heads_of_the_parents(
    foley: Foley, second_bundle: Bundle, adapted: Bundle
) -> None:
    with pytest.raises(ClaimFails, match="the golden track of audio differs from the head's by"):
        open_heads(adapted, second_bundle.path, num_threads=1)


def test_the_bundle_names_its_parent(adapted: Bundle, bundle_path: Path) -> None:
    manifest = adapted.manifest
    assert manifest.derived_from is not None
    assert manifest.derived_from.bundle_id == load_bundle(bundle_path).bundle_id
    assert max(manifest.agreement.values()) < 1e-5
    assert set(manifest.files) >= {"audio.head.onnx", "video.head.onnx"}


def test_a_killed_build_goes_on_and_holds_what_was_added_meanwhile(
    foley: Foley, adapted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(adapted.path, tmp_path / "killed")
    rehash(folder, name="killed")
    bundle, send = load_bundle(folder), building.send_segments
    derived, answers = threading.Event(), list[float]()
    asset = next(iter_assets(foley.index))
    track = foley.index.get_track(asset.asset_id, index=0, modality="audio")
    assert track is not None
    query = VectorQuery(track=track, target="audio", limit=1)
    added = Segment(
        asset_id="f" * 64,
        path="/gone/since.wav",
        index=0,
        start_seconds=0.0,
        end_seconds=1.0,
        audio_track=track[::-1].copy(),
        video_track=None,
    )

    def send_some_and_kill(stream: IO[bytes], index: Index, assets: Iterable[Asset]) -> None:
        send(stream, index, list(assets)[: NUM_SAMPLED + 2])
        assert derived.wait(120)
        (builder,) = (
            one for one in psutil.Process().children() if "service.releases.builder" in one.cmdline()
        )
        builder.kill()
        answers.append(foley.index.search(query)[0].score)

    def add_and_send(stream: IO[bytes], index: Index, assets: Iterable[Asset]) -> None:
        foley.index.write_asset([added], is_last=True)
        send(stream, index, assets)

    def tell(made: BuildProgress) -> None:
        if made.detail.get("num_done") == NUM_SAMPLED + 2:
            derived.set()

    monkeypatch.setattr(building, "send_segments", send_some_and_kill)
    with pytest.raises(BuildFailed, match="ended with -9"):
        build(foley, bundle, tell)
    assert answers == [pytest.approx(1, abs=1e-3)]
    monkeypatch.setattr(building, "send_segments", add_and_send)
    try:
        release = build(foley, bundle)
    finally:
        foley.index.delete_asset(added.asset_id)
    assert (release.library["num_derived"], release.library["num_embedded"]) == (
        NUM_FILES - NUM_SAMPLED - 2 + 1,
        0,
    )
    assert release.library["derived_agreement"]["num_compared"] == NUM_SAMPLED  # by the build that was killed
    assert (release.library["num_assets"], release.missing) == (NUM_FILES + 1, ())


def test_many_short_assets_are_written_at_a_time_and_few_long_ones() -> None:
    assert [count_writers(lengths) for lengths in ([], [1] * 500, [1, 4], [1, 100])] == [64, 64, 32, 8]
