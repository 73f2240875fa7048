"""What `foley-train adapt` does: heads fitted to the library's stored tracks become a bundle, beside a table."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models.bundle.bundle import Bundle
from training.adapting.bundles import write_adapted
from training.adapting.fitting import MODALITIES, Clips, FitConfig, Fitted, apply_head, fit_heads
from training.adapting.labels import Labels, read_labels
from training.adapting.tagging import SUFFIX, LearnedTags, learn_tags
from training.commands.finetune import finetune_library
from training.commands.held_back import (
    LEAST_HELD_BACK,
    MAX_MEASURED,
    AdaptRequest,
    Measured,
    beside,
    check_kept,
    choose_held,
    is_held_back,
    measure_tracks,
    print_labels,
    print_table,
    read_graph,
)
from training.commands.stored_library import pooled, read_library
from training.commands.text import learn_again, say_words_are_gone, words_of_bundle
from training.data.stored_tracks import StoredTracks


def adapt(request: AdaptRequest, output: Path, *, console: Console) -> dict[str, Any]:
    """Fit heads to the library of FOLEY_DATA and write a bundle.

    Args:
        request: What to learn.
        output: Folder of the bundle; must not exist.
        console: Where progress and the table go.

    Returns:
        The table as JSON values.

    Raises:
        typer.Exit: With code 2; see `beside`.
    """  # noqa: DOC502,DOC503 - `beside` raises it
    with beside(output, console) as folder:
        library = read_library(folder / "tracks", console)
        tracks, parent = library.tracks, library.parent
        if request.finetune:
            found = finetune_library(request, tracks, parent, output, console)
            if words_of_bundle(library.active) is not None:
                say_words_are_gone(output, "they do not fit the tuned encoders", console)
            return found

        def word(bundle: Bundle, heads: Mapping[str, nn.Module]) -> Bundle:
            return learn_again(library.active, tracks, bundle, heads, folder, console, named=output)

        return _adapt(request, tracks, parent, output, console, word=word)


def _adapt(
    request: AdaptRequest,
    tracks: StoredTracks,
    parent: Bundle,
    output: Path,
    console: Console,
    *,
    word: Callable[[Bundle, Mapping[str, nn.Module]], Bundle] = lambda bundle, _: bundle,
) -> dict[str, Any]:
    segments = tracks.pairs()
    assets = tracks.asset_of_segments()[segments]
    is_held = choose_held(tracks, segments)
    if is_held.sum() < LEAST_HELD_BACK:
        console.print(f"only {is_held.sum()} held-back clips: the figures below say little", style="yellow")
    labels = read_labels(tracks.assets, request.sources) if request.sources else None
    truth = None if labels is None else labels.truth[assets]
    if labels is not None:
        print_labels(labels, console)
    clips = _clips(tracks, parent, segments[~is_held], labels, None if truth is None else truth[~is_held])
    if request.graph is not None and labels is not None:
        clips = replace(clips, graph=read_graph(request.graph, labels.names))
    held = segments[is_held][:: max(1, int(is_held.sum()) // MAX_MEASURED)][:MAX_MEASURED]
    held_truth = None if labels is None else labels.truth[tracks.asset_of_segments()[held]]
    table: dict[str, Measured | None] = {
        "frozen": _measure(tracks, held, held_truth, None) if parent.manifest.compares else None
    }
    seconds = time.monotonic()
    if labels is not None and request.config.method != "triplet":
        plain = fit_quietly(clips, replace(request.config, method="triplet"), console)
        table["triplet"] = _measure(tracks, held, held_truth, plain)
    fitted = fit_quietly(clips, request.config, console)
    table[request.config.method] = found = _measure(tracks, held, held_truth, fitted)
    seconds = time.monotonic() - seconds
    print_table(table, num_clips=len(held), console=console)
    check_kept(table["frozen"], found, request.max_drop)
    figures = {name: one and one.to_json() for name, one in table.items()}
    facts = {
        "command": request.command,
        "method": request.config.method,
        "library": {
            "num_assets": len(tracks.assets),
            "num_clips": clips.num_clips,
            "num_held_back": len(held),
        },
        "labels": None if labels is None else {"sources": list(request.sources), "names": list(labels.names)},
        "seconds": round(seconds, 1),
        "retrieval": figures,
    }
    with _appearing(output) as draft:
        bundle = word(
            write_adapted(parent, fitted.heads, draft, name=request.name, training=facts), fitted.heads
        )
        if labels is not None:
            learned = _learn_tags(request, tracks, segments, labels, fitted)
            file = output.with_name(output.name + SUFFIX)
            learned.write(draft.with_name(file.name), bundle_id=bundle.bundle_id)
            print_tags(learned, file, console)
    console.print(f"{bundle.bundle_id} in {output}", markup=False, soft_wrap=True)
    console.print(f"make it answer: foley releases create {output} --activate", markup=False, soft_wrap=True)
    return {"bundle_id": bundle.bundle_id, **facts}


@contextlib.contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """Where a bundle and its tags are written: the tags get their name first, so no kill leaves a bundle without."""
    folder = output.with_name(f".{output.name}.{os.getpid()}")
    folder.mkdir()
    try:
        yield (draft := folder / output.name)
        if (tags := folder / (output.name + SUFFIX)).exists():
            tags.replace(output.with_name(tags.name))
        draft.rename(output)
    finally:
        shutil.rmtree(folder)


def _learn_tags(
    request: AdaptRequest,
    tracks: StoredTracks,
    segments: NDArray[np.int64],
    labels: Labels,
    fitted: Fitted,
) -> LearnedTags:
    """Learn from the adapted vectors; the heads have seen labels, unless they are those of `pair`."""
    unseen = None if request.config.method == "pair" else is_held_back(tracks)
    return learn_tags(
        {name: pooled(tracks, name, segments, fitted.heads[name]) for name in MODALITIES},
        labels,
        tracks.asset_of_segments()[segments],
        [asset.asset_id for asset in tracks.assets],
        sources=request.sources,
        precision=request.precision,
        is_unseen=unseen,
        seed=request.config.seed,
    )


def print_tags(learned: LearnedTags, file: Path, console: Console) -> None:
    """Say which labels can be suggested, and how."""
    console.print(
        f"{learned.num_suggested} of {len(learned.labels.names)} labels can be suggested, by {learned.num_checked} "
        f"files that were not learned from: foley suggest-tags --classifier {file}",
        markup=False,
        soft_wrap=True,
    )


def _clips(
    tracks: StoredTracks,
    parent: Bundle,
    segments: NDArray[np.int64],
    labels: Labels | None,
    truth: NDArray[np.bool_] | None,
) -> Clips:
    return Clips(
        read=lambda modality, chosen, moments: tracks.read(modality, segments[chosen], moments),
        num_clips=len(segments),
        shapes=tracks.shapes,
        shares_space=parent.manifest.compares,
        truth=truth,
        has_many=labels is not None and labels.has_many,
    )


def fit_quietly(clips: Clips, config: FitConfig, console: Console) -> Fitted:
    """Fit heads with a line of status."""
    with console.status("") as status:
        return fit_heads(
            clips,
            config,
            on_step=lambda step, steps, loss: status.update(
                f"{config.method}: step {step} of {steps}, loss {loss:.3f}"
            ),
        )


def _measure(
    tracks: StoredTracks,
    held: NDArray[np.int64],
    truth: NDArray[np.bool_] | None,
    fitted: Fitted | None,
) -> Measured:
    adapted = {name: tracks.read(name, held) for name in MODALITIES}
    if fitted is not None:
        adapted = {name: apply_head(fitted.heads[name], rows) for name, rows in adapted.items()}
    return measure_tracks(adapted, truth)
