"""What no step foresees at one file is that file's outcome: the others are indexed, and the job ends well."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.decode import lane
from service.decode.decoder import Decoder
from service.encode.spool import Spool
from service.foley import Foley, open_foley
from service.index.contract import Filter
from service.index.failure import IndexFull
from service.index.iteration import iter_assets
from service.jobs.database import LedgerFull
from service.jobs.files import read_files
from service.jobs.journal import LedgerJournal
from service.jobs.opening import Jobs, open_jobs
from service.jobs.records import JobRequest
from service.library import fetching, scanning, stages
from service.library.catalogue import Placement
from service.library.outcomes import Outcomes
from service.library.report import IndexReport
from service.library.stages import IncomingFile
from service.system.settings import Settings
from tests.support.libraries import write_tone
from tests.support.memory_index import MemoryIndex, memory_indexes

NUMBERS = itertools.count(0, 10)
VICTIM = "victim.wav"
ERRORS = (
    RuntimeError("odd"),
    KeyError("odd"),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "odd"),
    OverflowError("odd"),
    MemoryError(),
)
STEPS: dict[str, tuple[object, str]] = {
    "scan": (scanning, "_describe"),
    "begin": (LedgerJournal, "_begin"),
    "look up faults": (LedgerJournal, "fault_of"),
    "look up identity": (LedgerJournal, "find_identity"),
    "identify": (fetching, "identify"),
    "start": (LedgerJournal, "start"),
    "hand to the decoder": (Decoder, "submit"),
    "open": (lane, "open_regular"),
    "take what is decoded": (IncomingFile, "media"),
    "embed": (stages, "embed_clips"),
    "keep": (Spool, "append"),
    "write": (MemoryIndex, "write_asset"),
    "take down": (Outcomes, "end_stored"),
    "remember": (LedgerJournal, "end"),
    "learn": (LedgerJournal, "_learn"),
    "place": (Placement, "_place"),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[Foley]:
    data = tmp_path_factory.mktemp("unforeseen")
    settings = Settings(data=data, bundle=bundle_path, device="cpu", min_free_bytes=0, decode_workers=1)
    with memory_indexes(), open_foley(settings) as foley:
        yield foley


@pytest.fixture
def jobs(opened: Foley, tmp_path: Path) -> Iterator[Jobs]:
    with open_jobs(replace(opened, settings=opened.settings.replace(data=tmp_path / "data"))) as jobs:
        yield jobs


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two sounds of half a second, and one of 0.7 s that goes wrong."""
    base = next(NUMBERS)
    write_tone(tmp_path / "library" / VICTIM, base, seconds=0.7)
    write_tone(tmp_path / "library" / "a.wav", base + 1, seconds=0.5)
    write_tone(tmp_path / "library" / "z.wav", base + 2, seconds=0.5)
    return tmp_path / "library"


def _run(jobs: Jobs, *paths: Path, kind: Any = "sync") -> IndexReport:
    request = JobRequest(paths=tuple(map(str, paths)))
    return jobs.library.run(jobs.library.submit(kind, request).job.job_id)


def _breaking(original: Callable[..., Any], error: Exception, asset_id: str) -> Callable[..., Any]:
    """The function, which fails if what it is given has to do with the victim."""

    def concerns_victim(*values: object) -> bool:
        text = repr(values)
        clips = [v for value in values if isinstance(value, list) for v in value if hasattr(v, "samples")]
        return VICTIM in text or asset_id in text or any(len(clip.samples) == 11_200 for clip in clips)

    def broken(*args: Any, **kwargs: Any) -> Any:
        own = args[0].found if isinstance(args[0], IncomingFile) else None
        if concerns_victim(*args, own):
            raise error
        return original(*args, **kwargs)

    return broken


@pytest.mark.parametrize(("step", "error"), list(zip(STEPS, itertools.cycle(ERRORS), strict=False)))
def test_one_file_fails_at_a_step(
    jobs: Jobs, opened: Foley, library: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    (found,) = scanning.find_files([library / VICTIM])
    assert isinstance(found, scanning.FoundFile)
    asset_id = scanning.identify(found)
    if step == "place":  # what the end of a run writes: further paths of a known content
        other = shutil.copy(library / VICTIM, library.with_name("known.wav"))
        _run(jobs, Path(other))
    owner, name = STEPS[step]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _breaking(getattr(owner, name), error, asset_id))
        report = _run(jobs, library)
    assert [Path(file.path).name for file in report.failed] == [VICTIM]
    assert report.failed[0].code == ("not_readable" if step == "scan" else "unforeseen")
    assert (report.files.indexed, report.files.unchanged, report.files.failed) == (2, 0, 1)
    assert jobs.ledger.list_jobs(limit=1)[0].state == "done"
    assert _names(opened, library) >= {"a.wav", "z.wav"}
    if step not in ("scan", "begin"):
        job_id = jobs.ledger.list_jobs(limit=1)[0].job_id
        assert VICTIM in {Path(row.path).name for row in read_files(jobs.ledger, job_id)}
    report = _run(jobs, library)  # what is not quarantined is tried again
    if not report.quarantined:
        assert _names(opened, library) == {"a.wav", "z.wav", VICTIM}


def _names(foley: Foley, folder: Path) -> set[str]:
    assets = iter_assets(foley.index, filter=Filter(folder=str(folder)))
    return {Path(path).name for asset in assets for path in asset.paths if Path(path).parent == folder}


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (MemoryIndex, "write_asset", IndexFull("the disk is full")),
        (MemoryIndex, "write_asset", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        (LedgerJournal, "end", LedgerFull("the disk is full")),
        (LedgerJournal, "_learn", LedgerFull("the disk is full")),
    ],
)
def test_what_the_machine_lacks_ends_the_job(
    jobs: Jobs, library: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception
) -> None:
    """Control: not every error is that of a file."""
    monkeypatch.setattr(owner, name, _breaking(getattr(owner, name), error, "-"))
    with pytest.raises(Exception, match=r"disk is full|No space left"):
        _run(jobs, library)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a file system that keeps every time")  # noqa: PTH112
def test_files_from_every_age_are_indexed_and_found_by_their_time(
    jobs: Jobs, opened: Foley, tmp_path: Path
) -> None:
    base = next(NUMBERS)
    ages = {"1600": -11_676_096_000, "-1": -1, "0": 0, "2025": 1_735_689_600, "4000": 64_060_588_800}
    folder = Path("/dev/shm") / f"foley-ages-{os.getpid()}-{base}"
    try:
        for number, (name, seconds) in enumerate(ages.items()):
            path = write_tone(folder / f"{name}.wav", base + number, seconds=0.3)
            os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
        assert _run(jobs, folder).files.indexed == 5
        assert _run(jobs, folder).files.unchanged == 5
        before = Filter(folder=str(folder), modified_before=0.0)
        later = Filter(folder=str(folder), modified_after=1.8e9, modified_before=1e300)
        for chosen, names in ((before, {"1600", "-1"}), (later, {"4000"})):
            found = {Path(asset.path).stem for asset in iter_assets(opened.index, filter=chosen)}
            assert found == names
    finally:
        shutil.rmtree(folder)
