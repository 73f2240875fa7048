"""The loop of docs/adapting.md: stored tracks, a fifth of them tagged, make encoders that find more; tags spread; back.

The tracks are made up, so nothing is decoded and no encoder runs but for the golden clip; everything else is real.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from models.bundle.bundle import Bundle, load_bundle
from service.foley import open_foley
from service.index.contract import Index
from service.library.tags import decide, iter_suggestions, keep_classifier, load_classifier
from service.operations.track_stream import stream_tracks
from service.releases.manager import ReleaseManager
from service.system.settings import Settings
from tests.support.stored_tracks import KINDS, fill_index

pytest.importorskip("torch", reason="the loop learns")
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NUM_FILES, NUM_SEGMENTS = 180, 3


def read(index: Index, bundle: Bundle, folder: Path):  # type: ignore[no-untyped-def]
    from training.data.stored_tracks import unpack_tracks

    return unpack_tracks(io.BytesIO(b"".join(stream_tracks(index, release_id="r", bundle=bundle))), folder)


def precision(tracks) -> float:  # type: ignore[no-untyped-def]
    """Mean average precision over what the files are, both ways."""
    from training.commands.held_back import measure_tracks

    kinds = np.array([asset.paths[0].split("/")[2] for asset in tracks.assets])[tracks.asset_of_segments()]
    truth = kinds[:, None] == np.array(sorted(KINDS))
    rows = {name: tracks.read(name, tracks.pairs()) for name in ("audio", "video")}
    found = measure_tracks(rows, truth).mean_average_precision
    assert found is not None
    return min(found)


def test_a_library_adapts_its_encoders_and_its_tags_spread(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.adapting import folding
    from training.adapting.fitting import FitConfig
    from training.commands.adapt import _adapt
    from training.commands.held_back import AdaptRequest

    monkeypatch.setattr(folding, "NUM_STEPS", 50)
    settings = Settings(
        data=tmp_path / "data",
        bundle=bundle_path,
        device="cpu",
        precision="fp32",
        min_free_bytes=0,
        num_threads=1,
        decode_workers=1,
        release_max_latency_ratio=20,
    )
    parent = load_bundle(bundle_path)
    with open_foley(settings) as foley:
        fill_index(foley.index, parent, tagged=0.2, num_clips=NUM_FILES * NUM_SEGMENTS, segments=NUM_SEGMENTS)
        before = read(foley.index, parent, tmp_path / "before")
        request = AdaptRequest(
            config=FitConfig(num_epochs=20), sources=["metadata:tags"], precision=0.7, max_drop=10
        )
        mine = tmp_path / "mine"
        _adapt(request, before, parent, mine, Console(quiet=True))

        manager = ReleaseManager(settings, foley.releases, foley.decoder)
        release = manager.create(mine)
        assert (release.library["num_derived"], release.library["num_embedded"]) == (NUM_FILES, 0)
        assert release.outcome == "ready", release.gates
        recall = release.gates["recall"]  # type: ignore[index]
        for target in ("audio", "video"):
            assert recall["new"][target]["at_1"] > recall["active"][target]["at_1"] + 0.05
        manager.activate(release.release_id)
        assert precision(read(foley.index, foley.bundle, tmp_path / "after")) > precision(before)

        keep_classifier(settings.data, mine.with_name("mine.tags.npz"))
        classifier = load_classifier(settings.data, foley.bundle.bundle_id)
        suggested = list(iter_suggestions(foley.index, classifier))
        right = [one for one in suggested if one.asset.path.split("/")[2] in one.probabilities]
        assert len(right) > 0.7 * len(suggested) > 10
        chosen = right[0]
        with manager.lease_to_write() as index:
            decide(index, chosen.asset.asset_id, classifier, accept=list(chosen.probabilities))

        assert manager.rollback().active.release_id == parent.bundle_id
        asset = foley.index.get_asset(chosen.asset.asset_id)
        assert asset is not None
        assert asset.metadata["tags:accepted"] == list(chosen.probabilities), "what people said is kept"
