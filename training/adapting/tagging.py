"""What suggests tags: linear classifiers, one a fold of the library, and how likely a tag must be, as a file of arrays.

    learned = learn_tags(vectors, labels, files, asset_ids, …)
    learned.write(Path("mine.tags.npz"))        # `foley suggest-tags --classifier` takes it; the service needs no torch

A file's fold is a number of its id, so a file is always judged by the classifier that has not seen its tags, also later
in the service. A file's probability is that of its segment that has most of the tag; the threshold of a tag is the
lowest probability above which it was right often enough on files whose tags the classifier and the heads have not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.adapting.folding import NUM_FOLDS, Judged, Vectors, judge_out_of_fold, precise_threshold
from training.adapting.labels import Labels

FORMAT = 1
SUFFIX = ".tags.npz"
DEFAULT_KEY = "tags"
LEAST_FILES = 5
"""Fewer files above a threshold do not show that it is right."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LearnedTags:
    """What suggests tags for the tracks of one bundle.

    Attributes:
        key: Key of the metadata that holds the tags.
        labels: Of the library's files.
        judged: What the folds say of the clips, with their weights.
        thresholds: By kind of file (sound and picture, sound, picture) and tag, shape (3, C); NaN: not suggested.
        num_checked: Files that the thresholds were learned from.
    """

    key: str
    labels: Labels
    judged: Judged
    thresholds: Floats
    num_checked: int

    @property
    def num_suggested(self) -> int:
        """How many tags can be suggested at all."""
        return int(np.isfinite(self.thresholds).any(axis=0).sum())

    def write(self, file: Path, *, bundle_id: str) -> None:
        """Write the arrays, replacing a file that is there.

        Args:
            file: Ends in .npz.
            bundle_id: The bundle whose tracks were learned from.
        """
        np.savez_compressed(
            file,
            allow_pickle=False,
            format=np.array(FORMAT),
            bundle_id=np.array(bundle_id),
            key=np.array(self.key),
            names=np.array(self.labels.names),
            has_many=np.array(self.labels.has_many),
            weights=self.judged.weights,
            biases=self.judged.biases,
            thresholds=self.thresholds,
        )


def folds_of(asset_ids: Sequence[str], num_folds: int = NUM_FOLDS) -> NDArray[np.int64]:
    """The fold of each file: digits 9 to 16 of its id, modulo the number of folds."""
    return np.array([int(asset_id[8:16], 16) % num_folds for asset_id in asset_ids], np.int64)


def key_of(sources: Sequence[str]) -> str:
    """The key of the metadata that suggestions are for: that of the first source `metadata:KEY`, else `tags`."""
    keys = [source.removeprefix("metadata:") for source in sources if source.startswith("metadata:")]
    return keys[0] if keys else DEFAULT_KEY


def learn_tags(
    vectors: Vectors,
    labels: Labels,
    files: NDArray[np.int64],
    asset_ids: Sequence[str],
    *,
    sources: Sequence[str],
    precision: float,
    is_unseen: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> LearnedTags:
    """Learn what suggests tags.

    Args:
        vectors: Unit vectors of clips by modality, shape (N, D).
        labels: Of the files.
        files: Number of each clip's file, shape (N,).
        asset_ids: Of the files.
        sources: Where the labels come from.
        precision: Least share of suggestions that must be right.
        is_unseen: Files whose labels nothing else has learned from, shape (files,); None for all.
        seed: Draws the first weights.

    Returns:
        The classifiers and thresholds.
    """
    judged = judge_out_of_fold(
        vectors, labels.truth[files], folds_of(asset_ids)[files], has_many=labels.has_many, seed=seed
    )
    classes = len(labels.names)
    there = np.zeros(len(asset_ids), bool)
    there[files] = True
    checked = there & labels.has_label & (True if is_unseen is None else is_unseen)
    thresholds = np.full((3, classes), np.nan, np.float32)
    for kind, said in enumerate((judged.of_clips, judged.soft[:, :classes], judged.soft[:, classes:])):
        likely = np.zeros((len(asset_ids), classes))
        np.maximum.at(likely, files, said)
        for column in range(classes):
            threshold = precise_threshold(
                likely[checked, column], labels.truth[checked, column], precision=precision, least=LEAST_FILES
            )
            thresholds[kind, column] = np.nan if threshold is None else threshold
    return LearnedTags(
        key=key_of(sources),
        labels=labels,
        judged=judged,
        thresholds=thresholds,
        num_checked=int(checked.sum()),
    )
