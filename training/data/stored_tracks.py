"""The tracks that the service has stored, as training data: a library teaches without any of its media.

    tracks = load_tracks(Path("runs/adapt/tracks"))     # runs `foley assets tracks`, keeps them in that folder
    tracks.pairs()                                      # rows of segments with sound and picture

As in `training.data.library` the service is asked by its command, in a process of its own. Tracks lie on disk as
float16 and are mapped: 100,000 segments of 16 × 768 are 5 GB.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from training.data.library import LibraryUnavailable

COMMAND = (sys.executable, "-m", "service.cli", "assets", "tracks")
"""What prints the tracks as a tar."""
FORMAT_VERSION = 1
MAX_DOCUMENT_BYTES = 1 << 20

Half = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class StoredAsset:
    """One file of the library: what is known of it, and which segments are its own."""

    asset_id: str
    paths: tuple[str, ...]
    metadata: Mapping[str, Any]
    first_segment: int
    num_segments: int


@dataclass(frozen=True, kw_only=True)
class StoredTracks:
    """The tracks of a library.

    Attributes:
        bundle_id: The bundle that embedded them.
        release_id: Their release.
        derived_from: The parent of that bundle, if it has learned heads.
        shapes: (T, D) by modality.
        assets: In the order of their segments.
        spans: Start and end of each segment in its file, in seconds, float64, shape (N, 2).
        rows: Row of each segment in `tracks`, −1 where it has none, by modality, int64, shape (N,).
        tracks: float16, shape (M, T, D), by modality; mapped from disk.
    """

    bundle_id: str
    release_id: str
    derived_from: str | None
    shapes: Mapping[str, tuple[int, int]]
    assets: tuple[StoredAsset, ...]
    spans: NDArray[np.float64]
    rows: Mapping[str, NDArray[np.int64]]
    tracks: Mapping[str, Half]

    def pairs(self) -> NDArray[np.int64]:
        """The segments that have both sound and picture, int64, shape (P,)."""
        if set(self.rows) != {"audio", "video"}:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.rows["audio"] >= 0) & (self.rows["video"] >= 0))

    def asset_of_segments(self) -> NDArray[np.int64]:
        """Number of the asset of each segment, int64, shape (N,)."""
        return np.repeat(np.arange(len(self.assets)), [asset.num_segments for asset in self.assets])

    def read(
        self, modality: str, segments: NDArray[np.int64], moments: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Unit rows of some segments that have the modality, float32: all T, or the moments (len, M) of each."""
        rows = self.rows[modality][segments]
        stored = self.tracks[modality]
        tracks = (stored[rows] if moments is None else stored[rows[:, None], moments]).astype(np.float32)
        norms = np.linalg.norm(tracks, axis=-1, keepdims=True)
        unit: NDArray[np.float32] = tracks / np.maximum(norms, 1e-12)
        return unit


def load_tracks(
    folder: Path, *, release: str | None = None, command: Sequence[str] = COMMAND
) -> StoredTracks:
    """Ask the service for the tracks of its library, and keep them in a folder.

    Args:
        folder: Where the arrays go; created.
        release: Whose tracks; None for the active one.
        command: What to run instead of `foley assets tracks`.

    Returns:
        The tracks.

    Raises:
        LibraryUnavailable: If the command fails, says something else, breaks off, or nothing is indexed.
    """
    arguments = [*command, *(["--release", release] if release else [])]
    try:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603 - ours
    except OSError as exc:
        raise LibraryUnavailable(f"`{' '.join(arguments)}` cannot be run: {exc}") from exc
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        error: Exception | None = None
        tracks: StoredTracks | None = None
        try:
            tracks = unpack_tracks(process.stdout, folder)
        except (ValueError, KeyError, TypeError, tarfile.TarError) as exc:
            error = exc
        process.stdout.close()
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
    if process.returncode != 0 and tracks is None:
        reason = said[-1].removeprefix("foley: ") if said else f"exit code {process.returncode}"
        raise LibraryUnavailable(f"`foley assets tracks` failed: {reason}")
    if tracks is None:
        raise LibraryUnavailable(f"`foley assets tracks` did not print whole tracks: {error!r}") from error
    if not tracks.assets:
        raise LibraryUnavailable(
            "nothing is indexed with the bundle in use: start with `foley index PATH...`"
        )
    return tracks


def unpack_tracks(stream: IO[bytes], folder: Path) -> StoredTracks:
    """Read a stream of tracks into a folder.

    Args:
        stream: A tar, as `foley assets tracks` writes it.
        folder: Where the arrays go; created.

    Returns:
        The tracks.

    Raises:
        ValueError: If the stream is something else, or breaks off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    with tarfile.open(fileobj=stream, mode="r|") as tar, ExitStack() as stack:
        pile: _Pile | None = None
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                raise ValueError(f"{member.name} is no file")
            if member.name == "tracks.json":
                head = json.loads(content.read(MAX_DOCUMENT_BYTES))
                if head is None or head["version"] != FORMAT_VERSION:
                    raise ValueError(
                        f"the tracks are of version {head and head['version']}, not {FORMAT_VERSION}"
                    )
                shapes = {modality: (int(t), int(d)) for modality, (t, d) in head["tracks"].items()}
                pile = _Pile(folder, shapes, stack)
            elif member.name == "end.json":
                end = json.loads(content.read(MAX_DOCUMENT_BYTES))
            elif pile is not None:
                pile.add(content)
        if head is None or pile is None or end is None:
            raise ValueError("the stream broke off")
        found = pile.finish(head)
    if (len(found.assets), len(found.spans)) != (end["num_assets"], end["num_segments"]):
        raise ValueError(
            f"{end} were announced, {len(found.assets)} assets and {len(found.spans)} segments came"
        )
    return found


class _Pile:
    """Appends groups of segments to files of tracks."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, int]], stack: ExitStack) -> None:
        self._shapes = shapes
        self._paths = {modality: folder / f"{modality}.f16" for modality in shapes}
        self._files = {
            modality: stack.enter_context(path.open("wb")) for modality, path in self._paths.items()
        }
        self._counts = dict.fromkeys(shapes, 0)
        self._rows: dict[str, list[NDArray[np.int64]]] = {modality: [] for modality in shapes}
        self._facts: list[dict[str, Any]] = []

    def add(self, content: IO[bytes]) -> None:
        with np.load(io.BytesIO(content.read()), allow_pickle=False) as arrays:
            facts = [json.loads(line) for line in arrays["facts"].tobytes().decode().split("\n")]
            for modality, shape in self._shapes.items():
                rows = np.full(len(facts), -1, np.int64)
                held = arrays[f"{modality}_rows"]
                if len(held):
                    tracks = arrays[f"{modality}_tracks"].astype(np.float16)
                    if tracks.shape != (len(held), *shape):
                        raise ValueError(
                            f"tracks of {modality} are {tracks.shape}, not {(len(held), *shape)}"
                        )
                    rows[held] = self._counts[modality] + np.arange(len(held))
                    self._counts[modality] += len(held)
                    self._files[modality].write(tracks.tobytes())
                self._rows[modality].append(rows)
        self._facts += facts

    def finish(self, head: Mapping[str, Any]) -> StoredTracks:
        tracks: dict[str, Half] = {}
        for modality, shape in self._shapes.items():
            self._files[modality].flush()
            whole = (self._counts[modality], *shape)
            tracks[modality] = (
                np.memmap(self._paths[modality], np.float16, "r", shape=whole)
                if whole[0]
                else np.zeros(whole, np.float16)
            )
        empty = np.zeros(0, np.int64)
        return StoredTracks(
            bundle_id=head["bundle_id"],
            release_id=head["release_id"],
            derived_from=head["derived_from"],
            shapes=self._shapes,
            assets=tuple(_group(self._facts)),
            spans=np.array([(f["start_seconds"], f["end_seconds"]) for f in self._facts]).reshape(-1, 2),
            rows={modality: np.concatenate([empty, *rows]) for modality, rows in self._rows.items()},
            tracks=tracks,
        )


def _group(facts: Sequence[Mapping[str, Any]]) -> Iterator[StoredAsset]:
    first = 0
    for number, fact in enumerate(facts):
        if number + 1 == len(facts) or facts[number + 1]["asset_id"] != fact["asset_id"]:
            yield StoredAsset(
                asset_id=fact["asset_id"],
                paths=(fact["path"], *fact["paths"]),
                metadata=fact["metadata"],
                first_segment=first,
                num_segments=number + 1 - first,
            )
            first = number + 1
