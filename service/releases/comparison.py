"""Two releases side by side, as one page without scripts: recall, overlap, latency, memory, and their gates."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

from service.releases.store import Release

WIDTH, BAR_HEIGHT, LABEL_WIDTH = 640, 18, 190
COLOURS = ("#3b6ea5", "#d08b35")
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
.failed { font-weight: 600; } svg { max-width: 100%; height: auto; } text { fill: currentColor; font-size: 13px; }
"""


def compare_releases(first: Release, second: Release) -> str:
    """Show two releases side by side.

    Args:
        first: One release.
        second: Another.

    Returns:
        An HTML page that refers to nothing else.
    """
    pair = (first, second)
    legend = " ".join(
        f'<span class="swatch" style="background:{colour}"></span>{html.escape(release.release_id)}&emsp;'
        for release, colour in zip(pair, COLOURS, strict=True)
    )
    sections = [
        f"<h1>Two releases</h1><p>{legend}</p>",
        _table("Releases", [_facts(release) for release in pair]),
        _bars("Recall of sampled pairs, %", _recalls(pair), best=100.0),
        _bars("Overlap of the ten best with the release that was active, %", _overlaps(pair), best=100.0),
        _bars("Time to encode one segment, ms", _trial(pair, "segment_seconds", 1e3)),
        _bars("Memory at most, MiB", _trial(pair, "peak_bytes", 1 / 2**20)),
        *(_gates(release) for release in pair),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Two releases</title>'
        f"<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>"
    )


def _facts(release: Release) -> dict[str, str]:
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(release.created_at))
    return {
        "release": release.release_id,
        "bundle": release.bundle_id,
        "made": made,
        "outcome": release.outcome,
        "assets": str(release.library.get("num_assets", "not counted")),
        "forced": f"by {release.forced['who']}: {release.forced['why']}" if release.forced else "no",
    }


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    return f"<h2>{html.escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _recalls(pair: Sequence[Release]) -> dict[str, list[float | None]]:
    rows: dict[str, list[float | None]] = {}
    for target, source in (("audio", "video"), ("video", "audio")):
        for at in ("at_1", "at_5", "at_10"):
            name = f"{source} → {target}, R@{at[3:]}"
            rows[name] = [_percent(_look(release.gates, "recall", "new", target, at)) for release in pair]
    return rows


def _overlaps(pair: Sequence[Release]) -> dict[str, list[float | None]]:
    values = []
    for release in pair:
        gates = [gate for gate in release.gates.get("gates", ()) if gate["gate"] == "overlap"]
        values.append(_percent(gates[0]["value"]) if gates else None)
    return {"overlap@10": values}


def _trial(pair: Sequence[Release], name: str, scale: float) -> dict[str, list[float | None]]:
    found = [_look(release.gates, "trial", name) for release in pair]
    return {"": [None if value is None else value * scale for value in found]}


def _look(value: Any, *keys: str) -> float | None:
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return float(value)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _bars(title: str, rows: Mapping[str, Sequence[float | None]], best: float | None = None) -> str:
    """Horizontal bars, two for each row."""
    most = best or max((value for values in rows.values() for value in values if value), default=1.0)
    room = WIDTH - LABEL_WIDTH - 70
    shapes, y = [], 0
    for label, values in rows.items():
        shapes.append(f'<text x="0" y="{y + BAR_HEIGHT}">{html.escape(label)}</text>')
        for value, colour in zip(values, COLOURS, strict=True):
            length = 0.0 if value is None else room * min(value / most, 1.0)
            text = "not measured" if value is None else f"{value:.1f}"
            shapes.append(
                f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT - 4}" fill="{colour}"/>'
                f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{y + BAR_HEIGHT - 6}">{text}</text>'
            )
            y += BAR_HEIGHT
        y += 8
    return (
        f"<h2>{html.escape(title)}</h2>"
        f'<svg viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(shapes)}</svg>"
    )


def _gates(release: Release) -> str:
    gates = release.gates.get("gates", ())
    if not gates:
        reasons = "; ".join(release.gates.get("reasons", ())) or "it was never measured"
        return f"<h2>Gates of {html.escape(release.release_id)}</h2><p>{html.escape(reasons)}</p>"
    rows = "".join(
        f'<tr class="{"passed" if gate["passed"] else "failed"}"><td>{html.escape(gate["gate"])}</td>'
        f"<td>{'passed' if gate['passed'] else 'failed'}</td><td>{html.escape(gate['reason'])}</td></tr>"
        for gate in gates
    )
    return (
        f"<h2>Gates of {html.escape(release.release_id)}</h2>"
        f"<table><tr><th>gate</th><th></th><th>measured</th></tr>{rows}</table>"
    )
