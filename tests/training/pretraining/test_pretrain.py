from __future__ import annotations

import dataclasses
import json
import logging
import math
import operator
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp
from tests.support.paths import REPOSITORY
from tests.support.waiting import GENEROUS_SECONDS
from training import checkpoint as checkpoints
from training.checkpoint import BrokenCheckpoint, load_checkpoint, save_checkpoint
from training.data.augment import Augmentation
from training.data.batches import MomentBatches
from training.data.segments import PairedSegments
from training.pretraining.config import ABLATIONS, RUNS, PretrainConfig, ablation
from training.pretraining.measuring import evaluate_networks
from training.pretraining.optim import make_optimiser
from training.pretraining.parallel import BadShare, Processes, alone
from training.pretraining.pretrain import (
    AnotherRun,
    Run,
    TrainingDiverged,
    compute_losses,
    fit_batch,
    pretrain,
    take_step,
)
from training.pretraining.stopping import SIGNALS, Stopped, heed_signals

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


@pytest.mark.long
def test_a_run_that_was_killed_goes_on_bit_for_bit(segments: PairedSegments, tmp_path: Path) -> None:
    """Kill −9 in real processes, between the metrics line and the checkpoint of a step or after both."""
    whole = pretrain(CONFIG, segments, tmp_path / "whole", validation=segments, evaluate_every=2)
    script = """
import os, signal, sys
from pathlib import Path
from tests.training.pretraining.test_pretrain import CONFIG
from training.pretraining import pretrain as module
from training.data.segments import PairedSegments
segments, folder = PairedSegments.open(Path(sys.argv[1])), Path(sys.argv[2])
for killed_after in (1, 2, 3):
    child = os.fork()  # torch is loaded once for all, and has started no thread yet
    if child:
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        continue
    def kill(done, losses):
        if done == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
    run = folder / f"killed-{killed_after}"
    module.pretrain(CONFIG, segments, run, validation=segments, evaluate_every=2, on_step=kill)
    os._exit(0)
"""
    prepared = Path(segments.frames.filename).parent  # type: ignore[attr-defined]
    command = [sys.executable, "-c", script, str(prepared), str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, timeout=GENEROUS_SECONDS, check=True)

    def log_of(name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    for name in ("killed-1", "killed-2", "killed-3"):
        continued = pretrain(CONFIG, segments, tmp_path / name, validation=segments, evaluate_every=2)
        for kind in ("student", "teacher", "optimiser"):
            theirs = getattr(continued, kind)
            assert all(torch.equal(tensor, theirs[key]) for key, tensor in getattr(whole, kind).items())
        assert log_of("whole") == log_of(name)


def test_a_signal_ends_a_run_after_its_step_and_it_goes_on_bit_for_bit(
    segments: PairedSegments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = pretrain(CONFIG, segments, tmp_path / "whole")
    with heed_signals() as asked, pytest.raises(Stopped, match="SIGTERM") as stopped:
        pretrain(
            CONFIG,
            segments,
            tmp_path / "ended",
            validation=segments,
            evaluate_every=2,
            on_step=lambda done, _: signal.raise_signal(signal.SIGTERM) if done == 1 else None,
            asked_to_stop=asked,
        )
    assert stopped.value.number == signal.SIGTERM
    assert "stopping after this step" in capfd.readouterr().err
    assert load_checkpoint(tmp_path / "ended" / "checkpoint").run["step"] == 2
    continued = pretrain(CONFIG, segments, tmp_path / "ended")
    for kind in ("student", "teacher", "optimiser"):
        theirs = getattr(continued, kind)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in getattr(whole, kind).items())
    logs = []
    for name in ("whole", "ended"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logs.append([{key: value for key, value in line.items() if key != "seconds"} for line in lines])
    assert logs[0] == logs[1]


def test_a_second_signal_ends_a_run_at_once() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with heed_signals(is_heard=False) as asked:
        assert asked() == 0
        signal.raise_signal(signal.SIGTERM)
        assert asked() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert asked() == signal.SIGTERM
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_in_the_last_step_changes_nothing(segments: PairedSegments, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=1)
    assert pretrain(config, segments, tmp_path, asked_to_stop=lambda: signal.SIGINT).run["step"] == 1


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(
    segments: PairedSegments, tmp_path: Path
) -> None:
    steps: list[int] = []
    for _ in range(2):
        pretrain(CONFIG, segments, tmp_path / "run", on_step=lambda done, _: steps.append(done))
    assert steps == [1, 2, 3, 4]
    other = dataclasses.replace(CONFIG, learning_rate=1.0)
    with pytest.raises(
        AnotherRun, match=r"other config: [a-z_.]+ \S+ there, \S+ asked for.*; choose another folder"
    ):
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_accumulated": 0}, "must be at least 1, got 4, 4 and 0"),
        ({"hidden_share_reconstruction": 0.0}, r"must be in \(0, 1\) .* got 0.0 and 0.5"),
        ({"hidden_share_alignment": 1.0}, "got 0.75 and 1.0"),
        ({"momentum": 1.5}, r"momentum must be in \[0, 1\] .* got 1.5, 0.05 and 1.0"),
        ({"temperature": 0.0}, "got 0.996, 0.0 and 1.0"),
    ],
)
def test_runs_that_cannot_be_trained_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **wrong)


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


def random_batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(3, 416, 128, generator=generator),
            torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=generator),
        )
        for _ in range(count)
    ]


def start_with_plain_descent(config: PretrainConfig) -> Run:
    """A run that moves by rate times gradient, so that a wrong rate or norm shows and rounding does not."""
    run = Run.start(config, alone())
    return dataclasses.replace(run, optimiser=torch.optim.SGD(run.student.parameters()))  # type: ignore[arg-type]


def test_two_steps_written_out() -> None:
    """Rate, clipping, the number of each batch, student before teacher, momentum: all by hand beside `take_step`."""
    config = dataclasses.replace(
        CONFIG, num_accumulated=2, max_gradient_norm=0.5, momentum=0.6, learning_rate=0.8, guidance="random"
    )
    batches = random_batches(4)
    run, mine = start_with_plain_descent(config), start_with_plain_descent(config)
    parameters = list(mine.student.parameters())
    for step in range(2):
        numbers = take_step(run, step, batches[2 * step : 2 * step + 2])
        losses = [compute_losses(mine, n, batches[n])["loss"] for n in (2 * step, 2 * step + 1)]
        gradients = torch.autograd.grad(sum(losses) / 2, parameters)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        assert numbers["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert norm > 0.5
        rate = (0.4, 0.8)[step]  # a warm-up of two steps
        momentum = 1 - 0.4 * (1 + math.cos(math.pi * step / 4)) / 2
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * gradient * 0.5 / norm
            for average, parameter in zip(mine.teacher.network.parameters(), parameters, strict=True):
                average.copy_(momentum * average + (1 - momentum) * parameter)
    for part in ("student", "teacher.network"):
        found, expected = (operator.attrgetter(part)(r).state_dict() for r in (run, mine))
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=f"{part} {name}")


def test_masks_are_a_function_of_the_batch_and_change_with_it() -> None:
    run, (batch,) = Run.start(CONFIG, alone()), random_batches(1)
    first, again, other = (
        compute_losses(run, number, batch)["reconstruction"].item() for number in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_batch_is_changed_as_its_run_says() -> None:
    ((windows, frames),) = random_batches(1)
    plain = Run.start(CONFIG, alone())
    mirroring = dataclasses.replace(CONFIG, augmentation=Augmentation(mirror_share=1.0))
    changed = compute_losses(Run.start(mirroring, alone()), 0, (windows, frames))
    assert changed["loss"].item() == compute_losses(plain, 0, (windows, frames.flip(2)))["loss"].item()


def test_bfloat16_stays_near_float32_with_finite_gradients() -> None:
    """Tolerance: bfloat16 keeps 8 bits, so a loss of some tokens moves by a percent or so; it must move at all."""
    (batch,) = random_batches(1)
    whole, half = (Run.start(dataclasses.replace(CONFIG, bf16=bf16), alone()) for bf16 in (False, True))
    expected, found = (compute_losses(run, 0, batch) for run in (whole, half))
    for name in ("reconstruction", "contrastive"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.03)
        assert found[name].item() != expected[name].item()
    found["loss"].backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in half.student.parameters())


def test_held_out_media_are_embedded_by_the_student_and_by_its_teacher(
    segments: PairedSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.start(CONFIG, alone())
    torch.nn.init.constant_(run.teacher.network.mask_token, 7.0)
    seen: list[torch.Tensor] = []

    def embed(network: Tgdp, _: object) -> tuple[np.ndarray, np.ndarray]:
        seen.append(network.mask_token)
        return np.eye(4, dtype=np.float32)[:, None], np.eye(4, dtype=np.float32)[:, None]

    monkeypatch.setattr("training.pretraining.measuring.embed_segments", embed)
    scores = evaluate_networks(run.networks, segments, config=CONFIG.network, device=run.processes.device)
    assert list(scores) == ["student", "teacher"]
    assert torch.equal(seen[0], run.student.mask_token)
    assert (seen[1] == 7).all()


def test_accumulated_batches_go_on_in_their_order(segments: PairedSegments, tmp_path: Path) -> None:
    """Two batches a step: what is read after a stop is what would have been read without it."""
    config = dataclasses.replace(CONFIG, num_steps=2, batch_size=2, num_accumulated=2)

    def stop(done: int, _: dict[str, float]) -> None:
        raise InterruptedError(f"after step {done}")

    with pytest.raises(InterruptedError, match="after step 1"):
        pretrain(config, segments, tmp_path / "stopped", evaluate_every=1, on_step=stop)
    whole = pretrain(config, segments, tmp_path / "whole", evaluate_every=2)
    continued = pretrain(config, segments, tmp_path / "stopped", evaluate_every=2)
    assert all(torch.equal(tensor, continued.student[name]) for name, tensor in whole.student.items())


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


def test_a_run_is_not_continued_with_other_media(segments: PairedSegments, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, num_steps=1)
    pretrain(config, segments, tmp_path)
    others = dataclasses.replace(segments, paths=segments.paths[::-1])
    with pytest.raises(AnotherRun, match="holds a run with other segments; choose another folder"):
        pretrain(config, others, tmp_path)


def test_a_run_that_lost_its_checkpoint_does_not_begin_anew(segments: PairedSegments, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").symlink_to("checkpoint-000300")
    (tmp_path / "metrics.jsonl").write_text("300 steps\n")
    with pytest.raises(BrokenCheckpoint, match="is not a checkpoint"):
        pretrain(CONFIG, segments, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "300 steps\n"


def save_steps(folder: Path, *steps: int) -> None:
    """Checkpoints whose weights all hold the number of their step."""
    network = Tgdp(TINY)
    for step in steps:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(step)
        run = {"step": step, "config": CONFIG.to_json()}
        save_checkpoint(folder / "checkpoint", network, network, make_optimiser(network, CONFIG), run)


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"student.safetensors cannot be written"):
            save_steps(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(tmp_path / "checkpoint").run["step"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "checkpoint-000001"]


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 1)
    load_file = checkpoints.load_file

    def load_slowly(path: Path) -> dict[str, torch.Tensor]:
        found = load_file(path)
        monkeypatch.setattr(checkpoints, "load_file", load_file)
        save_steps(tmp_path, 2)
        return found

    monkeypatch.setattr(checkpoints, "load_file", load_slowly)
    with pytest.raises(BrokenCheckpoint, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "checkpoint")
    assert load_checkpoint(tmp_path / "checkpoint").run["step"] == 2


def test_a_batch_fits_the_media_and_the_processes(caplog: pytest.LogCaptureFixture) -> None:
    two = Processes(rank=0, count=2, device=torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        assert [fit_batch(96, n, alone()) for n in (1, 7, 96, 500)] == [1, 7, 96, 96]
        assert [fit_batch(96, n, two) for n in (7, 95, 97)] == [6, 94, 96]
    assert "batches have 6 segments instead of 96, because there are only 7" in caplog.text
    with pytest.raises(BadShare, match="1 segments are too few for 2 processes"):
        fit_batch(96, 1, two)
