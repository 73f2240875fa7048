"""`foley audit`: files that were broken on purpose come first, with what was done to them, and no others are named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index.contract import Index, Segment
from service.search.audit import audit_library, find_offset
from service.search.calibration import TooFewPairs
from tests.support.memory_index import MemoryIndex

WIDTH, MOMENTS, SEGMENTS, FILES = 32, 16, 4, 40
STEP = 10.0 / MOMENTS
Line = NDArray[np.float32]  # (SEGMENTS · MOMENTS, WIDTH)


def unit(rows: NDArray[np.float64]) -> Line:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def make_line(rng: np.random.Generator) -> Line:
    """What happens in a file: something new every 1.25 s."""
    events = rng.normal(size=(SEGMENTS * MOMENTS // 2 + 1, WIDTH))
    return unit(np.repeat(events, 2, axis=0)[: SEGMENTS * MOMENTS])


def see(rng: np.random.Generator, line: Line) -> Line:
    """A line as one of the senses has it."""
    return unit(line + rng.normal(scale=0.12, size=line.shape))


def segments(name: str, sound: Line, picture: Line) -> list[Segment]:
    asset_id = hashlib.sha256(name.encode()).hexdigest()
    return [
        Segment(
            asset_id=asset_id,
            path=f"/media/{name}.mp4",
            index=number,
            start_seconds=10.0 * number,
            end_seconds=10.0 * (number + 1),
            audio_track=sound[number * MOMENTS : (number + 1) * MOMENTS],
            video_track=picture[number * MOMENTS : (number + 1) * MOMENTS],
        )
        for number in range(SEGMENTS)
    ]


@pytest.fixture(scope="module")
def silence() -> Line:
    return unit(
        np.ones((MOMENTS, WIDTH)) + np.random.default_rng(9).normal(scale=0.01, size=(MOMENTS, WIDTH))
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, silence: Line) -> Iterator[Index]:
    rng = np.random.default_rng(3)
    with MemoryIndex.open(tmp_path_factory.mktemp("audit"), width=WIDTH) as index:
        for number in range(FILES):
            line, other = make_line(rng), make_line(rng)
            sound, name = see(rng, line), f"good{number}"
            if number == 0:
                sound, name = see(rng, other), "dubbed"
            elif number == 1:
                sound, name = np.tile(silence, (SEGMENTS, 1)), "silent"
            elif number == 2:
                sound, name = see(rng, np.concatenate([other[:8], line[:-8]])), "late"
            elif number == 3:
                sound, name = see(rng, np.concatenate([line[16:], other[:16]])), "early"
            index.write_asset(segments(name, sound, see(rng, line)), is_last=True)
        yield index


def test_what_was_broken_comes_first_and_says_how(index: Index, silence: Line) -> None:
    done: list[int] = []
    findings = audit_library(index, silence=silence, on_progress=done.append)
    assert done == list(range(1, FILES + 1))
    assert len(findings) == FILES
    named = {Path(finding.path).stem: finding for finding in findings}
    assert {Path(finding.path).stem for finding in findings[:4]} == {"dubbed", "silent", "late", "early"}
    verdicts = {name: finding.verdict for name, finding in named.items() if not name.startswith("good")}
    assert verdicts == {"dubbed": "mismatch", "silent": "silent", "late": "shifted", "early": "shifted"}
    assert {finding.verdict for finding in findings[4:]} == {"fits"}
    assert named["late"].offset_seconds == pytest.approx(8 * STEP)
    assert named["early"].offset_seconds == pytest.approx(-16 * STEP)
    assert named["late"].score_at_offset > named["late"].score + 0.3
    assert named["good9"].rank == 1.0
    assert named["dubbed"].match_probability < 0.1 < 0.9 < named["good9"].match_probability


def test_without_the_track_of_silence_a_silent_file_is_a_mismatch(index: Index) -> None:
    verdicts = {Path(finding.path).stem: finding.verdict for finding in audit_library(index)}
    assert verdicts["silent"] in ("mismatch", "doubtful")


def test_an_offset_out_of_reach_is_not_found(index: Index) -> None:
    named = {Path(f.path).stem: f for f in audit_library(index, max_offset_seconds=3.0)}
    assert named["late"].offset_seconds == 0.0
    assert named["late"].verdict in ("mismatch", "doubtful")


@pytest.mark.parametrize("lag", [-20, -3, 0, 5, 31])
def test_an_offset_is_found_to_the_moment(lag: int) -> None:
    rng = np.random.default_rng(lag + 100)
    line = unit(rng.normal(size=(SEGMENTS * MOMENTS + 64, WIDTH)))
    sound, picture = line[32 - lag : 32 - lag + SEGMENTS * MOMENTS], line[32 : 32 + SEGMENTS * MOMENTS]
    offset, gained, plain = find_offset(segments("x", see(rng, sound), see(rng, picture)), 10.0, 30.0)
    assert offset == pytest.approx(lag * STEP)
    assert gained > 0.5
    if lag:
        assert plain < 0.2


def test_a_file_that_never_changes_is_not_shifted() -> None:
    rng = np.random.default_rng(1)
    steady = np.repeat(unit(rng.normal(size=(1, WIDTH))), SEGMENTS * MOMENTS, axis=0)
    offset, _, _ = find_offset(segments("x", see(rng, steady), see(rng, steady)), 10.0, 30.0)
    assert offset == 0.0


def test_a_small_library_cannot_say_what_fits(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    with MemoryIndex.open(tmp_path / "index", width=WIDTH) as index:
        line = make_line(rng)
        index.write_asset(segments("one", line, line), is_last=True)
        with pytest.raises(TooFewPairs, match="1 files have sound and picture"):
            audit_library(index)
