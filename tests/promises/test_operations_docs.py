"""docs/operations.md says what is so: limits, their defaults and meaning, metrics, scopes, settings."""

from __future__ import annotations

import re

import httpx
import pytest

from service.operations.keys import SCOPES
from service.system.settings import Settings
from tests.support.paths import REPOSITORY

TEXT = (REPOSITORY / "docs" / "operations.md").read_text()
ROW = re.compile(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \|$", re.M)
ROWS = {name: (default, meaning) for name, default, meaning in ROW.findall(TEXT) if name not in SCOPES}
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Limits by name that are described in the table; a new one must be added to it.
IS_LIMIT = re.compile(r"^(max|min)_|_(timeout|grace|stop)_seconds$|^waiting_")
ELSEWHERE = re.compile(r"^(release|qdrant|max_(recall|latency|memory|overlap|drop))_|_ratio$|_drop$")


def read_number(text: str) -> float:
    value, _, unit = text.partition(" ")
    return float(value) * UNITS.get(unit, 1)


@pytest.mark.parametrize("name", ROWS)
def test_a_limit_is_as_written(name: str) -> None:
    field = Settings.model_fields[name]
    default, meaning = ROWS[name]
    assert field.description is not None
    assert meaning == " ".join(field.description.split())
    if field.default is None:
        assert default == "see there"
    else:
        assert read_number(default) == field.default


def test_every_limit_is_written() -> None:
    limits = {name for name in Settings.model_fields if IS_LIMIT.search(name) and not ELSEWHERE.search(name)}
    assert limits - ROWS.keys() == set()


def test_every_setting_that_is_named_exists() -> None:
    names = set(re.findall(r"FOLEY_([A-Z_]+[A-Z])", TEXT))
    assert len(names) > 8
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_every_metric_that_is_named_exists(client: httpx.Client) -> None:
    found = client.get("/metrics").text
    names = set(re.findall(r"`(foley_[a-z_]+)", TEXT))
    assert len(names) > 15
    for name in names:
        assert re.search(rf"^{name}(_count|_bucket)?[{{ ]", found, re.M), name
    written = {re.sub(r"_(bucket|count|sum)$", "", n) for n in re.findall(r"^(foley_[a-z_]+)", found, re.M)}
    assert written <= names, "a metric that the page does not explain"
