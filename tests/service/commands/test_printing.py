"""What people see of jobs, releases and answers, on a terminal of 80 columns."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from service.cli import app
from service.commands.printing import print_answer, print_asset, print_jobs, print_report
from service.library.report import IndexReport

ID = "8f14e45fceea467a9c1d2b3a4f5e6d7c"


def shown(show: Callable[[Console, Any], None], value: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    show(console, value)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_what_a_file_says_is_told_from_what_people_say() -> None:
    asset = {"asset_id": ID, "paths": ["/a.wav"], "num_segments": 1, "modalities": ["audio"]}
    media = {"container": "wav", "said": {"title": "Gate", "keywords": ["wood"]}}
    rows = [
        line.split(maxsplit=1)
        for line in shown(print_asset, {**asset, "media": media, "metadata": {"take": 3}}).splitlines()
    ]
    assert [[name, text.strip()] for name, text in rows[-4:]] == [
        ["media.container", "wav"], ["said.title", '"Gate"'], ["said.keywords", '["wood"]'], ["take", "3"],
    ]  # fmt: skip
    assert "said" not in shown(print_asset, {**asset, "media": {"container": "wav"}, "metadata": {}})


def test_a_job_can_be_named() -> None:
    job = {
        "job_id": ID,
        "kind": "index",
        "state": "cancelled",
        "created_at": 0.0,
        "request": {"paths": ["/library/a folder of takes/[rain]/and more of them"]},
        "report": {"files": {}},
        "progress": {"num_done": 100_000, "num_failed": 12},
    }
    text = shown(print_jobs, [job])
    row = next(line for line in text.splitlines() if ID in line)
    assert "cancelled" in row
    assert "100000, 12 failed" in row
    assert "[rain]/" in text


def test_a_release_can_be_named_and_says_in_a_line_why_it_was_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reasons = ["R@1 of sound is 12.2 %, the active one has 38.0 %" + " and so on" * 12, "[slow]"]
    release = {
        "release_id": ID,
        "state": "refused",
        "is_previous": False,
        "created_at": 0.0,
        "gates": {"reasons": reasons},
    }
    found = {"active": "starter", "releases": [release]}
    monkeypatch.setattr("service.commands.here_or_there.list_releases", lambda _: found)
    result = CliRunner().invoke(app, ["releases"], env={"FOLEY_DATA": str(tmp_path), "COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert ID in lines[2]
    assert lines[3] == f"{ID} was refused: {'; '.join(reasons)}"


@pytest.mark.parametrize("probability", [None, 0.5])
def test_likely_is_a_column_where_it_is_known(probability: float | None) -> None:
    result = {
        "score": 0.5,
        "match_probability": probability,
        "start_seconds": 0.0,
        "end_seconds": 10.0,
        "best_moment": {"time_seconds": 3.0, "similarity": 0.7},
        "moments": [0.3, 0.7],
        "found_by": ["meaning"],
        "path": "/library/rain/heavy-rain-on-a-tin-roof.wav",
    }
    text = shown(print_answer, {"results": [result], "target": "audio", "from": "video", "bundle_id": "x"})
    assert ("likely" in text, "50%" in text) == (probability is not None,) * 2
    assert "heavy-rain-on-a-tin-roof.wav" in text
    assert "picture → sound · x" in text
    assert "no better than chance" not in text


def test_a_release_that_cannot_tell_is_named_below_the_results() -> None:
    answer = {
        "results": [],
        "target": "audio",
        "from": "video",
        "bundle_id": "x",
        "probability_reason": "cannot_tell",
    }
    assert "no better than chance" in shown(print_answer, answer)


def test_one_is_not_many() -> None:
    assert "1 other file skipped" in shown(print_report, IndexReport(num_ignored=1))
    assert "2 other files skipped" in shown(print_report, IndexReport(num_ignored=2))
