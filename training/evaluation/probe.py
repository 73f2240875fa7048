"""TG-DP's probe: a small head trained on frozen embeddings.

mAP where several classes may be true of a clip (AudioSet), top-1 where one is (VGGSound). The encoder never learns
here: its embeddings are computed once. The head of the last epoch is measured; held-out clips choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.accuracy import RankedClips, Truth, chance_average_precisions, is_top_1, map_interval
from training.evaluation.embedding import EmbeddedMedia
from training.evaluation.evaluate import bootstrap_interval
from training.evaluation.probe_head import Classes, Heard, Labelled, ProbeConfig, score_clips, train_head
from training.evaluation.spans import name_of


class BadLabels(ValueError):
    """The labels of the clips do not fit the question."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of a probe on held-out clips.

    Attributes:
        classes: Whether one class is true of a clip, or several may be.
        modality: Which embeddings the head saw.
        num_training: Training clips.
        num_validation: Held-out clips.
        metric: "mAP" for several classes, "top-1" for one.
        percent: Its value.
        interval: Its 95 % bootstrap interval over the held-out clips.
        chance: For mAP that of random scores, for top-1 that of always naming the training clips' commonest class.
        by_class: Average precision, or share of a class's clips named right, in percent; held-out classes only.
        seconds_right: Share of seconds whose class or background is named right, in percent (AVE's accuracy); None if
            no label says when, or the head does not look at moments.
    """

    classes: Classes
    modality: Heard
    num_training: int
    num_validation: int
    metric: str
    percent: float
    interval: tuple[float, float]
    chance: float
    by_class: dict[str, float]
    seconds_right: float | None = None


def list_classes(*media: EmbeddedMedia) -> tuple[str, ...]:
    """List all labels.

    Args:
        *media: Clips.

    Returns:
        Every label once, sorted.

    Raises:
        BadLabels: If there are fewer than two.
    """
    found = sorted({name_of(label) for part in media for labels in part.labels for label in labels})
    if len(found) < 2:
        raise BadLabels(f"a probe needs at least 2 classes in the labels of the media, got {found}")
    return tuple(found)


def count_classes(*media: EmbeddedMedia) -> Classes:
    """Return whether every labelled clip has exactly one class.

    Args:
        *media: Clips.

    Returns:
        "one" or "many".
    """
    return (
        "many"
        if any(len(set(map(name_of, labels))) > 1 for part in media for labels in part.labels)
        else "one"
    )


def label_clips(
    media: EmbeddedMedia, class_names: tuple[str, ...], *, classes: Classes, modality: Heard
) -> Labelled:
    """Bring tracks and labels into the shapes of the head; clips without a label are left out.

    Args:
        media: Clips.
        class_names: All classes.
        classes: Whether one class is true of a clip, or several may be.
        modality: Which embeddings the head sees.

    Returns:
        The labelled clips.

    Raises:
        BadLabels: If no clip has a label, or one has several where one is wanted.
    """  # noqa: DOC502 - raised where labels are read
    rows, is_true = label_rows(media, class_names, classes=classes)
    parts = {"both": (media.audio, media.video), "audio": (media.audio,), "video": (media.video,)}[modality]
    width = media.audio.shape[2]
    return Labelled(tokens=np.concatenate(parts, axis=1)[rows] * np.float32(width**0.5), is_true=is_true)


def label_rows(
    media: EmbeddedMedia, class_names: tuple[str, ...], *, classes: Classes
) -> tuple[list[int], NDArray[np.bool_]]:
    """The clips that have labels, and which classes are true of them.

    Args:
        media: Clips.
        class_names: All C classes.
        classes: Whether one class is true of a clip, or several may be.

    Returns:
        N rows of the media, and (N, C).

    Raises:
        BadLabels: If no clip has a label, or one has several where one is wanted.
    """
    rows = [row for row, labels in enumerate(media.labels) if labels]
    if not rows:
        raise BadLabels(f"none of {len(media.labels)} clips has a label")
    number = {name: position for position, name in enumerate(class_names)}
    is_true = np.zeros((len(rows), len(class_names)), np.bool_)
    for row, source in enumerate(rows):
        is_true[row, [number[name_of(label)] for label in media.labels[source]]] = True
        if classes == "one" and is_true[row].sum() > 1:
            labels = ", ".join(media.labels[source])
            raise BadLabels(f"one class is wanted, {media.names[source]} has {labels}")
    return rows, is_true


def probe(
    training: EmbeddedMedia,
    validation: EmbeddedMedia,
    config: ProbeConfig,
    *,
    num_heads: int,
    classes: Classes | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> ProbeResult:
    """Train a head on the embeddings of some clips and measure it on others.

    Args:
        training: Labelled clips to learn from.
        validation: Labelled clips to measure on.
        config: How the head learns, and what it sees.
        num_heads: Attention heads of the head.
        classes: Whether one class is true of a clip, or several may be; None to tell from the labels.
        on_epoch: Called after every epoch with its number and mean loss.

    Returns:
        mAP or top-1 with its interval and chance level.
    """
    names = list_classes(training, validation)
    classes = classes or count_classes(training, validation)
    learnt, held_out = (
        label_clips(media, names, classes=classes, modality=config.modality)
        for media in (training, validation)
    )
    head = train_head(learnt, config, classes=classes, num_heads=num_heads, on_epoch=on_epoch)
    scores = score_clips(head, held_out.tokens)
    return describe(scores, learnt.is_true, held_out.is_true, names, classes, config.modality)


def describe(
    scores: NDArray[np.float32],
    learnt: Truth,
    held_out: Truth,
    names: tuple[str, ...],
    classes: Classes,
    modality: Heard,
) -> ProbeResult:
    """The result of scores of held-out clips.

    Args:
        scores: Logits, shape (N, C).
        learnt: Classes of the training clips, shape (M, C).
        held_out: Classes of the held-out clips, shape (N, C).
        names: Of the classes.
        classes: Whether one class is true of a clip, or several may be.
        modality: What the head saw.

    Returns:
        mAP or top-1 with its interval and chance level.
    """
    measured = _measure_one(scores, learnt, held_out) if classes == "one" else _measure_many(scores, held_out)
    by_class = {
        name: round(float(value) * 100, 4)
        for name, value in zip(names, measured.pop("by_class"), strict=True)
        if not np.isnan(value)
    }
    return ProbeResult(
        classes=classes,
        modality=modality,
        num_training=len(learnt),
        num_validation=len(held_out),
        by_class=by_class,
        **measured,
    )


def _measure_many(scores: NDArray[np.float32], held_out: Truth) -> dict[str, Any]:
    precisions = RankedClips(scores, held_out).average_precisions()
    low, high = map_interval(scores, held_out)
    return {
        "metric": "mAP",
        "percent": round(float(np.nanmean(precisions)) * 100, 4),
        "interval": (round(low, 4), round(high, 4)),
        "chance": round(float(np.nanmean(chance_average_precisions(held_out))) * 100, 4),
        "by_class": precisions,
    }


def _measure_one(scores: NDArray[np.float32], learnt: Truth, held_out: Truth) -> dict[str, Any]:
    is_right = is_top_1(scores, held_out)
    commonest = learnt.sum(axis=0).argmax()
    num_clips = held_out.sum(axis=0)
    right = (held_out & is_right[:, None]).sum(axis=0)
    return {
        "metric": "top-1",
        "percent": round(float(is_right.mean()) * 100, 4),
        "interval": bootstrap_interval(is_right),
        "chance": round(float(held_out[:, commonest].mean()) * 100, 4),
        "by_class": np.where(num_clips > 0, right / np.maximum(num_clips, 1), np.nan),
    }
