"""A release of an adapted bundle: computed from the parent's stored tracks, equal to an embedded one, and not believed
without a check."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.joining import write_head
from service.foley import Foley, open_foley
from service.index.iteration import iter_assets
from service.index.opening import index_place
from service.index.packing import pack_segments, read_groups, unpack_assets
from service.library.indexing import index_paths
from service.releases.building import build_release
from service.releases.deriving import ClaimFails, derive, open_heads
from service.releases.store import Release, ReleaseStore
from service.system.settings import Settings
from tests.support.bundles import rehash
from tests.support.libraries import write_tones
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


def build(foley: Foley, bundle: Bundle) -> Release:
    store = ReleaseStore(foley.settings.release_folder)
    with foley.releases.lease() as active:
        return build_release(foley.settings, store, active, bundle)


def test_a_derived_release_is_an_embedded_one(foley: Foley, adapted: Bundle, tmp_path: Path) -> None:
    release = build(foley, adapted)
    assert (release.library["num_derived"], release.library["num_embedded"]) == (NUM_FILES - 16, 16)
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


def test_assets_embedded_from_their_files_must_agree(foley: Foley, adapted: Bundle) -> None:
    """The control: the parent's own index holds what the heads have not adapted."""
    heads = open_heads(adapted, foley.settings.bundle, num_threads=1)
    with foley.releases.lease() as active:
        groups = [unpack_assets(pack_segments(group)) for group in read_groups(active.index)]
        sampled = frozenset(assets[0].asset_id for group in groups for assets in group)
        with pytest.raises(ClaimFails, match=r"embedded from its file has a cosine of 0\.\d+"):
            derive(groups, heads, active.index, sampled=sampled)


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
