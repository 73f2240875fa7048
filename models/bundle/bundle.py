"""A bundle: one trained encoder pair as a flat folder of files that never change.

    manifest.json   name, geometry, how it was trained, and the size and sha256 of every other file
    audio.onnx      samples (B, S) float32, lengths (B,) and heard (B,) int64 → tracks (B, T, D) float32 of unit rows
    video.onnx      frames (B, T, H, W, 3) uint8 → tracks (B, T, D) float32 of unit rows
    golden.npz      one clip and the tracks that the network gave for it

The id of a bundle is its name and the hash of its manifest, so two bundles with one id hold the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.agreement import Agreement, Tracks, compare_tracks, cosines
from models.bundle.norms import NoScalableNorm, add_outliers
from models.media.clip import ClipSpec

__all__ = [
    "AUDIO_GRAPH",
    "FILES",
    "GOLDEN",
    "MANIFEST",
    "VARIANT",
    "VIDEO_GRAPH",
    "Agreement",
    "BrokenBundle",
    "Bundle",
    "Golden",
    "Manifest",
    "NoScalableNorm",
    "Tracks",
    "Variant",
    "add_outliers",
    "check_name",
    "compare_tracks",
    "cosines",
    "describe_file",
    "load_bundle",
    "load_variant",
    "read_bundle_id",
    "sound_inputs",
    "starter_path",
    "variant_path",
]

FORMAT = 2
FORMATS = (1, FORMAT)
"""Layouts that are read. In the first, audio graphs have no input `heard`: the log-mel sees the silence at the end."""
AUDIO_GRAPH, VIDEO_GRAPH, GOLDEN, MANIFEST = "audio.onnx", "video.onnx", "golden.npz", "manifest.json"
FILES = (AUDIO_GRAPH, VIDEO_GRAPH, GOLDEN)
VARIANT = "variant.json"
MAX_MANIFEST_BYTES = 1 << 20


class BrokenBundle(ValueError):
    """A bundle's folder does not match its manifest."""

    code: str = "broken_bundle"


def check_name(name: str) -> None:
    """Refuse a name that no bundle can have.

    Args:
        name: Of a bundle.

    Raises:
        BrokenBundle: If it is not 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise BrokenBundle(f"bundle name must be 1 to 64 of A-Z a-z 0-9 . _ -, got {name!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a bundle.

    Attributes:
        name: Letters, digits, dots, dashes and underscores; for people.
        embedding_width: Width D of every embedding.
        clip_spec: How media are decoded for this network.
        opset: ONNX operator set of the graphs.
        network: Geometry of the network, JSON values.
        training: How it was made: command, seed, seconds, metrics, or the file it was imported from; JSON values.
        agreement: Largest difference between ONNX and torch on the clips of the export, by graph.
        files: Size in bytes and sha256 of every other file, by name.
        format: Version of this layout.
    """

    name: str
    embedding_width: int
    clip_spec: ClipSpec
    opset: int
    network: dict[str, Any]
    training: dict[str, Any]
    agreement: dict[str, float]
    files: dict[str, dict[str, Any]]
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse a manifest that no bundle can have."""
        if self.format not in FORMATS:
            raise BrokenBundle(f"bundle format must be {' or '.join(map(str, FORMATS))}, got {self.format}")
        check_name(self.name)
        if not 1 <= self.embedding_width <= 65_536:
            raise BrokenBundle(f"embedding_width must be in [1, 65536], got {self.embedding_width}")
        if not isinstance(self.files, dict) or set(self.files) != set(FILES):
            raise BrokenBundle(f"files must be {', '.join(FILES)}, got {', '.join(map(str, self.files))}")

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of manifest.json.

        Args:
            text: JSON.

        Returns:
            The manifest.

        Raises:
            BrokenBundle: If it is not JSON, or lacks a field, or has one too many.
        """
        try:
            fields = json.loads(text)
            return cls(**{**fields, "clip_spec": ClipSpec(**fields["clip_spec"])})
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise BrokenBundle(f"{MANIFEST} cannot be read: {exc}") from exc


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One clip and its tracks, recorded when the bundle was exported.

    Attributes:
        samples: float32, shape (S,).
        frames: uint8, shape (T, H, W, 3).
        audio_track: float32, shape (T, D).
        video_track: float32, shape (T, D).
        num_heard: Samples until the sound ends.
    """

    samples: NDArray[np.float32]
    frames: NDArray[np.uint8]
    audio_track: NDArray[np.float32]
    video_track: NDArray[np.float32]
    num_heard: int


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose every file has been compared with its manifest.

    Attributes:
        path: Its folder.
        bundle_id: Name and first 12 digits of the manifest's sha256.
        manifest: What it says of itself.
    """

    path: Path
    bundle_id: str
    manifest: Manifest

    @property
    def audio_graph(self) -> Path:
        """ONNX file of the audio encoder."""
        return self.path / AUDIO_GRAPH

    @property
    def video_graph(self) -> Path:
        """ONNX file of the video encoder."""
        return self.path / VIDEO_GRAPH

    def golden(self) -> Golden:
        """Read the golden clip and its tracks.

        Returns:
            Inputs and outputs.

        Raises:
            BrokenBundle: If an array is missing.
        """
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                return Golden(
                    samples=arrays["samples"],
                    frames=arrays["frames"],
                    audio_track=arrays["audio_track"],
                    video_track=arrays["video_track"],
                    num_heard=int(arrays["num_heard"] if "num_heard" in arrays else len(arrays["samples"])),
                )
        except (OSError, KeyError, ValueError, TypeError) as exc:
            raise BrokenBundle(f"{self.path / GOLDEN} cannot be read: {exc}") from exc


def sound_inputs(
    names: Iterable[str],
    samples: NDArray[np.float32],
    lengths: NDArray[np.int64],
    heard: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Name what an audio graph reads.

    Args:
        names: Of the graph's inputs; without `heard` in bundles of before.
        samples: float32, shape (B, S).
        lengths: Samples of each row's segment, int64, shape (B,).
        heard: Samples until the sound of each row ends, int64, shape (B,); None if it fills the segment.

    Returns:
        Arrays by name.
    """
    arrays: dict[str, NDArray[Any]] = {
        "samples": samples,
        "lengths": lengths,
        "heard": lengths if heard is None else heard,
    }
    return {name: arrays[name] for name in names}


def starter_path() -> Path:
    """Return the folder of the small bundle that ships with the project."""
    return Path(__file__).parents[1] / "starter"


def describe_file(path: Path) -> dict[str, Any]:
    """Measure a file for the manifest.

    Args:
        path: A regular file.

    Returns:
        Its size in bytes and sha256.
    """
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def load_bundle(path: Path) -> Bundle:
    """Open a bundle and compare every file with the manifest.

    Args:
        path: Its folder.

    Returns:
        The verified bundle.

    Raises:
        BrokenBundle: If a file is missing, a link, or differs from the manifest.
    """  # noqa: DOC502 - raised where the files are read
    text = _read_manifest(path)
    manifest = Manifest.from_json(text)
    _compare_files(path, manifest.files)
    return Bundle(path=path, bundle_id=_name_bundle(manifest, text), manifest=manifest)


def read_bundle_id(path: Path) -> str:
    """Return the id of the bundle that a folder claims to be, from its manifest alone.

    Args:
        path: Its folder.

    Returns:
        The id, in which the manifest has a part and through it every file.

    Raises:
        BrokenBundle: If the manifest is missing or damaged.
    """  # noqa: DOC502 - raised where the manifest is read
    text = _read_manifest(path)
    return _name_bundle(Manifest.from_json(text), text)


def _name_bundle(manifest: Manifest, text: str) -> str:
    return f"{manifest.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _read_manifest(folder: Path) -> str:
    """Read an unverified file: refuses links, pipes and files that are too large."""
    path = folder / MANIFEST
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BrokenBundle(f"{path} must be a regular file")
            if status.st_size > MAX_MANIFEST_BYTES:
                raise BrokenBundle(
                    f"{path} has {status.st_size} bytes, at most {MAX_MANIFEST_BYTES} are allowed"
                )
            return file.read(MAX_MANIFEST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BrokenBundle(f"{folder} is not a bundle: {exc}") from exc


def _compare_files(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, expected in files.items():
        file = folder / name
        try:
            if not stat.S_ISREG(file.lstat().st_mode):
                raise BrokenBundle(f"{file} must be a regular file")
            found = describe_file(file)
        except OSError as exc:
            raise BrokenBundle(f"{file} cannot be read: {exc}") from exc
        if found != expected:
            raise BrokenBundle(f"{file} is not the file of the manifest: its size or sha256 differs")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The graphs of a bundle in another precision, in a folder of their own beside it: `starter` and `starter.fp16`.

    A bundle never changes, and its id names the index that it made; what is derived from it later lies outside.

    Attributes:
        path: Its folder.
        bundle_id: The bundle it was made of.
        precision: What its numbers are: `fp16` or `int8`.
        agreement: How far it is from float32, measured when it was made.
        files: Size in bytes and sha256 of both graphs, by name.
    """

    path: Path
    bundle_id: str
    precision: str
    agreement: Agreement
    files: dict[str, dict[str, Any]]

    def to_json(self) -> str:
        """Return the text of variant.json."""
        fields = {name: value for name, value in asdict(self).items() if name != "path"}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def variant_path(bundle_path: Path, precision: str) -> Path:
    """Return the folder of a variant of a bundle.

    Args:
        bundle_path: Folder of the bundle.
        precision: Which variant.

    Returns:
        A folder beside it.
    """
    return bundle_path.with_name(f"{bundle_path.name}.{precision}")


def load_variant(bundle: Bundle, precision: str) -> Variant | None:
    """Open a variant of a bundle and compare its files with its own manifest.

    Args:
        bundle: Verified bundle.
        precision: Which variant.

    Returns:
        The verified variant, None where there is none.

    Raises:
        BrokenBundle: If it was made of another bundle, or a file is missing, a link, or another one.
    """
    folder = variant_path(bundle.path, precision)
    if not folder.exists():
        return None
    try:
        fields = json.loads((folder / VARIANT).read_text())
        variant = Variant(**{**fields, "path": folder, "agreement": Agreement(**fields["agreement"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BrokenBundle(f"{folder / VARIANT} cannot be read: {exc}") from exc
    if (variant.bundle_id, variant.precision) != (bundle.bundle_id, precision):
        raise BrokenBundle(
            f"{folder} is {variant.precision} of {variant.bundle_id}, not {precision} of {bundle.bundle_id}"
        )
    if not isinstance(variant.files, dict) or set(variant.files) != {AUDIO_GRAPH, VIDEO_GRAPH}:
        raise BrokenBundle(f"{folder} must hold {AUDIO_GRAPH} and {VIDEO_GRAPH}, got {variant.files}")
    _compare_files(folder, variant.files)
    return variant
