"""What `foley-train pretrain` does: find and decode the media, start or continue the run, show how far it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from models.bundle.bundle import BrokenBundle
from models.media.clip import ClipSpec
from models.network.initialisation import Initialised, find_weights, initialise
from models.network.tgdp import Tgdp
from models.network.weights import UnreadableWeights, WrongStateDict
from training.checkpoint import BrokenCheckpoint
from training.data.archive import BrokenShard
from training.data.files import FolderInUse, only_one
from training.data.library import LibraryUnavailable, indexed_paths
from training.data.listing import BadListing
from training.data.segments import BrokenSegments, NoTrainingData, Segments
from training.data.sources import open_segments
from training.pretraining.config import RUNS, PretrainConfig
from training.pretraining.parallel import BadShare, Processes, join_processes
from training.pretraining.pretrain import AnotherRun, TrainingDiverged, pretrain
from training.pretraining.stopping import Stopped, heed_signals

logger = logging.getLogger(__name__)

SIGNALLED = 128
"""Exit codes of what a signal ended begin above this."""
EXPECTED = (
    AnotherRun,
    BadListing,
    BadShare,
    BrokenBundle,
    BrokenCheckpoint,
    BrokenSegments,
    BrokenShard,
    FolderInUse,
    LibraryUnavailable,
    NoTrainingData,
    OSError,
    TrainingDiverged,
    UnreadableWeights,
    WrongStateDict,
)
"""What a person can do something about: one line, exit code 2."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """The options of the command line.

    Attributes:
        run_name: Name of the run in `training.pretraining.config.RUNS`.
        data: Training media: folders, files, manifests, shards.
        library: Whether to learn from the media that the service has indexed, too.
        validation: Held-out media; may be empty.
        output: Folder of the run.
        num_steps: Instead of the run's own number of steps.
        batch_size: Instead of the run's own batch size.
        seed: Instead of the run's own seed.
        initial_weights: A checkpoint to start from.
        evaluate_every: Steps between two checkpoints.
        compile_passes: Whether torch.compile fuses the passes.
        with_board: Whether TensorBoard files are written.
        num_workers: Processes that decode.
        command: What was typed, for the checkpoint.
    """

    run_name: str
    data: Sequence[Path]
    library: bool
    validation: Sequence[Path]
    output: Path
    num_steps: int | None
    batch_size: int | None
    seed: int | None
    initial_weights: Path | None
    evaluate_every: int
    compile_passes: bool
    with_board: bool
    num_workers: int
    command: str

    def configure(self) -> PretrainConfig:
        """Return the named run with the changes of the command line."""
        config = RUNS[self.run_name]()
        changes = {"num_steps": self.num_steps, "batch_size": self.batch_size, "seed": self.seed}
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(config, **given, compile=config.compile or self.compile_passes)  # type: ignore[arg-type]


def run_pretraining(options: PretrainOptions, console: Console) -> None:
    """Decode the media, train or resume, and leave metrics and `checkpoint/` in the folder.

    Args:
        options: What was asked for.
        console: Where the progress goes.

    Raises:
        typer.Exit: With code 130 if it was stopped by Ctrl-C, 143 by SIGTERM; with code 2 if the run is not known, the
            folder holds another run, no media can be used, or the loss is not finite.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console)])
    if options.run_name not in RUNS:
        console.print(
            f"no run is called {options.run_name!r}; choose one of {', '.join(RUNS)}",
            style="red",
            markup=False,
            highlight=False,
        )
        raise typer.Exit(2)
    try:
        with join_processes() as processes:
            train(options, processes, console)
    except EXPECTED as exc:
        console.print(str(exc), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from exc
    except (KeyboardInterrupt, Stopped) as exc:
        if isinstance(exc, KeyboardInterrupt) or processes.is_first:
            console.print(f"stopped; {say_what_is_kept(options.output)}", markup=False, highlight=False)
        raise typer.Exit(SIGNALLED + (exc.number if isinstance(exc, Stopped) else signal.SIGINT)) from None
    if processes.is_first:
        console.print(f"checkpoint in {options.output / 'checkpoint'}", markup=False)


def say_what_is_kept(output: Path) -> str:
    """Return from where the same command resumes.

    Args:
        output: Folder of the run.

    Returns:
        Half a sentence.
    """
    try:
        step = json.loads((output / "checkpoint" / "run.json").read_text())["step"]
    except (OSError, ValueError, KeyError):
        return "there is no checkpoint yet: the same command starts again and reuses the decoded media"
    return f"run the same command to continue after step {step}"


def train(options: PretrainOptions, processes: Processes, console: Console) -> None:
    """Do the run in this process, alone or with others.

    Args:
        options: What was asked for.
        processes: Who trains together; the first one shows progress.
        console: Where the progress goes.
    """
    config = options.configure()
    processes.rows(config.batch_size)
    if processes.is_first and config.num_steps < 2 * config.warmup_steps:
        text = "%d steps are few: the first %d warm up the learning rate; take at least %d"
        logger.warning(text, config.num_steps, config.warmup_steps, 2 * config.warmup_steps)
    facts = {"command": options.command, "commit": git_commit(), **first_weights(options.initial_weights)}
    paths = [*options.data, *(processes.hear(indexed_paths) if options.library else [])]
    options.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if processes.is_first:  # for all of them
            stack.enter_context(only_one(options.output, waits=False))
        progress = stack.enter_context(show_progress(console, is_shown=processes.is_first))
        training = show_segments(paths, options.output / "decoded-training", options.num_workers, progress)
        validation = None
        if options.validation:
            folder = options.output / "decoded-validation"
            validation = show_segments(options.validation, folder, options.num_workers, progress)
        bar = progress.add_task("train", total=config.num_steps)
        asked_to_stop = stack.enter_context(heed_signals(is_heard=processes.is_first))
        pretrain(
            config,
            training,
            options.output,
            validation=validation,
            evaluate_every=options.evaluate_every,
            facts=facts,
            processes=processes,
            initialise=starter_of(options.initial_weights),
            with_board=options.with_board,
            on_step=lambda done, losses: progress.update(
                bar, completed=done, description=f"train, loss {losses['loss']:.2f}"
            ),
            asked_to_stop=asked_to_stop,
        )


def show_progress(console: Console, *, is_shown: bool) -> Progress:
    """Bars with count, time used and time left.

    Args:
        console: Where they go.
        is_shown: Whether they are drawn at all.

    Returns:
        A context that draws them.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not is_shown)


def show_segments(paths: Sequence[Path], folder: Path, num_workers: int, progress: Progress) -> Segments:
    """Open the segments and print the files that cannot be used.

    Args:
        paths: Shards, or folders, files and manifests.
        folder: Where decoded segments go.
        num_workers: Processes that decode.
        progress: Shows how far decoding is.

    Returns:
        Segments with picture and sound.
    """
    bar = progress.add_task(f"decode {folder.name.removeprefix('decoded-')}", total=None)
    segments = open_segments(
        paths,
        folder,
        ClipSpec(),
        num_workers=num_workers,
        on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
    )
    progress.update(bar, completed=len(segments), total=len(segments))
    for failure in segments.failed:
        progress.console.print(f"skipped {failure['path']}: {failure['reason']}", markup=False)
    if segments.num_left_out:
        progress.console.print(
            f"{segments.num_left_out} segments left out: silence, or a picture that never changes"
        )
    if segments.failed:
        progress.console.print(f"{len(segments.failed)} files skipped, {len(segments)} segments for training")
    return segments


def starter_of(path: Path | None) -> Callable[[Tgdp], object] | None:
    """How a fresh network gets its first weights from a file.

    Args:
        path: The file; None for random weights.

    Returns:
        What fills a network and logs what it took, or None.
    """
    if path is None:
        return None

    def fill(network: Tgdp) -> Initialised:
        done = initialise(network, path)
        logger.info(
            "%d tensors from %s (%s); random: %s; not used: %s",
            len(done.taken),
            path,
            done.origin,
            ", ".join(done.fresh) or "none",
            ", ".join(done.unused) or "none",
        )
        return done

    return fill


def first_weights(path: Path | None) -> dict[str, Any]:
    """Say in the checkpoint which weights the run started from.

    Args:
        path: The file or the folder of a checkpoint, or None.

    Returns:
        Name and sha256 of the file as `initialised_from`, or nothing.
    """
    if path is None:
        return {}
    weights = find_weights(path)
    with weights.open("rb") as file:
        return {"initialised_from": [weights.name, hashlib.file_digest(file, "sha256").hexdigest()]}


def git_commit() -> str | None:
    """Return the commit of the code that runs, or None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
