"""The command `foley-train`: make a synthetic corpus.

foley-train synthesize corpus/train --scenes 4000 --seed 1 --split train --workers 2
"""

from __future__ import annotations

from pathlib import Path
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


if __name__ == "__main__":
    app()
