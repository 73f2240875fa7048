"""`foley-train` by itself: runs, refusals, what is missing. Its whole way is in tests/promises/test_closed_loop.py."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from models.network.geometry import TgdpConfig
from training.checkpoint import load_checkpoint
from training.cli import app
from training.data.files import only_one
from training.pretraining.config import RUNS
from training.pretraining.stopping import Stopped


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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    run("synthesize", folder, "--scenes", "4", "--split", "demo")
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The options of a run of a network of one block: what the commands do does not depend on its size."""
    network = TgdpConfig(width=48, num_heads=2, depth=1, decoder_width=16, decoder_heads=2, decoder_depth=1)
    monkeypatch.setitem(RUNS, "tiny", partial(replace, RUNS["ablation"](), name="tiny", network=network))
    return "--run", "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pretrain", "--run", "nothing", "--data", "{corpus}", "--output", "{tmp}/run"],
            "no run is called 'nothing'",
        ),
        (["pretrain", "--data", "{tmp}/empty", "--output", "{tmp}/run"], "none of 0 files has a segment"),
        (
            [
                "pretrain",
                "--initialise",
                "{corpus}/labels.csv",
                "--data",
                "{corpus}",
                "--output",
                "{tmp}/run",
            ],
            "it is not a torch.save file and is not named .safetensors",
        ),
        (["export", "{tmp}", "--media", "{corpus}", "--output", "{tmp}/bundle"], "is not a checkpoint"),
        (["export", "{tmp}/[/red]", "--media", "{corpus}", "--output", "{tmp}/bundle"], "/[/red] is not a"),
        (["evaluate", "{tmp}", "--data", "{corpus}"], "is not a bundle"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2(
    arguments, message: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [argument.format(corpus=corpus, tmp=tmp_path) for argument in arguments]
    output = run(*filled, code=2).output
    assert message in " ".join(output.split())
    assert "Traceback" not in output


def test_a_checkpoint_is_named_by_its_folder_and_a_run_has_one_process(
    corpus: Path, tmp_path: Path, tiny: tuple[str, str]
) -> None:
    (corpus / "broken.mp4").write_bytes(b"not media")
    again = [
        "pretrain",
        *tiny,
        "--data",
        corpus,
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--workers",
        "1",
        "--seed",
        "5",
        "--no-board",
    ]
    assert "broken.mp4" in run(*again, "--output", tmp_path / "first").output
    taken = ["--initialise", tmp_path / "first/checkpoint", "--output", tmp_path / "second"]
    run(*again, *taken)
    weights = tmp_path / "first/checkpoint/student.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    checkpoint = load_checkpoint(tmp_path / "second/checkpoint")
    assert checkpoint.run["initialised_from"] == ["student.safetensors", digest]
    assert (checkpoint.run["step"], checkpoint.run["config"]["seed"]) == (1, 5)
    with only_one(tmp_path / "second"):
        assert "another process is working in" in " ".join(run(*again, *taken, code=2).output.split())


def test_ctrl_c_says_from_where_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.commands.pretrain.train", stop)
    arguments = ("pretrain", "--data", tmp_path, "--output", tmp_path / "run")
    assert "stopped; there is no checkpoint yet" in run(*arguments, code=130).output
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / "run.json").write_text('{"step": 400}')
    assert "stopped; run the same command to continue after step 400\n" in run(*arguments, code=130).output

    def end(*_: object) -> NoReturn:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("training.commands.pretrain.train", end)
    assert "stopped; run the same command to continue after step 400\n" in run(*arguments, code=143).output


def test_fewer_steps_than_twice_the_warm_up_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("pretrain", "--data", tmp_path / "none", "--output", tmp_path / "run")
    few = "199 steps are few: the first 100 warm up the learning rate; take at least 200"
    run(*arguments, "--steps", 199, code=2)
    assert caplog.messages.count(few) == 1
    caplog.clear()
    run(*arguments, "--steps", 200, code=2)
    assert not caplog.messages


def test_weights_that_no_checkpoint_has_are_refused(tmp_path: Path) -> None:
    said = run(
        "export", tmp_path, "--media", tmp_path, "--output", tmp_path / "b", "--weights", "studnet", code=2
    )
    assert "'studnet' is not one of" in " ".join(said.output.split())


PINS = r"training needs torch==\d+\.\d+\.\d+ and torchaudio==\d+\.\d+\.\d+, pip install 'foley-av\[train\]'"


def run_with(preparation: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in a fresh process in which something was done to its imports."""
    script = f"import sys; {preparation}; from training.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_without_torch_the_corpus_is_made_and_training_says_what_to_install(tmp_path: Path) -> None:
    no_torch = "sys.modules['torch'] = None"
    assert run_with(no_torch, "synthesize", tmp_path / "corpus", "--scenes", "1").returncode == 0
    refused = run_with(no_torch, "evaluate", tmp_path, "--data", tmp_path)
    assert refused.returncode == 1
    assert re.fullmatch(f"torch is not installed: {PINS}\n", refused.stderr)


@pytest.mark.parametrize(
    ("module", "raised", "said"),
    [
        ("torch", "OSError('libtorch.so: undefined symbol: x')", "libtorch.so: undefined symbol: x"),
        ("torch", "ImportError('libcudart.so.13: cannot open it')", "libcudart.so.13: cannot open it"),
        (
            "torchaudio",
            "OSError('libtorchaudio.so: undefined symbol: torch_x\\nmore')",
            "libtorchaudio.so: undefined symbol: torch_x",
        ),
    ],
)
def test_a_torch_that_does_not_load_is_one_line(module: str, raised: str, said: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise {raised}\n")
    preparation = f"sys.path.insert(0, {str(tmp_path)!r})"
    options = ("--media", tmp_path, "--output", tmp_path / "bundle")
    refused = run_with(preparation, "export", tmp_path, *options)
    assert refused.returncode == 1, refused.stdout
    assert re.fullmatch(
        rf"torch or torchaudio cannot be loaded \({re.escape(said)}.*\): {PINS}\n", refused.stderr
    )


def test_a_fault_of_our_own_is_not_taken_for_a_missing_package(tmp_path: Path) -> None:
    refused = run_with(
        "sys.modules['training.data.listing'] = None", "shard", tmp_path, "--output", tmp_path / "out"
    )
    assert refused.returncode == 1
    assert "ModuleNotFoundError" in refused.stderr
    assert "pip install" not in refused.stderr


def test_threads_of_what_learns_beside_a_server_sleep_while_they_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # what it was comes back afterwards
    del os.environ["OMP_WAIT_POLICY"]
    (tmp_path / "there").mkdir()
    found = CliRunner().invoke(app, ["adapt", "--output", str(tmp_path / "there")])
    assert found.exit_code == 2
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
