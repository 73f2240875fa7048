"""A map of the library: the pooled vectors of its assets, projected to two dimensions.

    points = project_library(index, limit=5000, method="pca")

PCA needs nothing but NumPy; UMAP is there if the package `umap-learn` is installed. Of a larger library the first
assets of the index's list are shown, and no others are read: its order is that of hashes, so these are a fair sample
that stays the same.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.index.contract import Asset, Index
from service.index.iteration import ASSETS_PER_PAGE, iter_assets
from service.system.failure import Failure
from service.system.modality import MODALITIES, Modality
from service.system.paths import show_path

Method = Literal["pca", "umap"]
MIN_FOR_UMAP = 10  # fewer points have no neighbourhoods


class MethodMissing(Failure):
    """The map was asked for by a method whose package is not installed."""

    code = "method_missing"


@dataclass(frozen=True, kw_only=True)
class MapPoint:
    """One modality of an asset; x and y lie in [-1, 1]."""

    asset_id: str
    path: str
    """Printable."""
    modality: Modality
    x: float
    y: float


def methods() -> list[Method]:
    """What this installation can project with."""
    return ["pca", "umap"] if importlib.util.find_spec("umap") else ["pca"]


def project_library(index: Index, *, limit: int, method: Method = "pca") -> list[MapPoint]:
    """Place at most `limit` assets by the pooled vector of their middle segment, a point for each modality.

    Modalities of one width share a space; others are projected each for itself. Raises `MethodMissing`.
    """
    if method not in methods():
        raise MethodMissing(f"{method} is not installed here: only {', '.join(methods())}")
    found: defaultdict[int, list[tuple[Asset, Modality, NDArray[np.float32]]]] = defaultdict(list)
    assets = islice(iter_assets(index), limit)
    while page := list(islice(assets, ASSETS_PER_PAGE)):
        for asset, modality, vector in _read_pooled(index, page):
            found[len(vector)].append((asset, modality, vector))
    points = []
    for rows in found.values():
        places = _project(np.stack([vector for _, _, vector in rows]), method)
        points += [
            MapPoint(
                asset_id=asset.asset_id, path=show_path(asset.path), modality=modality, x=float(x), y=float(y)
            )
            for (asset, modality, _), (x, y) in zip(rows, places, strict=True)
        ]
    return points


def _read_pooled(
    index: Index, assets: Sequence[Asset]
) -> Iterator[tuple[Asset, Modality, NDArray[np.float32]]]:
    """The vector of each modality of each asset: of the middle segment, or the first if that lacks it."""
    for modality in MODALITIES:
        left = [asset for asset in assets if modality in asset.modalities]
        for places in (lambda asset: asset.num_segments // 2, lambda _: 0):
            at: defaultdict[int, list[Asset]] = defaultdict(list)
            for asset in left:
                at[places(asset)].append(asset)
            left = []
            for place, some in at.items():
                vectors = index.read_pooled([one.asset_id for one in some], index=place, modality=modality)
                yield from ((one, modality, vectors[one.asset_id]) for one in some if one.asset_id in vectors)
                left += [one for one in some if one.asset_id not in vectors]


def _project(vectors: NDArray[np.float32], method: Method) -> NDArray[np.float64]:
    places = pca(vectors)
    if method == "umap" and len(vectors) >= MIN_FOR_UMAP:
        umap = importlib.import_module("umap")
        places = np.asarray(umap.UMAP(n_components=2, random_state=0, init=places).fit_transform(vectors))
    centred = places - (places.max(axis=0) + places.min(axis=0)) / 2
    scaled: NDArray[np.float64] = np.round(centred / max(float(np.abs(centred).max()), 1e-12), 4)
    return scaled


def pca(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Vectors (N, D) along the two directions in which they differ most: float64 (N, 2), of a sign that stays."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)  # rising
    axes = axes[:, :-3:-1]  # (D, 2)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    places = centred @ axes
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def compare_moments(
    query: NDArray[np.float32], result: NDArray[np.float32], *, is_cosine: bool
) -> Sequence[Sequence[float]]:
    """Similarity of every moment of a query (T, D) with every moment of a result (U, D), T rows of U numbers."""
    if is_cosine:
        query, result = (
            rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12) for rows in (query, result)
        )
    found: list[list[float]] = np.round(query @ result.T, 5).tolist()
    return found
