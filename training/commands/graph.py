"""What `foley-train graph` does: which labels come together unsaid, as a file and a page; and what suggests labels."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from models.bundle.bundle import Bundle
from training.adapting.fitting import MODALITIES
from training.adapting.folding import Judged
from training.adapting.grasp import LEAST, NUM_RUNS, FoundGraph, GraphUnavailable, find_graph, label_lift
from training.adapting.labels import Labels, read_labels
from training.adapting.tagging import LearnedTags, learn_tags
from training.commands.adapt import print_tags
from training.commands.stored_library import pooled, read_library
from training.data.library import LibraryUnavailable
from training.data.stored_tracks import StoredTracks

KINDS = ("sound", "picture")
CLIPS_SHOWN = 3
MIN_LABELLED = 100
"""Below so many labelled clips the figures say little."""


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to search.

    Attributes:
        sources: Where labels come from; see `training.adapting.labels`.
        num_runs: Bootstraps.
        precision: Share of suggested labels that must have been right on labelled clips.
        seed: Of everything random.
    """

    sources: Sequence[str]
    num_runs: int = NUM_RUNS
    precision: float = 0.9
    seed: int = 7


def graph(request: GraphRequest, output: Path, *, console: Console) -> dict[str, Any]:
    """Search the library's labels for a graph, and write graph.json, graph.html and what suggests labels, tags.npz.

    Args:
        request: What to search.
        output: Folder; its files are replaced.
        console: Where progress goes.

    Returns:
        What graph.json holds.

    Raises:
        typer.Exit: With code 2 if nothing can be searched.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        tracks, parent, _ = read_library(output / "tracks", console, keeps_pair_heads=True)
        found = search(request, tracks, parent, console)
    except (LibraryUnavailable, GraphUnavailable, OSError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    document, learned = found
    (output / "graph.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    learned.write(output / "tags.npz", bundle_id=document["bundle_id"])
    (output / "graph.html").write_text(render(document), "utf-8")
    console.print(
        f"{len(document['edges'])} edges among {len(document['nodes'])} nodes in {output / 'graph.html'}",
        markup=False,
        soft_wrap=True,
    )
    print_tags(learned, output / "tags.npz", console)
    return document


def search(
    request: GraphRequest, tracks: StoredTracks, parent: Bundle, console: Console
) -> tuple[dict[str, Any], LearnedTags]:
    """Find the graph, and learn what suggests labels.

    Args:
        request: What to search.
        tracks: Of the library.
        parent: Their bundle.
        console: Where progress goes.

    Returns:
        The document of graph.json, and what suggests labels.

    Raises:
        ValueError: If sound and picture do not compare, or there are too few clips or labels.
    """
    if not parent.manifest.compares:
        raise ValueError(
            f"sound and picture of {parent.bundle_id} do not compare: adapt it first (foley-train adapt)"
        )
    segments, files = tracks.pairs(), tracks.asset_of_segments()
    labels = read_labels(tracks.assets, request.sources)
    files = files[segments]
    truth = labels.truth[files]
    if truth.any(axis=1).sum() < MIN_LABELLED:
        console.print(f"only {truth.any(axis=1).sum()} labelled clips: the graph says little", style="yellow")
    vectors = {name: pooled(tracks, name, segments) for name in MODALITIES}
    with console.status("teachers judge what they have not seen"):
        learned = learn_tags(
            vectors,
            labels,
            files,
            [asset.asset_id for asset in tracks.assets],
            sources=request.sources,
            precision=request.precision,
            seed=request.seed,
        )
    judged = learned.judged
    with console.status("") as status:
        found = find_graph(
            judged.logits,
            num_runs=request.num_runs,
            seed=request.seed,
            on_run=lambda run: status.update(f"search {run} of {request.num_runs}"),
        )
    document = describe(found, judged, labels, truth, tracks, segments, request)
    return document, learned


def describe(
    found: FoundGraph,
    judged: Judged,
    labels: Labels,
    truth: NDArray[np.bool_],
    tracks: StoredTracks,
    segments: NDArray[np.int64],
    request: GraphRequest,
) -> dict[str, Any]:
    """Every edge of the skeleton with its frequencies, the lift beside it, and clips that show it.

    Sound and picture of one label are left out: that they go together is no news.
    """
    count = len(labels.names)
    nodes = [f"{kind} {name}" for kind in KINDS for name in labels.names]
    lift = label_lift(judged.soft, truth)
    skeleton, arrows = found.skeleton(), found.arrows()
    files = tracks.asset_of_segments()[segments]
    edges: list[dict[str, Any]] = []
    for one, other in zip(*np.nonzero(np.triu(skeleton, 1)), strict=True):
        if one % count == other % count:
            continue
        start, end = (other, one) if arrows[other, one] else (one, other)
        strength = judged.soft[:, one] * judged.soft[:, other]
        strength = np.where(truth[:, one % count] & truth[:, other % count], 0.0, strength)  # said already
        best = np.argsort(-strength)[:CLIPS_SHOWN]
        edges.append(
            {
                "from": nodes[start],
                "to": nodes[end],
                "is_directed": bool(arrows[start, end]),
                "frequency": round(float(found.joined[one, other]), 4),
                "forth": round(float(found.directed[start, end]), 4),
                "back": round(float(found.directed[end, start]), 4),
                "lift": _number(lift[start % count, end]),
                "clips": [
                    {
                        "path": tracks.assets[files[clip]].paths[0],
                        "start_seconds": float(tracks.spans[segments[clip], 0]),
                        "end_seconds": float(tracks.spans[segments[clip], 1]),
                    }
                    for clip in best
                ],
            }
        )
    return {
        "bundle_id": tracks.bundle_id,
        "sources": list(request.sources),
        "nodes": nodes,
        "num_clips": len(segments),
        "num_labelled": int(truth.any(axis=1).sum()),
        "num_runs": request.num_runs,
        "least": LEAST,
        "seed": request.seed,
        "edges": sorted(edges, key=lambda edge: -float(edge["frequency"])),
    }


def _number(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None


def render(document: Mapping[str, Any]) -> str:
    """The page: a circle of nodes with its edges, and a table with clips to play. No script, nothing from elsewhere."""
    nodes = document["nodes"]
    turn = 2 * math.pi / max(len(nodes), 1)
    places = {
        name: (320 + 200 * math.sin(number * turn), 260 - 200 * math.cos(number * turn))
        for number, name in enumerate(nodes)
    }
    lines = []
    for edge in document["edges"]:
        (x1, y1), (x2, y2) = places[edge["from"]], places[edge["to"]]
        mark = ' marker-end="url(#arrow)"' if edge["is_directed"] else ""
        title = f"{edge['from']} — {edge['to']}: {edge['frequency']:.0%}"
        lines.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" '
            f'stroke-width="{1 + 3 * min(edge["frequency"], 1):.1f}"{mark}><title>{html.escape(title)}</title></line>'
        )
    dots = [
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="6" class="{name.split()[0]}"/>'
        f'<text x="{x:.0f}" y="{y - 10:.0f}">{html.escape(name)}</text>'
        for name, (x, y) in places.items()
    ]
    rows = []
    for edge in document["edges"]:
        arrow = "→" if edge["is_directed"] else "—"
        lift = "" if edge["lift"] is None else f"{edge['lift']:.1f}"
        clips = "".join(map(_player, edge["clips"]))
        rows.append(
            f"<tr><td>{html.escape(edge['from'])} {arrow} {html.escape(edge['to'])}</td>"
            f"<td>{edge['frequency']:.0%}</td><td>{lift}</td><td>{clips}</td></tr>"
        )
    facts = (
        f"{document['num_clips']} clips, {document['num_labelled']} of them labelled; {document['num_runs']} bootstrap "
        f"runs, edges in at least {document['least']:.0%} of them. An edge says that two labels come together, "
        "not that one causes the other."
    )
    return PAGE.format(
        facts=html.escape(facts), lines="".join(lines), dots="".join(dots), rows="\n".join(rows)
    )


def _player(clip: Mapping[str, Any]) -> str:
    address = Path(clip["path"]).as_uri() + f"#t={clip['start_seconds']:g},{clip['end_seconds']:g}"
    name = html.escape(Path(clip["path"]).name)
    video = f'<video controls preload="none" src="{html.escape(address)}"></video>'
    return f"<figure>{video}<figcaption>{name}</figcaption></figure>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Labels that come together</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; media-src file:">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }} line {{ stroke: #6b8; opacity: .7; }}
text {{ font-size: 12px; text-anchor: middle; fill: currentColor; }}
.sound {{ fill: #277; }} .picture {{ fill: #b62; }} table {{ border-collapse: collapse; width: 100%; }}
td, th {{ border-top: 1px solid #8886; padding: .4rem; text-align: left; vertical-align: top; }}
figure {{ display: inline-block; margin: 0 .5rem .5rem 0; width: 12rem; }} video {{ width: 100%; height: 4rem; }}
figcaption {{ font-size: .8rem; overflow-wrap: anywhere; }}
</style></head><body><h1>Labels that come together</h1><p>{facts}</p>
<svg viewBox="0 0 640 520" role="img" aria-label="Graph of labels; the table below says the same">
<defs><marker id="arrow" viewBox="0 0 10 10" refX="16" refY="5" markerWidth="6" markerHeight="6" orient="auto">
<path d="M0 0L10 5L0 10z" fill="#6b8"/></marker></defs>{lines}{dots}</svg>
<table><thead><tr><th>Edge</th><th>Frequency</th><th>Lift</th><th>Clips</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
