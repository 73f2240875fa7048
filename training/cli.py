"""The command `foley-train`: make a synthetic corpus, train on media, make a bundle, measure it.

foley-train synthesize corpus/train --scenes 4000 --seed 1 --split train --workers 2
foley-train pretrain --data corpus/train --validation corpus/heldout --output runs/starter
foley-train export runs/starter/checkpoint --media corpus/heldout --output my-bundle
foley-train evaluate my-bundle --data corpus/heldout
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training.labels import CorpusMismatch
from training.scene import BadScene, Split
from training.synthesis import write_corpus

app = typer.Typer(help="Train Foley's encoders.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Train Foley's encoders."""


def _commands() -> ModuleType:
    """Import what needs torch, or say how to install it."""
    try:
        from training import commands  # noqa: PLC0415 - torch: a second that `synthesize` should not wait for
    except ModuleNotFoundError as exc:
        typer.echo(f"{exc.name} is not installed: training needs pip install --editable '.[train]'", err=True)
        raise typer.Exit(1) from exc
    return commands


@app.command()
def synthesize(
    output: Annotated[Path, typer.Argument(help="Folder to write the clips and labels.csv into.")],
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes to make.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the corpus.")] = 0,
    split: Annotated[Split, typer.Option(help="Scenes of two splits never meet.")] = "train",
    separate: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of scenes written as two files."),
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = 1,
) -> None:
    """Make a corpus of synthetic clips with sound; scenes that are there already are kept."""
    console = Console(stderr=True)
    columns = (
        TextColumn("scenes"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("scenes", total=scenes)
            rows = write_corpus(
                output,
                num_scenes=scenes,
                seed=seed,
                split=split,
                separate_fraction=separate,
                num_workers=workers,
                on_progress=lambda done, wanted: progress.update(bar, completed=done, total=wanted),
            )
    except (BadScene, CorpusMismatch, OSError) as exc:
        console.print(f"[red]{exc}[/red]")
        raise typer.Exit(2) from exc
    console.print(f"{scenes} scenes in {len(rows)} files in {output}")


@app.command()
def pretrain(
    data: Annotated[list[Path], typer.Option(help="Folders or files of media to learn from.")],
    output: Annotated[Path, typer.Option(help="Folder of the run: metrics, checkpoint, decoded media.")],
    run: Annotated[str, typer.Option(help="Named run: starter or base.")] = "starter",
    validation: Annotated[list[Path] | None, typer.Option(help="Held-out media to measure on.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps, instead of the run's own.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the run's own.")] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 200,
    compile_passes: Annotated[
        bool, typer.Option("--compile", help="Fuse the passes with torch.compile; needs a C++ compiler.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 2,
) -> None:
    """Train the encoders on paired media."""
    commands = _commands()
    commands.pretrain(
        run_name=run,
        data=data,
        output=output,
        validation=validation or [],
        num_steps=steps,
        seed=seed,
        evaluate_every=evaluate_every,
        compile_passes=compile_passes,
        num_workers=workers,
        command=shlex.join(["foley-train", *sys.argv[1:]]),
        console=Console(stderr=True),
    )


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle; must not exist.")],
    media: Annotated[list[Path], typer.Option(help="Real clips to compare ONNX with torch on.")],
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "trained",
    weights: Annotated[str, typer.Option(help="student or teacher.")] = "student",
) -> None:
    """Make a bundle that the service can load; refused when ONNX and torch disagree."""
    commands = _commands()
    commands.export(
        checkpoint=checkpoint,
        output=output,
        media=media,
        name=name,
        weights=weights,
        console=Console(stderr=True),
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a bundle or of a checkpoint.")],
    data: Annotated[list[Path], typer.Option(help="Held-out media, folders or files.")],
) -> None:
    """Measure zero-shot retrieval on media, both ways: a table, and JSON on stdout."""
    commands = _commands()
    typer.echo(json.dumps(commands.evaluate(model=model, data=data, console=Console(stderr=True)), indent=2))


if __name__ == "__main__":
    app()
