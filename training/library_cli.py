"""The commands of `foley-train` that learn from an indexed library: `adapt`, `graph`, `agreement`, `text`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from training.deferred import load_commands


def adapt(
    output: Annotated[Path, typer.Option(help="Folder of the new bundle; must not exist.")],
    library: Annotated[
        bool,
        typer.Option("--library", help="Learn from the indexed library of FOLEY_DATA: no media is read."),
    ] = True,
    method: Annotated[
        Literal["pair", "triplet", "distill", "graph"],
        typer.Option(help="What to learn from: own pairs, which need no labels, or labels as well."),
    ] = "pair",
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Where labels come from: metadata:KEY, folder, ucs or csv:FILE. A file's first source that has one "
            "counts; any share may be missing.",
            metavar="SOURCE",
        ),
    ] = None,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Many labels are wrong: the classifier leaves the heads alone.")
    ] = False,
    trust_labels: Annotated[
        bool, typer.Option("--trust-labels", help="Every label counts at every step.")
    ] = False,
    graph: Annotated[
        Path | None, typer.Option(help="graph.json of `foley-train graph`, for the method graph.")
    ] = None,
    finetune: Annotated[
        int,
        typer.Option(
            min=0,
            help="Let so many last blocks of the encoders learn from the media, with the same losses, instead of heads "
            "from stored tracks. Decodes every file; needs a TG-DP bundle, and should have a GPU.",
            metavar="N",
        ),
    ] = 0,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "adapted",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of passes over the clips. Default: 30; 5 with --finetune."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Maximum loss of R@1 on held-back files, in points.")
    ] = 2.0,
    precision: Annotated[
        float, typer.Option(min=0.5, max=1, help="Minimum share of suggested labels that must be right.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Fit the encoders to the indexed library, in minutes on a CPU. Prints a table, and JSON on stdout."""
    commands = load_commands("adapt", shares_cores=True)
    config = commands.FitConfig(
        method=method,
        is_noisy=noisy,
        trusts_labels=trust_labels,
        num_epochs=epochs or (5 if finetune else 30),
        seed=seed,
    )
    request = commands.AdaptRequest(
        config=config,
        sources=labels or [],
        graph=graph,
        name=name,
        max_drop=max_drop,
        precision=precision,
        finetune=finetune,
        command=shlex.join(["foley-train", *sys.argv[1:]]),
    )
    typer.echo(json.dumps(commands.adapt(request, output, console=Console(stderr=True)), indent=2))


def graph(
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for graph.json, graph.html and tags.npz, which `foley suggest-tags` takes."
        ),
    ],
    labels: Annotated[
        list[str],
        typer.Option(help="Where labels come from: metadata:KEY, folder, ucs or csv:FILE.", metavar="SOURCE"),
    ],
    library: Annotated[
        bool, typer.Option("--library", help="Search the indexed library of FOLEY_DATA: no media is read.")
    ] = True,
    runs: Annotated[int, typer.Option(min=1, help="Number of bootstrap runs.")] = 20,
    precision: Annotated[
        float, typer.Option(min=0.5, max=1, help="Minimum share of suggested labels that must be right.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 7,
) -> None:
    """Find labels that come together unsaid: a page with clips, and labels to review. Prints JSON on stdout."""
    commands = load_commands("graph", shares_cores=True)
    request = commands.GraphRequest(sources=labels, num_runs=runs, precision=precision, seed=seed)
    typer.echo(json.dumps(commands.graph(request, output, console=Console(stderr=True)), indent=2))


def agreement(
    output: Annotated[Path, typer.Option(help="Folder of the new bundle; must not exist.")],
    library: Annotated[
        bool,
        typer.Option("--library", help="Learn from the indexed library of FOLEY_DATA: no media is read."),
    ] = True,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "agreement",
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over the clips.")] = 40,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Maximum loss of R@1 on held-back files as they are, in points.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Learn which moments of a file's sound belong to its picture. Prints a table, and JSON on stdout."""
    commands = load_commands("agreement", shares_cores=True)
    request = commands.AgreementRequest(
        config=commands.AgreementConfig(num_epochs=epochs, seed=seed),
        name=name,
        max_drop=max_drop,
        command=shlex.join(["foley-train", *sys.argv[1:]]),
    )
    typer.echo(json.dumps(commands.agreement(request, output, console=Console(stderr=True)), indent=2))


def text(
    output: Annotated[Path, typer.Option(help="Folder of the new bundle; must not exist.")],
    library: Annotated[
        bool,
        typer.Option("--library", help="Learn from the indexed library of FOLEY_DATA: no media is read."),
    ] = True,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            help="Where words come from: metadata:KEY, filename, folder, ucs or csv:FILE; all that are given count. "
            "Default: captions, descriptions, titles, tags, UCS names, file names.",
            metavar="SOURCE",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to give words to; a release of it must exist. Default: the active release's."
        ),
    ] = None,
    text_encoder: Annotated[
        Literal["use", "minilm"],
        typer.Option(
            help="Frozen sentence encoder: use (16 languages) or minilm (English), from their packages."
        ),
    ] = "use",
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "worded",
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over the clips.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Learn words for a bundle that has none, from what the files are called. Prints JSON on stdout."""
    commands = load_commands("text", shares_cores=True)
    request = commands.TextRequest(
        config=commands.WordingConfig(num_epochs=epochs, seed=seed),
        sources=captions or commands.SOURCES,
        kind=text_encoder,
        bundle=bundle,
        name=name,
        command=shlex.join(["foley-train", *sys.argv[1:]]),
    )
    typer.echo(json.dumps(commands.text(request, output, console=Console(stderr=True)), indent=2))
