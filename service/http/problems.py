"""What a client gets for each error: RFC 9457 `application/problem+json`.

An exception lives beside the code that raises it and carries a stable `code` (`service.system.failure`). This is the
one table of what a code means over HTTP. Clients may act on codes; titles and details are for people.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from models.bundle.bundle import BrokenBundle
from models.media.clip import UnreadableClip
from service.system.failure import Failure, is_out_of_files
from service.system.validation import name_faults

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
INTERNAL = "internal_error"


class Problem(NamedTuple):
    """What a code means to a client: the HTTP status, and a title that is the same for every occurrence."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = {
    "client_disconnected": Problem(400, "The client disconnected"),
    "malformed_body": Problem(400, "The request body cannot be parsed"),
    "too_many_fields": Problem(400, "The form is too large"),
    "unauthorized": Problem(401, "The request needs a valid API key"),
    "cross_origin": Problem(403, "Pages of other sites may not call this"),
    "invalid_location": Problem(422, "The address names no storage that is read"),
    "insufficient_scope": Problem(403, "The API key does not allow this"),
    "path_not_allowed": Problem(403, "Jobs may not read this path"),
    "refused": Problem(403, "Requests from this origin are not allowed"),
    "asset_not_found": Problem(404, "No such asset"),
    "collection_not_found": Problem(404, "No such collection"),
    "job_not_found": Problem(404, "No such job"),
    "media_missing": Problem(404, "The asset's file is gone"),
    "release_not_found": Problem(404, "No such release"),
    "body_timeout": Problem(408, "The request body came too slowly"),
    "collections_full": Problem(409, "There is no room for more"),
    "method_missing": Problem(422, "The map cannot be made by this method here"),
    "cannot_tell": Problem(409, "The release does not tell what belongs together"),
    "moments_not_weighed": Problem(409, "The release does not weigh moments"),
    "job_ended": Problem(409, "The job has ended"),
    "job_not_ended": Problem(409, "The job has not ended"),
    "no_classifier": Problem(409, "Nothing suggests tags for the active release"),
    "release_error": Problem(409, "This release does not allow that"),
    "release_in_use": Problem(409, "The release is in use"),
    "release_refused": Problem(409, "The release did not pass its gates"),
    "sync_refused": Problem(409, "Files or their disk seem to be missing"),
    "too_few_pairs": Problem(409, "The library has too few files with sound and picture"),
    "too_many_gone": Problem(409, "More files are gone than one sync removes without asking"),
    "media_changed": Problem(410, "The asset's file has changed since it was indexed"),
    "collection_changed": Problem(412, "The collection was changed meanwhile"),
    "object_too_large": Problem(413, "The object is larger than local copies may be"),
    "too_large": Problem(413, "The request is too large"),
    "not_media": Problem(415, "The file is not a media file of a known kind"),
    "unsupported_content_type": Problem(415, "This route does not accept this content type"),
    "range_not_satisfiable": Problem(416, "The range lies outside the file"),
    "host_not_allowed": Problem(421, "This host name is not allowed"),
    "broken_media": Problem(422, "The file is damaged"),
    "decode_timed_out": Problem(422, "Decoding the file takes too long"),
    "decoder_crashed": Problem(422, "The decoder crashed on this file"),
    "empty": Problem(422, "The file is empty"),
    "encrypted": Problem(422, "The file is encrypted"),
    "idempotency_key_reused": Problem(422, "The idempotency key belongs to another request"),
    "invalid_parameter": Problem(422, "A parameter is not valid"),
    "missing_file": Problem(422, "The form has no file"),
    "no_embedding": Problem(422, "The file gives no usable embedding"),
    "not_embedded": Problem(422, "The active bundle does not embed this"),
    "nothing_to_export": Problem(422, "There is nothing to export"),
    "no_stream": Problem(422, "The file has no stream of the requested kind"),
    "not_a_file": Problem(422, "Not a regular file"),
    "not_calibrated": Problem(422, "Scores are not calibrated"),
    "text_too_long": Problem(422, "The text is too long"),
    "not_comparable": Problem(422, "The active bundle does not compare sound with picture"),
    "too_complex": Problem(422, "The file exceeds the decoder's limits"),
    "too_long": Problem(422, "The file is too long"),
    "unknown_asset": Problem(422, "The asset to search with is not indexed"),
    "unknown_segment": Problem(422, "The asset to search with has no such segment"),
    "unforeseen": Problem(422, "The service failed at this file"),
    "unreadable": Problem(422, "The file cannot be used"),
    "too_many_streams": Problem(429, "Too many event streams are open"),
    "overloaded": Problem(429, "Too many requests at once; try again"),
    "build_failed": Problem(500, "The release could not be built"),
    INTERNAL: Problem(500, "The service failed"),
    "broken_bundle": Problem(503, "The encoder bundle is damaged"),
    "deadline_passed": Problem(503, "The answer was not ready in time; try again"),
    "decoder_unavailable": Problem(503, "The decoder is not available"),
    "encoder_closed": Problem(503, "The service is stopping"),
    "encoder_failed": Problem(503, "The encoder failed"),
    "index_damaged": Problem(503, "The index has lost data"),
    "index_failed": Problem(503, "The index failed"),
    "index_in_use": Problem(503, "Another process has the index open"),
    "index_unavailable": Problem(503, "The index is not available"),
    "keys_unavailable": Problem(503, "API keys cannot be checked now"),
    "ledger_failed": Problem(503, "The ledger of jobs cannot be used"),
    "ledger_in_use": Problem(503, "Another process writes the ledger"),
    "cluster_unavailable": Problem(503, "The cluster, or an index that its machines share, is not there"),
    "storage_unavailable": Problem(503, "The storage of the library's objects does not answer"),
    "out_of_files": Problem(503, "The service has too many files open; try again"),
    "not_ready": Problem(503, "The service cannot answer correctly now"),
    "disk_full": Problem(507, "The disk is full"),
}


class InvalidParameter(Failure):
    """A parameter is missing, unknown, given twice or out of range; `errors` has name and fault of each."""

    code = "invalid_parameter"

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__("; ".join(f"{error['parameter']}: {error['message']}" for error in errors))
        self.errors = list(errors)

    @classmethod
    def of(cls, found: Sequence[Mapping[str, Any]]) -> InvalidParameter:
        """The error for what pydantic or FastAPI found, with names as the client wrote them."""
        places = ("query", "path", "body", "header")  # FastAPI's, before the name
        named = (
            {**e, "loc": e["loc"][1:] if e["loc"][:1] and e["loc"][0] in places else e["loc"]} for e in found
        )
        faults = name_faults(named).items()
        return cls([{"parameter": place[:80] or "request", "message": fault} for place, fault in faults])


def code_of(exc: Exception) -> str:
    """The code of an exception of ours; `internal_error` for any other."""
    if isinstance(exc, ClientDisconnect):
        return "client_disconnected"
    if is_out_of_files(exc):
        return "out_of_files"
    return exc.code if isinstance(exc, Failure | UnreadableClip | BrokenBundle) else INTERNAL


def problem_response(
    request: Request,
    code: str,
    problem: Problem,
    *,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
) -> Response:
    """Answer with a problem; path and id of the request name the occurrence, `errors` the bad parameters."""
    request.state.problem_code = code  # for the log
    document = {
        "type": f"urn:foley:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "code": code,
        "detail": detail,
        "instance": request.url.path,
        "request_id": getattr(request.state, "request_id", None),
    }
    if errors:
        document["errors"] = list(errors)
    return Response(
        pydantic_core.to_json(document, inf_nan_mode="null"),
        status_code=problem.status,
        media_type=PROBLEM_TYPE,
        headers={**(headers or {}), "Cache-Control": "no-store"},
    )


async def answer_own_error(request: Request, exc: Exception) -> Response:
    """Answer one of our exceptions with the table's row for its code."""
    code = code_of(exc)
    problem = PROBLEMS.get(code, PROBLEMS[INTERNAL])
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        request_id = getattr(request.state, "request_id", None)
        logger.error("request %s failed with %s", request_id, code, exc_info=exc)
    headers = dict(getattr(exc, "headers", None) or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", "5")
    is_public = code != INTERNAL and getattr(exc, "is_public", True)
    detail = str(exc) if is_public else problem.title
    return problem_response(
        request, code, problem, detail=detail, headers=headers, errors=getattr(exc, "errors", ())
    )


async def answer_os_error(request: Request, exc: Exception) -> Response:
    """Answer an error of the system that passes; any other is unexpected."""
    if not is_out_of_files(exc):
        raise exc
    return await answer_own_error(request, exc)


async def answer_http_error(request: Request, exc: Exception) -> Response:
    """Answer an error that the framework raised by its status."""
    if not isinstance(exc, HTTPException):
        return answer_unexpected(request, exc)
    cause = exc.__cause__
    if isinstance(cause, Exception) and code_of(cause) != INTERNAL:
        # FastAPI calls whatever ends the reading of a body a 400.
        return await answer_own_error(request, cause)
    title = HTTPStatus(exc.status_code).phrase
    code = title.lower().replace(" ", "_")  # not_found, method_not_allowed
    problem = Problem(exc.status_code, title)
    return problem_response(request, code, problem, detail=str(exc.detail), headers=exc.headers)


async def answer_invalid_request(request: Request, exc: Exception) -> Response:
    """Answer a request whose parameters FastAPI refused."""
    if not isinstance(exc, RequestValidationError):
        return answer_unexpected(request, exc)
    return await answer_own_error(request, InvalidParameter.of(exc.errors()))


def answer_unexpected(request: Request, exc: Exception) -> Response:
    """Answer an unforeseen error: log all of it, and tell the client nothing but the request's id."""
    request_id = getattr(request.state, "request_id", None)
    logger.error("request %s failed unexpectedly", request_id, exc_info=exc)
    detail = "An unexpected error was logged under this request id."
    return problem_response(request, INTERNAL, PROBLEMS[INTERNAL], detail=detail)


def add_error_handlers(app: FastAPI) -> None:
    """Let an application answer every error with a problem (unexpected ones: see `service.http.request_log`)."""
    for kind in (Failure, UnreadableClip, BrokenBundle, ClientDisconnect):
        app.add_exception_handler(kind, answer_own_error)
    app.add_exception_handler(OSError, answer_os_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_invalid_request)
