"""The parameters of requests with a file: form fields or query parameters, by the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.index.contract import Modality
from service.routes.encodings import Encoding
from service.settings import MAX_LIMIT

Parameters = TypeVar("Parameters", bound=BaseModel)


class InvalidParameter(Exception):
    """A parameter is missing, unknown, given twice, or has a value out of its range.

    Args:
        errors: One object for each fault: the parameter's name and what is wrong with it.
    """

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__("; ".join(f"{error['parameter']}: {error['message']}" for error in errors))
        self.errors = list(errors)

    @classmethod
    def of(cls, found: Sequence[Mapping[str, Any]]) -> InvalidParameter:
        """Say what pydantic or FastAPI found, in the words of the request."""
        faults = []
        for error in found:
            place = [str(part) for part in error["loc"] if part not in ("query", "path", "body", "header")]
            faults.append({"parameter": ".".join(place)[:80] or "request", "message": str(error["msg"])})
        return cls(faults)


class SearchParameters(BaseModel):
    """What to search for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Modality = Field(description="What to find: `audio` or `video`.", examples=["audio"])
    source: Modality | None = Field(
        None,
        alias="from",
        description="Which stream of the file to search by. Default: the opposite of `target` where the file "
        "has it, else the one it has.",
    )
    limit: int | None = Field(
        None, ge=1, le=MAX_LIMIT, description="Most results, one per asset. Default: 10.", examples=[10]
    )


class EmbeddingParameters(BaseModel):
    """What to embed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: Modality | None = Field(None, description="Embed this stream only. Default: what the file has.")
    encoding: Encoding = Field(
        "json",
        description="How the numbers are written: `json` lists with 7 decimals, `base64` of little-endian float16 in "
        "JSON (each number within 2.5e-4, the cosine to the exact vector above 1 - 1.2e-7), or `safetensors`, a file "
        "of float32, exactly as the encoder gave them.",
    )


def read_parameters(request: Request, fields: Mapping[str, str], kind: type[Parameters]) -> Parameters:
    """Check the parameters of a request, from its form and its query string together.

    Args:
        request: The request, for its query string.
        fields: Fields of its form.
        kind: What to read.

    Returns:
        The checked parameters.

    Raises:
        InvalidParameter: If one is missing, unknown, given twice or out of range.
    """  # noqa: DOC503 - `of` makes one
    given = [*fields.items(), *request.query_params.multi_items()]
    values: dict[str, str] = {}
    for name, value in given:
        if name in values:
            raise InvalidParameter([{"parameter": name[:80], "message": "given more than once"}])
        values[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        raise InvalidParameter.of(
            exc.errors(include_url=False, include_input=False, include_context=False)
        ) from exc
