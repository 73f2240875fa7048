"""The bodies of `/v1/embeddings` as the OpenAPI description shows them; see `service.http.schemas`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from service.http.document import Document
from service.http.schemas import IS_PARTIAL, RELEASE_ID, UPLOADED_MEDIA, UploadedMedia, example
from service.system.modality import Modality

VECTOR = "zThmOg=="  # [0.6, 0.8] as float16
TRACK = "zThmOs04ZjrNOGY6" * 5 + VECTOR  # 16 times the same


def _embeddings_example(track: dict[str, Any], **facts: Any) -> ConfigDict:
    segment = {"start_seconds": 0.0, "end_seconds": 8.0, "audio": track, "video": track}
    document = {"bundle_id": RELEASE_ID, "media": UPLOADED_MEDIA, "is_partial": False, "segments": [segment]}
    return example({**document, **facts})


class EmbeddedTrack(Document):
    """Embeddings of one segment in one modality."""

    pooled: list[float] = Field(
        description="Mean of the track; of unit length if the bundle compares by cosine."
    )
    track: list[list[float]] = Field(
        description="One vector for each moment; unit vectors if the bundle compares by cosine."
    )


class _Segment(Document):
    start_seconds: float = Field(ge=0)
    end_seconds: float = Field(ge=0, description="Exclusive.")


class EmbeddedSegmentBody(_Segment):
    """Embeddings of one segment."""

    audio: EmbeddedTrack | None = Field(description="Null if it has no sound, or that was not asked for.")
    video: EmbeddedTrack | None = Field(description="Null if it has no picture, or that was not asked for.")


class _Embeddings(Document):
    bundle_id: str = Field(description="The encoder bundle. Vectors of two bundles cannot be compared.")
    media: UploadedMedia
    is_partial: bool = Field(description=IS_PARTIAL)


class EmbeddingsBody(_Embeddings):
    """Embeddings of a file, segment by segment."""

    model_config = _embeddings_example({"pooled": [0.6, 0.8], "track": [[0.6, 0.8]] * 16})

    segments: list[EmbeddedSegmentBody]


class EncodedTrack(Document):
    """Embeddings of one segment in one modality, each number a little-endian float16."""

    pooled: str = Field(
        description="Mean of the track; of unit length if the bundle compares by cosine: base64 of D numbers.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    track: str = Field(
        description="One vector for each moment, one after another: base64 of T × D numbers.",
        json_schema_extra={"contentEncoding": "base64"},
    )


class EncodedSegmentBody(_Segment):
    """Embeddings of one segment, written as base64."""

    audio: EncodedTrack | None = Field(description="Null if it has no sound, or that was not asked for.")
    video: EncodedTrack | None = Field(description="Null if it has no picture, or that was not asked for.")


class EncodedEmbeddingsBody(_Embeddings):
    """Embeddings of a file with `encoding=base64`, segment by segment."""

    model_config = _embeddings_example(
        {"pooled": VECTOR, "track": TRACK},
        dtype="float16",
        width=2,
        shapes={"audio": [16, 2], "video": [16, 2]},
    )

    dtype: Literal["float16"] = Field(description="What the bytes are: little-endian half precision.")
    width: int | None = Field(
        description="Numbers D of one vector; null if sound and picture have vectors of two widths."
    )
    shapes: dict[Modality, tuple[int, int]] = Field(
        description="Vectors T of a track and numbers D of each, by modality."
    )
    segments: list[EncodedSegmentBody]


class TextVector(Document):
    """The vectors of one text: lists of numbers, or base64 of little-endian float16."""

    audio: list[float] | str | None = Field(
        description="Compares with sound; null if that was not asked for."
    )
    video: list[float] | str | None = Field(
        description="Compares with picture; null if that was not asked for."
    )


class TextEmbeddingsBody(Document):
    """Embeddings of texts."""

    model_config = example({"bundle_id": RELEASE_ID, "texts": [{"audio": [0.6, 0.8], "video": [0.8, 0.6]}]})

    bundle_id: str = Field(description="The encoder bundle. Vectors of two bundles cannot be compared.")
    dtype: Literal["float16"] | None = Field(None, description="What the bytes of base64 are.")
    texts: list[TextVector] = Field(
        description="In the order they were given. Repeated once for each moment, a vector is a track to search with."
    )
