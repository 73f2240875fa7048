"""Processor time to decode one 10 s clip with sound to 16 pictures of 224 × 224 and 16 kHz mono, by picture height.

    python -m benchmarks.decode_speed [--heights 360 720 1080] [--rounds 7]

ours          `models.media.clip.decode_clip`
plain         the baseline, PyAV: every frame decoded, 16 of them converted and resized whole, then cropped
ffmpeg        the command, if installed: one process, filters `select`, `scale` and `crop`, one thread
torchcodec    if installed: the 16 frames by their times, not resized, and the sound; one thread

All take turns in one process. Figures are medians of processor seconds, child processes included. The frames of ours
and plain are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.encode_speed import WIDTHS, decode_as_published, write_clip
from models.bundle.bundle import load_bundle, starter_path
from models.media.clip import ClipSpec, decode_clip

MAX_GREY_LEVELS = 3.0
"""Limit of the mean difference between resizing whole and cropping first; another frame differs by 20 or more."""


def spent_seconds() -> float:
    """Return processor seconds of this process and of its children that have ended."""
    parts = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def run_ffmpeg(path: Path, spec: ClipSpec) -> None:
    """Decode frames and sound with one call of the command."""
    side, step = spec.frame_size, spec.segment_seconds / spec.num_moments
    chosen = f"select='isnan(prev_selected_t)+gte(t-prev_selected_t,{step:.6f}-0.001)'"
    resize = f"scale={side}:{side}:force_original_aspect_ratio=increase:flags=bilinear,crop={side}:{side}"
    # fmt: off
    command = [
        "ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-filter_threads", "1", "-i", str(path),
        "-map", "0:v", "-vf", f"{chosen},{resize}", "-vsync", "0", "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1",
        "-map", "0:a", "-ac", "1", "-ar", str(spec.sample_rate_hz), "-f", "f32le", os.devnull, "-y",
    ]
    # fmt: on
    pictures = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(pictures) == spec.num_moments * side * side * 3, len(pictures)


def run_torchcodec(path: Path, spec: ClipSpec) -> None:
    """Decode the frames at their times, not resized, and resample the sound."""
    from torchcodec.decoders import AudioDecoder, VideoDecoder  # noqa: PLC0415 - optional

    times = (np.arange(spec.num_moments) * spec.segment_seconds / spec.num_moments).tolist()
    VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_played_at(times)
    AudioDecoder(str(path), sample_rate=spec.sample_rate_hz, num_channels=1).get_all_samples()


def find_peers() -> dict[str, Callable[[Path, ClipSpec], object]]:
    """Return the ways that can run here, ours and the baseline first."""
    found: dict[str, Callable[[Path, ClipSpec], object]] = {"ours": decode_clip, "plain": decode_as_published}
    if shutil.which("ffmpeg"):
        found["ffmpeg"] = run_ffmpeg
    if importlib.util.find_spec("torchcodec"):
        found["torchcodec"] = run_torchcodec
    return found


def compare_frames(path: Path, spec: ClipSpec) -> float:
    """Return the mean difference in grey levels between ours and the baseline, for the worst frame."""
    ours = decode_clip(path, spec).frames
    assert ours is not None
    plain: NDArray[np.uint8] = np.stack(decode_as_published(path, spec))
    return float(np.abs(ours.astype(float) - plain).mean(axis=(1, 2, 3)).max())


def main() -> None:
    """Time every way on one file of each height."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heights", type=int, nargs="+", default=sorted(WIDTHS))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    bundle = load_bundle(starter_path())
    spec, peers = bundle.manifest.clip_spec, find_peers()
    print("core-ms a clip (share of plain); largest mean difference of a frame from plain, in grey levels")
    with tempfile.TemporaryDirectory() as folder:
        for height in options.heights:
            path = Path(folder) / f"{height}.mp4"
            write_clip(bundle, path, height)
            difference = compare_frames(path, spec)
            assert difference < MAX_GREY_LEVELS, difference
            spent: dict[str, list[float]] = {name: [] for name in peers}
            for number in range(options.rounds + 1):
                for name, decode in peers.items():
                    began = spent_seconds()
                    decode(path, spec)
                    if number:  # the first round warms up
                        spent[name].append(spent_seconds() - began)
            costs = {name: statistics.median(values) for name, values in spent.items()}
            shares = " · ".join(
                f"{name} {1e3 * cost:.0f} ({cost / costs['plain']:.2f})" for name, cost in costs.items()
            )
            print(f"{height:4} lines: {shares}; frames differ by {difference:.2f}", flush=True)


if __name__ == "__main__":
    main()
