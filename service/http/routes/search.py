"""`POST /v1/search`: a media file in, the sound or picture that belongs to it out. Or an asset, a track, or words."""

from __future__ import annotations

from collections.abc import Callable

import pydantic_core
from fastapi import APIRouter, Request, Response

from models.media.clip import EmptyFile
from service.http.admission import Client
from service.http.openapi import describe_form, describe_problems
from service.http.parameters import SearchParameters, read_parameters
from service.http.queries import describe_batch, describe_query, is_json, naming, read_batch, read_query
from service.http.schemas import UPLOAD_PROBLEMS, BatchAnswerBody, SearchAnswerBody
from service.http.state import State, StateOf
from service.http.upload import FILE_FIELD, MissingFile, receive_upload
from service.search.mixed_query import WeightedText
from service.search.text_query import search_text

router = APIRouter(tags=["search"])

PATH = "/v1/search"
BATCH_PATH = "/v1/search/batch"
JSON_PROBLEMS = tuple(status for status in UPLOAD_PROBLEMS if status != 507)


@router.post(
    PATH,
    summary="Find the sound for a picture, or the picture for a sound",
    description=(
        "Send a media file and name what to find. The file is cut into segments of 10 s, each is compared "
        "with the library, and the best segment of each matching asset comes back, best first. A file with "
        "both streams is searched by its picture when `target` is `audio`, and by its sound when `target` is "
        "`video`; `from` overrides this.\n\nEvery field but `file` may be given in the query string instead.\n\n"
        "As JSON, search with an indexed file (`asset_id`; with `start_seconds` one segment of it), or with a "
        "`track` from `/v1/embeddings`, or with words (`text`), which a form takes too, alone or beside the file. "
        "`queries` is a list of these with weights: the score is the weighted mean of their scores."
    ),
    responses={200: {"model": SearchAnswerBody}, **describe_problems(*UPLOAD_PROBLEMS)},
    openapi_extra=describe_form(SearchParameters, json=describe_query(), needs_file=False),
)
async def search(request: Request, state: StateOf) -> Response:
    """Answer a search."""
    state.admission.check()
    client = Client(request)
    if is_json(request):
        return await _search_stored(request, state, client)
    async with receive_upload(request, state.uploads, needs_file=False) as upload:
        if not upload.has_file and "text" not in {*request.query_params, *upload.fields}:
            raise MissingFile(f"the form has no part named {FILE_FIELD!r}, and no `text`")
        parameters = read_parameters(request, upload.fields, SearchParameters)
        options = parameters.to_options(state.foley.settings)
        text = parameters.text
        if upload.has_file and upload.num_bytes == 0:
            raise EmptyFile("the file has 0 bytes")
        words = None if text is None else WeightedText(text=text, weight=parameters.text_weight)

        with state.foley.lease(client.caller) as snapshot:

            def work() -> bytes:
                if upload.has_file:
                    span = (parameters.start_seconds, parameters.end_seconds)
                    answer = state.foley.search_file(
                        upload.path, options, words=words, span=span, snapshot=snapshot
                    )
                else:
                    answer = search_text(text or "", options, snapshot=snapshot)
                return pydantic_core.to_json(answer.to_json())

            return await _answer(state, client, work)


async def _search_stored(request: Request, state: State, client: Client) -> Response:
    settings = state.foley.settings
    query = await read_query(request, max_bytes=settings.max_json_bytes)
    with state.foley.lease(client.caller) as snapshot:
        return await _answer(
            state, client, lambda: pydantic_core.to_json(query.answer(settings, snapshot).to_json())
        )


@router.post(
    BATCH_PATH,
    summary="Answer several searches at once",
    description=(
        "A list of searches as JSON, each as `/v1/search` takes it; one answer for each, in their order. If one "
        "cannot be answered, none is, and `errors` begins with its number."
    ),
    responses={200: {"model": BatchAnswerBody}, **describe_problems(*JSON_PROBLEMS)},
    openapi_extra=describe_batch(),
)
async def search_batch(request: Request, state: StateOf) -> Response:
    """Answer several searches."""
    state.admission.check()
    client = Client(request)
    settings = state.foley.settings
    queries = await read_batch(
        request, max_bytes=settings.max_json_bytes, max_queries=settings.max_batch_queries
    )
    with state.foley.lease(client.caller) as snapshot:

        def work() -> bytes:
            answers = []
            for number, query in enumerate(queries):
                client.caller.check()
                with naming(str(number)):
                    answers.append(query.answer(settings, snapshot).to_json())
            return pydantic_core.to_json({"answers": answers})

        return await _answer(state, client, work)


async def _answer(state: State, client: Client, work: Callable[[], bytes]) -> Response:
    document = await state.admission.run_for(client, work)
    return Response(document, media_type="application/json")
