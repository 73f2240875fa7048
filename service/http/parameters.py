"""The parameters of requests with a file: form fields or query parameters, by the same names; and paths of requests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request

from service.encode.text import MAX_TEXT_CHARS
from service.http.encodings import Encoding
from service.http.filters import FilterFields, MetadataText
from service.http.problems import InvalidParameter
from service.http.schemas import RequestBody
from service.library.scanning import NO_LINKED_FOLDERS, LinkRules
from service.search.options import Match, SearchOptions
from service.system.failure import Failure
from service.system.modality import Modality
from service.system.paths import show_path
from service.system.settings import MAX_LIMIT, Settings

Parameters = TypeVar("Parameters", bound=BaseModel)
MIN_WEIGHT, MAX_WEIGHT = 1e-3, 1e3
MAX_TEXTS = 64
KERNEL_FOLDERS = ("/proc", "/sys", "/dev/fd")  # what is in there are ways to the files of other processes


class _NameConvertor(StringConvertor):
    """Text without a colon, so that `/v1/jobs/x:cancel` is never a job of that name."""

    regex = "[^/:]+"


register_url_convertor("one_name", _NameConvertor())  # for routes of modules that import this one


class PathNotAllowed(Failure):
    """A path lies outside the folders that jobs may work on."""

    code = "path_not_allowed"


def check_path(path: Path, links: LinkRules = NO_LINKED_FOLDERS) -> Path:
    """The absolute path that a request names; raises `PathNotAllowed` if it or what it leads to may not be read."""
    try:
        # A link may lead out, and a folder of links may lead in.
        places = [Path(os.path.normpath(path)), Path(os.path.realpath(path))]
    except OSError:  # a link of another user's process
        places = []
    if any(place.is_relative_to(folder) for place in places for folder in KERNEL_FOLDERS) or not (
        places and links.allows(places[1])
    ):
        raise PathNotAllowed(f"{show_path(path)[:200]} is in none of the folders that jobs may work on")
    return path


class SearchFields(FilterFields):
    """What every search takes, whatever it searches with."""

    target: Modality = Field(description="What to find: `audio` or `video`.", examples=["audio"])
    source: Modality | None = Field(
        None,
        alias="from",
        description="Stream of the query to search with. Default: the opposite of `target` if the query has it, "
        "else the one it has.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_LIMIT,
        description="Maximum number of results, one per asset. Default: 10.",
        examples=[10],
    )
    offset: int | None = Field(
        None,
        ge=0,
        lt=MAX_LIMIT,
        description="How many results to skip: 0 for the first page, then `next_offset` of the page before. All pages "
        "are cut from one ranking of the best 1000. Leave it out if one page is enough: that is faster.",
    )
    min_score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Minimum score of a result: from -1 to 1 if the active bundle compares by cosine, else any number. "
        "There may be no results.",
    )
    min_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Minimum `match_probability` of a result. There may be no results; `reason` says so.",
    )

    def to_options(self, settings: Settings) -> SearchOptions:
        """The options these fields ask for; raises `InvalidParameter` if the settings do not allow them."""
        if self.limit is not None and self.limit > settings.max_limit:
            raise InvalidParameter(
                [{"parameter": "limit", "message": f"must be at most {settings.max_limit}"}]
            )
        try:
            return SearchOptions.of(
                settings,
                target=self.target,
                source=self.source,
                limit=self.limit,
                offset=self.offset,
                min_score=self.min_score,
                min_probability=self.min_probability,
                filter=self.to_filter(),
            )
        except ValueError as exc:
            raise InvalidParameter([{"parameter": "offset", "message": str(exc)}]) from exc


TEXT = Field(
    description="Words to search with.", max_length=MAX_TEXT_CHARS, examples=["dog barking in the rain"]
)
WEIGHT: Any = Field(
    1.0,
    ge=MIN_WEIGHT,
    le=MAX_WEIGHT,
    allow_inf_nan=False,
    description="How much this query counts beside the others.",
)
MATCH: Any = Field(
    None,
    description="What a text finds: `meaning`, sound or picture that it describes; `words`, files whose names or "
    "metadata have its words; `both`, joined by reciprocal-rank fusion. Default: `both` if the active bundle embeds "
    "words, else `words`.",
)


class SearchParameters(SearchFields):
    """What to search for with a file, a text, or both."""

    metadata: MetadataText = None
    text: Annotated[str, TEXT] | None = None
    match: Match | None = MATCH
    start_seconds: float = Field(
        0.0, ge=0, le=1e6, description="Search only with segments of `file` that end after this time."
    )
    end_seconds: float | None = Field(
        None, gt=0, le=1e6, description="Search only with segments of `file` that start before this time."
    )
    text_weight: float = Field(
        1.0,
        ge=MIN_WEIGHT,
        le=MAX_WEIGHT,
        description="How much `text` counts beside `file`, which counts 1. The score is the weighted mean.",
    )

    def to_options(self, settings: Settings) -> SearchOptions:
        """See `SearchFields.to_options`."""
        return replace(super().to_options(settings), match=self.match)


class EmbeddingParameters(RequestBody):
    """What to embed."""

    modality: Modality | None = Field(None, description="Embed this stream only. Default: what the file has.")
    encoding: Encoding = Field(
        "json",
        description="How the numbers are written: `json` lists with 7 decimals, `base64` of little-endian float16 in "
        "JSON (each number within 2.5e-4, the cosine to the exact vector above 1 - 1.2e-7), or `safetensors`, a file "
        "of float32, exactly as the encoder gave them.",
    )


class TextsToEmbed(RequestBody):
    """Texts to embed."""

    model_config = ConfigDict(strict=True)

    texts: list[Annotated[str, TEXT]] = Field(
        min_length=1, max_length=MAX_TEXTS, description="Embedded in this order."
    )
    modality: Modality | None = Field(
        None, description="Embed for searches of this one only. Default: all that words compare with."
    )
    encoding: Encoding = Field(
        "json",
        description="As of a file: `json`, `base64` or `safetensors`, with `audio` and `video`, float32 (N, D).",
    )


def read_parameters(request: Request, fields: Mapping[str, str], kind: type[Parameters]) -> Parameters:
    """Check the parameters in a request's form and query string together; raises `InvalidParameter`."""
    given = [*fields.items(), *request.query_params.multi_items()]
    values: dict[str, str] = {}
    for name, value in given:
        if name in values:
            raise InvalidParameter([{"parameter": name[:80], "message": "given more than once"}])
        values[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        raise InvalidParameter.of(exc.errors(include_url=False, include_input=False)) from exc
