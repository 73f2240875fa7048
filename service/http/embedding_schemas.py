"""The bodies of embeddings as answers, for the OpenAPI description; see `service.http.schemas`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.http.schemas import TRACK, VECTOR


class EmbeddedTrack(BaseModel):
    """Embeddings of one segment in one modality."""

    pooled: list[float] = Field(description="Normalised mean of the track, unit length.")
    track: list[list[float]] = Field(description="16 unit vectors, one for each moment.")


class EmbeddedSegmentBody(BaseModel):
    """Embeddings of one segment."""

    start_seconds: float = Field(ge=0)
    end_seconds: float = Field(ge=0, description="Exclusive.")
    audio: EmbeddedTrack | None = Field(
        description="Null where the segment has no sound, or it was not asked for."
    )
    video: EmbeddedTrack | None = Field(description="Null where it has no picture, or it was not asked for.")


class EmbeddingsBody(BaseModel):
    """Embeddings of a file, segment by segment."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "bundle_id": "starter-0123456789ab",
                    "media": {"container": "mp4", "duration_seconds": 8.0, "video_codec": "h264"},
                    "is_partial": False,
                    "segments": [
                        {
                            "start_seconds": 0.0,
                            "end_seconds": 8.0,
                            "audio": {"pooled": [0.6, 0.8], "track": [[0.6, 0.8]] * 16},
                            "video": {"pooled": [0.8, 0.6], "track": [[0.8, 0.6]] * 16},
                        }
                    ],
                }
            ]
        }
    )

    bundle_id: str = Field(description="The encoder bundle. Vectors of two bundles cannot be compared.")
    media: dict[str, Any] = Field(description="Facts about the file.")
    is_partial: bool = Field(description="True when less than 95 % of the file could be decoded.")
    segments: list[EmbeddedSegmentBody]


class EncodedTrack(BaseModel):
    """Embeddings of one segment in one modality, each number a little-endian float16."""

    pooled: str = Field(
        description="Normalised mean of the track, unit length: base64 of `width` numbers.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    track: str = Field(
        description="16 unit vectors, one for each moment, one after another: base64 of 16 × `width` numbers.",
        json_schema_extra={"contentEncoding": "base64"},
    )


class EncodedSegmentBody(BaseModel):
    """Embeddings of one segment, written as base64."""

    start_seconds: float = Field(ge=0)
    end_seconds: float = Field(ge=0, description="Exclusive.")
    audio: EncodedTrack | None = Field(
        description="Null where the segment has no sound, or it was not asked for."
    )
    video: EncodedTrack | None = Field(description="Null where it has no picture, or it was not asked for.")


class EncodedEmbeddingsBody(BaseModel):
    """Embeddings of a file with `encoding=base64`, segment by segment."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "bundle_id": "starter-0123456789ab",
                    "media": {"container": "mp4", "duration_seconds": 8.0, "video_codec": "h264"},
                    "is_partial": False,
                    "dtype": "float16",
                    "width": 2,
                    "segments": [
                        {
                            "start_seconds": 0.0,
                            "end_seconds": 8.0,
                            "audio": {"pooled": VECTOR, "track": TRACK},
                            "video": {"pooled": VECTOR, "track": TRACK},
                        }
                    ],
                }
            ]
        }
    )

    bundle_id: str = Field(description="The encoder bundle. Vectors of two bundles cannot be compared.")
    media: dict[str, Any] = Field(description="Facts about the file.")
    is_partial: bool = Field(description="True when less than 95 % of the file could be decoded.")
    dtype: Literal["float16"] = Field(description="What the bytes are: little-endian half precision.")
    width: int = Field(ge=1, description="Numbers of one vector.")
    segments: list[EncodedSegmentBody]
