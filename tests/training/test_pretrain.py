from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.geometry import TgdpConfig
from models.tgdp import Tgdp
from training.batches import MomentBatches
from training.checkpoint import BrokenCheckpoint, load_checkpoint, save_checkpoint
from training.config import ABLATIONS, RUNS, PretrainConfig, ablation
from training.optim import make_optimiser
from training.parallel import alone
from training.pretrain import (
    AnotherRun,
    Run,
    TrainingDiverged,
    compute_losses,
    pretrain,
    take_step,
)
from training.segments import PairedSegments

TINY = TgdpConfig(
    width=32,
    num_heads=2,
    depth=1,
    decoder_width=16,
    decoder_heads=2,
    decoder_depth=1,
    audio_patch=32,
    video_patch=32,
)
CONFIG = PretrainConfig(
    name="tiny", network=TINY, num_steps=4, batch_size=4, learning_rate=1e-3, warmup_steps=2, seed=3
)


@pytest.fixture(autouse=True)
def same_random_numbers():
    with torch.random.fork_rng():
        yield


def test_a_run_is_repeatable_and_leaves_metrics_and_a_checkpoint(
    segments: PairedSegments, tmp_path: Path
) -> None:
    logs = []
    for name in ("first", "second"):
        checkpoint = pretrain(
            CONFIG,
            segments,
            tmp_path / name,
            validation=segments,
            evaluate_every=2,
            facts={"command": "here"},
        )
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4]
    assert logs[0][1]["retrieval"]["student"]["num_segments"] == len(segments)
    assert checkpoint.run["command"] == "here"
    assert checkpoint.run["step"] == 4
    assert checkpoint.config == TINY
    teacher = checkpoint.build("teacher").state_dict()
    assert any(
        not torch.equal(value, teacher[name]) for name, value in checkpoint.build().state_dict().items()
    )


def test_the_objective_falls_on_one_batch(segments: PairedSegments) -> None:
    config = dataclasses.replace(CONFIG, num_steps=30, warmup_steps=1, learning_rate=3e-3)
    run = Run.start(config, alone())
    batch = MomentBatches(segments, TINY, batch_size=4, seed=0).at(0)
    losses = [take_step(run, step, [batch]) for step in range(30)]
    assert losses[-1]["contrastive"] < 0.7 * losses[0]["contrastive"]
    assert losses[-1]["reconstruction"] < 0.9 * losses[0]["reconstruction"]


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    run = Run.start(CONFIG, alone())
    before = {name: value.clone() for name, value in run.student.state_dict().items()}
    batch = torch.full((2, 416, 128), torch.nan), torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    with pytest.raises(
        TrainingDiverged, match="the loss is nan and its gradient's norm nan at step 1; lower"
    ):
        take_step(run, 0, [batch])
    assert all(torch.equal(value, before[name]) for name, value in run.student.state_dict().items())


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_run_that_was_killed_goes_on_bit_for_bit(
    segments: PairedSegments, tmp_path: Path, killed_after: int
) -> None:
    """Kill −9 in a real process, between the metrics line and the checkpoint of a step or after both."""
    whole = pretrain(CONFIG, segments, tmp_path / "whole", validation=segments, evaluate_every=2)
    script = f"""
import os, signal, sys
from pathlib import Path
from tests.training.test_pretrain import CONFIG
from training import pretrain as module
from training.segments import PairedSegments
def kill(done, losses):
    if done == {killed_after}:
        os.kill(os.getpid(), signal.SIGKILL)
segments = PairedSegments.open(Path(sys.argv[1]))
module.pretrain(CONFIG, segments, Path(sys.argv[2]), validation=segments, evaluate_every=2, on_step=kill)
"""
    prepared = Path(segments.frames.filename).parent  # type: ignore[attr-defined]
    command = [sys.executable, "-c", script, str(prepared), str(tmp_path / "killed")]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    continued = pretrain(CONFIG, segments, tmp_path / "killed", validation=segments, evaluate_every=2)

    for kind in ("student", "teacher", "optimiser"):
        theirs = getattr(continued, kind)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in getattr(whole, kind).items())
    logs = []
    for name in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs.append([{key: value for key, value in line.items() if key != "seconds"} for line in lines])
    assert logs[0] == logs[1]


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(
    segments: PairedSegments, tmp_path: Path
) -> None:
    steps: list[int] = []
    for _ in range(2):
        pretrain(CONFIG, segments, tmp_path / "run", on_step=lambda done, _: steps.append(done))
    assert steps == [1, 2, 3, 4]
    other = dataclasses.replace(CONFIG, learning_rate=1.0)
    with pytest.raises(AnotherRun, match="holds a run with other config; choose another folder"):
        pretrain(other, segments, tmp_path / "run")


def test_a_checkpoint_replaces_the_older_one_whole(tmp_path: Path) -> None:
    network = Tgdp(TINY)
    optimiser = make_optimiser(network, CONFIG)
    for step in (1, 2):
        run = {"step": step, "config": CONFIG.to_json()}
        save_checkpoint(tmp_path / "checkpoint", network, network, optimiser, run)
    assert load_checkpoint(tmp_path / "checkpoint").run["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "checkpoint-000002"]
    (tmp_path / "checkpoint" / "run.json").unlink()
    with pytest.raises(BrokenCheckpoint, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "checkpoint")


def test_named_runs_are_whole() -> None:
    assert {name: make().name for name, make in RUNS.items()} == {name: name for name in RUNS}
    assert RUNS["base"]().network == TgdpConfig.published()


def test_ablations_differ_in_guidance_and_distillation_alone() -> None:
    shared = dataclasses.asdict(ablation())
    for make in ABLATIONS:
        differing = {key for key, value in dataclasses.asdict(make()).items() if value != shared[key]}
        assert differing <= {"name", "guidance", "weight_distillation"}
    assert len({(c.guidance, c.weight_distillation > 0) for c in (make() for make in ABLATIONS)}) == len(
        ABLATIONS
    )


def test_accumulated_batches_average_their_gradients() -> None:
    """Two batches in one step move the student as the mean of their gradients does, written out."""
    config = dataclasses.replace(CONFIG, num_accumulated=2, max_gradient_norm=1e9)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(3, 416, 128, generator=generator),
            torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=generator),
        )
        for _ in range(2)
    ]
    run = Run.start(config, alone())
    losses = [compute_losses(run, number, batch)["loss"] for number, batch in enumerate(batches)]
    expected = torch.autograd.grad(sum(losses) / 2, list(run.student.parameters()))
    numbers = take_step(run, 0, batches)
    assert numbers["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 2, rel=1e-6)
    for parameter, gradient in zip(run.student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_weights_from_elsewhere_reach_student_and_teacher() -> None:
    def fill(network: Tgdp) -> None:
        torch.nn.init.constant_(network.mask_token, 7.0)

    run = Run.start(CONFIG, alone(), initialise=fill)
    assert (run.student.mask_token == 7).all()
    assert (run.teacher.network.mask_token == 7).all()


def test_a_run_is_not_continued_from_other_first_weights(segments: PairedSegments, tmp_path: Path) -> None:
    pretrain(CONFIG, segments, tmp_path / "run", facts={"initialised_from": ["a.pth", "1"]})
    with pytest.raises(AnotherRun, match="holds a run with other weights at the start"):
        pretrain(CONFIG, segments, tmp_path / "run", facts={"initialised_from": ["b.pth", "2"]})
