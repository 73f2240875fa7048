"""A bundle with words is tried with its words, before any of its files is opened in the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle.bundle import GOLDEN, BrokenBundle, load_bundle
from service.releases.store import ReleaseRefused
from service.releases.trial import check_golden_tracks, try_bundle
from service.system.settings import Settings
from tests.support.bundles import make_worded, rehash


def scale_texts(folder: Path, factor: float) -> Path:
    with np.load(folder / GOLDEN) as arrays:
        kept = {**arrays, "text_video": factor * arrays["text_video"]}
        np.savez(folder / GOLDEN.removesuffix(".npz"), **kept)
    return rehash(folder)


def test_golden_texts_have_unit_length(tmp_path: Path) -> None:
    folder = scale_texts(make_worded(tmp_path / "bundle").path, 2.0)
    with pytest.raises(
        BrokenBundle, match="golden text-video track must have rows of unit length, got 2 to 2"
    ):
        check_golden_tracks(load_bundle(folder))


def test_a_bundle_whose_words_are_others_is_refused(tmp_path: Path) -> None:
    folder = scale_texts(make_worded(tmp_path / "bundle").path, -1.0)
    settings = Settings(data=tmp_path / "data", bundle=folder, device="cpu", precision="fp32", num_threads=1)
    with pytest.raises(ReleaseRefused, match=r"golden texts of worded-.* differ by"):
        try_bundle(settings, folder, active=None)
