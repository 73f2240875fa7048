"""The TG-DP loop: two passes of one student a step, guided by a teacher that sees everything.

Read `pretrain` top to bottom; one step is `take_step`, what it minimises is `training.pretraining.objective`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.network.tgdp import Tgdp
from training.checkpoint import Checkpoint, load_checkpoint, restore_optimiser, save_checkpoint
from training.data.augment import augment
from training.data.batches import AUGMENTATION, MASKS, MomentBatches, prefetch, step_generator
from training.data.draws import Draws
from training.data.segments import Segments
from training.pretraining.config import PretrainConfig
from training.pretraining.journal import Journal
from training.pretraining.measuring import evaluate_networks
from training.pretraining.objective import Objective, Pictures
from training.pretraining.optim import learning_rate_at, make_optimiser, set_learning_rate
from training.pretraining.parallel import BadShare, Processes, alone
from training.pretraining.stopping import Stopped
from training.pretraining.teacher import Teacher, momentum_at

logger = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite."""


class AnotherRun(ValueError):
    """The folder holds a checkpoint of a run with another configuration or other media."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The state of a run that changes while it trains.

    Attributes:
        config: The run.
        student: The network in training.
        teacher: Its average.
        optimiser: Moves the student.
        objective: The losses; data parallel where several processes train together.
        processes: This process among them.
    """

    config: PretrainConfig
    student: Tgdp
    teacher: Teacher
    optimiser: torch.optim.AdamW
    objective: nn.Module
    processes: Processes

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The student and its average."""
        return {"student": self.student, "teacher": self.teacher.network}

    @classmethod
    def start(
        cls,
        config: PretrainConfig,
        processes: Processes,
        *,
        initialise: Callable[[Tgdp], object] | None = None,
    ) -> Run:
        """Initialise a run from its seed.

        Args:
            config: The run.
            processes: Who trains together.
            initialise: Fills the fresh student with weights from elsewhere; the teacher starts from them too.

        Returns:
            A run before its first step.
        """
        torch.manual_seed(config.seed)
        student = Tgdp(config.network)
        if initialise is not None:
            initialise(student)
        student = student.to(processes.device).train()
        teacher = Teacher(student)
        if config.compile:
            compile_passes(student, "embed", "reconstruct", "see_once")
            compile_passes(teacher.network, "full_view")
        objective: nn.Module = Objective(student, teacher, config, gather=processes.gather)
        if processes.count > 1:
            objective = DistributedDataParallel(objective, broadcast_buffers=False)
        return cls(
            config=config,
            student=student,
            teacher=teacher,
            optimiser=make_optimiser(student, config),
            objective=objective,
            processes=processes,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint.

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


Batch = tuple[Tensor, Tensor]
"""Normalised log-mel windows, float32, shape (B, W, M), and frames of the same moments, uint8, shape (B, H, W, 3)."""


def take_step(run: Run, step: int, batches: Iterable[Batch]) -> dict[str, float]:
    """Do one step: losses, gradient, student, teacher.

    Args:
        run: Changed in place.
        step: Steps done before this one.
        batches: This process's rows of the `num_accumulated` batches of the step.

    Returns:
        Losses averaged over batches and processes, gradient norm, learning rate and momentum by name.

    Raises:
        TrainingDiverged: If the loss is not finite.
    """
    config = run.config
    rate = learning_rate_at(step, config)
    set_learning_rate(run.optimiser, rate)
    run.optimiser.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        is_last = number == config.num_accumulated - 1
        with contextlib.nullcontext() if is_last else synchronise_later(run.objective):
            losses = compute_losses(run, step * config.num_accumulated + number, batch)
            (losses["loss"] / config.num_accumulated).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / config.num_accumulated
    norm = torch.nn.utils.clip_grad_norm_(run.student.parameters(), config.max_gradient_norm)
    averages = run.processes.mean(
        torch.stack(list(sums.values()))
    ).tolist()  # the only wait for a GPU in a step
    numbers = dict(zip(sums, averages, strict=True))
    if not math.isfinite(numbers["loss"]) or not torch.isfinite(norm):
        raise TrainingDiverged(
            f"the loss is {numbers['loss']} and its gradient's norm {float(norm)} at step {step + 1}; "
            "lower the learning rate"
        )
    run.optimiser.step()
    momentum = momentum_at(step, config.num_steps, config.momentum)
    run.teacher.follow(run.student, momentum)
    return numbers | {"gradient_norm": float(norm), "learning_rate": rate, "momentum": momentum}


def compute_losses(run: Run, batch_number: int, batch: Batch) -> dict[str, Tensor]:
    """Move one batch to the device, augment it, and return its losses.

    Args:
        run: Not changed.
        batch_number: Batches drawn before this one in the whole run: decides all its randomness.
        batch: This process's rows.

    Returns:
        Losses by name, `loss` among them.
    """
    config, device = run.config, run.processes.device
    windows, frames = (part.to(device, non_blocking=True) for part in batch)
    num_rows = len(windows) * run.processes.count
    rows = run.processes.rows(num_rows)

    def draws(stream: int) -> Draws:
        return Draws(
            generator=step_generator(config.seed, stream, batch_number), num_rows=num_rows, rows=rows
        )

    pixels = run.student.pixels(frames)
    windows, pixels = augment(windows, pixels, config.augmentation, draws(AUGMENTATION))
    pictures: Pictures = {"audio": run.student.audio_pictures(windows), "video": pixels}
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        losses: dict[str, Tensor] = run.objective(pictures, draws(MASKS))
    return losses


def synchronise_later(objective: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients to this process until the last batch of a step.

    Args:
        objective: Data parallel or not.

    Returns:
        A context for all batches but the last one.
    """
    if isinstance(objective, DistributedDataParallel):
        return objective.no_sync()
    return contextlib.nullcontext()


def pretrain(
    config: PretrainConfig,
    segments: Segments,
    output: Path,
    *,
    validation: Segments | None = None,
    evaluate_every: int = 250,
    facts: dict[str, Any] | None = None,
    processes: Processes | None = None,
    initialise: Callable[[Tgdp], object] | None = None,
    with_board: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    asked_to_stop: Callable[[], int] = lambda: 0,
) -> Checkpoint:
    """Train a network on paired segments; a second call with the same arguments resumes.

    Every random number is a function of seed and step, so on a CPU a run that was killed and continued gives the
    numbers of one that was not, bit for bit.

    Args:
        config: The run.
        segments: Training media, prepared.
        output: Folder for `metrics.jsonl`, `checkpoint/` and `board/`.
        validation: Held-out media; retrieval over them is measured as the run goes.
        evaluate_every: Steps between two checkpoints; the last step always makes one.
        facts: More JSON values for the checkpoint: command, commit.
        processes: Who trains together; None for this process alone.
        initialise: Fills the fresh student with weights from elsewhere.
        with_board: Whether TensorBoard files are written, with pictures at every checkpoint.
        on_step: Called after every step with its number and losses.
        asked_to_stop: Asked after every step for the signal that is to end the run, 0 for none. If one of several
            processes has one, all of them end after the same step.

    Returns:
        The last checkpoint.

    Raises:
        Stopped: If the run was asked to stop before its last step; the checkpoint of the step is written, without
            measuring retrieval.
    """
    processes = processes or alone()
    run = Run.start(config, processes, initialise=initialise)
    identity = {
        "config": json.loads(json.dumps(config.to_json())),
        "segments": segments.fingerprint,
        "weights at the start": (facts or {}).get("initialised_from"),
    }
    output.mkdir(parents=True, exist_ok=True)
    first, seconds_before = continue_run(run, output, identity)
    batch_size = fit_batch(config.batch_size, len(segments), processes)
    batches = MomentBatches(
        segments,
        config.network,
        batch_size=batch_size,
        seed=config.seed,
        rows=processes.rows(batch_size),
    )
    started = time.monotonic() - seconds_before
    num_each = config.num_accumulated
    stream = prefetch(batches, first * num_each, config.num_steps * num_each)
    with Journal(output, first_step=first, with_board=with_board, is_kept=processes.is_first) as journal:
        for step in range(first, config.num_steps):
            numbers = take_step(run, step, itertools.islice(stream, num_each))
            done = step + 1
            asked = processes.largest(asked_to_stop()) if done < config.num_steps else 0
            is_due = done % evaluate_every == 0 or done == config.num_steps
            retrieved = None
            if is_due and not asked and validation is not None and processes.is_first:
                retrieved = evaluate_networks(
                    run.networks, validation, config=config.network, device=processes.device
                )
            seconds = round(time.monotonic() - started, 2)
            journal.write(done, numbers, retrieved, seconds)
            if is_due or asked:
                journal.show(done, run.student, run.teacher.network, batches.at(0), config)
                state = {
                    **identity,
                    "step": done,
                    "seconds": seconds,
                    "num_segments": len(segments),
                    "num_processes": processes.count,
                    "retrieval": retrieved,
                    **(facts or {}),
                }
                save(run, output, state)
            if on_step:
                on_step(done, numbers)
            if asked:
                raise Stopped(asked)
    return load_checkpoint(output / "checkpoint")


def fit_batch(wanted: int, num_segments: int, processes: Processes) -> int:
    """Find the size of a batch that the media can fill and the processes can share.

    Worked example: 96 wanted of 7 segments → 7, in two processes 6.

    Args:
        wanted: Segments a batch, over all processes.
        num_segments: How many there are.
        processes: Who trains together.

    Returns:
        As many as wanted where there are so many; less is said in the log.

    Raises:
        BadShare: If there are fewer segments than processes.
    """
    if num_segments >= wanted:
        return wanted
    size = num_segments - num_segments % processes.count
    if size == 0:
        raise BadShare(f"{num_segments} segments are too few for {processes.count} processes")
    if processes.is_first:
        text = "batches have %d segments instead of %d, because there are only %d segments"
        logger.warning(text, size, wanted, num_segments)
    return size


def save(run: Run, output: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint of a step; the first process does, the others wait until it is there.

    Args:
        run: At the end of the step.
        output: Folder of the run.
        state: JSON values for run.json.
    """
    if run.processes.is_first:
        save_checkpoint(output / "checkpoint", run.student, run.teacher.network, run.optimiser, state)
    run.processes.wait()


def continue_run(run: Run, output: Path, identity: dict[str, Any]) -> tuple[int, float]:
    """Restore the run from the checkpoint in its folder, if there is one.

    Args:
        run: Changed in place.
        output: Folder of the run.
        identity: Configuration, media and first weights, as the checkpoint must have them.

    Returns:
        Steps done and seconds used so far, 0 and 0 for a new run.

    Raises:
        AnotherRun: If the checkpoint is of another run.
    """
    link = output / "checkpoint"
    if not link.exists() and not link.is_symlink():  # a link to nowhere is a run that lost its checkpoint
        return 0, 0.0
    checkpoint = load_checkpoint(link)
    differing = [key for key, value in identity.items() if checkpoint.run.get(key) != value]
    if differing:
        what = "; ".join(_describe_change(key, checkpoint.run.get(key), identity[key]) for key in differing)
        raise AnotherRun(f"{output} holds a run with other {what}; choose another folder")
    run.restore(checkpoint)
    run.processes.wait()  # nobody changes the folder before everyone has read it
    logger.info("going on after step %d", checkpoint.run["step"])
    return checkpoint.run["step"], checkpoint.run["seconds"]


def _describe_change(name: str, there: Any, asked: Any) -> str:
    """Return the differences in one part of the identity: `config: batch_size 32 there, 64 asked for`."""
    if not (isinstance(there, dict) and isinstance(asked, dict)):
        return name
    changes = _changes(there, asked)
    return f"{name}: {', '.join(f'{key} {old} there, {new} asked for' for key, old, new in changes)}"


def _changes(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in {**there, **asked}:
        old, new = there.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from ((f"{key}.{inner}", *values) for inner, *values in _changes(old, new))
        elif old != new:
            yield key, old, new
