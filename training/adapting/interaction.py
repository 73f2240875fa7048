"""Labels that come together unsaid: a teacher of soft labels, and losses over a graph of them.

Nodes 0..C−1 are the classes of sound, C..2C−1 those of picture; an edge i → j of a graph (2C, 2C) is at [i, j]. After
Zeng, Niu, Wang & Taya 2026, as far as it can be read; docs/adapting.md says what is ours and what it brought.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.adapting.losses import label_loss


def symmetric_kl(audio_logits: Tensor, video_logits: Tensor, *, has_many: bool) -> Tensor:
    """How far what is heard and what is seen differ: ½ [KL(p^a‖p^v) + KL(p^v‖p^a)], mean over the batch.

    Where a clip may be of many classes, ½ (p − q)(logit p − logit q), mean over the classes.

    Args:
        audio_logits: Shape (B, C).
        video_logits: Shape (B, C).
        has_many: Whether a clip may be of several classes.

    Returns:
        Scalar, at least 0.
    """
    if has_many:
        difference = audio_logits.sigmoid() - video_logits.sigmoid()
        return (difference * (audio_logits - video_logits)).mean() / 2
    log_audio, log_video = audio_logits.log_softmax(1), video_logits.log_softmax(1)
    return ((log_audio.exp() - log_video.exp()) * (log_audio - log_video)).sum(1).mean() / 2


def teacher_loss(
    audio_logits: Tensor,
    video_logits: Tensor,
    truth: Tensor,
    has_label: Tensor,
    *,
    has_many: bool,
    weight_agreement: float = 1.0,
) -> Tensor:
    """The loss of the teacher (AV-SAL): both modalities learn the annotations, and agree on every clip.

    Args:
        audio_logits: Shape (B, C).
        video_logits: Shape (B, C).
        truth: Annotations, shape (B, C).
        has_label: Which rows have one, bool, shape (B,).
        has_many: Whether a clip may be of several classes.
        weight_agreement: β, weight of `symmetric_kl`.

    Returns:
        Scalar.
    """
    labelled = sum(
        label_loss(logits, truth, has_label, has_many=has_many) for logits in (audio_logits, video_logits)
    )
    return labelled + weight_agreement * symmetric_kl(audio_logits, video_logits, has_many=has_many)


def link_weights(soft_labels: Tensor, others: Tensor, block: Tensor) -> Tensor:
    """How far each clip of one modality goes with each of another by a graph: W = s · Â · s'ᵀ, O(N²C).

    Args:
        soft_labels: s of the edges' origin, shape (N, C).
        others: s of where the edges end, shape (M, C).
        block: The part of the graph between these modalities, shape (C, C).

    Returns:
        Shape (N, M).
    """
    return soft_labels @ block @ others.T


def linked_negatives(soft: dict[str, Tensor], graph: Tensor, *, anchors: str) -> Tensor:
    """How far each clip of the other modality goes with each anchor, in [0, 1]: over Â + Âᵀ, direction is ignored.

    Args:
        soft: Soft labels (N, C) by modality.
        graph: Shape (2C, 2C).
        anchors: Modality of the rows.

    Returns:
        Shape (N, N).
    """
    classes = soft["audio"].shape[1]
    both = graph + graph.T
    block = both[:classes, classes:] if anchors == "audio" else both[classes:, :classes]
    other = "video" if anchors == "audio" else "audio"
    return link_weights(soft[anchors], soft[other], block).clamp(0, 1)


def interaction_loss(
    audio: Tensor, video: Tensor, audio_soft: Tensor, video_soft: Tensor, graph: Tensor
) -> Tensor:
    """Pull clips together whose classes an edge joins (LIR).

    Σ_ij Â_ij · mean_{n≠m} s_n[i] s_m[j] (1 − cos(z_n, z_m)) / Σ Â. Turning every edge round gives the same value.

    Args:
        audio: Vectors of the sound, any norm, shape (N, D).
        video: Of the picture, shape (N, D).
        audio_soft: Soft labels of the sound, shape (N, C), no gradient.
        video_soft: Of the picture.
        graph: Non-negative, shape (2C, 2C).

    Returns:
        Scalar; 0 for a graph without edges.
    """
    total = graph.sum()
    if not float(total):
        return audio.sum() * 0
    num_clips, classes = audio_soft.shape
    parts = (
        (F.normalize(audio, dim=1), audio_soft.detach(), 0),
        (F.normalize(video, dim=1), video_soft.detach(), classes),
    )
    is_other = 1 - torch.eye(num_clips, dtype=audio.dtype, device=audio.device)
    loss = audio.new_zeros(())
    for vectors, soft, first in parts:
        for other_vectors, other_soft, second in parts:
            block = graph[first : first + classes, second : second + classes]
            weights = link_weights(soft, other_soft, block) * is_other
            loss = loss + (weights * (1 - vectors @ other_vectors.T)).sum()
    return loss / (num_clips * (num_clips - 1)) / total


def soft_labels(logits: Tensor, *, has_many: bool) -> Tensor:
    """Soft labels of a teacher's logits, (N, C), without gradient."""
    return logits.detach().sigmoid() if has_many else F.softmax(logits.detach(), dim=1)
