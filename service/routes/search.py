"""`POST /v1/search`: a media file in, the sound or picture that belongs to it out."""

from __future__ import annotations

import pydantic_core
from fastapi import APIRouter, Request, Response

from models.clip import EmptyFile
from service.routes.admission import Client
from service.routes.parameters import InvalidParameter, SearchParameters, read_parameters
from service.routes.state import StateOf
from service.routes.upload import receive_upload
from service.schemas import UPLOAD_PROBLEMS, SearchAnswerBody, describe_form, describe_problems

router = APIRouter(tags=["search"])

PATH = "/v1/search"


@router.post(
    PATH,
    summary="Find the sound for a picture, or the picture for a sound",
    description=(
        "Send a media file and name what to find. The file is cut into segments of 10 s, each is compared "
        "with the library, and the best segment of each matching asset comes back, best first. A file with "
        "both streams is searched by its picture when `target` is `audio`, and by its sound when `target` is "
        "`video`; `from` overrides this.\n\nEvery field but `file` may be given in the query string instead."
    ),
    responses={200: {"model": SearchAnswerBody}, **describe_problems(*UPLOAD_PROBLEMS)},
    openapi_extra=describe_form(SearchParameters),
)
async def search(request: Request, state: StateOf) -> Response:
    """Answer a search."""
    state.admission.check()
    client = Client(request)
    snapshot = state.engine.snapshot(client.caller)
    async with receive_upload(request, state.uploads) as upload:
        parameters = read_parameters(request, upload.fields, SearchParameters)
        max_limit = state.engine.settings.max_limit
        if parameters.limit is not None and parameters.limit > max_limit:
            raise InvalidParameter([{"parameter": "limit", "message": f"must be at most {max_limit}"}])
        if upload.num_bytes == 0:
            raise EmptyFile("the file has 0 bytes")

        def work() -> bytes:
            answer = state.engine.search_file(
                upload.path,
                target=parameters.target,
                source=parameters.source,
                limit=parameters.limit,
                snapshot=snapshot,
            )
            return pydantic_core.to_json(answer.to_json())

        document = await state.admission.run_for(client, work)
    return Response(document, media_type="application/json")
