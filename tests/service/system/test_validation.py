"""Every request's model and the settings: one plain sentence for each field."""

import re
from typing import Any

import pytest
import typer
from pydantic import BaseModel, ValidationError

from service.commands.inventory import to_query
from service.commands.options import _read_pairs
from service.commands.terminal import read_settings
from service.http.job_schemas import JobRequestBody
from service.http.parameters import EmbeddingParameters, SearchParameters
from service.http.problems import InvalidParameter
from service.http.queries import AssetQuery, TrackQuery
from service.http.routes.assets import AssetChanges, AssetListParameters
from service.index.contract import Bounds, Filter
from service.system.validation import name_faults

JARGON = re.compile(
    r"Input should|Value error|valid |validation|parse|union|dict|NoneType|Field required|Extra inp"
)
VALUES = "must be text, numbers (64 bits), true and false, or a list of them"


def faults(model: type[BaseModel], given: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    return name_faults(caught.value.errors())


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        (AssetChanges, {}, {"metadata": "is missing"}),
        (AssetChanges, {"metadata": {"a": {"b": 1}}}, {"metadata.a": VALUES}),
        (
            AssetChanges,
            {"metadata": {"a": [1, None], "path": 2**63}},
            {"metadata.a": VALUES, "metadata.path": VALUES},
        ),
        (AssetChanges, {"metadata": {"a": float("nan")}}, {"metadata.a": VALUES}),
        (AssetChanges, {"metadata": {"a": "x" * 1025}}, {"metadata.a": "must have at most 1024 characters"}),
        (AssetChanges, {"metadata": {"a": [1] * 65}}, {"metadata.a": "must have at most 64 values"}),
        (
            AssetChanges,
            {"metadata": {"k" * 129: 1}},
            {"metadata." + "k" * 129: "must have at most 128 characters"},
        ),
        (
            AssetChanges,
            {"metadata": 3, "path": "/x"},
            {"metadata": "must be an object", "path": "is not known here"},
        ),
        (
            AssetListParameters,
            {"limit": "many", "folder": "x", "modality": "smell", "metadata": "{"},
            {
                "limit": "must be a whole number",
                "folder": "must be an absolute path or an address like s3://bucket/prefix",
                "modality": "must be 'audio' or 'video'",
                "metadata": "must be JSON: EOF while parsing an object at line 1 column 1",
            },
        ),
        (
            SearchParameters,
            {
                "min_score": "high",
                "min_duration_seconds": -1,
                "metadata": '{"x": {"at_least": "1"}, "y": []}',
            },
            {
                "target": "is missing",
                "min_score": "must be a number",
                "min_duration_seconds": "must be at least 0",
                "metadata.x": "bounds must be numbers under `at_least` and `at_most`",
                "metadata.y": "must have at least 1 value",
            },
        ),
        (SearchParameters, {"target": "audio", "metadata": '{"x": {"gt": 1}}'}, {"metadata.x": ...}),
        (
            AssetQuery,
            {"asset_id": "x", "target": 3},
            {"asset_id": ..., "target": "must be 'audio' or 'video'"},
        ),
        (TrackQuery, {"track": 1, "target": "audio", "limit": 1.5}, {"track": "must be text", "limit": ...}),
        (EmbeddingParameters, {"encoding": "xml"}, {"encoding": "must be 'json', 'base64' or 'safetensors'"}),
        (
            JobRequestBody,
            {"kind": "sink", "paths": [], "dry_run": "no", "settle_seconds": 1e9},
            {
                "kind": "must be 'index' or 'sync'",
                "paths": "must have at least 1 entries",
                "dry_run": "must be true or false",
                "settle_seconds": "must be at most 3600",
            },
        ),
        (
            JobRequestBody,
            {"kind": "sync", "paths": ["x", 3]},
            {"paths.0": "must be an absolute path or an address like s3://bucket/prefix", "paths.1": ...},
        ),
    ],
)
def test_one_plain_sentence_for_each_field(
    model: type[BaseModel], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = faults(model, given)
    assert found.keys() == expected.keys()
    for name, sentence in found.items():
        assert expected[name] in (sentence, ...), name
        assert not JARGON.search(sentence.removeprefix("must be JSON: ")), sentence


def test_a_key_of_metadata_may_be_called_as_a_place_of_fastapi() -> None:
    error = {"loc": ("body", "metadata", "query"), "type": "missing", "msg": ""}
    assert InvalidParameter.of([error]).errors == [{"parameter": "metadata.query", "message": "is missing"}]
    assert InvalidParameter.of([{**error, "loc": ("body",)}]).errors[0]["parameter"] == "request"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "eighty", "FOLEY_PORT must be a whole number, got 'eighty'"),
        ("PORT", "70000", "FOLEY_PORT must be at most 65535"),
        ("DEVICE", "tpu", "FOLEY_DEVICE must be 'auto', 'cuda' or 'cpu', got 'tpu'"),
        ("ALLOW_REMOTE", "maybe", "FOLEY_ALLOW_REMOTE must be true or false, got 'maybe'"),
        ("MAX_QUERY_SECONDS", "0", "FOLEY_MAX_QUERY_SECONDS must be above 0"),
        (
            "QDRANT_URL",
            "https://u:secret@q",
            "FOLEY_QDRANT_URL must hold no key: put that into FOLEY_QDRANT_API_KEY",
        ),
        ("MAX_LIMIT", "5", "default_limit 10 is above max_limit 5"),
    ],
)
def test_wrong_settings_are_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"FOLEY_{name}", value)
    with pytest.raises(typer.Exit):
        read_settings()
    assert capsys.readouterr().err == f"foley: {message}\n"


def test_bounds_reach_the_server_as_the_command_has_them() -> None:
    pairs = ["lufs=-24..-22.5", "fps=50..", "take=..3", "bpm=120.5", "bpm=121", "mood=a..b", "cut=1.."]
    chosen = Filter(metadata=_read_pairs(pairs))
    assert chosen.metadata == {
        "lufs": Bounds(at_least=-24, at_most=-22.5),
        "fps": Bounds(at_least=50),
        "take": Bounds(at_most=3),
        "bpm": [120.5, 121],
        "mood": ["a..b"],
        "cut": Bounds(at_least=1),
    }
    query = {name: value for name, value in to_query(chosen).items() if value is not None}
    assert AssetListParameters.model_validate(query).to_filter() == chosen


@pytest.mark.parametrize("pairs", [["x=1..2", "x=5"], ["x=5", "x=1.."], ["x=1..", "x=..2"]])
def test_bounds_stand_alone(pairs: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="x takes one range or several values"):
        _read_pairs(pairs)
