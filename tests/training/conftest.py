"""Golden arrays recorded from the published code; tests/golden/README.md names every one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.media.clip import ClipSpec
from tests.support.paths import GOLDEN
from training.corpus.synthesis import write_corpus
from training.data.listing import list_items
from training.data.segments import PairedSegments, prepare


def _load(name: str) -> dict[str, Tensor]:
    arrays = load_file(GOLDEN / name)
    return {key: array.float() if array.dtype == torch.float16 else array for key, array in arrays.items()}


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    return _load("tgdp_small_expected.safetensors")


@pytest.fixture(scope="session")
def golden_retrieval() -> dict[str, Tensor]:
    return _load("retrieval_expected.safetensors")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips with picture and sound, one picture alone, one file that is not media."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, num_scenes=6, seed=1, split="train", separate_fraction=0.2)
    (folder / "broken.mp4").write_bytes(b"not media")
    return folder


@pytest.fixture(scope="session")
def segments(corpus: Path) -> PairedSegments:
    return prepare(list_items([corpus]), corpus.parent / "prepared", ClipSpec(), num_workers=1)
