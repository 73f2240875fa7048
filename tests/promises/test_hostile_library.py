"""One bad file never stops a job: a fifth of the library is hostile, and every good file is indexed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle.bundle import starter_path
from models.media.clip import DecodeLimits
from service.foley import Foley, open_foley
from service.index.iteration import iter_assets
from service.library.indexing import index_paths
from service.library.options import RunOptions
from service.system.paths import show_path
from service.system.settings import Settings
from tests.support.hostile.cases import CASES, MAX_SECONDS, SLOW
from tests.support.hostile.escapes import ESCAPES, Canaries
from tests.support.hostile.sources import good
from tests.support.libraries import write_tones

OPTIONS = RunOptions(limits=DecodeLimits(max_duration_seconds=MAX_SECONDS))
# The slow ones are left to the other two ways in: a library gives a file at least 60 s.
BAD = [case for case in CASES if case.outcome not in ("ok", "partial") and case.name not in SLOW]
GOOD = [case for case in CASES if case.outcome in ("ok", "partial") and case.name not in SLOW]
GOOD_PER_BAD = 4


@pytest.fixture(scope="module")
def foley(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foley]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"), bundle=starter_path(), device="cpu", min_free_bytes=0
    )
    with open_foley(settings) as foley:
        yield foley


def index(foley: Foley, folder: Path) -> tuple[dict[str, str], set[str]]:
    """Codes of the files that failed, and paths of those that are indexed."""
    report = index_paths([folder], snapshot=foley.snapshot(), decoder=foley.decoder, options=OPTIONS)
    assert not report.is_interrupted
    indexed = {path for asset in iter_assets(foley.index) for path in asset.paths or (asset.path,)}
    return {failed.path: failed.code for failed in report.failed}, indexed


def test_a_fifth_of_the_library_is_bad(foley: Foley, tmp_path: Path) -> None:
    expected = {str(case.write(tmp_path / "bad")): case.outcome for case in BAD}
    odd = {str(case.write(tmp_path / "odd")) for case in GOOD}
    tones = write_tones(tmp_path / "good", GOOD_PER_BAD * len(BAD) - len(odd), seconds=0.1)
    failed, indexed = index(foley, tmp_path)
    assert failed == expected
    assert {show_path(path) for path in odd} | {str(path) for path in tones} == {
        show_path(p) for p in indexed
    }


def test_what_only_a_library_can_hold(foley: Foley, tmp_path: Path) -> None:
    tone = write_tones(tmp_path, 1, first=5000)[0]
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    inside = tmp_path / "folder.mp4"
    inside.mkdir()
    (inside / "inside.wav").write_bytes(good("wav", 0.5))
    odd = tmp_path / os.fsdecode(b"\xff\xfe.wav")
    odd.write_bytes(good("wav", 0.7))
    failed, indexed = index(foley, tmp_path)
    names = {show_path(path).removeprefix(f"{tmp_path}/") for path in indexed if str(tmp_path) in path}
    assert names == {tone.name, "folder.mp4/inside.wav", "\\xff\\xfe.wav"}
    assert {path.removeprefix(f"{tmp_path}/"): code for path, code in failed.items()} == {
        "pipe.mp4": "not_a_file",
        "zero.mp4": "not_a_file",
        "a.mp4": "not_readable",
        "b.mp4": "not_readable",
    }


def test_a_file_replaced_between_scan_and_decode(foley: Foley, tmp_path: Path) -> None:
    victim, tone = tmp_path / "a.wav", write_tones(tmp_path, 1, first=6000)[0]
    victim.write_bytes(good("wav", 0.9))
    decode = foley.decoder.submit

    class Replacing:
        def __getattr__(self, name: str) -> object:
            return getattr(foley.decoder, name)

        def submit(self, path: Path, *args: object, **kwargs: object) -> object:
            if path == victim:
                victim.unlink()
                victim.symlink_to("/etc/passwd")
            return decode(path, *args, **kwargs)  # type: ignore[arg-type]

    report = index_paths(
        [tmp_path],
        snapshot=foley.snapshot(),
        decoder=Replacing(),  # type: ignore[arg-type]
        options=OPTIONS,
    )
    assert {failed.path: failed.code for failed in report.failed} == {str(victim): "not_a_file"}
    assert report.files.indexed == 1
    assert tone.exists()


def test_a_library_opens_nothing_else(foley: Foley, tmp_path: Path) -> None:
    expected = {}
    with Canaries(tmp_path / "secret") as canaries:
        for name, escape in ESCAPES.items():
            place = tmp_path / "library" / name.replace(", ", "_")
            place.mkdir(parents=True)
            path = place / escape.file_name
            path.write_bytes(escape.content(canaries))
            expected[str(path)] = escape.outcome
        canaries.take()
        # Each is named, as in a folder playlists are not even tried.
        report = index_paths(
            [Path(path) for path in expected],
            snapshot=foley.snapshot(),
            decoder=foley.decoder,
            options=OPTIONS,
        )
        assert canaries.take() == set()
    assert {failed.path: failed.code for failed in report.failed} == expected
