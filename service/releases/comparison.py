"""Two releases side by side, as one page without scripts: recall, overlap, latency, memory, and their gates."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.releases.documents import name_gate, show_verdict
from service.releases.store import Release
from service.system.modality import OPPOSITE, name_direction

COLOURS = ("#3b6ea5", "#d08b35")
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
th, .gates td:nth-child(-n+2) { overflow-wrap: normal; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
.failed { font-weight: 600; }
.row { display: grid; grid-template-columns: 12rem minmax(0, 1fr); gap: 0 1rem; margin: .5rem 0; }
.bar { display: flex; gap: .5rem; align-items: center; }
.bar div { flex: 1; } .bar i { display: block; height: .85rem; } .bar span { flex: 0 0 7rem; }
.active i { opacity: .5; }
@media (max-width: 40rem) { .row { grid-template-columns: minmax(0, 1fr); } }
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a release; `is_active` if it is that of the active release which the other was measured beside."""

    value: float | None
    is_active: bool = False


def compare_releases(first: Release, second: Release) -> str:
    """Show two releases side by side, as an HTML page that refers to nothing else."""
    pair = (first, second)
    legend = " ".join(
        f'<span class="swatch" style="background:{colour}"></span>{html.escape(release.release_id)}&emsp;'
        for release, colour in zip(pair, COLOURS, strict=True)
    )
    groups = {
        "Recall of sampled pairs, %": _recalls(pair),
        "Overlap of the ten best with the release that was active, %": _overlaps(pair),
        "Time to encode one segment, ms": _trial(pair, "segment_seconds", 1e3),
        "Memory at most, MiB": _trial(pair, "peak_bytes", 1 / 2**20),
    }
    sections = [
        f"<h1>Two releases</h1><p>{legend}</p>",
        _facts(pair),
        _explain(pair, [figure for rows in groups.values() for row in rows.values() for figure in row]),
        *(_bars(title, rows, best=100.0 if "%" in title else None) for title, rows in groups.items()),
        *(_gates(release) for release in pair),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Two releases</title>'
        f"<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>"
    )


def _facts(pair: Sequence[Release]) -> str:
    rows: dict[str, list[str]] = {
        "release": [release.release_id for release in pair],
        "bundle": [release.bundle_id for release in pair],
        "made": [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(release.created_at)) for release in pair],
        "outcome": [str(release.outcome) for release in pair],
        "assets": [str(release.library.get("num_assets", "not counted")) for release in pair],
        "forced": [f"by {by['who']}: {by['why']}" if (by := release.forced) else "no" for release in pair],
    }
    cells = {
        name: "".join(f"<td>{html.escape(value)}</td>" for value in values) for name, values in rows.items()
    }
    shown = "".join(f"<tr><th>{name}</th>{row}</tr>" for name, row in cells.items())
    return f"<h2>Releases</h2><table>{shown}</table>"


def _explain(pair: Sequence[Release], figures: Sequence[Figure]) -> str:
    """Say whose the pale bars are: a release does not record which one it was measured beside."""
    if not any(figure.is_active for figure in figures):
        return ""
    measured = next(release for release in pair if release.is_complete)
    return (
        "<p>Pale bars: not measured for this release itself; they are those of the release that was active when "
        f"{html.escape(measured.release_id)} was measured.</p>"
    )


def _recalls(pair: Sequence[Release]) -> dict[str, list[Figure]]:
    rows: dict[str, list[Figure]] = {}
    for target in OPPOSITE:
        for at in ("at_1", "at_5", "at_10"):
            name = f"{name_direction(target)}, R@{at[3:]}"
            own, active = (_read(pair, "recall", who, target, at, scale=100.0) for who in ("new", "active"))
            rows[name] = _fill(pair, own, active)
    return rows


def _overlaps(pair: Sequence[Release]) -> dict[str, list[Figure]]:
    values = []
    for release in pair:
        gates = [gate for gate in release.gates.get("gates", ()) if gate["gate"] == "overlap"]
        values.append(100 * gates[0]["value"] if gates else None)
    # The active release finds the same as itself.
    return {"overlap@10": _fill(pair, values, [None if value is None else 100.0 for value in values])}


def _trial(pair: Sequence[Release], name: str, scale: float) -> dict[str, list[Figure]]:
    own, active = (_read(pair, "trial", field, scale=scale) for field in (name, f"active_{name}"))
    return {"": _fill(pair, own, active)}


def _fill(
    pair: Sequence[Release], own: Sequence[float | None], active: Sequence[float | None]
) -> list[Figure]:
    """Give a release that was never measured, such as the first one, what the other found of the active one."""
    return [
        Figure(value=active[1 - number], is_active=True)
        if not release.gates and active[1 - number] is not None
        else Figure(value=own[number])
        for number, release in enumerate(pair)
    ]


def _read(pair: Sequence[Release], *keys: str, scale: float) -> list[float | None]:
    found: list[float | None] = []
    for release in pair:
        value: Any = release.gates
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        found.append(None if value is None else scale * value)
    return found


def _bars(title: str, rows: Mapping[str, Sequence[Figure]], *, best: float | None) -> str:
    values = [figure.value for row in rows.values() for figure in row]
    most = best or max((value for value in values if value), default=1.0)
    parts = []
    for label, row in rows.items():
        pairs = zip(row, COLOURS, strict=True)
        bars = "".join(_bar(figure, most=most, colour=colour) for figure, colour in pairs)
        parts.append(f'<div class="row"><span>{html.escape(label)}</span><div>{bars}</div></div>')
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def _bar(figure: Figure, *, most: float, colour: str) -> str:
    text = "not measured" if figure.value is None else f"{figure.value:.1f}"
    share = 100 * min((figure.value or 0.0) / most, 1.0)
    return (
        f'<div class="bar{" active" if figure.is_active else ""}">'
        f'<div><i style="width:{share:.1f}%;background:{colour}"></i></div><span>{text}</span></div>'
    )


def _gates(release: Release) -> str:
    gates = release.gates.get("gates", ())
    if not gates:
        reasons = "; ".join(release.gates.get("reasons", ())) or "it was never measured"
        return f"<h2>Gates of {html.escape(release.release_id)}</h2><p>{html.escape(reasons)}</p>"
    rows = "".join(
        f'<tr class="{"passed" if gate["passed"] else "failed"}"><td>{html.escape(name_gate(gate))}</td>'
        f"<td>{show_verdict(gate)}</td><td>{html.escape(gate['reason'])}</td></tr>"
        for gate in gates
    )
    return (
        f"<h2>Gates of {html.escape(release.release_id)}</h2>"
        f'<table class="gates"><tr><th>gate</th><th></th><th>measured</th></tr>{rows}</table>'
    )
