"""What `foley-train agreement` does: learn which moments of sound belong to their picture, and write a bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.bundle.bundle import Bundle
from models.bundle.moments import MomentWeights
from training.adapting.bundles import write_weighed
from training.adapting.moments import AgreementConfig, Measured, fit_agreement, measure_agreement, to_arrays
from training.commands.held_back import LEAST_HELD_BACK, Refused, beside, choose_held
from training.commands.stored_library import read_active
from training.data.stored_tracks import StoredTracks

MAX_MEASURED = 1000


@dataclass(frozen=True, kw_only=True)
class AgreementRequest:
    """What to learn.

    Attributes:
        config: How the network is fitted.
        name: Name of the bundle.
        max_drop: Points of R@1, picture → sound, that held-back clips may lose as they are.
        command: As it was typed, for the manifest.
    """

    config: AgreementConfig
    name: str = "agreement"
    max_drop: float = 1.0
    command: str = ""


def agreement(request: AgreementRequest, output: Path, *, console: Console) -> dict[str, Any]:
    """Learn from the library of FOLEY_DATA how moments are weighed, and write a bundle that does so.

    Args:
        request: What to learn.
        output: Folder of the bundle; must not exist.
        console: Where progress and the table go.

    Returns:
        The figures as JSON values.

    Raises:
        typer.Exit: With code 2; see `beside`.
    """  # noqa: DOC502,DOC503 - `beside` raises it
    with beside(output, console) as folder:
        tracks, parent = read_active(folder, console)
        return learn(request, tracks, parent, output, console)


def learn(
    request: AgreementRequest, tracks: StoredTracks, parent: Bundle, output: Path, console: Console
) -> dict[str, Any]:
    """Fit the network to nine files of ten, measure it on the others, and write the bundle.

    Args:
        request: What to learn.
        tracks: Of the library.
        parent: Their bundle.
        output: Folder of the new bundle; must not exist.
        console: Where progress and the table go.

    Returns:
        The figures as JSON values.

    Raises:
        ValueError: If the parent's moments cannot be weighed, or there are too few clips.
        Refused: If held-back clips as they are lose more R@1 than is allowed.
    """
    if (reason := parent.manifest.why_unweighable) is not None:
        raise ValueError(f"moments of {parent.bundle_id} cannot be weighed: {reason}; see foley-train adapt")
    segments = tracks.pairs()
    is_held = choose_held(tracks, segments)
    if is_held.sum() < LEAST_HELD_BACK:
        console.print(f"only {is_held.sum()} held-back clips: the figures below say little", style="yellow")
    taught = segments[~is_held]
    began = time.monotonic()
    with console.status("") as status:
        network = fit_agreement(
            lambda modality, chosen: tracks.read(modality, taught[chosen]),
            len(taught),
            width=tracks.shapes["audio"][1],
            config=request.config,
            on_step=lambda step, steps, loss: status.update(f"step {step} of {steps}, loss {loss:.3f}"),
        )
    seconds = time.monotonic() - began
    arrays = to_arrays(network)
    held = segments[is_held][:: max(1, int(is_held.sum()) // MAX_MEASURED)][:MAX_MEASURED]
    audio, video = (tracks.read(modality, held) for modality in ("audio", "video"))
    found = measure_agreement(MomentWeights(arrays=arrays).logits, audio, video, seed=request.config.seed)
    console.print(tabulate([found], title=f"{len(held)} held-back clips, R@1 picture → sound, in percent"))
    if found.clean_weighted < found.clean - request.max_drop:
        raise Refused(
            f"refused: with weights R@1 of held-back clips falls from {found.clean:.1f} to {found.clean_weighted:.1f}, "
            f"and {request.max_drop:g} points are allowed; learn from more files"
        )
    facts = {
        "command": request.command,
        "method": "agreement",
        "library": {"num_assets": len(tracks.assets), "num_clips": len(taught), "num_held_back": len(held)},
        "seconds": round(seconds, 1),
        "agreement": found.to_json(),
    }
    bundle = write_weighed(parent, arrays, output, name=request.name, training=facts)
    console.print(f"{bundle.bundle_id} in {output}", markup=False, soft_wrap=True)
    console.print(f"make it answer: foley releases create {output} --activate", markup=False, soft_wrap=True)
    return {"bundle_id": bundle.bundle_id, **facts}


def tabulate(rows: list[Measured], *, title: str) -> Table:
    """A table of measured figures.

    Args:
        rows: One for each seed.
        title: Above it.

    Returns:
        The table.
    """
    shown = Table(title=title)
    for name in (
        "half foreign",
        "best four",
        "weighted",
        "true mask",
        "clean",
        "clean weighted",
        "AUC",
        "cosine",
    ):
        shown.add_column(name, justify="right")
    for one in rows:
        figures = (one.uniform, one.best_four, one.weighted, one.true_mask, one.clean, one.clean_weighted)
        shown.add_row(*(f"{value:.1f}" for value in figures), f"{one.auc:.3f}", f"{one.cosine_auc:.3f}")
    return shown
