"""`foley audit`: files that were broken on purpose come first, with what was done to them, and no others are named.

A release that does not know says so: of a file, or of the whole library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from service.index.contract import Index, Segment
from service.index.layout import VectorLayout
from service.search.audit import CannotTell, audit_library
from service.search.calibration import TooFewPairs
from service.search.offset import find_offset
from service.search.separation import Separation
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


def segments(
    name: str, sound: Line, picture: Line, *, media: dict[str, bool | None] | None = None
) -> list[Segment]:
    asset_id = hashlib.sha256(name.encode()).hexdigest()
    return [
        Segment(
            asset_id=asset_id,
            path=f"/media/{name}.mp4",
            index=number,
            media=media or {},
            start_seconds=10.0 * number,
            end_seconds=10.0 * (number + 1),
            audio_track=sound[number * MOMENTS : (number + 1) * MOMENTS],
            video_track=picture[number * MOMENTS : (number + 1) * MOMENTS],
        )
        for number in range(len(sound) // MOMENTS)
    ]


@pytest.fixture(scope="module")
def silence() -> Line:
    return unit(
        np.ones((MOMENTS, WIDTH)) + np.random.default_rng(9).normal(scale=0.01, size=(MOMENTS, WIDTH))
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, silence: Line) -> Iterator[Index]:
    rng = np.random.default_rng(3)
    with MemoryIndex.open(tmp_path_factory.mktemp("audit"), layout=VectorLayout.of_both(16, WIDTH)) as index:
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
    audit = audit_library(index, silence=silence)
    findings = audit.findings
    assert len(findings) == audit.num_files == FILES
    assert audit.verdicts == {"mismatch": 1, "silent": 1, "shifted": 2, "fits": FILES - 4}
    assert audit.separation.low > 0.85
    named = {Path(finding.path).stem: finding for finding in findings}
    assert {Path(finding.path).stem for finding in findings[:4]} == {"dubbed", "silent", "late", "early"}
    verdicts = {name: finding.verdict for name, finding in named.items() if not name.startswith("good")}
    assert verdicts == {"dubbed": "mismatch", "silent": "silent", "late": "shifted", "early": "shifted"}
    assert {finding.verdict for finding in findings[4:]} == {"fits"}
    assert named["late"].offset_seconds == pytest.approx(8 * STEP)
    assert named["early"].offset_seconds == pytest.approx(-16 * STEP)
    assert named["late"].score_at_offset > named["late"].score + 0.3
    assert named["good9"].rank == 1.0
    assert cast(float, named["dubbed"].match_probability) < 0.1
    assert cast(float, named["good9"].match_probability) > 0.9
    assert named["silent"].match_probability is None


def test_without_the_track_of_silence_a_silent_file_is_a_mismatch(index: Index) -> None:
    verdicts = {Path(finding.path).stem: finding.verdict for finding in audit_library(index).findings}
    assert verdicts["silent"] in ("mismatch", "cannot_tell")


def test_an_offset_out_of_reach_is_not_found(index: Index) -> None:
    named = {Path(f.path).stem: f for f in audit_library(index, max_offset_seconds=3.0).findings}
    assert named["late"].offset_seconds == 0.0
    assert named["late"].verdict in ("mismatch", "cannot_tell")


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
    with MemoryIndex.open(tmp_path / "index", layout=VectorLayout.of_both(16, WIDTH)) as index:
        line = make_line(rng)
        index.write_asset(segments("one", line, line), is_last=True)
        with pytest.raises(TooFewPairs, match="1 files have sound and picture"):
            audit_library(index)


# What a release knows


def relate(
    rng: np.random.Generator, name: str, share: float, *, media: dict[str, bool | None] | None = None
) -> list[Segment]:
    """A file whose sound has so much in common with its picture: 1 for all, 0 for nothing."""
    line, other = make_line(rng)[:MOMENTS], make_line(rng)[:MOMENTS]
    return segments(name, unit(share * line + (1 - share) * other), line, media=media)


def write_library(path: Path, share: float) -> MemoryIndex:
    rng, index = np.random.default_rng(5), MemoryIndex.open(path, layout=VectorLayout.of_both(16, WIDTH))
    for number in range(FILES):
        index.write_asset(relate(rng, f"file{number}", share), is_last=True)
    return index


@pytest.mark.parametrize("collapse", [0.0, 50.0], ids=["spread", "all_nearly_alike"])
def test_a_release_at_chance_judges_nothing(tmp_path: Path, silence: Line, collapse: float) -> None:
    rng = np.random.default_rng(5)
    with MemoryIndex.open(tmp_path, layout=VectorLayout.of_both(16, WIDTH)) as index:
        for number in range(FILES):
            sound, picture = (unit(make_line(rng)[:MOMENTS] + collapse * silence) for _ in range(2))
            index.write_asset(segments(f"file{number}", sound, picture), is_last=True)
        with pytest.raises(CannotTell, match=r"no better than chance \(AUC 0\.\d\d, 95 % interval"):
            audit_library(index, silence=silence)


def test_the_same_library_is_judged_if_own_pairs_are_related(tmp_path: Path) -> None:
    """The control of the refusal."""
    with write_library(tmp_path, 0.6) as index:
        assert audit_library(index).verdicts == {"fits": FILES}


def test_a_weak_release_says_of_most_files_that_it_cannot_tell(tmp_path: Path) -> None:
    """Its scores overlap: some files fit, hardly one is called wrong, and of the rest nothing is said."""
    with write_library(tmp_path, 0.1) as index:
        audit = audit_library(index)
    assert 0.5 < audit.separation.low < audit.separation.auc < 0.9
    assert audit.verdicts["cannot_tell"] > FILES / 2
    assert audit.verdicts.get("mismatch", 0) <= 1
    order = [finding.verdict for finding in audit.findings]
    assert order == sorted(order, key=["mismatch", "shifted", "cannot_tell", "fits"].index)


def test_facts_come_before_scores(tmp_path: Path, silence: Line) -> None:
    """A file that is silent, or whose picture never changes, by its facts is judged by nothing else."""
    rng = np.random.default_rng(6)
    with write_library(tmp_path, 0.6) as index:
        for name in ("is_silent", "is_static"):
            index.write_asset(relate(rng, name, 1.0, media={name: True}), is_last=True)
        loud = segments("loud", silence, make_line(rng)[:MOMENTS], media={"is_silent": False})
        index.write_asset(loud, is_last=True)
        unknown = segments("unknown", silence, make_line(rng)[:MOMENTS], media={"is_silent": None})
        index.write_asset(unknown, is_last=True)
        named = {Path(f.path).stem: f for f in audit_library(index, silence=silence).findings}
    assert named["unknown"].verdict == "silent", "nobody judged the samples: the embedding decides"
    assert (named["is_silent"].verdict, named["is_silent"].match_probability) == ("silent", None)
    assert (named["is_static"].verdict, named["is_static"].match_probability) == ("cannot_tell", None)
    assert named["loud"].verdict == "mismatch", "an encoder hears silence where the samples have some sound"


# Real encoders on synthetic clips; tests/golden/make_audit_tracks.py


@pytest.fixture(scope="module")
def recorded() -> dict[str, Line]:
    with np.load(Path(__file__).parents[2] / "golden" / "audit_tracks.npz") as arrays:
        return {name: normalise(arrays[name]) for name in arrays.files}


def normalise(track: NDArray[np.float16]) -> Line:
    wide = track.astype(np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True), np.float32)


def audit_recorded(
    path: Path, recorded: dict[str, Line], encoder: str, sounds: dict[int, str]
) -> tuple[Separation, dict[int, str]]:
    """Audit the files of an encoder, some of which get another sound."""
    with MemoryIndex.open(path, layout=VectorLayout.of_both(16, 128)) as index:
        numbers = [int(name.rpartition("/")[2]) for name in recorded if name.startswith(f"{encoder}/video/")]
        for number in numbers:
            sound = recorded[f"{encoder}/{sounds.get(number, f'audio/{number}')}"].reshape(-1, 16, 128)
            tracks = zip(sound, recorded[f"{encoder}/video/{number}"], strict=False)
            index.write_asset(
                [
                    Segment(
                        asset_id=f"{number:064x}",
                        path=f"/{number}",
                        index=place,
                        start_seconds=10.0 * place,
                        end_seconds=10.0 * (place + 1),
                        audio_track=heard,
                        video_track=seen,
                    )
                    for place, (heard, seen) in enumerate(tracks)
                ],
                is_last=True,
            )
        audit = audit_library(index, silence=recorded[f"{encoder}/silence"])
    return audit.separation, {int(finding.path[1:]): finding.verdict for finding in audit.findings}


BROKEN = {2: "audio/12", 22: "audio/7", 9: "silence", 33: "late/33", 34: "late/34"}


def test_the_starter_names_what_was_swapped_shifted_and_silenced(
    tmp_path: Path, recorded: dict[str, Line]
) -> None:
    separation, verdicts = audit_recorded(tmp_path, recorded, "starter", BROKEN)
    assert separation.low > 0.8
    expected = {2: "mismatch", 22: "mismatch", 9: "silent", 33: "shifted", 34: "shifted"}
    assert {number: verdicts[number] for number in expected} == expected
    rest = [verdict for number, verdict in verdicts.items() if number not in expected]
    assert set(rest) <= {"fits", "cannot_tell"}
    assert rest.count("fits") > 0.8 * len(rest)


def test_random_weights_say_nothing_of_the_same_clips(tmp_path: Path, recorded: dict[str, Line]) -> None:
    swapped = {number: sound for number, sound in BROKEN.items() if number < 33}
    with pytest.raises(CannotTell, match="no better than chance"):
        audit_recorded(tmp_path, recorded, "random", swapped)
