"""The loop of the product, by its own commands: index, retrain on what is indexed, swap, be better, go back."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle
from service.cli import app as service_app
from tests.support.bundles import make_untrained
from tests.support.paths import REPOSITORY

pytest.importorskip("torch", reason="the loop trains")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # ten commands, one of them a run of training

NUM_SCENES = 30  # recall and calibration need them
TRAIN = ("--run", "ablation_random", "--batch-size", "12", "--no-board", "--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """A command sets up logging for its process; the tests after it get theirs back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def environment_of(folder: Path) -> dict[str, str]:
    return {
        "FOLEY_DATA": str(folder / "data"),
        "FOLEY_BUNDLE": str(folder / "weak"),
        "FOLEY_MIN_FREE_BYTES": "0",
        "FOLEY_DEVICE": "cpu",
        "FOLEY_PRECISION": "fp32",
        "FOLEY_DECODE_WORKERS": "1",
        # Two encoders of one size: what is left is the noise of a busy machine.
        "FOLEY_RELEASE_MAX_LATENCY_RATIO": "20",
    }


def run_here(folder: Path, app: Typer, *arguments: str | Path) -> str:
    """One command in this process, where torch is loaded already; its output."""
    away = {name: None for name in os.environ if name.startswith("FOLEY_")}
    done = CliRunner().invoke(app, [*map(str, arguments)], env={**away, **environment_of(folder)})
    assert done.exit_code == 0, done.output
    return done.stdout


def foley(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """One command as a person gives it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
    found = subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments), "--json"],
        env=environment | environment_of(folder),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert found.returncode == 0, found.stderr
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def foley_here(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run_here(folder, service_app, *arguments, "--json"))
    return document


@pytest.mark.filterwarnings("ignore")  # the exporter warns about its own internals
def test_the_library_teaches_its_own_encoders(folder: Path) -> None:
    from training.cli import app as training_app

    media, weak, better = folder / "media", folder / "weak", folder / "better"
    synthesize = ("synthesize", media, "--scenes", str(NUM_SCENES), "--seed", "5", "--split", "demo")
    run_here(folder, training_app, *synthesize, "--workers", "1")

    # Encoders that have learned nothing yet answer, badly.
    make_untrained(weak, name="weak")
    assert foley(folder, "index", media)["files"]["indexed"] == NUM_SCENES

    # The library is the training data.
    trained = folder / "trained"
    few = folder / "few"
    few.mkdir()
    for path in sorted(media.glob("*.mp4"))[:4]:
        shutil.copy(path, few)
    taught = ("--library", "--output", trained, "--steps", "40", "--validation", few)
    run_here(folder, training_app, "pretrain", *taught, *TRAIN)
    export = ("export", trained / "checkpoint", "--media", media, "--output", better)
    run_here(folder, training_app, *export, "--name", "better", "--weights", "student", "--clips", "2")

    # A bundle says how it was made, and is measured as its checkpoint is.
    training = load_bundle(better).manifest.training
    assert (training["step"], training["run"]["batch_size"]) == (40, 12)
    assert training["retrieval"]["student"]["num_segments"] == 4
    measured = [
        json.loads(run_here(folder, training_app, "evaluate", model, "--data", few))
        for model in (better, trained / "checkpoint")
    ]
    for result in measured:
        assert (result["num_files"], result["num_segments"], result["chance_at_1"]) == (4, 4, 25.0)
        assert set(result["retrieval"]) == {"diagonal_mean", "diagonal_max", "mean", "max"}
    assert measured[0]["retrieval"] == measured[1]["retrieval"]

    # Built beside the active release, measured against it, activated: better on the same library.
    report = foley(folder, "releases", "create", better, "--activate")["report"]
    release = report["release"]
    assert release["outcome"] == "ready", release["gates"]["reasons"]
    recall = release["gates"]["recall"]
    for target in ("audio", "video"):
        assert recall["new"][target]["at_1"] > recall["active"][target]["at_1"] + 0.1, recall
    assert report["switched"]["release_id"] == release["release_id"]

    query = media / "0003.mp4"
    answer = foley_here(folder, "search", query, "--target", "audio")
    assert answer["release_id"] == release["release_id"]
    assert answer["bundle_id"].startswith("better-")
    assert 0.0 <= answer["results"][0]["match_probability"] <= 1.0

    # And back, without embedding anything.
    back = foley_here(folder, "releases", "rollback")
    assert back["release_id"].startswith("weak-")
    assert back["num_behind"] == 0
    assert foley_here(folder, "search", query, "--target", "audio")["bundle_id"].startswith("weak-")
    states = {
        one["bundle_id"][:4]: one["state"] for one in foley_here(folder, "releases", "list")["releases"]
    }
    assert states == {"weak": "active", "bett": "ready"}
