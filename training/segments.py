"""Media files to training segments: decode every segment with picture and sound once, into memory-mapped arrays.

A prepared folder holds `frames.raw` uint8 (N, T, H, W, 3), `samples.raw` float32 (N, S), `lengths.npy` int64 (N,) and
`segments.json` with the file and start of every row, the files that could not be read and why. It is complete when
`segments.json` is there: the file is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.clip import Clip, ClipSpec, UnreadableClip, decode_segments

logger = logging.getLogger(__name__)

MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .3gp .ogv .mxf".split()
)
"""File name endings that are taken for video files when a folder is walked."""


class NoTrainingData(ValueError):
    """Not one segment with both picture and sound was found."""


def find_media(paths: Sequence[Path]) -> list[Path]:
    """List the video files in folders, and files as they are.

    Args:
        paths: Folders, walked to the bottom, and files.

    Returns:
        Files in sorted order of each folder.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
        else:
            found.append(path)
    return found


def _decode_pairs(path: Path, spec: ClipSpec) -> list[Clip] | str:
    """Decode the segments of one file that have both modalities, or say why it cannot be read."""
    try:
        clips = decode_segments(path, spec).clips
    except UnreadableClip as exc:
        return f"{exc.code}: {exc}"
    pairs = [clip for clip in clips if clip.frames is not None and clip.samples is not None]
    return pairs or "no_pair: no segment has both picture and sound"


def prepare(
    paths: Sequence[Path],
    output: Path,
    spec: ClipSpec,
    *,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> PairedSegments:
    """Decode every segment with picture and sound into memory-mapped arrays. A complete folder is used as it is.

    Args:
        paths: Folders and files of media.
        output: Folder for the arrays.
        spec: How to decode.
        num_workers: Decoding processes.
        on_progress: Called with the files done and their total.

    Returns:
        The prepared segments.

    Raises:
        NoTrainingData: If no file gives a segment with both modalities.
    """
    files = find_media(paths)
    wanted = {"files": [str(f) for f in files], "spec": spec.__dict__}
    listing = output / "segments.json"
    if listing.exists() and json.loads(listing.read_text())["wanted"] == wanted:
        return PairedSegments.open(output)
    output.mkdir(parents=True, exist_ok=True)
    listing.unlink(missing_ok=True)

    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    lengths: list[int] = []
    num_samples = round(spec.segment_seconds * spec.sample_rate_hz)
    with (
        (output / "frames.raw").open("wb") as frames_file,
        (output / "samples.raw").open("wb") as samples_file,
        ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool,
    ):
        decoded = pool.map(partial(_decode_pairs, spec=spec), files, chunksize=8)
        for done, (file, clips) in enumerate(zip(files, decoded, strict=True), start=1):
            if isinstance(clips, str):
                failed.append({"path": str(file), "reason": clips})
                logger.warning("left out %s: %s", file, clips)
                continue
            for clip in clips:
                assert clip.frames is not None
                assert clip.samples is not None
                padded = np.zeros(num_samples, np.float32)
                padded[: len(clip.samples)] = clip.samples[:num_samples]
                frames_file.write(clip.frames.tobytes())
                samples_file.write(padded.tobytes())
                lengths.append(min(len(clip.samples), num_samples))
                rows.append({"path": str(file), "start_seconds": clip.start_seconds})
            if on_progress:
                on_progress(done, len(files))
    if not rows:
        raise NoTrainingData(f"none of {len(files)} files has a segment with both picture and sound")
    np.save(output / "lengths.npy", np.array(lengths, np.int64))
    listing.write_text(json.dumps({"wanted": wanted, "segments": rows, "failed": failed}))
    return PairedSegments.open(output)


@dataclass(frozen=True, kw_only=True)
class PairedSegments:
    """Decoded segments with both modalities.

    Attributes:
        frames: uint8, shape (N, T, H, W, 3), memory-mapped.
        samples: float32, shape (N, S), memory-mapped, zero after each row's length.
        lengths: Real samples of each row, int64, shape (N,).
        paths: The file of each row.
        failed: Files that could not be read, with the reason.
    """

    frames: NDArray[np.uint8]
    samples: NDArray[np.float32]
    lengths: NDArray[np.int64]
    paths: tuple[str, ...]
    failed: tuple[dict[str, str], ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """sha256 over the files and lengths of all rows: whether two runs learn from the same segments in one order."""
        return hashlib.sha256(json.dumps([self.paths, self.lengths.tolist()]).encode()).hexdigest()

    @classmethod
    def open(cls, folder: Path) -> PairedSegments:
        """Open a complete folder that `prepare` wrote.

        Args:
            folder: Where the arrays are.

        Returns:
            The segments, memory-mapped.
        """
        listing = json.loads((folder / "segments.json").read_text())
        spec = ClipSpec(**listing["wanted"]["spec"])
        count = len(listing["segments"])
        frame_shape = (count, spec.num_moments, spec.frame_size, spec.frame_size, 3)
        sample_shape = (count, round(spec.segment_seconds * spec.sample_rate_hz))
        return cls(
            frames=np.memmap(folder / "frames.raw", np.uint8, "r", shape=frame_shape),
            samples=np.memmap(folder / "samples.raw", np.float32, "r", shape=sample_shape),
            lengths=np.load(folder / "lengths.npy"),
            paths=tuple(row["path"] for row in listing["segments"]),
            failed=tuple(listing["failed"]),
        )
