"""How moments are weighed: the golden arrays in NumPy, and what a bundle's file may hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.bundle.bundle import MOMENTS, BrokenBundle, describe_file, load_bundle, starter_path, unit_rows
from models.bundle.moments import FLOOR, MomentWeights, read_moments, write_moments
from tests.support.moments import by_cosine

GOLDEN = Path(__file__).parents[2] / "golden/adapt/caste.safetensors"


def test_logits_are_the_golden_ones() -> None:
    golden = load_file(GOLDEN)
    arrays = {key.removeprefix("w.moment."): golden[key] for key in golden if key.startswith("w.moment.")}
    moments = MomentWeights(arrays=arrays)
    audio, video = golden["in.moment.audio"], golden["in.moment.video"]
    expected = golden["out.moment.logits"]
    logits = moments.logits(audio, video)
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()
    raw = 1 / (1 + np.exp(-expected)) + FLOOR
    weights = raw * expected.shape[1] / raw.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(moments.weights(audio, video), weights, rtol=1e-4)
    folded = moments.fold(audio, video)
    np.testing.assert_allclose(np.linalg.norm(folded, axis=-1), weights, rtol=1e-4)
    np.testing.assert_allclose(unit_rows(folded), audio, atol=1e-6)


def test_another_picture_changes_lengths_and_no_direction() -> None:
    rng = np.random.default_rng(0)
    audio, video, other = (unit_rows(rng.standard_normal((3, 5, 8)).astype(np.float32)) for _ in range(3))
    one, two = (by_cosine(8).fold(audio, pictures) for pictures in (video, other))
    assert np.abs(one - two).max() > 0.05
    np.testing.assert_allclose(unit_rows(one), unit_rows(two), atol=1e-6)
    np.testing.assert_allclose(by_cosine(8).fold(3 * one, video), one, atol=1e-6, err_msg="weighed twice")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    arrays = dict(by_cosine(8).arrays)
    write_moments(arrays, tmp_path / "good.npz")
    assert read_moments(tmp_path / "good.npz", width=8).width == 8
    with pytest.raises(ValueError, match="weighs tracks of width 8, those of the bundle have 9"):
        read_moments(tmp_path / "good.npz", width=9)
    bad: list[dict[str, Any]] = [
        {"second.bias": np.array([np.nan], np.float32)},
        {"first.bias": np.zeros(3, np.float32)},
        {"first.weight": arrays["first.weight"].astype(np.float64)},
        {"third": np.zeros(1, np.float32)},
    ]
    for change in bad:
        with pytest.raises(ValueError, match=r"moments are weighed with|must be finite float32|fit together"):
            write_moments({**arrays, **change}, tmp_path / "bad.npz")


def test_the_manifest_says_whether_moments_are_weighed(tmp_path: Path) -> None:
    manifest = load_bundle(starter_path()).manifest
    (tmp_path / MOMENTS).write_bytes(b"nothing")
    files = {**manifest.files, MOMENTS: describe_file(tmp_path / MOMENTS)}
    weighed = replace(manifest, weighs_moments=True, files=files)
    assert MOMENTS in weighed.required_files
    bundle = replace(load_bundle(starter_path()), path=tmp_path, manifest=weighed)
    with pytest.raises(BrokenBundle, match=f"{MOMENTS} cannot be read"):
        bundle.moments()
    with pytest.raises(BrokenBundle, match="files must be"):
        replace(manifest, weighs_moments=True)
    shapes = {"audio": (1, 128), "video": (1, 128)}
    for change, reason in (
        ({"similarity": "dot"}, "dot product"),
        ({"shares_space": False}, "do not compare"),
        ({"tracks": shapes}, "a single moment"),
    ):
        fields: dict[str, Any] = change
        with pytest.raises(BrokenBundle, match=reason):
            replace(weighed, **fields)
