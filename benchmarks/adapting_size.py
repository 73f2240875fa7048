"""What `foley-train adapt` and deriving cost for a large library, and what more steps would bring.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.adapting_size  # 100,000 segments of D 768: 5 GB on disk
    python -m benchmarks.adapting_size --size 20000 --steps 1000 2000 4000     # R@1 after fewer steps

The library is made: sound and picture of a clip share a part, in each through a bent map of its own, beside louder
noise in a subspace of its own. The setting is that of `foley-train adapt` itself (`training.deferred`). R@1 is that of
`HELD` further clips. Memory is that of the process without mapped files.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray
from torch import nn

from models.bundle.joining import write_head
from service.encode.engines.onnx_cpu import CPU, open_session, session_options
from training.adapting.fitting import MODALITIES, Clips, FitConfig, apply_head, fit_heads
from training.commands.held_back import measure_tracks
from training.data.stored_tracks import StoredTracks

MOMENTS = 16
HELD = 1000
Result = TypeVar("Result")


def main() -> None:
    """Print cost and recall."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, nargs="*", help="fit with so many steps at most, one by one")
    parser.add_argument("--folder", type=Path, help="where the made library goes, and goes away")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        tracks = make_library(Path(folder), given.size + HELD, given.width)
        held = np.arange(given.size, given.size + HELD)
        print(f"frozen: {recall(tracks, held, None)}", flush=True)
        config = FitConfig()
        for steps in given.steps or [config.max_steps]:
            heads = fit(tracks, given.size, replace(config, max_steps=steps))
            print(f"adapted: {recall(tracks, held, heads)}", flush=True)
        derive(heads, tracks, Path(folder), min(given.size, 4000))


def make_library(folder: Path, count: int, width: int) -> StoredTracks:
    """Segments with sound and picture, on disk."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((64, width), np.float32)
    tracks = {}
    for number, modality in enumerate(MODALITIES):
        own = rng.standard_normal((100, width), np.float32)
        turn, bent = rng.standard_normal((64, 256), np.float32), rng.standard_normal((256, width), np.float32)
        own_moments = 8 * rng.standard_normal((1000, MOMENTS, width), np.float32)
        file = folder / modality
        rows = np.memmap(file, np.float16, "w+", shape=(count, MOMENTS, width))
        for first in range(0, count, 1000):
            size = min(1000, count - first)
            latent = np.random.default_rng(first).standard_normal((size, 1, 64), np.float32)
            noise = np.random.default_rng((first, number)).standard_normal((size, 1, 100), np.float32)
            moments = latent @ shared + np.tanh(latent @ turn / 4) @ bent + 2 * noise @ own
            moments = moments + np.roll(own_moments, first // 1000, axis=0)[:size]
            rows[first : first + size] = moments / np.linalg.norm(moments, axis=-1, keepdims=True)
        rows.flush()
        tracks[modality] = np.memmap(file, np.float16, "r", shape=rows.shape)
        del rows
    return StoredTracks(
        bundle_id="made",
        release_id="made",
        derived_from=None,
        shapes=dict.fromkeys(MODALITIES, (MOMENTS, width)),
        assets=(),
        spans=np.zeros((count, 2)),
        rows=dict.fromkeys(MODALITIES, np.arange(count)),
        tracks=tracks,
    )


def fit(tracks: StoredTracks, count: int, config: FitConfig) -> Mapping[str, nn.Module]:
    """Fit heads to the first segments, and print what it costs."""
    clips = Clips(read=tracks.read, num_clips=count, shapes=tracks.shapes)
    done = 0

    def note(step: int, *_: object) -> None:
        nonlocal done
        done = step

    with Peak() as peak:
        fitted, seconds, cpu = timed(lambda: fit_heads(clips, config, on_step=note))
    print(
        f"adapt --method pair of {count} segments, {done} steps: {seconds / 60:.1f} minutes, "
        f"{cpu / 60:.1f} core-minutes, {peak.bytes / 1e9:.2f} GB besides mapped tracks"
    )
    return fitted.heads


def recall(tracks: StoredTracks, held: NDArray[np.int64], heads: Mapping[str, nn.Module] | None) -> str:
    """R@1 and R@10 of held-back segments, both ways."""
    rows = {name: tracks.read(name, held) for name in MODALITIES}
    if heads is not None:
        rows = {name: apply_head(heads[name], given) for name, given in rows.items()}
    both = measure_tracks(rows, None).retrieval
    ways = (both.audio_to_video, both.video_to_audio)
    return ", ".join(f"R@1 {one.at_1:.1f} R@10 {one.at_10:.1f}" for one in ways)


class Peak:
    """Largest memory of this process that is no file: mapped tracks are the system's cache."""

    def __init__(self) -> None:
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.1):
            memory = process.memory_info()
            self.bytes = max(self.bytes, memory.rss - memory.shared)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def derive(heads: Mapping[str, nn.Module], tracks: StoredTracks, folder: Path, count: int) -> None:
    """Print how many segments of both modalities the head graphs adapt in a second of one core."""
    sessions = {}
    for modality, head in heads.items():
        arrays = {key: array.detach().numpy() for key, array in head.state_dict().items()}
        write_head(arrays, folder / f"{modality}.onnx", repeats=1)
        sessions[modality] = open_session(folder / f"{modality}.onnx", session_options(1), [CPU])

    def work() -> None:
        for first in range(0, count, 64):
            chosen = np.arange(first, min(count, first + 64))
            for modality, session in sessions.items():
                session.run(None, {"rows": tracks.read(modality, chosen)})

    _, seconds, cpu = timed(work)
    print(
        f"deriving, without the index: {count / seconds:.0f} segments/s, "
        f"{1e6 * cpu / count / 60:.0f} core-minutes a million"
    )


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What `work` returns, its seconds and its seconds of CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
