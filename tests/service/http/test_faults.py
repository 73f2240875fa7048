"""A request with a hundred thousand faults costs little more than one with twenty, and is answered with twenty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from service.http import app as _every_route  # noqa: F401 - so that every model is known
from service.http.filters import MAX_WANTED
from service.http.job_schemas import JobRequestBody
from service.http.problems import InvalidParameter
from service.http.queries import AssetQuery
from service.http.routes.assets import AssetChanges
from service.http.schemas import RequestBody
from service.system.validation import MAX_FAULTS

MANY = 50_000


def kinds_of(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds_of(below)


def faults(kind: type[BaseModel], document: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(document)
    return caught.value


@pytest.mark.parametrize("kind", list(kinds_of(RequestBody)), ids=lambda kind: kind.__name__)
def test_unknown_fields_are_few_before_pydantic_sees_them(kind: type[BaseModel]) -> None:
    document = {f"x{number}": 0 for number in range(MANY)}
    if kind.model_config["extra"] == "ignore":
        kind.model_validate(document)
        return
    error = faults(kind, document)
    assert MAX_FAULTS <= error.error_count() < 2 * MAX_FAULTS
    assert len(InvalidParameter.of(error.errors()).errors) == MAX_FAULTS
    assert faults(kind, {"x0": 0}).error_count() < MAX_FAULTS


def test_known_fields_count_behind_many_unknown_ones() -> None:
    document: dict[str, Any] = {f"x{number}": 0 for number in range(MANY)} | {"from": "taste", "asset_id": 1}
    named = {error["loc"][0] for error in faults(AssetQuery, document).errors()}
    assert {"from", "asset_id", "target", "x0", "x19"} <= named


@pytest.mark.parametrize("kind", [AssetQuery, AssetChanges])
def test_entries_of_metadata_are_counted_before_they_are_checked(kind: type[BaseModel]) -> None:
    errors = faults(kind, {"metadata": {f"x{n}": {} for n in range(MANY)}}).errors()
    (error,) = (error for error in errors if error["loc"][0] == "metadata")
    (named,) = InvalidParameter.of([error]).errors
    assert named["parameter"] == "metadata"
    assert named["message"] in (f"must have at most {most} entries" for most in (MAX_WANTED, 64, 100))


def test_a_long_list_is_one_fault_and_a_list_of_faults_is_cut() -> None:
    assert faults(JobRequestBody, {"kind": "index", "paths": [0] * MANY}).error_count() == 1
    error = faults(JobRequestBody, {"kind": "index", "paths": [0] * 1000})
    assert len(InvalidParameter.of(error.errors()).errors) == MAX_FAULTS
