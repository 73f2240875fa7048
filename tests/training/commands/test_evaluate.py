"""`foley-train evaluate` and `foley-train probe` on the shipped bundle and six clips."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.bundle.bundle import starter_path
from training.cli import app
from training.commands.evaluate import MAX_CLASS_ROWS, probe_table
from training.evaluation.probe import ProbeResult


@pytest.fixture(autouse=True)
def same_logging():
    """A command sets up logging for its process; the tests after it get theirs back."""
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def run(*arguments: str | Path, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_retrieval_is_a_table_for_people_and_json_for_programs(corpus: Path) -> None:
    result = run("evaluate", starter_path(), "--data", corpus, "--workers", "1")
    found = json.loads(result.stdout)
    assert found["model"].startswith("starter-")
    assert (found["num_files"], found["num_segments"], found["segments"]) == (7, 6, "first")
    assert found["chance_at_1"] == pytest.approx(100 / 6)
    assert [Path(failure["path"]).name for failure in found["failed"]] == ["broken.mp4"]
    assert set(found["retrieval"]) == {"diagonal_mean", "diagonal_max", "mean", "max"}
    published = found["retrieval"]["diagonal_mean"]
    for direction in ("audio_to_video", "video_to_audio"):
        assert published[direction]["at_1"] > 17  # better than chance, on clips it was not trained on
        assert published[direction]["at_10"] == 100
    for text in ("broken.mp4: not_media", "zero-shot retrieval, 6 segments", "diagonal_mean", "picture →"):
        assert text in result.stderr.replace("\n", "")


def test_what_shares_a_label_is_relevant(corpus: Path) -> None:
    result = run("evaluate", starter_path(), "--data", corpus, "--workers", "1", "--relevant", "labels")
    found = json.loads(result.stdout)
    assert (found["num_labelled"], len(found["classes"])) == (6, 6)
    assert "relevant is what shares a label" in result.stderr
    for direction, alike in found["by_labels"].items():
        own = found["retrieval"]["mean"][direction]
        assert alike["first"]["at_1"] >= own["at_1"]  # one's own other half is relevant, too
        assert alike["mean_average_precision"] > alike["chance"]


def test_a_probe_says_what_it_saw_and_what_chance_is(corpus: Path) -> None:
    media = ["--data", corpus, "--validation", corpus, "--workers", "1"]
    result = run("probe", starter_path(), *media, "--epochs", "3", "--modality", "audio", "--seed", "4")
    found = json.loads(result.stdout)
    assert (found["metric"], found["classes"], found["modality"]) == ("mAP", "many", "audio")
    assert (found["num_training"], found["num_validation"]) == (6, 6)
    assert (found["head"]["num_epochs"], found["head"]["seed"]) == (3, 4)
    assert 0 < found["chance"] < 100
    assert found["interval"][0] <= found["interval"][1]
    for text in ("probe on sound", "mAP (95 % interval)", "broken.mp4: not_media"):
        assert text in result.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{tmp}", "--data", "{corpus}"], "is not a bundle"),
        (["evaluate", "{starter}", "--data", "{tmp}/nothing"], "does not exist"),
        (["evaluate", "{starter}", "--data", "{tmp}"], "none of 0 files has a segment"),
        (
            ["evaluate", "{starter}", "--data", "{corpus}", "--weights", "teacher"],
            "a bundle has one set of weights",
        ),
        (
            ["probe", "{starter}", "--data", "{tmp}/plain.csv", "--validation", "{corpus}"],
            "none of 1 clips has a label",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2(
    arguments, message: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.csv").write_text(f"path\n{corpus}/0000.mp4\n")
    filled = [argument.format(corpus=corpus, tmp=tmp_path, starter=starter_path()) for argument in arguments]
    output = run(*filled, "--workers", "1", code=2).output
    assert message in " ".join(output.split())
    assert "Traceback" not in output


def test_a_table_names_some_classes_and_the_json_all() -> None:
    by_class = {f"class {number}": 50.0 for number in range(MAX_CLASS_ROWS + 5)}
    found = ProbeResult(
        classes="one",
        modality="both",
        num_training=2,
        num_validation=2,
        metric="top-1",
        percent=50.0,
        interval=(0.0, 100.0),
        chance=4.0,
        by_class=by_class,
    )
    assert probe_table(found).row_count == 1 + MAX_CLASS_ROWS + 1
