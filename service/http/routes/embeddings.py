"""`POST /v1/embeddings`: a media file in, the embeddings of its moments out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from models.media.clip import EmptyFile
from service.http.admission import Client
from service.http.encodings import write_embeddings
from service.http.openapi import describe_form, describe_problems
from service.http.parameters import EmbeddingParameters, read_parameters
from service.http.schemas import UPLOAD_PROBLEMS, EmbeddingsBody, EncodedEmbeddingsBody
from service.http.state import StateOf
from service.http.upload import receive_upload

router = APIRouter(tags=["embeddings"])

PATH = "/v1/embeddings"
SAFETENSORS = (
    "With `encoding=safetensors`: a file that `safetensors.numpy.load` reads. Of the N segments `start_seconds` and "
    "`end_seconds`, float64 (N,). Of each modality that n of them have: `audio_track`, float32 (n, 16, D), "
    "`audio_pooled`, float32 (n, D), and `audio_segment`, int64 (n,), which segments these are; `video_…` likewise. "
    "Metadata: `bundle_id`, and as JSON `media` and `is_partial`."
)
ANSWER: dict[str, Any] = {
    "model": EmbeddingsBody | EncodedEmbeddingsBody,
    "description": "The embeddings, in the form that `encoding` names.",
    "content": {
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary", "description": SAFETENSORS}
        }
    },
}


@router.post(
    PATH,
    summary="Embed a media file",
    description=(
        "Send a media file and get the embeddings of every segment: 16 unit vectors (one for each moment) "
        "and their pooled vector, for sound and for picture. Vectors of one `bundle_id` can be compared with "
        "each other, across sound and picture; vectors of two cannot.\n\nLists of numbers cost the server and the "
        "client more than all the rest of the answer: programs should ask for `encoding=base64` or "
        "`encoding=safetensors`. Both fields may be given in the query string instead."
    ),
    responses={200: ANSWER, **describe_problems(*UPLOAD_PROBLEMS)},
    openapi_extra=describe_form(EmbeddingParameters),
)
async def create_embeddings(request: Request, state: StateOf) -> Response:
    """Answer with the embeddings of a file."""
    state.admission.check()
    client = Client(request)
    async with receive_upload(request, state.uploads) as upload:
        parameters = read_parameters(request, upload.fields, EmbeddingParameters)
        if upload.num_bytes == 0:
            raise EmptyFile("the file has 0 bytes")

        with state.foley.lease(client.caller) as snapshot:

            def work() -> tuple[bytes, str]:
                embedded = state.foley.embed_file(
                    upload.path, modality=parameters.modality, snapshot=snapshot
                )
                return write_embeddings(embedded, parameters.encoding)

            document, media_type = await state.admission.run_for(client, work)
    return Response(document, media_type=media_type)
