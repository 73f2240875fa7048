"""What a switch leaves undone never undoes the switch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from service.foley import open_foley
from service.index.contract import Segment
from service.jobs.database import LedgerFull
from service.releases.manager import ReleaseManager
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
