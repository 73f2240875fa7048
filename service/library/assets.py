"""Assets as documents."""

from __future__ import annotations

from typing import Any

from service.index.contract import Asset
from service.library.said import SIDECAR
from service.system.paths import show_path

AssetDocument = dict[str, Any]


def describe_asset(asset: Asset) -> AssetDocument:
    """An asset as JSON values."""
    return {
        "asset_id": asset.asset_id,
        "path": show_path(asset.path),
        "paths": [show_path(path) for path in asset.paths],
        "num_segments": asset.num_segments,
        "modalities": list(asset.modalities),
        "media": {key: value for key, value in asset.media.items() if key != SIDECAR},
        "metadata": dict(asset.metadata),
    }
