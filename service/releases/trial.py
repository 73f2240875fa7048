"""Tries a bundle in a process of its own, with limits, which may hang or die without harm.

    trial = try_bundle(settings, path, active=path_of_the_active_one)

A graph may loop for ever, ask for all memory, or be valid and wrong; none of that may reach the server. The child loads
the bundle as the service would, reproduces its golden tracks, is timed beside the active bundle, and keeps what it
measures of precision where the service looks for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from models.bundle.bundle import GRAPHS, BrokenBundle, Bundle, load_bundle
from models.inference import onnxruntime
from service.encode.encoder import Encoder
from service.encode.engines.contract import EncoderFailure
from service.encode.engines.onnx_cpu import CPU, open_session
from service.encode.text import TextEncoder
from service.releases.documents import Trial
from service.releases.opening import open_encoder, read_settings, write_settings
from service.releases.store import ReleaseRefused
from service.system.child import die_with_parent, limit_memory, lower_limit, start_child
from service.system.settings import Settings

ROUNDS = 5
STEP_SECONDS = {"loaded": 120.0, "golden": 120.0, "precision": 1800.0, "timed": 600.0}
"""How long each step of a trial may take; the third measures agreement with float32 if that is not known yet."""
NICE = 19
UNIT_TOLERANCE = 1e-3


def try_bundle(settings: Settings, bundle: Path, *, active: Path | None) -> Trial:
    """Try a bundle in a child process, beside the active one (None: itself); `ReleaseRefused` if it fails or hangs."""
    active = active or bundle
    found = _run(settings, bundle, beside=active)
    before = _run(settings, active) if active != bundle else None
    return Trial(
        golden_difference=found["golden_difference"],
        engine=found["engine"],
        segment_seconds=found["segment_seconds"],
        active_segment_seconds=found["active_segment_seconds"],
        peak_bytes=found["peak_bytes"],
        active_peak_bytes=(before or found)["peak_bytes"],
    )


def _run(settings: Settings, bundle: Path, beside: Path | None = None) -> dict[str, Any]:
    child = start_child(
        "service.releases.trial",
        str(bundle),
        *([str(beside)] if beside else []),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(write_settings(settings))
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: list[str] = []
    threads = [
        threading.Thread(target=_forward, args=(child.stdout, lines.put), daemon=True),
        threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        return _follow(child, lines, errors, has_timing=beside is not None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for thread in threads:
            thread.join()
        child.stdout.close()
        child.stderr.close()


def _forward(lines: IO[str], put: Any) -> None:
    for line in lines:
        put(line)
    put(None)


def _follow(
    child: subprocess.Popen[str], lines: queue.SimpleQueue[str | None], errors: list[str], *, has_timing: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for step, seconds in STEP_SECONDS.items():
        if step == "timed" and not has_timing:
            break
        try:
            line = lines.get(timeout=seconds)
        except queue.Empty as exc:
            raise ReleaseRefused(
                f"the trial took longer than {seconds:g} s until {step} and was stopped"
            ) from exc
        if line is None:
            code = child.wait()
            reason = errors[-1].strip() if errors else "no message"
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise ReleaseRefused(f"the trial {how} before it was {step}: {reason}")
        try:
            fields = json.loads(line)
        except ValueError as exc:
            raise ReleaseRefused(f"the trial printed what it should not: {line[:200]!r}") from exc
        if "refused" in fields:
            raise ReleaseRefused(fields["refused"])
        found |= fields
    return found


def main() -> None:
    """The child: each step prints one JSON line."""
    die_with_parent(signal.SIGKILL)
    settings = read_settings(sys.stdin.readline())
    confine(settings.release_trial_bytes)
    paths = [Path(argument) for argument in sys.argv[1:]]
    try:
        bundle = load_bundle(paths[0])
        check_golden_tracks(bundle)
        _check_graphs(bundle)
        exact = Encoder(bundle, device="cpu", precision="fp32", num_threads=1)
        _print({})
        exact.check_golden()
        if bundle.manifest.text is not None:
            TextEncoder(bundle, num_threads=1).check_golden()
        _print({})
        del exact
        encoder = open_encoder(settings, bundle)
        difference = encoder.check_golden()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _print({"golden_difference": difference, "engine": str(encoder.choice.candidate), "peak_bytes": peak})
        if len(paths) > 1:
            beside = open_encoder(settings, load_bundle(paths[1])) if paths[1] != paths[0] else encoder
            _print(_take_turns(encoder, beside))
    except (BrokenBundle, EncoderFailure, MemoryError, OSError) as exc:
        _print({"refused": str(exc) or type(exc).__name__})
    except Exception as exc:  # whatever a bundle brings about here, it is the bundle's doing
        _print({"refused": f"{type(exc).__name__}: {exc}"})


def check_golden_tracks(bundle: Bundle) -> None:
    """Raise `BrokenBundle` unless the golden tracks are (T, D) as the manifest says, finite and of unit rows.

    The file that weighs moments must fit too.
    """
    bundle.moments()
    golden = bundle.golden()
    shapes: dict[str, tuple[int, ...]] = {name: bundle.manifest.tracks[name] for name in golden.tracks}
    found = dict(golden.tracks)
    for to, vectors in golden.text_vectors.items():
        found[f"text-{to}"] = vectors
        shapes[f"text-{to}"] = len(golden.texts), bundle.manifest.tracks[to][1]
    for name, track in found.items():
        expected = shapes[name]
        if track.shape != expected or track.dtype != np.float32:
            raise BrokenBundle(
                f"the golden {name} track must be float32 {expected}, got {track.dtype} {track.shape}"
            )
        norms = np.linalg.norm(track, axis=1)
        is_unit = bundle.manifest.similarity == "cosine"
        if not (np.abs(norms - 1.0) <= UNIT_TOLERANCE if is_unit else (norms > 0) & np.isfinite(norms)).all():
            raise BrokenBundle(
                f"the golden {name} track must have rows of {'unit' if is_unit else 'some'} length, "
                f"got {norms.min():g} to {norms.max():g}"
            )


def _check_graphs(bundle: Bundle) -> None:
    """Open the graphs in ONNX Runtime, unoptimised: it is strict, OpenVINO takes operator sets that do not exist."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    for modality in bundle.manifest.tracks:
        open_session(bundle.path / GRAPHS[modality], options, [CPU])


def confine(memory_bytes: int | None) -> None:
    """Limit this process: no core, lowest priority, and this much address space beyond what is mapped now."""
    os.nice(NICE)
    lower_limit(resource.RLIMIT_CORE, 0)
    if memory_bytes is not None:
        limit_memory(memory_bytes)


def _take_turns(encoder: Any, active: Any) -> dict[str, float]:
    """Fastest of some rounds of one segment on each encoder, seconds."""
    best = {"segment_seconds": float("inf"), "active_segment_seconds": float("inf")}
    for _ in range(ROUNDS):
        for name, one in (("segment_seconds", encoder), ("active_segment_seconds", active)):
            began = time.perf_counter()
            one.check_golden()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def _print(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
