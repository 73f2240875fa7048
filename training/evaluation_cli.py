"""The commands of `foley-train` that measure a frozen model: `evaluate`, `probe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from training.deferred import load_commands

Model = Annotated[Path, typer.Argument(help="Folder of a bundle or of a checkpoint.")]
Weights = Annotated[
    Literal["student", "teacher"] | None, typer.Option(help="Weights of a checkpoint. Default: student.")
]
Segments = Annotated[
    Literal["first", "all"],
    typer.Option(help="Segments of each file with picture and sound: only the first, as published, or all."),
]
Workers = Annotated[int, typer.Option(min=1, help="Number of decoding processes.")]


def evaluate(
    model: Model,
    data: Annotated[list[Path], typer.Option(help="Held-out media: folders, files, manifests, shards.")],
    weights: Weights = None,
    segments: Segments = "first",
    protocol: Annotated[
        Literal["vggsound", "audioset", "mteb"] | None,
        typer.Option(help="Measure a bundle on the clips of a published protocol, beside published figures."),
    ] = None,
    relevant: Annotated[
        Literal["own", "labels"],
        typer.Option(
            help="What a clip should find: its own other half; or, in a second table with mAP, all clips with one of "
            "its labels."
        ),
    ] = "own",
    workers: Workers = 2,
) -> None:
    """Measure zero-shot retrieval on media in both directions. Prints a table, and JSON on stdout."""
    if protocol is not None:
        if weights is not None or segments != "first":
            raise typer.BadParameter("--protocol takes a bundle and the first segment of each clip")
        if relevant != "own":
            raise typer.BadParameter("--protocol says itself what is relevant")
        run = load_commands("protocols").run_protocol
        measured = run(model, data, protocol, num_workers=workers, console=Console(stderr=True))
        typer.echo(json.dumps(measured, indent=2))
        return
    commands = load_commands("evaluate")
    options = commands.ModelOptions(model=model, weights=weights, segments=segments, num_workers=workers)
    run_evaluation = commands.run_evaluation
    measured = run_evaluation(options, data, Console(stderr=True), by_labels=relevant == "labels")
    typer.echo(json.dumps(measured, indent=2))


def probe(
    model: Model,
    data: Annotated[
        list[Path] | None, typer.Option(help="Labelled training media: folders, manifests, shards.")
    ] = None,
    validation: Annotated[list[Path] | None, typer.Option(help="Labelled media for evaluation.")] = None,
    ave: Annotated[
        Path | None,
        typer.Option(help="Folder of AVE: its training and test clips instead of --data and --validation."),
    ] = None,
    head: Annotated[
        Literal["published", "cae"],
        typer.Option(
            help="The published head, or that of CAE-AV, which looks at moments of sound and picture."
        ),
    ] = "published",
    tokens: Annotated[
        Literal["tracks", "patches"],
        typer.Option(help="What the head of CAE-AV sees of a moment: its embedding, or its patches."),
    ] = "tracks",
    classes: Annotated[
        Literal["one", "many"] | None,
        typer.Option(help="Classes of a file: one (top-1) or many (mAP). Default: decided by the labels."),
    ] = None,
    modality: Annotated[
        Literal["both", "audio", "video"], typer.Option(help="Embeddings given to the head.")
    ] = "both",
    epochs: Annotated[int, typer.Option(min=1, help="Number of training epochs of the head.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Segments in a batch of the head.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Maximum learning rate of the head.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the head's weights and of the order.")] = 0,
    weights: Weights = None,
    segments: Segments = "first",
    workers: Workers = 2,
) -> None:
    """Train a small head on the frozen embeddings and measure it. Prints a table, and JSON on stdout."""
    commands = load_commands("evaluate")
    options = commands.ModelOptions(model=model, weights=weights, segments=segments, num_workers=workers)
    config = commands.ProbeConfig(
        modality=modality, num_epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    if (ave is None) == (data is None or validation is None):
        raise typer.BadParameter("give --data and --validation, or --ave")
    if head == "published" and tokens == "patches":
        raise typer.BadParameter("only --head cae looks at patches")
    found = commands.run_probe_on(
        options,
        config,
        data=data or [],
        validation=validation or [],
        ave=ave,
        classes=classes,
        console=Console(stderr=True),
        cae=commands.CaeOptions(tokens=tokens) if head == "cae" else None,
    )
    typer.echo(json.dumps(found, indent=2))
