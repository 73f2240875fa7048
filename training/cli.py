"""The command `foley-train`: make a synthetic corpus, train on media, make a bundle, measure it.

foley-train synthesize corpus/train --scenes 4000 --seed 1 --split train --workers 2
foley-train pretrain --data corpus/train --validation corpus/heldout --output runs/starter
foley-train export runs/starter/checkpoint --media corpus/heldout --output my-bundle
foley-train evaluate my-bundle --data corpus/heldout
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

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

from models.network.geometry import PublishedKind
from training.corpus.labels import CorpusMismatch
from training.corpus.scene import BadScene, Split
from training.corpus.synthesis import write_corpus

app = typer.Typer(
    help="Train Foley's encoders.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foley {importlib.metadata.version('foley-av')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Train Foley's encoders."""


def _commands(name: str) -> ModuleType:
    """Import a command that needs torch, or exit with one line that says what to install."""
    try:
        # Not at the top: `synthesize` needs no torch and should not wait a second for it.
        return importlib.import_module(f"training.commands.{name}")
    except (ImportError, OSError) as exc:  # OSError: a shared library is missing or of another version
        module = getattr(exc, "name", None) or ""
        if module.split(".")[0] in ("training", "models"):
            raise
        if isinstance(exc, ModuleNotFoundError):
            reason = f"{module} is not installed"
        else:
            first_line = str(exc).partition("\n")[0]
            reason = f"torch or torchaudio cannot be loaded ({first_line})"
        typer.echo(f"{reason}: training needs {_torch_pins()}, pip install 'foley-av[train]'", err=True)
        raise typer.Exit(1) from exc


def _torch_pins() -> str:
    """Return the versions of torch and torchaudio that the extra `train` pins."""
    needed = [text.partition(";")[0] for text in importlib.metadata.requires("foley-av") or []]
    return " and ".join(text for text in needed if text.startswith("torch"))


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
        console.print(str(exc), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from exc
    console.print(f"{scenes} scenes in {len(rows)} files in {output}", markup=False)


@app.command()
def pretrain(
    output: Annotated[Path, typer.Option(help="Folder of the run: metrics, checkpoint, decoded media.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="What to learn from: folders, media files, CSV or JSON manifests, shards."),
    ] = None,
    library: Annotated[
        bool, typer.Option("--library", help="Learn from the media that `foley` has indexed.")
    ] = False,
    run: Annotated[str, typer.Option(help="Named run: starter, base, ablation…")] = "starter",
    validation: Annotated[list[Path] | None, typer.Option(help="Held-out media to measure on.")] = None,
    initialise: Annotated[
        Path | None,
        typer.Option(help="Start from these weights: plain MAE ViT, TG-DP, CAV-MAE (Sync), or a checkpoint."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps, instead of the run's own.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Segments a batch, over all processes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the run's own.")] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 200,
    compile_passes: Annotated[
        bool, typer.Option("--compile", help="Fuse the passes with torch.compile; needs a C++ compiler.")
    ] = False,
    board: Annotated[bool, typer.Option(help="Write TensorBoard files with pictures.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 2,
) -> None:
    """Train the encoders on paired media; under torchrun in several processes."""
    if not data and not library:
        raise typer.BadParameter("say what to learn from: --data or --library")
    commands = _commands("pretrain")
    options = commands.PretrainOptions(
        run_name=run,
        data=data or [],
        library=library,
        validation=validation or [],
        output=output,
        num_steps=steps,
        batch_size=batch_size,
        seed=seed,
        initial_weights=initialise,
        evaluate_every=evaluate_every,
        compile_passes=compile_passes,
        with_board=board,
        num_workers=workers,
        command=shlex.join(["foley-train", *sys.argv[1:]]),
    )
    commands.run_pretraining(options, Console(stderr=True))


@app.command()
def shard(
    data: Annotated[list[Path], typer.Argument(help="Folders, media files, CSV or JSON manifests.")],
    output: Annotated[Path, typer.Option(help="Folder of the shards.")],
    quality: Annotated[int, typer.Option(min=1, max=95, help="Of the JPEG frames.")] = 95,
    sample_bits: Annotated[
        Literal["16", "24"], typer.Option(help="Of the FLAC sound; 16 save a quarter of the bytes.")
    ] = "24",
    megabytes: Annotated[int, typer.Option(min=1, help="The most megabytes of a shard.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 2,
) -> None:
    """Decode media once into WebDataset shards to train from; a killed command goes on when it is typed again."""
    commands = _commands("shard")
    commands.make_shards(
        data,
        output,
        commands.Packing(jpeg_quality=quality, sample_bits=int(sample_bits)),
        shard_megabytes=megabytes,
        num_workers=workers,
        console=Console(stderr=True),
    )


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle; must not exist.")],
    media: Annotated[list[Path], typer.Option(help="Real clips to compare ONNX with torch on.")],
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "trained",
    weights: Annotated[
        Literal["student", "teacher"], typer.Option(help="Whose weights of the checkpoint.")
    ] = "student",
) -> None:
    """Make a bundle that the service can load; refused when ONNX and torch disagree."""
    commands = _commands("export")
    commands.export(
        checkpoint=checkpoint,
        output=output,
        media=media,
        name=name,
        weights=weights,
        console=Console(stderr=True),
    )


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Released weights: .pth or .safetensors.")],
    kind: Annotated[PublishedKind, typer.Option(help="Whose weights they are.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle; must not exist.")],
    media: Annotated[
        list[Path] | None,
        typer.Option(help="Real clips to compare ONNX with torch on; synthetic ones without."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle; else the kind.")] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads, at widths other than 768.")
    ] = None,
    decoder_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads of the decoder, at widths other than 512.")
    ] = None,
    without_decoder: Annotated[
        bool, typer.Option("--without-decoder", help="Leave the decoder out, there or not.")
    ] = False,
    without_contrastive_heads: Annotated[
        bool,
        typer.Option("--without-contrastive-heads", help="Embed right after the joint block all the same."),
    ] = False,
    license_note: Annotated[
        str | None, typer.Option("--license", help="What the bundle says of the weights' license.")
    ] = None,
) -> None:
    """Make a bundle of released weights: TG-DP, CAV-MAE Sync or CAV-MAE."""
    commands = _commands("imports")
    request = commands.ImportRequest(
        file=file,
        kind=kind,
        heads=commands.Heads(encoder=heads, decoder=decoder_heads),
        without_decoder=without_decoder,
        without_contrastive_heads=without_contrastive_heads,
        license_note=license_note,
    )
    commands.import_weights(
        request,
        output=output,
        media=media or [],
        name=name or kind,
        command=shlex.join(["foley-train", *sys.argv[1:]]),
        console=Console(stderr=True),
    )


@app.command()
def convert(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle; the result goes beside it.")],
    precision: Annotated[
        Literal["fp16", "int8"], typer.Option(help="fp16 for a GPU, int8 for a CPU that asks for it.")
    ],
    media: Annotated[
        list[Path], typer.Option(help="Real clips with picture and sound to compare with float32 on.")
    ],
    max_clips: Annotated[int, typer.Option(min=8, help="Most clips to compare on.")] = 32,
) -> None:
    """Make the graphs of a bundle in another precision; refused when they are too far from float32."""
    commands = _commands("convert")
    commands.convert(bundle, precision, media=media, max_clips=max_clips, console=Console(stderr=True))


Model = Annotated[Path, typer.Argument(help="Folder of a bundle or of a checkpoint.")]
Weights = Annotated[
    Literal["student", "teacher"] | None, typer.Option(help="Of a checkpoint; the student's if not said.")
]
Segments = Annotated[
    Literal["first", "all"],
    typer.Option(help="Of each file with picture and sound: the first one, as published, or all."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that decode.")]


@app.command()
def evaluate(
    model: Model,
    data: Annotated[list[Path], typer.Option(help="Held-out media: folders, files, manifests, shards.")],
    weights: Weights = None,
    segments: Segments = "first",
    workers: Workers = 2,
) -> None:
    """Measure zero-shot retrieval on media, both ways: a table, and JSON on stdout."""
    commands = _commands("evaluate")
    options = commands.ModelOptions(model=model, weights=weights, segments=segments, num_workers=workers)
    typer.echo(json.dumps(commands.run_evaluation(options, data, Console(stderr=True)), indent=2))


@app.command()
def probe(
    model: Model,
    data: Annotated[
        list[Path], typer.Option(help="Labelled media to learn from: folders, manifests, shards.")
    ],
    validation: Annotated[list[Path], typer.Option(help="Labelled media to measure on.")],
    classes: Annotated[
        Literal["one", "many"] | None,
        typer.Option(help="Classes that are true of a file: top-1, or mAP; the labels tell if not said."),
    ] = None,
    modality: Annotated[
        Literal["both", "audio", "video"], typer.Option(help="Embeddings that the head sees.")
    ] = "both",
    epochs: Annotated[int, typer.Option(min=1, help="Times the head sees every file.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Segments in a step of the head.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Highest rate of the head.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of the head's weights and order.")] = 0,
    weights: Weights = None,
    segments: Segments = "first",
    workers: Workers = 2,
) -> None:
    """Measure what a small head can tell from the frozen embeddings: a table, and JSON on stdout."""
    commands = _commands("evaluate")
    options = commands.ModelOptions(model=model, weights=weights, segments=segments, num_workers=workers)
    config = commands.ProbeConfig(
        modality=modality, num_epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    found = commands.run_probe(
        options, config, data=data, validation=validation, classes=classes, console=Console(stderr=True)
    )
    typer.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    app()
