"""What a bundle says of itself: what it embeds, how clips are cut for it, and how its vectors compare.

A family of encoders (TG-DP, PE-AV, CLAP …) is nothing but values of these fields: whoever reads a bundle asks what it
embeds, never whose network it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from models.media.timeline import ClipSpec

FORMAT = 3
FORMATS = (1, 2, FORMAT)
"""Layouts that are read. Format 3 says what a bundle embeds; those before embed sound and picture in one space. In
format 1 audio graphs have no input `heard`: the log-mel sees the silence at the end."""
AUDIO_GRAPH, VIDEO_GRAPH, TEXT_GRAPH = "audio.onnx", "video.onnx", "text.onnx"
GRAPHS: Mapping[str, str] = {"audio": AUDIO_GRAPH, "video": VIDEO_GRAPH}
HEADS: Mapping[str, str] = {"audio": "audio.head.onnx", "video": "video.head.onnx"}
GOLDEN, MANIFEST, TOKENIZER = "golden.npz", "manifest.json", "tokenizer.json"
MOMENTS = "moments.npz"
DATA_SUFFIX = ".data"
"""A graph over 2 GB, the limit of protobuf, keeps its weights in a file beside it: `video.onnx.data`."""
Similarity = Literal["cosine", "dot"]


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
class TextSpec:
    """How a bundle embeds words.

    Attributes:
        outputs: Output of `text.onnx` whose vectors compare with a modality, by modality: the same for both in a
            bundle with one head.
        max_tokens: Longest text, special tokens included.
        prefix: What is put before each text.
        encoder: The frozen sentence encoder behind a learned projection, JSON values: name, version, weights_sha256,
            width. None if the words were trained with the rest.
    """

    outputs: Mapping[str, str]
    max_tokens: int
    prefix: str = ""
    encoder: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what no bundle can have."""
        if not self.outputs or not set(self.outputs) <= set(GRAPHS):
            raise BrokenBundle(f"text must compare with audio or video, got {dict(self.outputs)}")
        if not isinstance(self.max_tokens, int) or not 1 <= self.max_tokens <= 1 << 20:
            raise BrokenBundle(f"max_tokens must be in [1, 2^20], got {self.max_tokens!r}")


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """What a bundle with learned heads was made from: its tracks are those heads of its parent's tracks.

    Attributes:
        bundle_id: The parent.
        heads: File of the head of each modality that has one: rows (N, D) float32 → (N, D). Tracks of a modality
            without one are the parent's.
    """

    bundle_id: str
    heads: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse what no bundle can have."""
        if not isinstance(self.bundle_id, str) or any(HEADS.get(m) != file for m, file in self.heads.items()):
            raise BrokenBundle(
                f"a derived bundle names its parent and {', '.join(HEADS.values())}, got {self}"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a bundle.

    Attributes:
        name: Letters, digits, dots, dashes and underscores; for people.
        tracks: Shape (T, D) of a segment's track, for each modality of media that the bundle embeds.
        clip_spec: How media are decoded for this network.
        opset: ONNX operator set of the graphs.
        network: Geometry of the network, JSON values.
        training: How it was made: command, seed, seconds, metrics, or the file it was imported from; JSON values.
        agreement: Largest difference between ONNX and torch on the clips of the export, by graph.
        files: Size in bytes and sha256 of every other file, by name.
        family: Whose network it is; for people.
        text: How it embeds words; None if it does not.
        similarity: `cosine`: rows of tracks have unit length. `dot`: they keep their length, and scores have no bounds.
        shares_space: Whether sound and picture can be compared with each other.
        attribution: Whose work the weights are, and under which licence; shown wherever the bundle is.
        derived_from: The bundle whose tracks heads of this one adapt; None if it was trained or imported itself.
        weighs_moments: Whether an index scales stored rows of sound by how much each moment belongs to the picture.
        format: Version of this layout.
    """

    name: str
    tracks: Mapping[str, tuple[int, int]]
    clip_spec: ClipSpec
    opset: int
    network: dict[str, Any]
    training: dict[str, Any]
    agreement: dict[str, float]
    files: dict[str, dict[str, Any]]
    family: str = "tgdp"
    text: TextSpec | None = None
    similarity: Similarity = "cosine"
    shares_space: bool = True
    attribution: tuple[str, ...] = field(default=())
    derived_from: Derivation | None = None
    weighs_moments: bool = False
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse a manifest that no bundle can have."""
        if self.format not in FORMATS:
            raise BrokenBundle(f"bundle format must be {', '.join(map(str, FORMATS))}, got {self.format}")
        check_name(self.name)
        if not self.tracks or not set(self.tracks) <= set(GRAPHS):
            raise BrokenBundle(
                f"a bundle embeds audio, video or both, got {', '.join(map(str, self.tracks))}"
            )
        for modality, (num_moments, width) in self.tracks.items():
            if not 1 <= width <= 65_536:
                raise BrokenBundle(f"width of {modality} must be in [1, 65536], got {width}")
            if not 1 <= num_moments <= 4096:
                raise BrokenBundle(f"moments of {modality} must be in [1, 4096], got {num_moments}")
        if self.similarity not in get_args(Similarity):
            raise BrokenBundle(
                f"similarity must be {' or '.join(get_args(Similarity))}, got {self.similarity!r}"
            )
        if self.text is not None and not set(self.text.outputs) <= set(self.tracks):
            raise BrokenBundle(
                f"text compares with {', '.join(self.text.outputs)}, which the bundle does not embed"
            )
        if self.shares_space and len(set(self.tracks.values())) > 1:
            raise BrokenBundle(f"tracks that compare must be of one shape, got {dict(self.tracks)}")
        if self.weighs_moments and (reason := self.why_unweighable):
            raise BrokenBundle(f"moments cannot be weighed: {reason}")
        self._check_files()

    def _check_files(self) -> None:
        required = self.required_files
        data = {file + DATA_SUFFIX for file in required if file.endswith(".onnx")}
        if not isinstance(self.files, dict) or not set(required) <= set(self.files) <= {*required, *data}:
            raise BrokenBundle(f"files must be {', '.join(required)}, got {', '.join(map(str, self.files))}")

    @property
    def required_files(self) -> tuple[str, ...]:
        """The files that the bundle must have besides its manifest."""
        text = (TEXT_GRAPH, TOKENIZER) if self.text is not None else ()
        heads = () if self.derived_from is None else tuple(self.derived_from.heads.values())
        moments = (MOMENTS,) if self.weighs_moments else ()
        graphs = (GRAPHS[modality] for modality in GRAPHS if modality in self.tracks)
        return (*graphs, *text, *heads, *moments, GOLDEN)

    @property
    def why_unweighable(self) -> str | None:
        """Why moments of this bundle cannot be weighed; None if they can."""
        if not self.compares:
            return "sound and picture do not compare"
        if self.similarity != "cosine":
            return "it compares by dot product, so the length of a row says something else"
        return None if self.tracks["audio"][0] > 1 else "a segment has a single moment"

    @property
    def embedding_width(self) -> int:
        """Width D of its widest embeddings: of all in a bundle whose sound and picture compare."""
        return max(width for _, width in self.tracks.values())

    @property
    def compares(self) -> bool:
        """Whether it embeds sound and picture, and in one space."""
        return self.shares_space and set(self.tracks) == set(GRAPHS)

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
            spec = ClipSpec(**fields.pop("clip_spec"))
            if "tracks" not in fields:
                shape = spec.num_moments, fields.pop("embedding_width")
                fields["tracks"] = {"audio": shape, "video": shape}
            if fields.get("text") is not None:
                fields["text"] = TextSpec(**fields["text"])
            if fields.get("derived_from") is not None:
                fields["derived_from"] = Derivation(**fields["derived_from"])
            fields["attribution"] = tuple(fields.get("attribution", ()))
            tracks = {modality: _read_shape(shape) for modality, shape in fields.pop("tracks").items()}
            return cls(**{**fields, "clip_spec": spec, "tracks": tracks})
        except BrokenBundle:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise BrokenBundle(f"{MANIFEST} cannot be read: {exc}") from exc


def _read_shape(shape: Any) -> tuple[int, int]:
    num_moments, width = shape
    if not isinstance(num_moments, int) or not isinstance(width, int):
        raise BrokenBundle(f"a track's shape is two whole numbers, got {shape}")
    return num_moments, width
