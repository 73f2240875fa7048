"""Suggested tags over HTTP and by the command: looked at, decided, remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle
from service.cli import app
from service.client.client import Client
from service.commands.inventory import ServedInventory, open_inventory
from service.library.tags import keep_classifier
from service.system.settings import Settings
from tests.support.index_contract import make_id, make_segment
from tests.support.memory_index import memory_indexes
from tests.support.serving import serve_in_thread
from tests.support.tags import write_classifier

RAIN = make_id("rain")
SUGGESTED = f"/v1/assets/{RAIN}/suggested-tags"


def test_tags_are_suggested_decided_and_remembered(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(bundle_path)
    settings = Settings(data=tmp_path / "data", bundle=bundle_path, device="cpu", min_free_bytes=0)
    for name, value in (("DATA", settings.data), ("BUNDLE", bundle_path), ("MIN_FREE_BYTES", 0)):
        monkeypatch.setenv(f"FOLEY_{name}", str(value))
    with memory_indexes():
        with serve_in_thread(settings) as running:
            client, index = running.client, running.app.state.shared.foley.index
            for name, place in (("rain", 0), ("bare", 9)):
                track = np.zeros((16, 128), np.float32)
                track[:, place] = 1
                index.write_asset([make_segment(name, audio_track=track, video_track=None)], is_last=True)
            missing = client.get("/v1/suggested-tags")
            assert (missing.status_code, missing.json()["code"]) == (409, "no_classifier")
            file = write_classifier(
                tmp_path / "mine.npz", names=("rain", "sea"), bundle_id=bundle.bundle_id, width=128
            )
            keep_classifier(settings.data, file)

            page = client.get("/v1/suggested-tags").json()
            (found,) = page["assets"]
            assert found == client.get(SUGGESTED).json()
            assert (found["asset_id"], found["key"]) == (RAIN, "tags")
            assert [one["tag"] for one in found["suggestions"]] == ["rain"]
            assert client.get("/v1/suggested-tags", params={"limit": 1}).json()["next_cursor"]

            wrong = client.post(SUGGESTED, json={"accept": ["sea"]})
            assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_parameter")
            gone = client.post(f"/v1/assets/{make_id('gone')}/suggested-tags", json={"accept": ["rain"]})
            assert gone.json()["code"] == "asset_not_found"
            decided = client.post(SUGGESTED, json={"decline": ["rain"]}).json()
            assert (decided["suggestions"], decided["declined"]) == ([], ["rain"])
            assert client.get("/v1/suggested-tags").json()["assets"] == []

            host, port = client.base_url.host, client.base_url.port
            assert port is not None
            with Client(host, port, headers={}) as asked:
                inventory = ServedInventory(asked)
                assert list(inventory.list_suggestions()) == []
                turned = inventory.decide_tags(RAIN, {"accept": ["rain"]})
                assert turned == inventory.get_suggestions(RAIN)
                assert turned is not None
                assert turned["accepted"] == ["rain"]
            asset = client.get(f"/v1/assets/{RAIN}").json()
            assert asset["metadata"] == {"tags": ["rain"], "tags:accepted": ["rain"]}

        # The same by the command: the server has ended.
        with open_inventory(settings) as inventory:
            inventory.merge_metadata(RAIN, {"tags": None, "tags:accepted": None})
        assert suggest_tags("--classifier", tmp_path / "mine.npz")["suggested"] == 1
        assert suggest_tags("--tag", "sea")["assets"] == []
        assert suggest_tags(RAIN, "--min-probability", "0.9", "--accept")["accepted"] == 1
        assert suggest_tags() == {"assets": [], "suggested": 0}


def suggest_tags(*arguments: str | Path) -> dict[str, Any]:
    answer = CliRunner().invoke(app, ["suggest-tags", *map(str, arguments), "--json"])
    assert answer.exit_code == 0, answer.output
    document: dict[str, Any] = json.loads(answer.stdout)
    return document
