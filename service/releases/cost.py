"""What a release costs: room on the disk, and the time and memory of its encoder beside the active one's.

All of it is known before the library is embedded, so a release that is too dear is refused then.
"""

from __future__ import annotations

from typing import Literal

from models.bundle.bundle import Bundle
from service.index.failure import IndexFull
from service.index.opening import index_place
from service.releases.documents import Estimate, Gate, Trial
from service.releases.switch import OpenRelease
from service.system.files import DiskSpace
from service.system.settings import Settings

BYTES_OVERHEAD = 1.5
"""Payloads, graphs and logs beside the vectors."""

Cost = Literal["limited", "measured", "any"]
"""When an encoder that is slower or larger than the settings allow is refused: before the library is embedded, when all
gates are measured, or never."""


def check_room(disk: DiskSpace, num_bytes: int, doing: str) -> None:
    """Raise `IndexFull` if a disk has no room for so many bytes."""
    if not disk.has_room(num_bytes):
        raise IndexFull(
            f"{doing} takes about {num_bytes} bytes; {disk.free_bytes} are free and {disk.floor_bytes} must stay"
        )


def estimate_build(settings: Settings, active: OpenRelease, bundle: Bundle, trial: Trial) -> Estimate:
    """Estimate what a build takes; raises `IndexFull` if the disk has too little room for its index."""
    num_segments = active.index.count_segments()
    manifest = bundle.manifest
    vector_bytes = sum(width * (4 + 4 * moments) for moments, width in manifest.tracks.values())
    num_bytes = int(num_segments * vector_bytes * BYTES_OVERHEAD)
    disk = index_place(settings).disk_space()
    if disk is not None:
        check_room(disk, num_bytes, f"embedding {num_segments} segments")
    return {
        "num_segments": num_segments,
        "num_bytes": num_bytes,
        "encoder_seconds": round(num_segments * trial["segment_seconds"], 1),
    }


def explain_cost(limits: Settings, trial: Trial, estimate: Estimate) -> str | None:
    """Why the library is not embedded with an encoder, and how it is all the same; None if it costs what is allowed."""
    reasons = [gate["reason"] for gate in judge_cost(limits, trial, cost="limited") if not gate["passed"]]
    if not reasons:
        return None
    seconds = estimate["encoder_seconds"]
    duration = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds:.0f} s"
    return (
        f"{'; '.join(reasons)}. Its encoder takes about {duration} for the {estimate['num_segments']} segments of the "
        "library, which are not embedded yet. If that is meant: `foley releases create BUNDLE --any-cost`, over HTTP "
        "`any_cost`; all other gates hold"
    )


def judge_cost(limits: Settings, trial: Trial, *, cost: Cost) -> list[Gate]:
    """The gates of latency and memory."""
    latency, memory = limits.release_max_latency_ratio, limits.release_max_memory_ratio
    now, before = trial["segment_seconds"], trial["active_segment_seconds"]
    gates = [_ratio("latency", now, before, None if cost == "any" else latency, "s a segment")]
    now, before = trial["peak_bytes"], trial["active_peak_bytes"]
    return [*gates, _ratio("memory", now, before, None if cost == "any" else memory, "bytes")]


def _ratio(name: str, value: float, before: float, limit: float | None, unit: str) -> Gate:
    words = f"{name} is {value:.4g} {unit}, of the active release {before:.4g}: {value / before:.2f} x"
    if limit is None:
        return Gate(gate=name, value=value, active=before, limit=None, passed=True, reason=words)
    passed = value <= limit * before
    reason = words if passed else f"{words}, {limit:g} x is allowed"
    return Gate(gate=name, value=value, active=before, limit=limit * before, passed=passed, reason=reason)
