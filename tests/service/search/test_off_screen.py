"""The seconds whose sound does not belong to their picture, and a search that weighs moments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from models.bundle.bundle import unit_rows
from service.cli import app
from service.commands import audit as command
from service.commands.printing import format_time
from service.encode.embedding import EmbeddedSegment, weigh_moments
from service.index.contract import VectorQuery
from service.index.layout import VectorLayout
from service.search.audit import Audit, audit_library
from service.search.off_screen import find_off_screen
from tests.support.index_contract import make_id, make_segment
from tests.support.memory_index import MemoryIndex
from tests.support.moments import by_cosine

LENGTH, WIDTH = 10, 32
LAYOUT = VectorLayout(tracks={"audio": (LENGTH, WIDTH), "video": (LENGTH, WIDTH)}, weighs_moments=True)
MOMENTS = by_cosine(WIDTH)


def make_pairs(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sound and picture that agree, (count, T, D) each."""
    rng = np.random.default_rng(1)
    video = unit_rows(rng.standard_normal((count, LENGTH, WIDTH)).astype(np.float32))
    noise = rng.standard_normal(video.shape).astype(np.float32) / 20
    return unit_rows(video + noise), video


def test_spans_are_joined_over_segments_and_single_moments_left_out() -> None:
    audio, video = make_pairs(3)
    foreign = make_pairs(6)[0][3:]
    audio[0, 7:] = foreign[0, 7:]
    audio[1, :2] = foreign[1, :2]
    audio[2, 5] = foreign[2, 5]
    segments = [make_segment("a", n, audio_track=audio[n], video_track=video[n]) for n in range(3)]
    segments.append(make_segment("a", 3, audio_track=foreign[0]))
    assert find_off_screen(segments, MOMENTS) == [(7.0, 12.0)]


def test_items_with_one_stream_count_alike() -> None:
    audio, video = make_pairs(2)
    audio[0, :5] = audio[1, :5]
    both = EmbeddedSegment(start_seconds=0, end_seconds=10, tracks={"audio": audio[0], "video": video[0]})
    alone = EmbeddedSegment(start_seconds=0, end_seconds=10, tracks={"audio": audio[0]})
    weighed, same = weigh_moments([both, alone], MOMENTS)
    assert same is alone
    assert weighed.tracks["video"] is video[0] or (weighed.tracks["video"] == video[0]).all()
    lengths = np.linalg.norm(weighed.tracks["audio"], axis=1)
    assert lengths[:5].max() < 0.2
    assert lengths[5:].min() > 1.5
    assert abs(lengths.mean() - 1) < 1e-5
    assert weigh_moments([both], None) == [both]


@contextmanager
def half_foreign(folder: Path) -> Iterator[tuple[MemoryIndex, NDArray[np.float32], NDArray[np.float32]]]:
    """40 files; the sound of the first 20 belongs to another file from second 5 on."""
    audio, video = make_pairs(40)
    clean = audio.copy()
    audio[:20, 5:] = np.roll(clean, 1, axis=0)[:20, 5:]
    with MemoryIndex.open(folder, layout=LAYOUT) as index:
        for number in range(40):
            one = EmbeddedSegment(
                start_seconds=0, end_seconds=10, tracks={"audio": audio[number], "video": video[number]}
            )
            (stored,) = weigh_moments([one], MOMENTS)
            segment = make_segment(
                number, audio_track=stored.tracks["audio"], video_track=stored.tracks["video"]
            )
            index.write_asset([segment], is_last=True)
        yield index, audio, video


def test_half_foreign_sound_is_found_by_its_picture_and_named_by_the_audit(tmp_path: Path) -> None:
    with half_foreign(tmp_path) as (index, audio, video):
        found = index.search_assets(VectorQuery(track=video[3], target="audio", limit=1))[0]
        assert found.asset_id == make_id(3)
        assert found.score > 0.85, "every moment alike would give .5"
        assert np.allclose(found.moments, (audio[3] * video[3]).sum(axis=1), atol=2e-3)
        audit = audit_library(index, moments=MOMENTS)
        assert audit.weighs_moments
        spans = {one.asset_id: one.off_screen for one in audit.findings}
        assert all(spans[make_id(number)] == [(5.0, 10.0)] for number in range(20))
        assert all(spans[make_id(number)] == [] for number in range(20, 40))
        assert all(one.off_screen is None for one in audit_library(index).findings)


def test_the_command_names_the_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with half_foreign(tmp_path) as (index, _, _):
        weighed, plain = audit_library(index, moments=MOMENTS), audit_library(index)

    def run(found: Audit, *arguments: str) -> Result:
        monkeypatch.setattr(
            command, "_audit", lambda settings, *, limit, max_offset: found.to_json(limit=limit)
        )
        return CliRunner().invoke(app, ["audit", *arguments], env={"FOLEY_DATA": str(tmp_path)})

    span = f"{format_time(5.0)}–{format_time(10.0)}"
    named = run(weighed, "--moments")
    assert named.exit_code == 0, named.output
    assert "off screen" in named.output
    assert named.output.count(span) == 20
    assert span not in run(weighed).output
    said = json.loads(run(weighed, "--moments", "--json").stdout)
    assert sum(one["off_screen"] == [[5.0, 10.0]] for one in said["findings"]) == 20
    refused = run(plain, "--moments")
    assert refused.exit_code != 0
    assert "does not weigh moments: make one that does with `foley-train agreement`" in refused.output
