"""The loop of the product, by its own commands: index, retrain on what is indexed, swap, be better, go back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import make_untrained
from tests.support.paths import REPOSITORY

pytest.importorskip("torch", reason="the loop trains")
pytestmark = pytest.mark.timeout(1800)  # ten commands, one of them a run of training

NUM_SCENES = 30  # recall and calibration need them
TRAIN = ("--run", "ablation_random", "--batch-size", "12", "--no-board", "--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


def run(folder: Path, module: str, *arguments: str | Path) -> str:
    """One command as a person gives it; its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLEY_")}
    environment |= {
        "FOLEY_DATA": str(folder / "data"),
        "FOLEY_BUNDLE": str(folder / "weak"),
        "FOLEY_MIN_FREE_BYTES": "0",
        "FOLEY_DEVICE": "cpu",
        "FOLEY_PRECISION": "fp32",
        # Two encoders of one size: what is left is the noise of a busy machine.
        "FOLEY_RELEASE_MAX_LATENCY_RATIO": "20",
    }
    found = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def foley(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(folder, "service.cli", *arguments, "--json"))
    return document


def test_the_library_teaches_its_own_encoders(folder: Path) -> None:
    media, weak, better = folder / "media", folder / "weak", folder / "better"
    synthesize = ("synthesize", media, "--scenes", str(NUM_SCENES), "--seed", "5", "--split", "demo")
    run(folder, "training.cli", *synthesize, "--workers", "1")

    # Encoders that have learned nothing yet answer, badly.
    make_untrained(weak, name="weak")
    assert foley(folder, "index", media)["files"]["indexed"] == NUM_SCENES

    # The library is the training data.
    trained = folder / "trained"
    run(folder, "training.cli", "pretrain", "--library", "--output", trained, "--steps", "40", *TRAIN)
    export = ("export", trained / "checkpoint", "--media", media, "--output", better)
    run(folder, "training.cli", *export, "--name", "better", "--weights", "student", "--clips", "2")

    # Built beside the active release, measured against it, activated: better on the same library.
    report = foley(folder, "releases", "create", better, "--activate")["report"]
    release = report["release"]
    assert release["outcome"] == "ready", release["gates"]["reasons"]
    recall = release["gates"]["recall"]
    for target in ("audio", "video"):
        assert recall["new"][target]["at_1"] > recall["active"][target]["at_1"] + 0.1, recall
    assert report["switched"]["release_id"] == release["release_id"]

    query = media / "0003.mp4"
    answer = foley(folder, "search", query, "--target", "audio")
    assert answer["release_id"] == release["release_id"]
    assert answer["bundle_id"].startswith("better-")
    assert 0.0 <= answer["results"][0]["match_probability"] <= 1.0

    # And back, without embedding anything.
    back = foley(folder, "releases", "rollback")
    assert back["release_id"].startswith("weak-")
    assert back["num_behind"] == 0
    assert foley(folder, "search", query, "--target", "audio")["bundle_id"].startswith("weak-")
    states = {one["bundle_id"][:4]: one["state"] for one in foley(folder, "releases", "list")["releases"]}
    assert states == {"weak": "active", "bett": "ready"}
