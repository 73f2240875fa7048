"""`POST /v1/embeddings`: a media file in, the embeddings of its moments out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from models.media.clip import EmptyFile
from service.http.admission import Client
from service.http.embedding_schemas import EmbeddingsBody, EncodedEmbeddingsBody, TextEmbeddingsBody
from service.http.encodings import write_embeddings, write_texts
from service.http.openapi import describe_form, describe_problems
from service.http.parameters import EmbeddingParameters, TextsToEmbed, read_parameters
from service.http.queries import check_body, is_json, naming, read_json
from service.http.schemas import UPLOAD_PROBLEMS
from service.http.state import State, StateOf
from service.http.upload import receive_upload
from service.search.text_query import embed_texts

router = APIRouter(tags=["embeddings"])

PATH = "/v1/embeddings"
SAFETENSORS = (
    "With `encoding=safetensors`: a file that `safetensors.numpy.load` reads. Of the N segments `start_seconds` and "
    "`end_seconds`, float64 (N,). Of each modality that n of them have: `audio_track`, float32 (n, 16, D), "
    "`audio_pooled`, float32 (n, D), and `audio_segment`, int64 (n,), which segments these are; `video_…` likewise. "
    "Metadata: `bundle_id`, and as JSON `media` and `is_partial`."
)
ANSWER: dict[str, Any] = {
    "model": EmbeddingsBody | EncodedEmbeddingsBody | TextEmbeddingsBody,
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
        "Send a media file or a still picture and get the embeddings of every segment: a vector for each moment (16 "
        "in a TG-DP bundle) and their pooled vector, for sound and for picture, as far as the active bundle embeds "
        "them. Vectors of one `bundle_id` can be compared with each other, across sound and picture if the bundle "
        "compares them (`bundle` of `/readyz`); vectors of two cannot.\n\nLists of numbers cost the server and the "
        "client more than all the rest of the answer: programs should ask for `encoding=base64` or "
        "`encoding=safetensors`. Both fields may be given in the query string instead.\n\nAs JSON, embed `texts` "
        "if the active bundle embeds words."
    ),
    responses={200: ANSWER, **describe_problems(*UPLOAD_PROBLEMS)},
    openapi_extra=describe_form(EmbeddingParameters, json=TextsToEmbed.model_json_schema()),
)
async def create_embeddings(request: Request, state: StateOf) -> Response:
    """Answer with the embeddings of a file."""
    state.admission.check()
    client = Client(request)
    if is_json(request):
        return await _embed_texts(request, state, client)
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


async def _embed_texts(request: Request, state: State, client: Client) -> Response:
    body = await read_json(request, max_bytes=state.foley.settings.max_json_bytes)
    wanted = check_body(TextsToEmbed, body)
    with state.foley.lease(client.caller) as snapshot:

        def work() -> tuple[bytes, str]:
            vectors = embed_texts(wanted.texts, target=wanted.modality, snapshot=snapshot, naming=naming)
            return write_texts(vectors, bundle_id=snapshot.bundle_id, encoding=wanted.encoding)

        document, media_type = await state.admission.run_for(client, work)
    return Response(document, media_type=media_type)
