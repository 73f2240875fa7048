"""Lost data is never silent: the index is refused or not ready, and `foley repair` brings back what is missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from service.commands.here_or_there import repair_library, run_job
from service.foley import open_foley
from service.http.readiness import _check
from service.index.embedded.tracks import FILE_NAME
from service.index.failure import IndexDamaged
from service.index.opening import index_folder
from service.jobs.documents import LEDGER_NAME
from service.jobs.ledger import Ledger
from service.jobs.records import JobRequest
from service.releases.opening import active_release
from service.releases.store import ReleaseNotFound, ReleaseStore
from service.system.settings import Settings
from tests.support.libraries import write_tones


def _repair(settings: Settings, *, active: str | None = None) -> int:
    """Repair, and return how many files were indexed again."""
    said: list[str] = []
    report = repair_library(settings, active=active, on_progress=lambda _: None, say=said.append)
    return report.files.indexed


def _count(settings: Settings) -> int:
    """Segments of an index that is ready."""
    with open_foley(settings) as foley, Ledger.open(settings.data / LEDGER_NAME, is_worker=False) as ledger:
        verdict = _check(foley, ledger)
        if verdict.failure is not None:
            raise verdict.failure
        return foley.index.count_segments()


def test_what_is_lost_is_said_and_comes_back(tmp_path: Path, bundle_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", bundle=bundle_path, device="cpu", min_free_bytes=0)
    write_tones(tmp_path / "media", 3)
    request = JobRequest(paths=(str(tmp_path / "media"),))
    run_job(settings, "index", request, on_progress=lambda _: None, say=lambda _: None)
    release_id, bundle = active_release(settings)
    folder = index_folder(settings, release_id)
    assert _count(settings) == 3

    for segment in (folder / "shard" / "segments").iterdir():
        shutil.rmtree(segment)
    with pytest.raises(IndexDamaged, match=r"has [0-2] of its 3 segments") as lost:
        _count(settings)
    (num_left,) = re.findall(r"has (\d) of its", str(lost.value))  # Edge's log may have kept the last ones
    assert _repair(settings) == 3 - int(num_left)
    assert _count(settings) == 3

    (rows,) = folder.glob("shard*/audio.rows")
    rows.write_bytes(rows.read_bytes()[: rows.stat().st_size // 2])
    with pytest.raises(IndexDamaged, match=r"audio\.rows is damaged"):
        _count(settings)
    settings = settings.replace(storage="float16")
    assert _repair(settings) == 3, "nothing else holds the tracks"
    assert _count(settings) == 3

    (tracks,) = folder.glob(f"shard*/{FILE_NAME}")
    tracks.write_bytes(tracks.read_bytes()[: tracks.stat().st_size // 2])
    with pytest.raises(Exception, match=r"has lost [0-9]+ tracks"):
        _count(settings)
    assert _repair(settings) == 0
    assert _count(settings) == 3

    shutil.rmtree(folder)  # nothing in it can tell: the ledger does
    with pytest.raises(Exception, match="the index is empty, and jobs stored 3 assets"):
        _count(settings)
    assert _repair(settings) == 3

    ReleaseStore(settings.release_folder).create(bundle, outcome="ready")
    with pytest.raises(ReleaseNotFound, match=rf"active\.json is lost.*{release_id}"):
        active_release(settings)
    assert _repair(settings, active=release_id) == 0
    assert (_count(settings), active_release(settings)[0]) == (3, release_id)
