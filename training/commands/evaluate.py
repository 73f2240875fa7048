"""What `foley-train evaluate` and `foley-train probe` do: embed media with a frozen model, measure, show a table."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from models.bundle.bundle import BrokenBundle, load_bundle
from models.network.weights import WrongStateDict
from training.adapting.cae_probe import probe_cae
from training.checkpoint import BrokenCheckpoint
from training.data.archive import BrokenShard
from training.data.listing import BadListing, list_items
from training.data.segments import NoTrainingData
from training.data.sharded import is_sharded
from training.evaluation.ave import BadAve, write_manifests
from training.evaluation.classes import measure_alike
from training.evaluation.embedder import Embedder, NoSuchWeights, PatchEmbedder, open_embedder, open_patches
from training.evaluation.embedding import EmbeddedMedia, embed_data
from training.evaluation.evaluate import COMBINATIONS, DIRECTIONS, Combination, Recall, Retrieval, retrieval
from training.evaluation.probe import BadLabels, ProbeResult, label_rows, list_classes, probe
from training.evaluation.probe_head import Classes, ProbeConfig
from training.evaluation.protocol import embed_texts

EXPECTED = (
    BadLabels,
    BadListing,
    BrokenBundle,
    BrokenCheckpoint,
    BrokenShard,
    NoSuchWeights,
    NoTrainingData,
    OSError,
    WrongStateDict,
)
"""What a person can do something about: one line, exit code 2."""
MAX_CLASS_ROWS = 20
"""Classes that a table names; the JSON names all."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model embeds what.

    Attributes:
        model: Folder of a bundle (runs on ONNX Runtime) or of a checkpoint (runs on torch).
        weights: "student" or "teacher" of a checkpoint; None for the student, and for a bundle.
        segments: "first" for one segment of each file, as in the published protocol; "all" for every one.
        num_workers: Processes that decode.
    """

    model: Path
    weights: Literal["student", "teacher"] | None
    segments: Literal["first", "all"]
    num_workers: int


@dataclass(frozen=True, kw_only=True)
class CaeOptions:
    """What the head of CAE-AV sees.

    Attributes:
        tokens: Rows of tracks, or the patches of each moment.
    """

    tokens: Literal["tracks", "patches"]


def run_evaluation(
    options: ModelOptions, data: Sequence[Path], console: Console, *, by_labels: bool = False
) -> dict[str, Any]:
    """Measure zero-shot retrieval over media with picture and sound.

    Args:
        options: Which model, and how.
        data: Held-out media: folders, files, manifests, shards.
        console: Where the table goes.
        by_labels: Whether clips with a shared label are relevant as well: mAP of classes beside recall.

    Returns:
        What was measured and on how much, JSON values: recall by combination of moments and direction.

    Raises:
        typer.Exit: With code 2 if the model cannot be read or there is nothing to measure on.
    """
    log_to(console)
    try:
        embedder = open_embedder(options.model, weights=options.weights)
        media = _embed(embedder, data, options, console, title="embed")
        alike = _measure_labels(media) if by_labels else {}
    except EXPECTED as exc:
        console.print(str(exc), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from exc
    measured = {combine: retrieval(media.audio, media.video, combine=combine) for combine in COMBINATIONS}
    console.print(retrieval_table(measured))
    if by_labels:
        console.print(alike_table(alike))
    return {
        "model": embedder.name,
        "segments": options.segments,
        "num_files": media.num_files,
        "num_segments": len(media.names),
        "failed": [asdict(failure) for failure in media.failed],
        "chance_at_1": 100 / len(media.names),
        "retrieval": {combine: found.to_json() for combine, found in measured.items()},
        **alike,
    }


def _measure_labels(media: EmbeddedMedia) -> dict[str, Any]:
    names = list_classes(media)
    rows, truth = label_rows(media, names, classes="many")
    found = measure_alike(media.audio[rows], media.video[rows], truth)
    return {
        "classes": list(names),
        "num_labelled": len(rows),
        "by_labels": {direction: one.to_json() for direction, one in found.items()},
    }


def run_probe(
    options: ModelOptions,
    config: ProbeConfig,
    *,
    data: Sequence[Path],
    validation: Sequence[Path],
    classes: Classes | None,
    console: Console,
    cae: CaeOptions | None = None,
) -> dict[str, Any]:
    """Train the probe head on the embeddings of labelled media and measure it on others.

    Args:
        options: Which model, and how.
        config: How the head learns.
        data: Labelled media to learn from.
        validation: Labelled media to measure on.
        classes: Whether one class is true of a file, or several may be; None to tell from the labels.
        console: Where the table goes.
        cae: For the head of CAE-AV instead of the published one.

    Returns:
        What was measured and on how much, JSON values.

    Raises:
        typer.Exit: With code 2 if the model cannot be read, or the media or their labels do not do.
    """
    log_to(console)
    try:
        takes_patches = cae is not None and cae.tokens == "patches"
        embedder = (open_patches if takes_patches else open_embedder)(options.model, weights=options.weights)
        training = _embed(embedder, data, options, console, title="embed the training media")
        held_out = _embed(embedder, validation, options, console, title="embed the held-out media")
        with show_progress(console) as progress:
            bar = progress.add_task("train the head", total=config.num_epochs)

            def show(epoch: int, loss: float) -> None:
                progress.update(bar, completed=epoch, description=f"train the head, loss {loss:.3f}")

            facts: dict[str, Any] = {"num_heads": embedder.num_heads, "classes": classes, "on_epoch": show}
            if cae is None:
                found = probe(training, held_out, config, **facts)
            else:
                facts["num_tokens"] = embedder.num_tokens if isinstance(embedder, PatchEmbedder) else 1
                captions = read_captions(options.model, [*data, *validation])
                found = probe_cae(training, held_out, config, captions=captions, **facts)
    except EXPECTED as exc:
        console.print(str(exc), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from exc
    console.print(probe_table(found))
    failed = [asdict(failure) for failure in (*training.failed, *held_out.failed)]
    return {
        "model": embedder.name,
        "segments": options.segments,
        "failed": failed,
        "head": asdict(config),
        **asdict(found),
    }


def run_probe_on(
    options: ModelOptions,
    config: ProbeConfig,
    *,
    data: Sequence[Path],
    validation: Sequence[Path],
    ave: Path | None,
    classes: Classes | None,
    console: Console,
    cae: CaeOptions | None,
) -> dict[str, Any]:
    """`run_probe` on media, or on the training and test clips of AVE.

    Args:
        options: Which model, and how.
        config: How the head learns.
        data: Labelled media to learn from.
        validation: Labelled media to measure on.
        ave: Folder of AVE, instead of both.
        classes: Whether one class is true of a file, or several may be; None to tell from the labels.
        console: Where the table goes.
        cae: For the head of CAE-AV.

    Returns:
        What was measured and on how much, JSON values.

    Raises:
        typer.Exit: With code 2 if the folder is not AVE's, or as of `run_probe`.
    """
    if ave is None:
        return run_probe(
            options, config, data=data, validation=validation, classes=classes, console=console, cae=cae
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            splits = write_manifests(ave, Path(folder))
        except BadAve as exc:
            console.print(str(exc), style="red", markup=False, highlight=False)
            raise typer.Exit(2) from exc
        for split, (_, num_missing) in splits.items():
            console.print(f"{split}: {num_missing} clips of AVE's list are not there")
        paths = {split: [manifest] for split, (manifest, _) in splits.items()}
        return run_probe(
            options,
            config,
            data=paths["train"],
            validation=paths["test"],
            classes=classes,
            console=console,
            cae=cae,
        )


def read_captions(model: Path, paths: Sequence[Path]) -> dict[str, dict[str, NDArray[np.float32]]] | None:
    """Vectors of the captions that manifests give, by file and modality; None if nothing has or embeds them.

    Args:
        model: A bundle that embeds words for sound and picture, or any other model.
        paths: Media, manifests or shards.

    Returns:
        Unit means of a file's captions.
    """
    if (model / "run.json").exists() or any(map(is_sharded, paths)):
        return None
    bundle = load_bundle(model)
    if bundle.manifest.text is None or set(bundle.manifest.text.outputs) != {"audio", "video"}:
        return None
    items = [item for item in list_items(paths) if item.captions]
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for item in items:
        vectors = {name: rows.mean(axis=0) for name, rows in embed_texts(bundle, item.captions).items()}
        found[item.name] = {name: row / np.linalg.norm(row) for name, row in vectors.items()}
    return found or None


def log_to(console: Console) -> None:
    """Show warnings above the progress bar.

    Args:
        console: Where they go.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)])


def show_progress(console: Console) -> Progress:
    """Show how far the embedding is.

    Args:
        console: Where the bar goes.

    Returns:
        The bar, which a `with` shows.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _embed(
    embedder: Embedder, data: Sequence[Path], options: ModelOptions, console: Console, *, title: str
) -> EmbeddedMedia:
    with show_progress(console) as progress:
        bar = progress.add_task(title, total=None)
        media = embed_data(
            embedder,
            data,
            every_segment=options.segments == "all",
            num_workers=options.num_workers,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    for failure in media.failed:
        console.print(f"skipped {failure.path}: {failure.reason}", markup=False, highlight=False)
    return media


def retrieval_table(measured: dict[Combination, Retrieval]) -> Table:
    """Lay out recall.

    Args:
        measured: Retrieval by combination of moments.

    Returns:
        A row for each combination and direction.
    """
    num_segments = next(iter(measured.values())).num_segments
    table = Table(
        title=f"zero-shot retrieval, {num_segments} segments, chance at 1 {100 / num_segments:.2f} %"
    )
    for heading in ("moments", "query → found", "R@1 (95 % interval)", "R@5", "R@10", "median rank"):
        table.add_column(heading)
    for combine, found in measured.items():
        for direction, name in DIRECTIONS.items():
            r: Recall = getattr(found, direction)
            low, high = r.at_1_interval
            at_1 = f"{r.at_1:.1f} ({low:.1f}-{high:.1f})"
            table.add_row(combine, name, at_1, f"{r.at_5:.1f}", f"{r.at_10:.1f}", f"{r.median_rank:g}")
    return table


def alike_table(alike: dict[str, Any]) -> Table:
    """Lay out how well clips with a shared label are found.

    Args:
        alike: `num_labelled`, `classes` and `by_labels`, as `run_evaluation` returns them.

    Returns:
        A row for each direction.
    """
    table = Table(
        title=f"{alike['num_labelled']} clips of {len(alike['classes'])} labels, relevant is what shares a label"
    )
    for heading in ("query → found", "mAP", "R@1 (95 % interval)", "R@5", "R@10", "chance at 1"):
        table.add_column(heading)
    for direction, found in alike["by_labels"].items():
        first = found["first"]
        low, high = first["at_1_interval"]
        figures = (found["mean_average_precision"], first["at_5"], first["at_10"], found["chance"])
        precision, at_5, at_10, chance = (f"{value:.1f}" for value in figures)
        at_1 = f"{first['at_1']:.1f} ({low:.1f}-{high:.1f})"
        table.add_row(DIRECTIONS[direction], precision, at_1, at_5, at_10, chance)
    return table


def probe_table(found: ProbeResult) -> Table:
    """Return the result of a probe as a table.

    Args:
        found: The result.

    Returns:
        A row for all classes together, and one for each of a few.
    """
    seen = {"both": "sound and picture", "audio": "sound", "video": "picture"}[found.modality]
    table = Table(
        title=f"probe on {seen}, {found.num_training} training segments, {found.num_validation} held out"
    )
    for heading in ("class", f"{found.metric} (95 % interval)", "chance"):
        table.add_column(heading)
    low, high = found.interval
    table.add_row(
        f"all {len(found.by_class)}", f"{found.percent:.1f} ({low:.1f}-{high:.1f})", f"{found.chance:.1f}"
    )
    if found.seconds_right is not None:
        table.add_row("seconds named right, with background", f"{found.seconds_right:.1f}")
    for name, percent in list(found.by_class.items())[:MAX_CLASS_ROWS]:
        table.add_row(Text(name), f"{percent:.1f}")
    if len(found.by_class) > MAX_CLASS_ROWS:
        table.add_row("…", "")
    return table
