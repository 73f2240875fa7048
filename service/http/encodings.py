"""The three forms of an answer with embeddings: JSON, JSON with base64 float16, and a safetensors file.

| `encoding`    | numbers                           | error of a number | 10 s, both streams, width 768 |
|---------------|-----------------------------------|-------------------|-------------------------------|
| `json`        | lists, 7 decimals                 | 5e-8              | 270 kB                        |
| `base64`      | float16, little-endian            | 2.5e-4            | 70 kB                         |
| `safetensors` | float32, as the encoder gave them | 0                 | 105 kB                        |

Vectors that compare by cosine have unit length, so no number is above 1 and float16 rounds it by 2^-12 at most, and by
2^-11 of itself: the cosine of a vector and its rounded form is above 1 - 1.2e-7. Others are rounded by 2^-11 of
themselves too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from service.encode.embedding import EmbeddedSegment
from service.index.layout import VectorLayout
from service.search.file_query import EmbeddedFile
from service.system.modality import Modality, Track

Encoding = Literal["json", "base64", "safetensors"]
MODALITIES: tuple[Modality, ...] = ("audio", "video")
DECIMALS = 7  # an error of 5e-8, below float32's own; half the text of all digits
DTYPES = {"<f8": "F64", "<f4": "F32", "<i8": "I64"}  # numpy's names → those of safetensors
ALIGNMENT = 8  # bytes of the widest number: where the header ends, so that readers need no copy


def write_embeddings(embedded: EmbeddedFile, encoding: Encoding) -> tuple[bytes, str]:
    """Write the embeddings of a file in one of the forms; returns the body and its media type."""
    if encoding == "safetensors":
        return write_safetensors(embedded), "application/octet-stream"
    return (write_json if encoding == "json" else write_base64)(embedded), "application/json"


def write_texts(
    vectors: Mapping[Modality, NDArray[np.float32]], *, bundle_id: str, encoding: Encoding
) -> tuple[bytes, str]:
    """Write vectors of N texts, float32 (N, D) by the modality they compare with; returns body and media type."""
    if encoding == "safetensors":
        tensors: dict[str, NDArray[Any]] = {modality: found for modality, found in vectors.items()}  # noqa: C416 - keys
        return _pack(tensors, {"bundle_id": bundle_id}), "application/octet-stream"
    write: Callable[[NDArray[np.float32]], Any] = _list if encoding == "json" else _encode
    rows = {modality: [write(row) for row in found] for modality, found in vectors.items()}
    num_texts = len(next(iter(vectors.values())))
    texts = [{m: rows[m][n] if m in rows else None for m in MODALITIES} for n in range(num_texts)]
    facts = {"dtype": "float16"} if encoding == "base64" else {}
    return pydantic_core.to_json({"bundle_id": bundle_id, **facts, "texts": texts}), "application/json"


def write_json(embedded: EmbeddedFile) -> bytes:
    """Write the embeddings as one JSON object with lists of numbers."""
    return _write_segments(embedded, {}, _list)


def write_base64(embedded: EmbeddedFile) -> bytes:
    """Write the embeddings as one JSON object with base64 of float16, little-endian, row after row."""
    shapes = embedded.layout.tracks
    widths = {width for _, width in shapes.values()}
    facts = {"dtype": "float16", "width": widths.pop() if len(widths) == 1 else None, "shapes": shapes}
    return _write_segments(embedded, facts, _encode)


def write_safetensors(embedded: EmbeddedFile) -> bytes:
    """Write the embeddings as a safetensors file (https://github.com/huggingface/safetensors#format).

    Tensors: `start_seconds` and `end_seconds`, float64 (N,), of the N segments; and for each modality that n of them
    have `audio_track`, float32 (n, T, D), `audio_pooled`, float32 (n, D), and `audio_segment`, int64 (n,), the
    numbers of these segments. `__metadata__` holds `bundle_id`, and `media` and `is_partial` as JSON.
    """
    metadata = {name: _to_text(value) for name, value in _describe_file(embedded).items()}
    return _pack(_to_tensors(embedded), metadata)


def _write_segments(
    embedded: EmbeddedFile, facts: Mapping[str, Any], write: Callable[[NDArray[np.float32]], Any]
) -> bytes:
    """Write JSON by segments: one call for a long file would hold Python's lock for half a second."""
    text = pydantic_core.to_json({**_describe_file(embedded), **facts, "segments": []}, inf_nan_mode="null")
    segments = b",".join(
        pydantic_core.to_json(_describe(segment, embedded.layout, write)) for segment in embedded.segments
    )
    return text.removesuffix(b"]}") + segments + b"]}"


def _describe_file(embedded: EmbeddedFile) -> dict[str, Any]:
    media = asdict(embedded.media)
    del media["modified_ns"]  # of our copy of the file, not of the client's
    return {"bundle_id": embedded.bundle_id, "media": media, "is_partial": embedded.is_partial}


def _describe(
    segment: EmbeddedSegment, layout: VectorLayout, write: Callable[[NDArray[np.float32]], Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {"start_seconds": segment.start_seconds, "end_seconds": segment.end_seconds}
    for modality in MODALITIES:
        track = segment.tracks.get(modality)
        described[modality] = (
            track if track is None else {"pooled": write(layout.pool(track)), "track": write(track)}
        )
    return described


def _list(values: NDArray[np.float32]) -> list[Any]:
    rounded: list[Any] = np.round(values.astype(np.float64), DECIMALS).tolist()
    return rounded


def _encode(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")


def _to_text(value: Any) -> str:
    """The value itself if it is text, else JSON: metadata of safetensors are strings."""
    return value if isinstance(value, str) else pydantic_core.to_json(value, inf_nan_mode="null").decode()


def _to_tensors(embedded: EmbeddedFile) -> dict[str, NDArray[Any]]:
    segments = embedded.segments
    tensors: dict[str, NDArray[Any]] = {
        "start_seconds": np.array([segment.start_seconds for segment in segments], "<f8"),
        "end_seconds": np.array([segment.end_seconds for segment in segments], "<f8"),
    }
    for modality in MODALITIES:
        tensors |= _stack(modality, [segment.tracks.get(modality) for segment in segments], embedded.layout)
    return tensors


def _stack(
    modality: Modality, tracks: Iterable[Track | None], layout: VectorLayout
) -> dict[str, NDArray[Any]]:
    present = {number: track for number, track in enumerate(tracks) if track is not None}
    if not present:
        return {}
    return {
        f"{modality}_segment": np.array(list(present), "<i8"),
        f"{modality}_track": np.stack(list(present.values()), dtype="<f4"),
        f"{modality}_pooled": np.stack([layout.pool(track) for track in present.values()], dtype="<f4"),
    }


def _pack(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    data: list[bytes] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda named: -named[1].itemsize):  # keeps all aligned
        data.append(tensor.tobytes())
        start, end = end, end + len(data[-1])
        header[name] = {
            "dtype": DTYPES[tensor.dtype.str],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = pydantic_core.to_json(header)
    text += b" " * (-len(text) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *data])
