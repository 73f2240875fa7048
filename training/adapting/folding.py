"""The teacher of the graph, out of fold: no clip is judged by a classifier that has seen its label.

A teacher asked about its own training clips gives one-hot labels, in which no edge can be found; and a clip's own label
must not decide what is suggested for it. Files are divided, not clips: segments of a file are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.adapting.heads import Classifier
from training.adapting.interaction import soft_labels, teacher_loss

NUM_FOLDS = 5
NUM_STEPS = 200
MAX_TAUGHT = 20_000
"""A linear teacher learns from at most so many clips: more take minutes and say no more."""
LEARNING_RATE = 0.05
MODALITIES = ("audio", "video")

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What teachers that have not seen a clip's label say of it.

    Attributes:
        logits: Of sound and then picture, float64, shape (N, 2C).
        soft: The same as probabilities.
        weights: Of the teacher of each fold, its scale included, float32, shape (K, C, D).
        biases: Likewise, shape (K, C).
    """

    logits: NDArray[np.float64]
    soft: NDArray[np.float64]
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]

    @property
    def of_clips(self) -> NDArray[np.float64]:
        """Mean of what sound and picture say, shape (N, C)."""
        classes = self.soft.shape[1] // 2
        return (self.soft[:, :classes] + self.soft[:, classes:]) / 2


def judge_out_of_fold(
    vectors: Vectors,
    truth: NDArray[np.bool_],
    folds: NDArray[np.int64],
    *,
    has_many: bool,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> Judged:
    """Fit a linear teacher on all clips but those of a fold, and ask it about these.

    Args:
        vectors: Unit vectors of clips by modality, shape (N, D).
        truth: Labels, shape (N, C); clips without any only help sound and picture agree.
        folds: Fold of each clip's file, in [0, num_folds), shape (N,).
        has_many: Whether a clip may have several labels.
        num_folds: How many parts.
        seed: Draws the first weights.

    Returns:
        Logits and probabilities of every clip, and the teachers.
    """
    num_clips, num_classes = truth.shape
    logits, soft = (np.zeros((num_clips, 2 * num_classes)) for _ in range(2))
    weights = np.zeros((num_folds, num_classes, vectors["audio"].shape[1]), np.float32)
    biases = np.zeros((num_folds, num_classes), np.float32)
    for fold in range(num_folds):
        inside = np.equal(folds, fold)
        taught = _choose_taught(~inside, np.asarray(truth.any(axis=1)), seed)
        given = {name: torch.from_numpy(rows[taught]) for name, rows in vectors.items()}
        teacher = fit_teacher(given, torch.from_numpy(truth[taught]), has_many=has_many, seed=seed)
        weights[fold] = teacher.scale * teacher.weight.detach().numpy()
        biases[fold] = teacher.bias.detach().numpy()
        with torch.no_grad():
            for number, name in enumerate(MODALITIES):
                said = teacher(torch.from_numpy(vectors[name][inside]))
                place = slice(number * num_classes, (number + 1) * num_classes)
                logits[inside, place] = said.numpy()
                soft[inside, place] = soft_labels(said, has_many=has_many).numpy()
    return Judged(logits=logits, soft=soft, weights=weights, biases=biases)


def _choose_taught(outside: NDArray[np.bool_], has_label: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """At most `MAX_TAUGHT` clips outside of a fold, drawn; those that have labels first."""
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(outside))
    drawn = drawn[np.argsort(~has_label[drawn], kind="stable")]
    return np.sort(drawn[:MAX_TAUGHT])


def fit_teacher(
    vectors: dict[str, torch.Tensor], truth: torch.Tensor, *, has_many: bool, seed: int = 0
) -> Classifier:
    """Fit one linear classifier for both modalities on all clips at once.

    Args:
        vectors: Unit vectors by modality, shape (N, D).
        truth: Labels, bool, shape (N, C).
        has_many: Whether a clip may have several.
        seed: Draws the first weights.

    Returns:
        The classifier.
    """
    torch.manual_seed(seed)
    teacher = Classifier(vectors["audio"].shape[1], truth.shape[1])
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    target, has_label = truth.float(), truth.any(dim=1)
    for _ in range(NUM_STEPS):
        audio, video = (teacher(vectors[name]) for name in MODALITIES)
        loss = teacher_loss(audio, video, target, has_label, has_many=has_many)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return teacher


def precise_threshold(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_], *, precision: float, least: int = 5
) -> float | None:
    """The lowest probability above which a label was right often enough on labelled clips.

    Args:
        probabilities: Out of fold, of clips that have labels, shape (N,).
        truth: Whether they have this one, shape (N,).
        precision: Least share that must be right.
        least: Fewer clips above it say nothing.

    Returns:
        The threshold; None if there is none.
    """
    order = np.argsort(-probabilities, kind="stable")
    right = np.cumsum(truth[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(right >= precision)
    good = good[good >= least - 1]
    return None if not len(good) else float(probabilities[order[good[-1]]])
