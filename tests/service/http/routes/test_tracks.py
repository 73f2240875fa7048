"""`GET /v1/tracks`: whole for the active release, a problem for one that is not there, free again afterwards."""

from __future__ import annotations

import io
from pathlib import Path

import httpx

from training.data.stored_tracks import unpack_tracks


def test_tracks_of_the_active_release_and_of_none(client: httpx.Client, tmp_path: Path) -> None:
    for _ in range(2):  # the first stream has let go of what only one may hold
        unknown = client.get("/v1/tracks", params={"release": "nothing"})
        assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")
        found = unpack_tracks(io.BytesIO(client.get("/v1/tracks").content), tmp_path)
    listed = client.get("/v1/assets?limit=1000").json()["assets"]
    assert {asset.asset_id for asset in found.assets} == {asset["asset_id"] for asset in listed}
