"""What a switch leaves undone never undoes the switch."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from models.bundle.bundle import Bundle
from service.encode.queue import BatchLimits
from service.encode.text import TextEncoder, TextQueue
from service.foley import open_foley
from service.index.contract import Segment
from service.index.layout import VectorLayout
from service.jobs.database import LedgerFull
from service.releases.manager import ReleaseManager
from service.releases.switch import OpenRelease, ReleaseSwitch
from service.search.options import SearchOptions
from service.search.text_query import search_text
from service.system.settings import Settings
from tests.support.bundles import WORDS
from tests.support.index_contract import make_segment
from tests.support.memory_index import MemoryIndex
from tests.support.swapping import TwoReleases


@pytest.mark.parametrize("can_queue", [True, False])
def test_a_rollback_answers_though_its_missing_files_cannot_be_queued(
    two_releases: TwoReleases, caplog: pytest.LogCaptureFixture, can_queue: bool
) -> None:
    asked: list[Sequence[Path]] = []

    def submit(paths: Sequence[Path]) -> None:
        asked.append(paths)
        if not can_queue:
            raise LedgerFull("the disk is full")

    with open_foley(two_releases.settings) as foley:
        manager = ReleaseManager(two_releases.settings, foley.releases, foley.decoder, submit=submit)
        before = foley.releases.current.release_id
        other = next(name for name in two_releases.names if name != before)
        assert manager.activate(other).num_behind == 0
        width = foley.bundle.manifest.embedding_width
        track = np.full((16, width), width**-0.5, np.float32)
        newer = Segment(
            asset_id="a" * 64,
            path="/media/newer.wav",
            index=0,
            start_seconds=0,
            end_seconds=10,
            audio_track=track,
        )
        foley.index.write_asset([newer], is_last=True)

        with caplog.at_level(logging.ERROR):
            switched = manager.rollback()
        assert (switched.active.release_id, switched.num_behind) == (before, 1)
        assert asked == [[Path("/media/newer.wav")]]
        assert ("were not queued" in caplog.text) is not can_queue
        with foley.lease() as snapshot:  # open, and not closed behind the back of those who ask
            assert snapshot.release_id == before
            assert snapshot.index.count_segments() > 0
            snapshot.encoder.encode_audio([np.zeros(16_000, np.float32)])


def test_a_release_that_a_long_request_uses_answers_again_at_once(two_releases: TwoReleases) -> None:
    """A build, a backup or a search keeps the release before open, whose index nobody can open a second time."""
    with open_foley(two_releases.settings) as foley:
        manager = ReleaseManager(two_releases.settings, foley.releases, foley.decoder)
        before = foley.releases.current.release_id
        other = next(name for name in two_releases.names if name != before)
        with foley.lease() as long:
            manager.activate(other)
            assert manager.rollback().active.release_id == before
            assert manager.activate(other).active.release_id == other
            manager.rollback()
            assert long.index.count_segments() > 0
        with foley.lease() as snapshot:
            assert snapshot.release_id == before
            assert snapshot.index.count_segments() > 0
        assert foley.releases.num_open <= 2  # the other one may be on its way to be closed


class NoEncoder:
    """An encoder and a queue for media that nobody asks."""

    def encoder_of(self, *_: object, **__: object) -> NoEncoder:
        return self

    def close(self) -> None:
        """Nothing to close."""


def test_captions_are_learned_from_where_sound_has_no_picture(worded_bundle: Bundle, tmp_path: Path) -> None:
    """A library of sounds with captions: no pairs of sound and picture, and texts with a probability."""
    texts = TextQueue(TextEncoder(worded_bundle, num_threads=1), BatchLimits())
    index = MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of(worded_bundle.manifest))
    captions = [" ".join(pair) for pair in itertools.combinations(WORDS[:9], 2)]  # 36
    rng = np.random.default_rng(0)
    for number, caption in enumerate(captions):
        vector = texts.encoder.embed(caption, target="audio")
        rows = vector + 0.5 * rng.standard_normal((16, 128)) / 128**0.5
        track = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        index.write_asset(
            [make_segment(number, audio_track=track, metadata={"title": caption})], is_last=True
        )
    settings = Settings(data=tmp_path / "data", bundle=worded_bundle.path)
    release = OpenRelease(
        release_id=worded_bundle.bundle_id,
        bundle=worded_bundle,
        encoder=cast(Any, NoEncoder()),
        batcher=cast(Any, NoEncoder()),
        index=index,
        texts=texts,
    )
    releases = ReleaseSwitch(release)
    manager = ReleaseManager(settings, releases, cast(Any, None))
    assert manager.calibrate_if_stale()
    assert not manager.calibrate_if_stale(), "it is learned by now"
    with releases.lease() as found:
        assert found.calibration is not None
        assert found.calibration.num_captions == {"audio": len(captions)}
        assert found.calibration.directions == {}
        options = SearchOptions(target="audio", match="meaning")
        answer = search_text(captions[3], options, snapshot=found.snapshot())
    assert answer.results[0].match_probability is not None
    assert manager.store.load_calibration(worded_bundle.bundle_id) == found.calibration
    releases.close()
