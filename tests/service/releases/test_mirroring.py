"""One generation made to hold what another holds: what is new, gone or relabelled, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.bundle.bundle import Bundle, load_bundle
from service.foley import Foley, open_foley
from service.index import iteration
from service.index.contract import Asset
from service.index.iteration import iter_assets
from service.library.indexing import index_paths
from service.library.options import RunOptions
from service.releases.builder import read_assets, write_asset
from service.releases.mirroring import MirrorReport, mirror
from service.releases.opening import open_release
from service.releases.switch import OpenRelease
from service.system.caller import Caller
from service.system.settings import Settings
from tests.support.bundles import described_bundle
from tests.support.libraries import write_tone, write_tones
from tests.support.memory_index import memory_indexes

NUM_FILES = 5


@pytest.fixture(scope="module")
def foley(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[Foley]:
    """An engine over a few short sounds."""
    folder = tmp_path_factory.mktemp("mirroring")
    write_tones(folder / "media", NUM_FILES)
    settings = Settings(
        data=folder / "data",
        bundle=bundle_path,
        device="cpu",
        min_free_bytes=0,
        num_threads=1,
        decode_workers=1,
    )
    with memory_indexes(), open_foley(settings) as foley:
        assert not index_paths([folder / "media"], snapshot=foley.snapshot(), decoder=foley.decoder).failed
        yield foley


@pytest.fixture
def release(foley: Foley, second_bundle: Bundle, tmp_path: Path) -> Iterator[OpenRelease]:
    """An empty generation of the second bundle."""
    release = open_release(
        foley.settings.replace(data=tmp_path / "new"), "second", load_bundle(second_bundle.path)
    )
    yield release
    release.close()


def copy(foley: Foley, release: OpenRelease, wanted: list[Asset], **options: object) -> MirrorReport:
    snapshot = release.snapshot(priority="bulk")
    return mirror(wanted, snapshot=snapshot, decoder=foley.decoder, **options)  # type: ignore[arg-type]


def counts(report: MirrorReport) -> tuple[int, int, int]:
    return report.num_embedded, report.num_relabelled, report.num_deleted


def test_what_is_new_gone_or_relabelled(foley: Foley, release: OpenRelease, tmp_path: Path) -> None:
    wanted = list(iter_assets(foley.index))
    report = copy(foley, release, wanted)
    assert (counts(report), report.num_assets, report.missing) == ((NUM_FILES, 0, 0), NUM_FILES, ())
    assert list(iter_assets(release.index)) == wanted
    assert copy(foley, release, wanted).did_nothing, "what is there is not embedded again"

    moved = replace(wanted[0], path="/elsewhere.wav", paths=("/elsewhere.wav", "/copy.wav"))
    annotated = replace(wanted[1], metadata={"mood": "calm", "take": 3})
    changed = [moved, annotated, *wanted[3:]]
    report = copy(foley, release, changed)
    assert counts(report) == (0, 2, 1)
    assert sorted(iter_assets(release.index), key=lambda a: a.asset_id) == sorted(
        changed, key=lambda a: a.asset_id
    )
    assert release.index.get_track(wanted[2].asset_id, index=0, modality="audio") is None
    assert counts(copy(foley, release, wanted)) == (1, 2, 0)
    assert sorted(a.asset_id for a in iter_assets(release.index)) == sorted(a.asset_id for a in wanted)


def test_deletions_and_embedding_may_wait(foley: Foley, release: OpenRelease) -> None:
    wanted = list(iter_assets(foley.index))
    report = copy(foley, release, wanted[:2], embeds=False)
    assert (counts(report), len(report.missing)) == ((0, 0, 0), 2)
    copy(foley, release, wanted[:2])
    seeing = described_bundle(tracks={"video": (16, 8)})
    report = copy(foley, release, wanted[2:], embeds=False, source=seeing)
    assert (counts(report), len(report.missing)) == ((0, 0, 0), NUM_FILES - 2)
    assert len(list(iter_assets(release.index))) == 2, (
        "a bundle of pictures does not know that sounds are gone"
    )


def test_files_that_are_gone_are_missing_and_not_made_up(
    foley: Foley, release: OpenRelease, tmp_path: Path
) -> None:
    wanted = list(iter_assets(foley.index))
    gone = replace(wanted[0], path=str(tmp_path / "gone.wav"), paths=(str(tmp_path / "gone.wav"),))
    other = write_tone(tmp_path / "other.wav", 77)
    replaced = replace(wanted[1], path=str(other), paths=(str(other),))
    elsewhere = replace(wanted[2], paths=(str(tmp_path / "gone too.wav"), wanted[2].path))
    report = copy(foley, release, [gone, replaced, elsewhere])
    assert set(report.missing) == {gone.asset_id, replaced.asset_id}
    assert [failed.path for failed in report.failed] == [gone.path]
    assert [asset.asset_id for asset in iter_assets(release.index)] == [elsewhere.asset_id], (
        "a file with another content is another asset, which nobody wants"
    )
    again = copy(foley, release, [gone, replaced, elsewhere], given_up=report.missing)
    assert again.failed == ()
    assert set(again.missing) == set(report.missing)


def test_an_interrupted_run_goes_on(foley: Foley, release: OpenRelease) -> None:
    wanted = list(iter_assets(foley.index))
    copy(foley, release, wanted[:2])
    left = Caller()
    left.leave()
    report = copy(foley, release, wanted, options=RunOptions(stop=left))
    assert report.is_interrupted
    assert len(list(iter_assets(release.index))) == 2, "what is embedded stays"
    report = copy(foley, release, wanted)
    assert (report.num_embedded, report.is_interrupted, report.missing) == (NUM_FILES - 2, False, ())


def test_a_library_is_read_page_by_page(foley: Foley, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(iter_assets(foley.index))
    monkeypatch.setattr(iteration, "ASSETS_PER_PAGE", 2)
    assert list(iter_assets(foley.index)) == whole
    assert len(whole) == NUM_FILES


def test_assets_travel_as_lines(foley: Foley) -> None:
    wanted = [replace(asset, metadata={"a": [1, "b", True]}) for asset in iter_assets(foley.index)]
    assert read_assets(write_asset(asset) for asset in wanted) == wanted


def test_a_report_is_json(foley: Foley, release: OpenRelease) -> None:
    wanted = list(iter_assets(foley.index))
    gone = replace(wanted[0], path="/gone.wav", paths=("/gone.wav",))
    found = copy(foley, release, [gone]).to_json()
    assert found["missing"] == [gone.asset_id]
    assert found["failed"][0]["path"] == "/gone.wav"
