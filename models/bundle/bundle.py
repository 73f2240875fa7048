"""A bundle: trained encoders as a flat folder of files that never change.

    manifest.json   what it embeds, how it was trained, and the size and sha256 of every other file
    audio.onnx      samples (B, S) float32, lengths (B,) and heard (B,) int64 → tracks (B, T, D) float32
    video.onnx      frames (B, F, H, W, 3) uint8 → tracks (B, T, D) float32
    text.onnx       input_ids and attention_mask (B, L) int64 → one output (B, D) float32 for each head
    tokenizer.json  words → input_ids, as the package `tokenizers` reads it
    moments.npz     how moments of sound are weighed, in a bundle that does so (`models.bundle.moments`)
    golden.npz      one clip, some texts, and what the network gave for them

Only the manifest and golden.npz must be there: a bundle may embed sound, picture, words or some of them, and
`models.bundle.manifest` says so. The id of a bundle is its name and the hash of its manifest, so two bundles with one
id hold the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.agreement import Agreement, Tracks, compare_tracks, cosines
from models.bundle.manifest import (
    AUDIO_GRAPH,
    DATA_SUFFIX,
    FORMAT,
    GOLDEN,
    GRAPHS,
    MANIFEST,
    MOMENTS,
    TEXT_GRAPH,
    TOKENIZER,
    VIDEO_GRAPH,
    BrokenBundle,
    Derivation,
    Manifest,
    Similarity,
    TextSpec,
    check_name,
)
from models.bundle.moments import MomentWeights, read_moments, unit_rows
from models.bundle.norms import NoScalableNorm, add_outliers

__all__ = [
    "AUDIO_GRAPH",
    "FORMAT",
    "GOLDEN",
    "GRAPHS",
    "MANIFEST",
    "MOMENTS",
    "TEXT_GRAPH",
    "TOKENIZER",
    "VARIANT",
    "VIDEO_GRAPH",
    "Agreement",
    "BrokenBundle",
    "Bundle",
    "Derivation",
    "Golden",
    "Manifest",
    "MomentWeights",
    "NoScalableNorm",
    "Similarity",
    "TextSpec",
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
    "unit_rows",
    "variant_path",
]

VARIANT = "variant.json"
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One clip and some texts, with what the network gave for them when the bundle was exported.

    Attributes:
        samples: float32, shape (S,); empty in a bundle that embeds no sound.
        frames: uint8, shape (F, H, W, 3); empty in a bundle that embeds no picture.
        tracks: float32, shape (T, D), by modality.
        num_heard: Samples until the sound ends.
        texts: Words; none in a bundle that embeds none.
        text_vectors: float32, shape (texts, D), by the modality that they compare with.
    """

    samples: NDArray[np.float32]
    frames: NDArray[np.uint8]
    tracks: Mapping[str, NDArray[np.float32]]
    num_heard: int
    texts: tuple[str, ...] = ()
    text_vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def audio_track(self) -> NDArray[np.float32]:
        """Track of the sound."""
        return self.tracks["audio"]

    @property
    def video_track(self) -> NDArray[np.float32]:
        """Track of the picture."""
        return self.tracks["video"]


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
        embeds, text = self.manifest.tracks, self.manifest.text
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                samples = arrays["samples"] if "audio" in embeds else np.zeros(0, np.float32)
                return Golden(
                    samples=samples,
                    frames=arrays["frames"] if "video" in embeds else np.zeros((0, 0, 0, 3), np.uint8),
                    tracks={modality: arrays[f"{modality}_track"] for modality in embeds},
                    num_heard=int(arrays["num_heard"] if "num_heard" in arrays else len(samples)),
                    texts=() if text is None else tuple(map(str, arrays["texts"])),
                    text_vectors={} if text is None else {to: arrays[f"text_{to}"] for to in text.outputs},
                )
        except (OSError, KeyError, ValueError, TypeError) as exc:
            raise BrokenBundle(f"{self.path / GOLDEN} cannot be read: {exc}") from exc

    def moments(self) -> MomentWeights | None:
        """Read how moments of sound are weighed.

        Returns:
            The network; None if every moment counts alike.

        Raises:
            BrokenBundle: If its file does not fit.
        """
        if not self.manifest.weighs_moments:
            return None
        try:
            return read_moments(self.path / MOMENTS, width=self.manifest.tracks["audio"][1])
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
            raise BrokenBundle(f"{self.path / MOMENTS} cannot be read: {exc}") from exc


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
        files: Size in bytes and sha256 of the graphs of sound and picture, by name; words stay in float32.
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
    graphs = {GRAPHS[modality] for modality in bundle.manifest.tracks}
    if not isinstance(variant.files, dict) or not (
        graphs <= set(variant.files) <= graphs | {graph + DATA_SUFFIX for graph in graphs}
    ):
        raise BrokenBundle(f"{folder} must hold {' and '.join(sorted(graphs))}, got {variant.files}")
    _compare_files(folder, variant.files)
    return variant
