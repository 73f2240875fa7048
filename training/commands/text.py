"""What `foley-train text` does: learn words from what the user's files are called, and write a bundle with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models.bundle.bundle import Bundle, load_bundle, read_bundle_id
from training.adapting.bundles import write_worded
from training.adapting.captions import SOURCES, read_captions
from training.adapting.sentences import PACKAGES, Kind, Sentences, export_sentences
from training.adapting.wording import Worded, WordingConfig, fit_wording, measure_wording
from training.commands.held_back import LEAST_HELD_BACK, beside, is_held_back
from training.commands.stored_library import pooled, read_active
from training.data.stored_tracks import StoredTracks

MAX_MEASURED = 2000
LEAST_OWN = (
    0.5  # a modality that fewer of the clips with words have learns with the other, where the two compare
)

__all__ = ["SOURCES", "TextRequest", "WordingConfig", "learn", "text"]


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """What to learn.

    Attributes:
        config: How the projection is fitted.
        sources: Where texts come from; see `training.adapting.captions`.
        kind: The sentence encoder.
        bundle: Folder of the bundle to give words to; None for that of the active release.
        name: Name of the new bundle.
        command: As it was typed, for the manifest.
    """

    config: WordingConfig
    sources: Sequence[str]
    kind: Kind = "use"
    bundle: Path | None = None
    name: str = "worded"
    command: str = ""


def text(request: TextRequest, output: Path, *, console: Console) -> dict[str, Any]:
    """Learn words from the library of FOLEY_DATA, and write a bundle that embeds them.

    Args:
        request: What to learn.
        output: Folder of the bundle; must not exist.
        console: Where progress goes.

    Returns:
        The figures as JSON values.

    Raises:
        typer.Exit: With code 2; see `beside`.
    """  # noqa: DOC502,DOC503 - `beside` raises it
    with beside(output, console) as folder:
        release = None if request.bundle is None else read_bundle_id(request.bundle)
        with console.status("reading the sentence encoder"):
            sentences = export_sentences(request.kind, folder)
        tracks, parent = read_active(folder / "tracks", console, release=release)
        return learn(request, tracks, parent, sentences, output, console)


def learn(
    request: TextRequest,
    tracks: StoredTracks,
    parent: Bundle,
    sentences: Sentences,
    output: Path,
    console: Console,
) -> dict[str, Any]:
    """Fit the projections to nine files of ten, measure them on the others, and write the bundle.

    Args:
        request: What to learn.
        tracks: Of the library.
        parent: Their bundle.
        sentences: The sentence encoder.
        output: Folder of the new bundle; must not exist.
        console: Where progress goes.

    Returns:
        The figures as JSON values.

    Raises:
        ValueError: If the parent has words of its own or compares by dot product, or there is too little to learn.
    """
    if (own := parent.manifest.text) is not None and own.encoder is None:
        raise ValueError(f"{parent.bundle_id} embeds words already")
    if parent.manifest.similarity != "cosine":
        raise ValueError(f"{parent.bundle_id} compares by dot product: adapt it first (foley-train adapt)")
    projections, facts = fit(request, tracks, sentences, console, compares=parent.manifest.compares)
    bundle = write_worded(parent, sentences, projections, output, name=request.name, training=facts)
    console.print(f"{bundle.bundle_id} in {output}", markup=False, soft_wrap=True)
    console.print(f"make it answer: foley releases create {output} --activate", markup=False, soft_wrap=True)
    return {"bundle_id": bundle.bundle_id, **facts}


def fit(
    request: TextRequest,
    tracks: StoredTracks,
    sentences: Sentences,
    console: Console,
    *,
    compares: bool,
    heads: Mapping[str, nn.Module] = MappingProxyType({}),
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Fit the projections to nine files of ten, and measure them on the others.

    Args:
        request: What to learn.
        tracks: Of the library.
        sentences: The sentence encoder.
        console: Where progress goes.
        compares: Whether sound and picture share a space.
        heads: What adapts the tracks before.

    Returns:
        P by modality, and how they were learned, JSON values.
    """
    began = time.monotonic()
    captions = read_captions(tracks.assets, request.sources)
    with console.status("embedding texts"):
        clips, files = gather(tracks, captions, sentences, heads)
    is_held = is_held_back(tracks)[files]
    taught = clips.choose(np.flatnonzero(~is_held))
    projections = {
        name: fit_wording(taught, learn_with(taught, name, compares=compares), request.config)
        for name in tracks.shapes
    }
    held = clips.choose(np.flatnonzero(is_held)[:MAX_MEASURED])
    figures = measure_wording(held, projections) if len(held.texts) else {"num_clips": 0}
    _say(figures, len({text for some in captions for text in some}), sum(map(bool, captions)), console)
    facts = {
        "command": request.command,
        "method": "text",
        "library": {
            "num_assets": len(tracks.assets),
            "num_captioned": sum(map(bool, captions)),
            "num_clips": len(taught.texts),
        },
        "captions": list(request.sources),
        "seconds": round(time.monotonic() - began, 1),
        "retrieval": figures,
    }
    return projections, facts


def learn_with(clips: Worded, name: str, *, compares: bool) -> tuple[str, ...]:
    """Which modalities the projection of one is fitted to.

    Args:
        clips: With words.
        name: Of the modality.
        compares: Whether sound and picture share a space.

    Returns:
        That alone, or all.
    """
    is_rare = clips.has[name].mean() < LEAST_OWN
    return tuple(clips.vectors) if compares and is_rare else (name,)


def words_of_bundle(bundle: Bundle) -> TextRequest | None:
    """How the words of a bundle were learned; None if it has none, or they were trained with its encoders."""
    words = bundle.manifest.text
    if words is None or words.encoder is None:
        return None
    training = bundle.manifest.training
    kind = next((kind for kind, one in PACKAGES.items() if one.name == words.encoder.get("name")), None)
    return TextRequest(
        config=WordingConfig(),
        sources=training.get("words", training).get("captions", SOURCES),
        kind=kind or "use",
        name=bundle.manifest.name,
    )


def learn_again(
    active: Bundle,
    tracks: StoredTracks,
    adapted: Bundle,
    heads: Mapping[str, nn.Module],
    folder: Path,
    console: Console,
    *,
    named: Path | None = None,
    export: Callable[[Kind, Path], Sentences] = export_sentences,
) -> Bundle:
    """Give an adapted bundle the words that the active one has learned, fitted anew to its heads.

    Args:
        active: May have words.
        tracks: Of the parent.
        adapted: Without words; replaced in its folder.
        heads: Of the adapted bundle.
        folder: For scratch, on the disk of the bundle.
        console: Where progress goes.
        named: Where the bundle will be; None if that is its folder.
        export: Reads the sentence encoder.

    Returns:
        The bundle with words; the adapted one as it is, after a line that says why, if they cannot be learned.
    """
    request, output = words_of_bundle(active), adapted.path
    if request is None:
        return adapted
    try:
        with console.status("reading the sentence encoder"):
            sentences = export(request.kind, folder)
        projections, facts = fit(
            request, tracks, sentences, console, compares=adapted.manifest.compares, heads=heads
        )
    except ValueError as exc:  # no package, no captions, too few files
        say_words_are_gone(named or output, str(exc), console)
        return adapted
    wordless = load_bundle(output.rename(folder / "wordless"))
    training = {**adapted.manifest.training, "words": facts}
    name = adapted.manifest.name
    return write_worded(wordless, sentences, projections, output, name=name, training=training)


def say_words_are_gone(output: Path, reason: str, console: Console) -> None:
    """Say that a new bundle has lost the words of the active one, and how it gets them back."""
    console.print(
        f"{output.name} has no words, those of the active release were not learned again: {reason}; once its release "
        f"is active: foley-train text --output {output}-text",
        style="yellow",
        markup=False,
        soft_wrap=True,
    )


def gather(
    tracks: StoredTracks,
    captions: Sequence[Sequence[str]],
    sentences: Sentences,
    heads: Mapping[str, nn.Module] = MappingProxyType({}),
) -> tuple[Worded, NDArray[np.int64]]:
    """The clips of files with texts.

    Args:
        tracks: Of the library.
        captions: Texts of each file.
        sentences: The sentence encoder.
        heads: What adapts the tracks before.

    Returns:
        The clips, and the file of each.
    """
    places: dict[str, int] = {}
    for some in captions:
        for one in some:
            places.setdefault(one, len(places))
    files = tracks.asset_of_segments()
    chosen = np.flatnonzero(np.array([bool(some) for some in captions])[files])
    vectors: dict[str, NDArray[np.float32]] = {}
    has: dict[str, NDArray[np.bool_]] = {}
    for name, (_, width) in tracks.shapes.items():
        has[name] = tracks.rows[name][chosen] >= 0
        rows = (
            pooled(tracks, name, chosen[has[name]], heads.get(name))
            if has[name].any()
            else np.zeros((0, width))
        )
        vectors[name] = np.zeros((len(chosen), rows.shape[1]), np.float32)
        vectors[name][has[name]] = rows
    clips = Worded(
        vectors=vectors,
        has=has,
        texts=[[places[one] for one in captions[number]] for number in files[chosen].tolist()],
        features=sentences.embed(list(places)),
    )
    return clips, files[chosen]


def _say(figures: Mapping[str, float | int], num_texts: int, num_captioned: int, console: Console) -> None:
    console.print(f"{num_texts} texts of {num_captioned} files")
    if figures["num_clips"] < LEAST_HELD_BACK:
        console.print(
            f"only {figures['num_clips']} held-back clips have words: how well they find is not known",
            style="yellow",
        )
    else:
        found = ", ".join(
            f"text → {shown} {figures[f'at_10_{name}']:.1f} %"
            for name, shown in (("audio", "sound"), ("video", "picture"))
            if f"at_10_{name}" in figures
        )
        console.print(
            f"R@10 of {figures['num_clips']} held-back clips: {found}; chance {figures['at_10_chance']:.1f} %",
            markup=False,
        )
