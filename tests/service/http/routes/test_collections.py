"""`/v1/collections` over a real server, and `foley collections` beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.jobs.collections import change_collection, create_collection
from service.jobs.ledger import Ledger
from service.system.settings import Settings


def _code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def _row(client: httpx.Client, collection_id: str) -> dict[str, Any]:
    """A collection as it is listed, among those that other tests left."""
    rows = client.get("/v1/collections").json()["collections"]
    return next(row for row in rows if row["collection_id"] == collection_id)


def test_a_basket_is_filled_ordered_and_emptied(client: httpx.Client) -> None:
    one, two = (asset["asset_id"] for asset in client.get("/v1/assets?limit=2").json()["assets"])
    made = client.post("/v1/collections", json={"name": "rain"})
    assert made.status_code == 201
    place = made.headers["location"]
    client.post(f"{place}/items", json={"asset_id": one, "start_seconds": 0.5, "end_seconds": 2})
    filled = client.post(f"{place}/items", json={"asset_id": two, "note": "=1+1", "query": "rain"}).json()
    assert [item["asset_id"] for item in filled["items"]] == [one, two]
    fields = [
        {name: value for name, value in item.items() if name not in ("path", "modalities")}
        for item in filled["items"]
    ]
    turned = client.patch(place, json={"items": fields[::-1], "name": "wind"}).json()
    assert turned["items"] == filled["items"][::-1]
    assert turned["items"][0]["path"].startswith("/")
    assert turned["items"][0]["modalities"] == client.get(f"/v1/assets/{two}").json()["modalities"]
    assert client.get(place).json() == turned
    row = _row(client, turned["collection_id"])
    assert (row["name"], row["num_items"]) == ("wind", 2)
    made = client.post("/v1/exports", json={"collection_id": turned["collection_id"], "format": "edl"})
    assert made.headers["content-disposition"].startswith('attachment; filename="wind.edl"')
    assert made.headers["foley-left-out"] == "0"
    assert made.text.count("* FROM CLIP NAME: ") == 2
    part = {"items": [fields[0]], "format": "csv", "path_map": [["/", "Z:/"]], "title": "a/b\r\n\u202e"}
    sheet = client.post("/v1/exports", json=part)
    assert 'filename="a_b.csv"' in sheet.headers["content-disposition"]
    assert ",Z:\\" in sheet.text
    for wrong in ({}, {"items": []}, {**part, "collection_id": "x"}, {**part, "path_map": [["/"]]}):
        assert _code(client.post("/v1/exports", json={"format": "edl", **wrong})) == (
            422,
            "invalid_parameter",
        )
    gone = {"items": [{"asset_id": "0" * 64}], "format": "edl"}
    assert _code(client.post("/v1/exports", json=gone)) == (422, "nothing_to_export")
    assert client.delete(place).status_code == 204
    assert _code(client.get(place)) == (404, "collection_not_found")


def test_a_change_to_what_is_no_more_is_refused(client: httpx.Client) -> None:
    made = client.post("/v1/collections", json={"name": "rain"})
    place, old = made.headers["location"], made.headers["etag"]
    assert made.json()["etag"] == old
    by_other = client.patch(place, json={"name": "wind"})
    new = by_other.headers["etag"]
    assert new != old
    assert _row(client, made.json()["collection_id"])["etag"] == new
    for answer in (
        client.patch(place, json={"items": []}, headers={"If-Match": old}),
        client.delete(place, headers={"If-Match": f'{old}, "x"'}),
        client.patch(place, json={"name": "x"}, headers={"If-Match": "no tag"}),
    ):
        assert _code(answer) == (412, "collection_changed")
    assert client.get(place).json() == by_other.json()
    assert client.patch(place, json={"name": "sea"}, headers={"If-Match": f'"x", W/{new}'}).is_success
    assert client.patch(place, json={"name": "sun"}, headers={"If-Match": "*"}).is_success
    assert client.delete(place, headers={"If-Match": client.get(place).headers["etag"]}).status_code == 204
    assert _code(client.delete(place, headers={"If-Match": new})) == (404, "collection_not_found")


def test_states_of_one_moment_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    with Ledger.open(tmp_path / "ledger.sqlite", is_worker=False) as ledger:
        kept = create_collection(ledger, "rain")
        tags = [kept.etag, *(change_collection(ledger, kept.collection_id, name=n).etag for n in "abc")]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize(
    "item",
    [
        {"asset_id": "0"},
        {"start_seconds": 2, "end_seconds": 1},
        {"end_seconds": 0},
        {"start_seconds": -1},
        {"modality": "smell"},
        {"note": "x" * 5000},
        {"path": "/etc/passwd"},
    ],
    ids=str,
)
def test_wrong_items_are_named(client: httpx.Client, item: dict[str, object]) -> None:
    place = client.post("/v1/collections", json={"name": "rain"}).headers["location"]
    for answer in (
        client.post(f"{place}/items", json={"asset_id": "0" * 64, **item}),
        client.patch(place, json={"items": [{"asset_id": "0" * 64, **item}]}),
    ):
        assert _code(answer) == (422, "invalid_parameter")
    assert client.get(place).json()["items"] == []
    client.delete(place)


@pytest.mark.parametrize("name", ["", " \n ", "\0", "\x7f\t"])
def test_a_name_has_something_to_read(client: httpx.Client, name: str) -> None:
    assert _code(client.post("/v1/collections", json={"name": name})) == (422, "invalid_parameter")


def test_unknown_assets_are_refused(client: httpx.Client) -> None:
    place = client.post("/v1/collections", json={"name": "rain"}).headers["location"]
    unknown = {"asset_id": "0" * 64}
    assert _code(client.post(f"{place}/items", json=unknown)) == (404, "asset_not_found")
    assert _code(client.patch(place, json={"items": [unknown]})) == (404, "asset_not_found")
    assert _code(client.post("/v1/collections/x/items", json=unknown)) == (404, "collection_not_found")
    client.delete(place)


def test_the_command_works_beside_a_server(
    client: httpx.Client, indexed_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOLEY_DATA", str(indexed_settings.data))
    monkeypatch.setenv("FOLEY_PORT", str(client.base_url.port))
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()

    def run(*words: str, code: int = 0) -> str:
        result = runner.invoke(app, ["collections", *words])
        assert result.exit_code == code, result.output
        return result.output

    asset = client.get("/v1/assets?limit=1").json()["assets"][0]
    run("add", "storm", asset["path"], "--start", "1", "--end", "2.5", "--note", "[red]loud\x1b")
    assert "storm has 2 items" in run("add", "storm", asset["asset_id"])
    shown = run("show", "storm")
    assert "[red]loud\\x1b" in shown
    assert asset["path"] in shown
    found = json.loads(run("show", "storm", "--json"))
    assert client.get(f"/v1/collections/{found['collection_id']}").json() == found
    cut = tmp_path / "cut.edl"
    for code in (0, 1):  # never overwritten
        words = ["export", "storm", "--format", "edl", "-o", str(cut), "--map", "/=/Volumes/nas"]
        assert runner.invoke(app, words).exit_code == code
    assert "* SOURCE FILE: /Volumes/nas/" in cut.read_text()
    answer = tmp_path / "answer.json"
    finding = {"asset_id": asset["asset_id"], "verdict": "shifted", "offset_seconds": 0.25}
    answer.write_text(json.dumps({"findings": [finding]}))
    assert "shifted +0.25 s" in runner.invoke(app, ["export", str(answer), "--format", "csv"]).output
    assert runner.invoke(app, ["export", "storm", "--format", "avi"]).exit_code == 2
    assert "there is no item 3" in run("remove", "storm", "3", code=1)
    assert "storm has 1 item" in run("remove", "storm", "1")
    assert "storm" in run()
    run("remove", "storm", "--all")
    assert "storm" not in run("list")
    assert "nothing is indexed as" in run("add", "storm", "/nowhere.wav", code=1)
    assert "--end must be after" in run("add", "storm", asset["asset_id"], "--end", "0", code=2)
