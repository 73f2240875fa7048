from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.clip import ClipSpec
from models.geometry import MODALITIES, TgdpConfig
from models.tgdp import FullView, Tgdp
from training.batches import MomentBatches, step_generator
from training.checkpoint import BrokenCheckpoint, load_checkpoint, save_checkpoint
from training.config import RUNS, PretrainConfig
from training.pretrain import (
    AnotherRun,
    Run,
    TrainingDiverged,
    align_and_reconstruct,
    learning_rate_at,
    make_optimiser,
    pretrain,
    take_step,
    visible_by_teacher,
)
from training.segments import NoTrainingData, PairedSegments, prepare
from training.synthesis import write_corpus

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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips with picture and sound, one picture alone, one file that is not media."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, num_scenes=6, seed=1, split="train", separate_fraction=0.2)
    (folder / "broken.mp4").write_bytes(b"not media")
    return folder


@pytest.fixture(scope="module")
def segments(corpus: Path) -> PairedSegments:
    return prepare([corpus], corpus.parent / "prepared", ClipSpec(), num_workers=1)


@pytest.fixture(autouse=True)
def same_random_numbers():
    with torch.random.fork_rng():
        yield


def test_files_that_cannot_be_used_are_counted_and_named(segments: PairedSegments, corpus: Path) -> None:
    muxed = sorted(p for p in corpus.glob("*.mp4") if "-" not in p.name and p.name != "broken.mp4")
    assert segments.paths == tuple(str(p) for p in muxed)
    reasons = {Path(failure["path"]).name: failure["reason"] for failure in segments.failed}
    assert reasons["broken.mp4"].startswith("not_media: ")
    assert all("no_pair" in reason for name, reason in reasons.items() if "picture" in name)
    assert segments.frames.shape == (len(muxed), 16, 224, 224, 3)
    assert segments.samples.shape == (len(muxed), 160_000)


def test_a_complete_folder_is_used_again_and_another_list_is_decoded_anew(
    segments: PairedSegments, corpus: Path, tmp_path: Path
) -> None:
    folder = corpus.parent / "prepared"
    before = (folder / "frames.raw").stat().st_mtime_ns
    again = prepare([corpus], folder, ClipSpec(), num_workers=1)
    assert (folder / "frames.raw").stat().st_mtime_ns == before
    assert again.paths == segments.paths
    one = prepare([Path(segments.paths[0])], tmp_path / "one", ClipSpec(), num_workers=1)
    assert (one.frames == segments.frames[:1]).all()


def test_nothing_to_learn_from_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(NoTrainingData, match="none of 1 files"):
        prepare([corpus / "broken.mp4"], tmp_path / "none", ClipSpec(), num_workers=1)


def test_batches_hold_the_window_and_the_frame_of_one_moment(segments: PairedSegments) -> None:
    batches = MomentBatches(segments, TINY, batch_size=2, seed=0)
    windows, frames = batches.at(0)
    assert windows.shape == (2, 416, 128)
    assert frames.shape == (2, 224, 224, 3)
    starts = [min(max(0, 64 * i - 208), 608) for i in range(16)]
    for window, frame in zip(windows, frames.numpy(), strict=True):
        places = [
            (row, moment)
            for row in range(len(segments))
            for moment in range(16)
            if (segments.frames[row, moment] == frame).all()
            and torch.equal(batches.log_mel[row, starts[moment] : starts[moment] + 416], window)
        ]
        assert places


def test_an_epoch_takes_every_segment_once(segments: PairedSegments) -> None:
    batches = MomentBatches(segments, TINY, batch_size=1, seed=0)
    for epoch in range(2):
        steps = range(epoch * len(segments), (epoch + 1) * len(segments))
        seen = {batches.at(step)[0].sum().item() for step in steps}
        assert len(seen) == len(segments)


def test_a_batch_is_a_function_of_its_step(segments: PairedSegments) -> None:
    first = MomentBatches(segments, TINY, batch_size=2, seed=0)
    second = MomentBatches(segments, TINY, batch_size=2, seed=0)
    second.at(0)
    assert all(torch.equal(a, b) for a, b in zip(first.at(5), second.at(5), strict=True))
    other = MomentBatches(segments, TINY, batch_size=2, seed=1)
    assert not torch.equal(first.at(5)[1], other.at(5)[1])
    draws = {
        tuple(torch.rand(4, generator=step_generator(*key)).tolist())
        for key in itertools.product(range(3), repeat=3)
    }
    assert len(draws) == 27


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
    run = Run.start(config, torch.device("cpu"))
    windows, frames = MomentBatches(segments, TINY, batch_size=4, seed=0).at(0)
    losses = [take_step(run, step, windows, frames) for step in range(30)]
    assert losses[-1]["contrastive"] < 0.7 * losses[0]["contrastive"]
    assert losses[-1]["reconstruction"] < 0.9 * losses[0]["reconstruction"]


def test_every_part_of_the_network_gets_a_gradient() -> None:
    run = Run.start(CONFIG, torch.device("cpu"))
    pictures = {"audio": torch.randn(3, 1, 128, 416), "video": torch.randn(3, 3, 224, 224)}
    losses = align_and_reconstruct(
        run.student, run.teacher, pictures, CONFIG, torch.Generator().manual_seed(0)
    )
    torch.stack(list(losses.values())).sum().backward()
    without = [
        name for name, p in run.student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert without == []
    assert all(p.grad is None for p in run.teacher.network.parameters())


@pytest.mark.parametrize(("guidance", "best"), [("patch_to_cls", [5, 4]), ("cls_to_patch", [0, 1])])
def test_guidance_follows_the_chosen_reading(guidance, best: list[int]) -> None:
    scores = torch.arange(6.0).repeat(2, 1)
    view = FullView(torch.zeros(2, 4), scores, scores.flip(1))
    config = dataclasses.replace(CONFIG, guidance=guidance)
    visible = visible_by_teacher(view, config, 2, torch.Generator())
    assert visible.tolist() == [best, best]


def test_random_guidance_ignores_the_teacher() -> None:
    view = FullView(torch.zeros(64, 4), torch.arange(50.0).repeat(64, 1), torch.zeros(64, 50))
    config = dataclasses.replace(CONFIG, guidance="random")
    visible = visible_by_teacher(view, config, 25, torch.Generator().manual_seed(0))
    share = np.bincount(visible.flatten(), minlength=50) / 64
    assert share.min() > 0.25
    assert share.max() < 0.75


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = dataclasses.replace(CONFIG, num_steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_norms_biases_and_single_tokens_do_not_decay() -> None:
    network = Tgdp(TINY)
    decayed, kept = make_optimiser(network, CONFIG).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    names = {id(p): name for name, p in network.named_parameters()}
    assert all("norm" not in names[id(p)] and "bias" not in names[id(p)] for p in decayed["params"])
    assert {"mask_token", *(f"cls_tokens.{m}" for m in MODALITIES)} <= {names[id(p)] for p in kept["params"]}


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    run = Run.start(CONFIG, torch.device("cpu"))
    windows, frames = torch.full((2, 416, 128), torch.nan), torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    with pytest.raises(TrainingDiverged, match="the loss is nan at step 1"):
        take_step(run, 0, windows, frames)


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
    assert {name: make().name for name, make in RUNS.items()} == {"starter": "starter", "base": "base"}
    assert RUNS["base"]().network == TgdpConfig.published()
