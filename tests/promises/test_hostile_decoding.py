"""Every hostile file through a decode worker: the outcome of the table, in time, and mutants without number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.media.clip import (
    BrokenMedia,
    ClipSpec,
    ClipTooLong,
    DecodeLimits,
    EmptyFile,
    NoStream,
    NotMedia,
    TooComplex,
    UnreadableClip,
)
from models.media.sound import MAX_AMPLITUDE
from service.decode.decoder import Decoder
from service.decode.lane import DecodeFailure, DecoderCrashed, DecodeTimedOut
from tests.support.hostile.cases import CASES, MAX_SECONDS, Case
from tests.support.hostile.mutants import mutants

SPEC = ClipSpec()
LIMITS = DecodeLimits(max_duration_seconds=MAX_SECONDS)
TIMEOUT_SECONDS = 5.0  # far above what any of them takes, but for the one that takes for ever
GRACE_SECONDS = 2.0
OF_THE_FILE = {kind.code for kind in (BrokenMedia, ClipTooLong, EmptyFile, NoStream, NotMedia, TooComplex)}
OF_THE_WORKER = {DecodeTimedOut.code, DecoderCrashed.code}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(num_workers=1) as decoder:
        decoder.call(int, 20.0)
        yield decoder


def outcome_of(decoder: Decoder, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    began = time.monotonic()
    try:
        decoded = decoder.submit(path, SPEC, limits=LIMITS, timeout_seconds=timeout_seconds).result()
    except (UnreadableClip, DecodeFailure) as exc:
        return exc.code
    finally:
        assert time.monotonic() - began < timeout_seconds + GRACE_SECONDS
    assert decoded.clips
    for clip in decoded.clips:
        assert clip.frames is not None or clip.samples is not None
        assert clip.samples is None or abs(clip.samples).max() < 2 * MAX_AMPLITUDE  # resampling overshoots
    return "partial" if decoded.is_partial else "ok"


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_outcome(case: Case, decoder: Decoder, tmp_path: Path) -> None:
    assert outcome_of(decoder, case.write(tmp_path)) in case.outcomes


def test_mutants(decoder: Decoder, tmp_path: Path) -> None:
    """However a file is damaged, it decodes, or there is one reason why not; no worker should die of it."""
    outcomes: Counter[str] = Counter()
    odd: list[tuple[int, str]] = []
    for number, content in mutants():
        path = tmp_path / str(number)
        path.write_bytes(content)
        outcome = outcome_of(decoder, path)
        outcomes[outcome] += 1
        if outcome in OF_THE_WORKER:
            odd.append((number, outcome))
        path.unlink()
    print(f"\n{outcomes.total()} mutants: {dict(outcomes)}; at the cost of a worker: {odd}")  # noqa: T201 - the figure of `make soak`
    assert set(outcomes) <= {"ok", "partial"} | OF_THE_FILE | OF_THE_WORKER
    assert len(outcomes) >= 3  # the damage shows
    assert len(odd) <= outcomes.total() // 100
