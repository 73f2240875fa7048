"""Training segments: the sound and the picture of up to 10 s of one file, decoded once into arrays in files.

    segments = prepare(list_items([Path("~/Videos").expanduser()]), Path("run/decoded"), ClipSpec())
    segments.frames_at([3, 7], [0, 15])            # uint8 (2, 224, 224, 3)
    segments.windows_at([3, 7], [0, 608], 416)     # float32 (2, 416, 128)

Training and evaluation know segments by `Segments` alone; `training.data.shards` keeps them another way.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.media.clip import Clip, ClipSpec
from models.network.frontend import NUM_LOG_MEL_FRAMES, LogMel
from training.data.files import only_one, written_through, written_whole
from training.data.listing import Item, list_items
from training.data.pairs import Failure, work_on_pairs
from training.data.rows import RowFile

NUM_MEL_BINS = 128
"""Mel bins M of a stored log-mel."""
FORMAT = 3
"""Number of the layout of a prepared folder; another one is made anew."""


class NoTrainingData(ValueError):
    """Not one segment with both picture and sound was found."""


class BrokenSegments(ValueError):
    """A folder of decoded segments is damaged."""


class Segments(Protocol):
    """Segments with both modalities, rows 0 to N - 1; what training and evaluation need of them."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The file of each row."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Samples of the segment of each row, int64, shape (N,)."""

    @property
    def heard(self) -> NDArray[np.int64]:
        """Samples until the sound of each row ends, at most its length, int64, shape (N,)."""

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The labels of each row from its manifest; an empty tuple if it has none."""

    @property
    def failed(self) -> tuple[dict[str, str], ...]:
        """Files that could not be read, with the reason: `path` and `reason`."""

    @property
    def num_left_out(self) -> int:
        """Segments left out because their sound is silence or nothing changes in their picture."""

    @property
    def fingerprint(self) -> str:
        """Equal for two runs that learn from the same segments in one order."""

    def __len__(self) -> int: ...

    def frames_at(self, rows: Sequence[int], moments: Sequence[int]) -> NDArray[np.uint8]:
        """Read one frame of each of some rows.

        Args:
            rows: B rows.
            moments: One moment for each.

        Returns:
            uint8, shape (B, H, W, 3), writable.
        """

    def windows_at(self, rows: Sequence[int], starts: Sequence[int], num_frames: int) -> NDArray[np.float32]:
        """Read one window of the normalised log-mel of each of some rows.

        Args:
            rows: B rows.
            starts: First analysis frame of the window of each.
            num_frames: Analysis frames W of a window.

        Returns:
            float32, shape (B, W, M), writable.
        """

    def frames_of(self, row: int) -> NDArray[np.uint8]:
        """Read all frames of a row.

        Args:
            row: Which one.

        Returns:
            uint8, shape (T, H, W, 3), writable.
        """

    def samples_of(self, row: int) -> NDArray[np.float32]:
        """Read the sound of a row.

        Args:
            row: Which one.

        Returns:
            float32, shape (S,), zero after the row's length, writable.
        """


@dataclass(frozen=True, kw_only=True)
class PairedSegments:
    """Segments as arrays in a folder: a row costs no memory until it is read.

    The log-mel is kept as float16. That moves a value by 1e-3 at most, 0.02 dB, and by 2e-4 on average.

    Attributes:
        frames_file: uint8, shape (N, T, H, W, 3).
        samples_file: float32, shape (N, S), zero after each row's length.
        log_mel_file: Normalised log-mel of the network's own front end, float16, shape (N, 1024, M).
        lengths: Samples of the segment of each row, int64, shape (N,).
        heard: Samples until its sound ends, int64, shape (N,).
        paths: The file of each row.
        labels: What is true of each row, in the words of its manifest.
        failed: Files that could not be read, with the reason.
        num_left_out: Segments left out because their sound is silence or nothing changes in their picture.
    """

    frames_file: RowFile
    samples_file: RowFile
    log_mel_file: RowFile
    lengths: NDArray[np.int64]
    heard: NDArray[np.int64]
    paths: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    failed: tuple[dict[str, str], ...]
    num_left_out: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the files and lengths of all rows: whether two runs learn from the same segments in one order."""
        return hashlib.sha256(json.dumps([self.paths, self.lengths.tolist()]).encode()).hexdigest()

    @property
    def frames(self) -> NDArray[np.uint8]:
        """All frames, memory-mapped."""
        return self.frames_file.array

    @property
    def samples(self) -> NDArray[np.float32]:
        """All sound, memory-mapped."""
        return self.samples_file.array

    @property
    def log_mel(self) -> NDArray[np.float16]:
        """All log-mels, memory-mapped."""
        return self.log_mel_file.array

    def frames_at(self, rows: Sequence[int], moments: Sequence[int]) -> NDArray[np.uint8]:
        """Read one frame of each of some rows; see `Segments`."""
        return self.frames_file.read(rows, moments, 1)[:, 0]

    def windows_at(self, rows: Sequence[int], starts: Sequence[int], num_frames: int) -> NDArray[np.float32]:
        """Read one window of the log-mel of each of some rows; see `Segments`."""
        return self.log_mel_file.read(rows, starts, num_frames).astype(np.float32)

    def frames_of(self, row: int) -> NDArray[np.uint8]:
        """Read all frames of a row; see `Segments`."""
        frames: NDArray[np.uint8] = self.frames_file.read([row], [0], self.frames_file.shape[1])[0]
        return frames

    def samples_of(self, row: int) -> NDArray[np.float32]:
        """Read the sound of a row; see `Segments`."""
        samples: NDArray[np.float32] = self.samples_file.read([row], [0], self.samples_file.shape[1])[0]
        return samples

    @classmethod
    def open(cls, folder: Path) -> PairedSegments:
        """Open a complete folder that `prepare` wrote.

        Args:
            folder: Where the arrays are.

        Returns:
            The segments.

        Raises:
            BrokenSegments: If an array has not the size that the listing says.
        """  # noqa: DOC502 - raised by the function inside
        listing = json.loads((folder / "segments.json").read_text())
        spec = ClipSpec(**listing["wanted"]["spec"])
        rows, items = listing["segments"], [Item.from_json(item) for item in listing["wanted"]["items"]]

        def rows_of(name: str, kind: type[np.generic], *shape: int) -> RowFile:
            path, whole = folder / name, (len(rows), *shape)
            wanted = int(np.prod(whole)) * np.dtype(kind).itemsize
            if not path.exists() or path.stat().st_size != wanted:
                raise BrokenSegments(
                    f"{path} must have {wanted} bytes for {len(rows)} segments; delete the folder"
                )
            return RowFile(path, kind, whole)

        return cls(
            frames_file=rows_of(
                "frames.raw", np.uint8, spec.num_moments, spec.frame_size, spec.frame_size, 3
            ),
            samples_file=rows_of("samples.raw", np.float32, spec.segment_samples),
            log_mel_file=rows_of("log_mel.raw", np.float16, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS),
            lengths=np.array([row["num_samples"] for row in rows], np.int64),
            heard=np.array([row["num_heard"] for row in rows], np.int64),
            paths=tuple(items[row["item"]].name for row in rows),
            labels=tuple(tuple(listing["labels"][row["item"]]) for row in rows),
            failed=tuple(listing["failed"]),
            num_left_out=sum(listing.get("left_out", {}).values()),
        )


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A segment as it is stored."""

    frames: NDArray[np.uint8]
    samples: NDArray[np.float32]
    log_mel: NDArray[np.float16]
    num_samples: int
    num_heard: int
    start_seconds: float
    end_seconds: float


@functools.cache
def _front_end() -> LogMel:
    return LogMel(NUM_MEL_BINS)


@functools.cache
def _keep_to_one_thread() -> None:
    torch.set_num_threads(1)  # every core has a process of its own already


@torch.no_grad()
def compute_log_mel(samples: NDArray[np.float32], num_heard: int) -> NDArray[np.float32]:
    """Compute the normalised log-mel of a segment with the network's own front end.

    Args:
        samples: Mono sound at 16 kHz, float32, shape (S,).
        num_heard: After how many of them the sound ends.

    Returns:
        float32, shape (1024, M).
    """
    log_mel = _front_end()(torch.from_numpy(samples).unsqueeze(0), torch.tensor([num_heard]))
    return np.asarray(log_mel[0].numpy())


def _make_row(clip: Clip, *, num_samples: int) -> _Row:
    """Runs in a decoding process."""
    _keep_to_one_thread()
    assert clip.frames is not None
    assert clip.samples is not None
    samples = np.zeros(num_samples, np.float32)
    samples[: len(clip.samples)] = clip.samples[:num_samples]
    num_heard = min(clip.num_heard, num_samples)
    return _Row(
        frames=clip.frames,
        samples=samples,
        log_mel=compute_log_mel(samples, num_heard).astype(np.float16),
        num_samples=min(len(clip.samples), num_samples),
        num_heard=num_heard,
        start_seconds=clip.start_seconds,
        end_seconds=clip.end_seconds,
    )


def prepare(
    items: Sequence[Item | Path],
    output: Path,
    spec: ClipSpec,
    *,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> PairedSegments:
    """Decode every segment with picture and sound into arrays in files. A complete folder is used without change.

    The folder holds `frames.raw` uint8 (N, T, H, W, 3), `samples.raw` float32 (N, S), `log_mel.raw` float16
    (N, 1024, M) and, written last and at once, `segments.json` with the file, labels, start and length of every row,
    the files that could not be read and why, and how many segments of which file were left out because they have
    silence or a picture that never changes: a folder with it is whole. Several processes may ask for one folder: one
    decodes, the others wait.

    Args:
        items: What to decode, as `list_items` lists it; paths are listed first.
        output: Folder for the arrays.
        spec: How to decode.
        num_workers: Decoding processes.
        on_progress: Called with the items done and their total.

    Returns:
        The prepared segments.
    """
    listed = [part for item in items for part in ([item] if isinstance(item, Item) else list_items([item]))]
    unlabelled = [dataclasses.replace(item, labels=()).to_json() for item in listed]
    wanted = {"format": FORMAT, "items": unlabelled, "spec": spec.to_json()}
    labels = [list(item.labels) for item in listed]
    path = output / "segments.json"
    output.mkdir(parents=True, exist_ok=True)
    with only_one(output):
        listing = json.loads(path.read_text()) if path.exists() else {}
        if listing.get("wanted") != wanted:
            path.unlink(missing_ok=True)
            found = _decode_into(output, listed, spec, num_workers, on_progress)
            _write_listing(path, {"wanted": wanted, "labels": labels, **found})
        elif listing["labels"] != labels:  # the arrays do not depend on them
            _write_listing(path, {**listing, "labels": labels})
    return PairedSegments.open(output)


def _write_listing(path: Path, listing: dict[str, Any]) -> None:
    with written_whole(path) as file:
        file.write(json.dumps(listing).encode())


def _decode_into(
    output: Path,
    items: list[Item],
    spec: ClipSpec,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Write the arrays and return what `segments.json` says of them."""
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    left_out: dict[str, int] = {}
    work = functools.partial(_make_row, num_samples=spec.segment_samples)
    with (
        written_through(output / "frames.raw") as frames,
        written_through(output / "samples.raw") as samples,
        written_through(output / "log_mel.raw") as log_mel,
    ):
        for found in work_on_pairs(
            items,
            spec,
            work,
            num_workers=num_workers,
            on_progress=on_progress,
            on_left_out=left_out.__setitem__,
        ):
            if isinstance(found, Failure):
                failed.append({"path": found.path, "reason": found.reason})
                continue
            number, row = found
            frames.write(row.frames.tobytes())
            samples.write(row.samples.tobytes())
            log_mel.write(row.log_mel.tobytes())
            rows.append(
                {
                    "item": number,
                    "start_seconds": row.start_seconds,
                    "end_seconds": row.end_seconds,
                    "num_samples": row.num_samples,
                    "num_heard": row.num_heard,
                }
            )
    if not rows:
        reasons = f"; {failed[0]['path']}: {failed[0]['reason']}" if failed else ""
        raise NoTrainingData(f"none of {len(items)} files has a segment with both picture and sound{reasons}")
    return {"segments": rows, "failed": failed, "left_out": left_out}
