"""Every error of ours, what a client is told about it, and how: RFC 9457 `application/problem+json`.

The tree (an exception lives beside the code that raises it; this is the one place that lists them all):

    models.clip         UnreadableClip: EmptyFile, NotMedia, NoStream, ClipTooLong, BrokenMedia, ...
    service.decoding    DecodeFailure: DecodeTimedOut, DecoderCrashed, DecoderClosed
    models.bundle       BrokenBundle
    service.encoder     EncoderFailure: DeviceMissing, GoldenMismatch
    service.matching    NotCalibrated
    service.releases    ReleaseError: ReleaseNotFound, ReleaseInUse, ReleaseRefused, BuildFailed; TooFewPairs
    service.durable     NoRoom
    service.caller      CallerGone, DeadlinePassed
    service.batching    QueueFull, BatcherClosed
    service.keys        KeysFailure: NoSuchKey, InvalidKeyName; Unauthorized, ScopeMissing
    service.index       IndexFailure: IndexInUse, IndexUnavailable, IndexFull, InvalidVector, InvalidSegment,
                        InvalidFilter, InvalidCursor
    service.stored_query  UnusableQuery: UnknownAsset, UnknownSegment, MissingModality
    service.metadata    InvalidMetadata
    service.scanning    UnusableFile (of a library; no request raises it)
    service.ledger      LedgerFailure: LedgerInUse, LedgerFull, KeyReused, JobNotFound
    service.jobs        JobNotEnded, JobEnded
    service.sync        SyncRefused (fails a job; no request raises it)
    service.routes
        origin          Refused: HostNotAllowed, CrossOrigin
        body            BodyTooLarge, BodyTooSlow
        form            InvalidForm: NotMultipart, MalformedBody, TooManyParts, MissingFile, DuplicateField
        upload          UploadDiskFull
        parameters      InvalidParameter
        admission       Overloaded
        assets          AssetNotFound
        jobs            PathNotAllowed
        media           MediaMissing, MediaChanged, RangeNotSatisfiable
        readiness       NotReady

`problem_of` finds the entry of an exception by its class, or by the nearest class above it. Codes are stable:
clients may act on them; titles and details are for people.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from models import bundle, clip
from service import (
    batching,
    caller,
    decoding,
    durable,
    encoder,
    jobs,
    keys,
    ledger,
    matching,
    metadata,
    stored_query,
    sync,
)
from service.index import contract
from service.releases import building, calibration
from service.releases import store as release_store
from service.routes import admission, assets, body, form, media, origin, parameters, readiness, upload
from service.routes import jobs as job_routes

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What one kind of error means to a client.

    Attributes:
        status: HTTP status.
        code: Stable name; also the last part of the problem's `type`.
        title: What it means, the same for every occurrence.
        shows_detail: Whether the exception's message is meant for the client.
    """

    status: int
    code: str
    title: str
    shows_detail: bool = True


INTERNAL = Problem(status=500, code="internal_error", title="The service failed", shows_detail=False)

PROBLEMS: Mapping[type[Exception], Problem] = {
    clip.EmptyFile: Problem(status=422, code="empty", title="The file is empty"),
    clip.NotMedia: Problem(
        status=415, code="not_media", title="The file is not a media file of a known kind"
    ),
    clip.NoStream: Problem(
        status=422, code="no_stream", title="The file has no stream of the kind asked for"
    ),
    clip.ClipTooLong: Problem(status=422, code="too_long", title="The file lasts too long"),
    clip.BrokenMedia: Problem(status=422, code="broken_media", title="The file is damaged"),
    clip.TooComplex: Problem(status=422, code="too_complex", title="The file asks too much of the decoder"),
    clip.NotARegularFile: Problem(status=422, code="not_a_file", title="Not a regular file"),
    clip.UnreadableClip: Problem(status=422, code="unreadable", title="The file cannot be used"),
    decoding.DecodeTimedOut: Problem(
        status=422, code="decode_timed_out", title="Decoding the file takes too long"
    ),
    decoding.DecoderCrashed: Problem(
        status=422, code="decoder_crashed", title="The file brought the decoder down", shows_detail=False
    ),
    decoding.DecodeFailure: Problem(
        status=503, code="decoder_unavailable", title="The decoder is not available"
    ),
    bundle.BrokenBundle: Problem(status=503, code="broken_bundle", title="The encoder bundle is damaged"),
    encoder.EncoderFailure: Problem(
        status=503, code="encoder_failed", title="The encoder failed", shows_detail=False
    ),
    batching.QueueFull: Problem(status=429, code="overloaded", title="Too many requests at once; try again"),
    batching.BatcherClosed: Problem(status=503, code="encoder_closed", title="The service is stopping"),
    durable.NoRoom: Problem(status=507, code="disk_full", title="The disk is full", shows_detail=False),
    caller.DeadlinePassed: Problem(
        status=503, code="deadline_passed", title="The answer was not ready in time; try again"
    ),
    caller.CallerGone: Problem(status=400, code="client_disconnected", title="The client went away"),
    contract.IndexFull: Problem(status=507, code="disk_full", title="The disk is full"),
    contract.InvalidFilter: Problem(status=422, code="invalid_parameter", title="A parameter is not valid"),
    contract.InvalidCursor: Problem(status=422, code="invalid_parameter", title="A parameter is not valid"),
    contract.IndexUnavailable: Problem(
        status=503, code="index_unavailable", title="The index is not available"
    ),
    contract.IndexInUse: Problem(status=503, code="index_in_use", title="Another process has the index open"),
    contract.InvalidVector: Problem(
        status=422, code="no_embedding", title="The file gives no usable embedding", shows_detail=False
    ),
    contract.IndexFailure: Problem(
        status=503, code="index_failed", title="The index failed", shows_detail=False
    ),
    keys.Unauthorized: Problem(status=401, code="unauthorized", title="The request needs a valid API key"),
    keys.ScopeMissing: Problem(
        status=403, code="insufficient_scope", title="The API key does not allow this"
    ),
    keys.KeysFailure: Problem(
        status=503, code="keys_unavailable", title="API keys cannot be checked now", shows_detail=False
    ),
    origin.HostNotAllowed: Problem(
        status=421, code="host_not_allowed", title="The service does not answer under this name"
    ),
    origin.CrossOrigin: Problem(
        status=403, code="cross_origin", title="Pages of other sites may not call this"
    ),
    origin.Refused: Problem(status=403, code="refused", title="The request comes from where none may come"),
    calibration.TooFewPairs: Problem(
        status=409, code="too_few_pairs", title="The library has too few files with sound and picture"
    ),
    building.BuildFailed: Problem(status=500, code="build_failed", title="The release could not be built"),
    release_store.ReleaseNotFound: Problem(status=404, code="release_not_found", title="No such release"),
    release_store.ReleaseInUse: Problem(status=409, code="release_in_use", title="The release is in use"),
    release_store.ReleaseRefused: Problem(
        status=409, code="release_refused", title="The release did not pass its gates"
    ),
    release_store.ReleaseError: Problem(
        status=409, code="release_error", title="That cannot be done with this release"
    ),
    matching.NotCalibrated: Problem(
        status=422, code="not_calibrated", title="Nobody knows what these scores mean"
    ),
    body.BodyTooLarge: Problem(status=413, code="too_large", title="The request is too large"),
    body.BodyTooSlow: Problem(status=408, code="body_timeout", title="The request body came too slowly"),
    form.NotMultipart: Problem(
        status=415,
        code="unsupported_content_type",
        title="The request body is of another type than this route takes",
    ),
    form.MalformedBody: Problem(status=400, code="malformed_body", title="The request body cannot be parsed"),
    form.TooManyParts: Problem(status=400, code="too_many_fields", title="The form is too large"),
    form.MissingFile: Problem(status=422, code="missing_file", title="The form has no file"),
    form.DuplicateField: Problem(status=422, code="invalid_parameter", title="A parameter is not valid"),
    form.InvalidForm: Problem(status=400, code="malformed_body", title="The request body cannot be used"),
    upload.UploadDiskFull: Problem(status=507, code="disk_full", title="The disk is full"),
    admission.Overloaded: Problem(
        status=429, code="overloaded", title="Too many requests at once; try again"
    ),
    parameters.InvalidParameter: Problem(
        status=422, code="invalid_parameter", title="A parameter is not valid"
    ),
    stored_query.UnknownAsset: Problem(
        status=422, code="unknown_asset", title="The asset to search with is not indexed"
    ),
    stored_query.UnknownSegment: Problem(
        status=422, code="unknown_segment", title="The asset has no such segment to search with"
    ),
    stored_query.MissingModality: Problem(
        status=422, code="no_stream", title="The file has no stream of the kind asked for"
    ),
    stored_query.UnusableQuery: Problem(
        status=422, code="invalid_parameter", title="A parameter is not valid"
    ),
    metadata.InvalidMetadata: Problem(status=422, code="invalid_parameter", title="A parameter is not valid"),
    ledger.KeyReused: Problem(
        status=422, code="idempotency_key_reused", title="The idempotency key belongs to another request"
    ),
    ledger.JobNotFound: Problem(status=404, code="job_not_found", title="No such job"),
    ledger.LedgerFull: Problem(status=507, code="disk_full", title="The disk is full"),
    ledger.LedgerInUse: Problem(status=503, code="ledger_in_use", title="Another process writes the ledger"),
    ledger.LedgerFailure: Problem(
        status=503, code="ledger_failed", title="The ledger of jobs cannot be used", shows_detail=False
    ),
    jobs.JobNotEnded: Problem(status=409, code="job_not_ended", title="The job has not ended"),
    jobs.JobEnded: Problem(status=409, code="job_ended", title="The job has ended"),
    sync.SyncRefused: Problem(
        status=409, code="sync_refused", title="Files seem to be gone, or their disk is"
    ),
    job_routes.PathNotAllowed: Problem(
        status=403, code="path_not_allowed", title="Jobs may not work on this path"
    ),
    assets.AssetNotFound: Problem(status=404, code="asset_not_found", title="No such asset"),
    media.MediaMissing: Problem(status=404, code="media_missing", title="The asset's file is gone"),
    media.MediaChanged: Problem(
        status=409, code="media_changed", title="The asset's file is not the one indexed"
    ),
    media.RangeNotSatisfiable: Problem(
        status=416, code="range_not_satisfiable", title="The range lies outside the file"
    ),
    readiness.NotReady: Problem(
        status=503, code="not_ready", title="The service cannot answer correctly now"
    ),
    ClientDisconnect: Problem(status=400, code="client_disconnected", title="The client went away"),
}

# Errors of the framework: no route, wrong method, a parameter that FastAPI checked.
HTTP_CODES: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed"}


def problem_of(exc: Exception) -> Problem:
    """The table's entry for an exception, by its class or the nearest one above; else `INTERNAL`."""
    for kind in type(exc).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind]
    return INTERNAL


def problem_response(
    request: Request,
    problem: Problem,
    *,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
) -> Response:
    """Answer with a problem.

    Args:
        request: The request that failed; its path and id name the occurrence.
        problem: What kind of error it is.
        detail: What happened this time.
        headers: Further response headers.
        errors: One object for each parameter at fault, where that is the problem.

    Returns:
        The answer.
    """
    request.state.problem_code = problem.code  # for the log
    document = {
        "type": f"urn:foley:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
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
    """Answer with the table's entry for one of our exceptions."""
    problem = problem_of(exc)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        request_id = getattr(request.state, "request_id", None)
        logger.error("request %s failed with %s", request_id, problem.code, exc_info=exc)
    headers = dict(getattr(exc, "headers", None) or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", "5")
    detail = str(exc) if problem.shows_detail else problem.title
    return problem_response(
        request, problem, detail=detail, headers=headers, errors=getattr(exc, "errors", ())
    )


async def answer_http_error(request: Request, exc: Exception) -> Response:
    """Answer an error that the framework raised by its status."""
    if not isinstance(exc, HTTPException):
        return answer_unexpected(request, exc)
    cause = exc.__cause__
    if isinstance(cause, Exception) and problem_of(cause) is not INTERNAL:
        return await answer_own_error(
            request, cause
        )  # FastAPI calls whatever ends the reading of a body a 400
    title = HTTPStatus(exc.status_code).phrase
    code = HTTP_CODES.get(exc.status_code, title.lower().replace(" ", "_"))
    problem = Problem(status=exc.status_code, code=code, title=title)
    return problem_response(request, problem, detail=str(exc.detail), headers=exc.headers)


async def answer_invalid_request(request: Request, exc: Exception) -> Response:
    """Answer a request whose parameters FastAPI refused."""
    if not isinstance(exc, RequestValidationError):
        return answer_unexpected(request, exc)
    invalid = parameters.InvalidParameter.of(exc.errors())
    return await answer_own_error(request, invalid)


def answer_unexpected(request: Request, exc: Exception) -> Response:
    """Answer an error nobody foresaw: log all of it, say nothing of it."""
    request_id = getattr(request.state, "request_id", None)
    logger.error("request %s failed unexpectedly", request_id, exc_info=exc)
    return problem_response(
        request, INTERNAL, detail="An unexpected error was logged under this request id.", headers=None
    )


def add_error_handlers(app: FastAPI) -> None:
    """Let an application answer every error with a problem (unexpected ones: see `service.routes.log`)."""
    for kind in PROBLEMS:
        app.add_exception_handler(kind, answer_own_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_invalid_request)
