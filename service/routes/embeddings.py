"""`POST /v1/embeddings`: a media file in, the embeddings of its moments out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pydantic_core
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from models.clip import EmptyFile
from service.index.points import pool_track
from service.retrieval import EmbeddedFile, EmbeddedSegment
from service.routes.parameters import EmbeddingParameters, read_parameters
from service.routes.state import StateOf
from service.routes.upload import receive_upload
from service.schemas import UPLOAD_PROBLEMS, EmbeddingsBody, describe_form, describe_problems

router = APIRouter(tags=["embeddings"])

PATH = "/v1/embeddings"
DECIMALS = 7  # an error of 5e-8, below float32's own; half the text of all digits


@router.post(
    PATH,
    summary="Embed a media file",
    description=(
        "Send a media file and get the embeddings of every segment: 16 unit vectors (one for each moment) "
        "and their pooled vector, for sound and for picture. Vectors of one `bundle_id` can be compared with "
        "each other, across sound and picture; vectors of two cannot."
    ),
    responses={200: {"model": EmbeddingsBody}, **describe_problems(*UPLOAD_PROBLEMS)},
    openapi_extra=describe_form(EmbeddingParameters),
)
async def create_embeddings(request: Request, state: StateOf) -> Response:
    """Answer with the embeddings of a file."""
    state.admission.check()
    snapshot = state.engine.snapshot()
    async with receive_upload(request, state.uploads) as upload:
        parameters = read_parameters(request, upload.fields, EmbeddingParameters)
        if upload.num_bytes == 0:
            raise EmptyFile("the file has 0 bytes")

        def work() -> bytes:
            return write_json(
                state.engine.embed_file(upload.path, modality=parameters.modality, snapshot=snapshot)
            )

        document = await state.admission.run(work)
    return Response(document, media_type="application/json")


def write_json(embedded: EmbeddedFile) -> bytes:
    """Write the embeddings of a file as JSON, segment by segment.

    One call for all of a long file would hold Python's lock, and every other request, for half a second.

    Args:
        embedded: The embeddings.

    Returns:
        The text of one JSON object.
    """
    media = asdict(embedded.media)
    del media["modified_ns"]  # of our copy of the file, not of the client's
    head = {
        "bundle_id": embedded.bundle_id,
        "media": media,
        "is_partial": embedded.is_partial,
        "segments": [],
    }
    text = pydantic_core.to_json(head, inf_nan_mode="null")
    segments = b",".join(pydantic_core.to_json(_describe(segment)) for segment in embedded.segments)
    return text.removesuffix(b"]}") + segments + b"]}"


def _describe(segment: EmbeddedSegment) -> dict[str, Any]:
    described: dict[str, Any] = {"start_seconds": segment.start_seconds, "end_seconds": segment.end_seconds}
    for modality in ("audio", "video"):
        track = segment.tracks.get(modality)
        described[modality] = (
            track if track is None else {"pooled": _list(pool_track(track)), "track": _list(track)}
        )
    return described


def _list(values: NDArray[np.float32]) -> list[Any]:
    rounded: list[Any] = np.round(values.astype(np.float64), DECIMALS).tolist()
    return rounded
