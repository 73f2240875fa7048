"""The TG-DP loop: two passes of one student a step, guided by a teacher that sees everything.

Read `pretrain` top to bottom; `align_and_reconstruct` is one step's objective.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.geometry import MODALITIES, Modality
from models.tgdp import FullView, Tgdp, take_tokens
from training.batches import MASKS, MomentBatches, step_generator
from training.checkpoint import Checkpoint, load_checkpoint, restore_optimiser, save_checkpoint
from training.config import PretrainConfig
from training.evaluate import embed_segments, retrieval
from training.losses import (
    contrastive_loss,
    cut_patches,
    distillation_loss,
    normalise_patches,
    reconstruction_loss,
)
from training.masking import count_visible, guided_visible, hidden_mask, random_visible
from training.segments import PairedSegments
from training.teacher import Teacher, momentum_at

logger = logging.getLogger(__name__)

Pictures = dict[Modality, Tensor]


class TrainingDiverged(RuntimeError):
    """The loss is not a finite number any more."""


class AnotherRun(ValueError):
    """The folder holds a checkpoint of a run with another configuration or other media."""


def learning_rate_at(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then cosine to zero.

    Args:
        step: Steps done.
        config: The run.

    Returns:
        Learning rate of the next step.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def visible_by_teacher(
    view: FullView, config: PretrainConfig, num_visible: int, generator: torch.Generator
) -> Tensor:
    """Choose the patches of the alignment pass.

    Args:
        view: What the teacher saw.
        config: Says which reading of the attention ranks the patches.
        num_visible: How many stay visible.
        generator: Source of the random choice.

    Returns:
        Positions, int64, shape (B, K).
    """
    if config.guidance == "random":
        noise = torch.rand(view.patch_to_cls.shape, generator=generator)
        return random_visible(noise.to(view.patch_to_cls.device), num_visible)
    attention = view.patch_to_cls if config.guidance == "patch_to_cls" else view.cls_to_patch
    return guided_visible(attention, num_visible)


def align_and_reconstruct(
    student: Tgdp, teacher: Teacher, pictures: Pictures, config: PretrainConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Compute the losses of one step.

    Args:
        student: The network in training.
        teacher: Its average.
        pictures: Audio (B, 1, M, W) and video (B, 3, H, W) of the same moments.
        config: Hidden shares, guidance and temperature.
        generator: Source of the masks.

    Returns:
        The three losses by name, scalars with gradient, not weighted.
    """
    views = teacher.view(pictures)
    tokens = {m: student.embed_patches(pictures[m], m) for m in MODALITIES}

    # Alignment: each modality alone, the half that the teacher finds telling.
    embeddings: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        num_visible = count_visible(student.config.num_patches(m), config.hidden_share_alignment)
        visible = visible_by_teacher(views[m], config, num_visible, generator)
        embeddings[m] = student.embed(take_tokens(tokens[m], visible), m).float()

    # Reconstruction: both together, a random quarter.
    visible_at_random: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        batch, num_patches, _ = tokens[m].shape
        noise = torch.rand(batch, num_patches, generator=generator).to(tokens[m].device)
        visible_at_random[m] = random_visible(
            noise, count_visible(num_patches, config.hidden_share_reconstruction)
        )
    predictions = student.reconstruct(
        tokens["audio"], tokens["video"], visible_at_random["audio"], visible_at_random["video"]
    )

    reconstruction = torch.zeros((), device=tokens["audio"].device)
    for m, predicted in zip(MODALITIES, predictions, strict=True):
        patch_size = student.config.audio_patch if m == "audio" else student.config.video_patch
        target = normalise_patches(cut_patches(pictures[m], patch_size))
        is_hidden = hidden_mask(visible_at_random[m], target.shape[1])
        reconstruction = reconstruction + reconstruction_loss(predicted.float(), target, is_hidden)
    distillation = torch.stack(
        [distillation_loss(embeddings[m], views[m].embedding.float()) for m in MODALITIES]
    ).sum()
    return {
        "reconstruction": reconstruction,
        "distillation": distillation,
        "contrastive": contrastive_loss(
            embeddings["audio"], embeddings["video"], temperature=config.temperature
        ),
    }


def make_optimiser(student: Tgdp, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on biases, norms and single tokens.

    Args:
        student: The network.
        config: Rates.

    Returns:
        The optimiser.
    """
    matrices = [p for p in student.parameters() if p.ndim >= 2 and p.shape[0] > 1]
    others = [p for p in student.parameters() if p.ndim < 2 or p.shape[0] == 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that moves while a run goes on.

    Attributes:
        config: The run.
        student: The network in training.
        teacher: Its average.
        optimiser: Moves the student.
    """

    config: PretrainConfig
    student: Tgdp
    teacher: Teacher
    optimiser: torch.optim.AdamW

    @classmethod
    def start(cls, config: PretrainConfig, device: torch.device) -> Run:
        """Initialise a run from its seed.

        Args:
            config: The run.
            device: Where the networks live.

        Returns:
            A run before its first step.
        """
        torch.manual_seed(config.seed)
        student = Tgdp(config.network).to(device).train()
        teacher = Teacher(student)
        if config.compile:
            compile_passes(student, "embed", "reconstruct")
            compile_passes(teacher.network, "full_view")
        return cls(
            config=config,
            student=student,
            teacher=teacher,
            optimiser=make_optimiser(student, config),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was written.

        Args:
            checkpoint: Of the same run.
        """
        self.student.load_state_dict(checkpoint.student)
        self.teacher.network.load_state_dict(checkpoint.teacher)
        restore_optimiser(self.optimiser, checkpoint)


def compile_passes(network: Tgdp, *passes: str) -> None:
    """Replace methods of one network by their compiled form.

    Args:
        network: Changed in place.
        *passes: Names of methods that are always called with the same shapes.
    """
    for name in passes:
        setattr(network, name, torch.compile(getattr(network, name), dynamic=False))


def take_step(run: Run, step: int, windows: Tensor, frames: Tensor) -> dict[str, float]:
    """Do one step: losses, gradient, student, teacher.

    Args:
        run: Changed in place.
        step: Steps done before this one.
        windows: Normalised log-mel windows, float32, shape (B, W, M).
        frames: Frames of the same moments, uint8, shape (B, H, W, 3).

    Returns:
        Losses, gradient norm, learning rate and momentum by name.

    Raises:
        TrainingDiverged: If the loss is not finite.
    """
    config, student = run.config, run.student
    rate = learning_rate_at(step, config)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    pictures: Pictures = {"audio": student.audio_pictures(windows), "video": student.pixels(frames)}
    with torch.autocast(windows.device.type, torch.bfloat16, enabled=config.bf16):
        masks = step_generator(config.seed, MASKS, step)
        losses = align_and_reconstruct(student, run.teacher, pictures, config, masks)
    loss = (
        config.weight_reconstruction * losses["reconstruction"]
        + config.weight_distillation * losses["distillation"]
        + config.weight_contrastive * losses["contrastive"]
    )
    if not torch.isfinite(loss):
        raise TrainingDiverged(f"the loss is {loss.item()} at step {step + 1}; lower the learning rate")
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(student.parameters(), config.max_gradient_norm)
    run.optimiser.step()
    momentum = momentum_at(step, config.num_steps, config.momentum)
    run.teacher.follow(student, momentum)
    return {name: value.item() for name, value in losses.items()} | {
        "loss": loss.item(),
        "gradient_norm": float(norm),
        "learning_rate": rate,
        "momentum": momentum,
    }


def pretrain(
    config: PretrainConfig,
    segments: PairedSegments,
    output: Path,
    *,
    validation: PairedSegments | None = None,
    evaluate_every: int = 250,
    facts: dict[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Checkpoint:
    """Train a network on paired segments; called again with the same arguments it goes on where it was.

    Every random number is a function of seed and step, so on a CPU a run that was killed and continued gives the
    numbers of one that was not, bit for bit.

    Args:
        config: The run.
        segments: Training media, prepared.
        output: Folder for `metrics.jsonl` and `checkpoint/`.
        validation: Held-out media; retrieval over them is measured as the run goes.
        evaluate_every: Steps between two checkpoints; the last step always makes one.
        facts: More JSON values for the checkpoint: command, commit.
        on_step: Called after every step with its number and losses.

    Returns:
        The last checkpoint.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run.start(config, device)
    identity = {"config": json.loads(json.dumps(config.to_json())), "segments": segments.fingerprint}
    output.mkdir(parents=True, exist_ok=True)
    first, seconds_before = continue_run(run, output, identity)
    batches = MomentBatches(segments, config.network, batch_size=config.batch_size, seed=config.seed)
    started = time.monotonic() - seconds_before
    with (output / "metrics.jsonl").open("a") as metrics:
        for step in range(first, config.num_steps):
            windows, frames = batches.at(step)
            numbers = take_step(run, step, windows.to(device), frames.to(device))
            done = step + 1
            line: dict[str, Any] = {"step": done, **numbers}
            is_saved = done % evaluate_every == 0 or done == config.num_steps
            if is_saved:
                line["retrieval"] = evaluate_both(run, validation) if validation is not None else None
                logger.info("step %d: held-out retrieval %s", done, line["retrieval"])
            line["seconds"] = round(time.monotonic() - started, 2)
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if is_saved:
                state = {
                    **identity,
                    "step": done,
                    "seconds": line["seconds"],
                    "num_segments": len(segments),
                    "retrieval": line["retrieval"],
                    **(facts or {}),
                }
                save_checkpoint(output / "checkpoint", run.student, run.teacher.network, run.optimiser, state)
            if on_step:
                on_step(done, numbers)
    return load_checkpoint(output / "checkpoint")


def continue_run(run: Run, output: Path, identity: dict[str, Any]) -> tuple[int, float]:
    """Restore the run from the checkpoint in its folder, if there is one, and forget metrics written after it.

    Args:
        run: Changed in place.
        output: Folder of the run.
        identity: Configuration and media, as the checkpoint must have them.

    Returns:
        Steps done and seconds used so far, 0 and 0 for a new run.

    Raises:
        AnotherRun: If the checkpoint is of another run.
    """
    metrics = output / "metrics.jsonl"
    if not (output / "checkpoint").exists():
        metrics.write_text("")
        return 0, 0.0
    checkpoint = load_checkpoint(output / "checkpoint")
    differing = [key for key, value in identity.items() if checkpoint.run.get(key) != value]
    if differing:
        raise AnotherRun(f"{output} holds a run with other {' and '.join(differing)}; choose another folder")
    run.restore(checkpoint)
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[: checkpoint.run["step"]]))  # one line a step
    logger.info("going on after step %d", checkpoint.run["step"])
    return checkpoint.run["step"], checkpoint.run["seconds"]


def evaluate_both(run: Run, validation: PairedSegments) -> dict[str, Any]:
    """Measure zero-shot retrieval of the student and of its average on held-out media.

    Args:
        run: A run at any step.
        validation: Held-out media.

    Returns:
        Retrieval by name, JSON values.
    """
    scores = {}
    for name, network in (("student", run.student), ("teacher", run.teacher.network)):
        plain = Tgdp(run.config.network).eval()  # other shapes than in training: nothing compiled
        plain.load_state_dict(network.state_dict())
        scores[name] = retrieval(*embed_segments(plain, validation)).to_json()
    return scores
