"""Losses on the vectors of clips that pull alike ones together, with labels or without.

Letters: B clips, C classes, D width. z are unit vectors (B, D) of sound or picture; q says of each clip how much it is
of each class; S_ij how far the sound of clip i and the picture of clip j are of one class. Golden numbers:
`tests/golden/adapt/psd.safetensors`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pair_loss(audio: Tensor, video: Tensor, *, temperature: float = 0.05) -> Tensor:
    """InfoNCE of the clips' own pairs, sum of both directions' means halved: no label is needed.

    Args:
        audio: Unit vectors, shape (B, D).
        video: Of the same clips, shape (B, D).
        temperature: Divides the cosines.

    Returns:
        Scalar.
    """
    logits = audio @ video.T / temperature
    own = torch.arange(len(audio), device=audio.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def label_loss(logits: Tensor, truth: Tensor, is_annotated: Tensor, *, has_many: bool) -> Tensor:
    """Cross-entropy of the annotated clips; binary, mean over the classes, where a clip may have many.

    Args:
        logits: Shape (B, C).
        truth: Annotations, 0 or 1, shape (B, C); one 1 a row unless `has_many`.
        is_annotated: Which rows count, bool, shape (B,).
        has_many: Whether a clip may be of several classes.

    Returns:
        Scalar: the mean over the annotated rows; 0 if there are none.
    """
    logits, truth = logits[is_annotated], truth[is_annotated]
    if not len(logits):
        return logits.sum()
    if has_many:
        return F.binary_cross_entropy_with_logits(logits, truth)
    return F.cross_entropy(logits, truth)


def alignment(audio_targets: Tensor, video_targets: Tensor, *, has_many: bool) -> Tensor:
    """How far the sound of each clip and the picture of each are of one class.

    S_ij = ⟨q^a_i, q^v_j⟩ (one class a clip) or 1 − Π_c (1 − q^a_ic q^v_jc) (many); S_ii = 1.

    Args:
        audio_targets: Shape (B, C), in [0, 1].
        video_targets: Shape (B, C).
        has_many: Whether a clip may be of several classes.

    Returns:
        Shape (B, B), rows sound, in [0, 1], without gradient.
    """
    with torch.no_grad():
        if has_many:
            shared = 1 - (1 - audio_targets[:, None] * video_targets[None]).prod(dim=2)
        else:
            shared = audio_targets @ video_targets.T
        return shared.clamp(0, 1).fill_diagonal_(1)


def triplet_weights(similarity: Tensor, trust: Tensor, linked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How much each clip is a positive, and a negative, of each anchor.

    Args:
        similarity: S, shape (B, B), rows anchors.
        trust: How far each clip's label is believed, in [0, 1], shape (B,).
        linked: How far clips go together in a graph of labels, in [0, 1], shape (B, B): they count less as negatives.

    Returns:
        ω_p S_ip and ω_n (1 − S_in) (1 − W_in), shape (B, B) each.
    """
    negatives = (1 - similarity) * trust
    return similarity * trust, negatives if linked is None else negatives * (1 - linked)


def triplet_loss(
    anchors: Tensor,
    others: Tensor,
    similarity: Tensor,
    trust: Tensor,
    *,
    margin: float = 0.3,
    linked: Tensor | None = None,
) -> Tensor:
    """Mean hinge of all triplets, weighted: the exact form, of B³ cost.

    L = Σ w_ipn [m − cos(z_i, z_p) + cos(z_i, z_n)]₊ / Σ_{hinge > 0} w, w = ω_i ω_p ω_n S_ip (1 − S_in).
    With hard labels and full trust it is the batch-all triplet loss over active triplets.

    Args:
        anchors: Unit vectors of one modality, shape (B, D).
        others: Of the other one, shape (B, D).
        similarity: S with the anchors' modality in its rows, shape (B, B).
        trust: ω, shape (B,).
        margin: m.
        linked: See `triplet_weights`.

    Returns:
        Scalar; 0 if no triplet is active.
    """
    cosine = anchors @ others.T
    positive, negative = triplet_weights(similarity, trust, linked)
    hinge = (margin - cosine[:, :, None] + cosine[:, None, :]).clamp(min=0)  # (B, P, N)
    weights = trust[:, None, None] * positive[:, :, None] * negative[:, None, :]
    return _mean_active(hinge, weights)


def sampled_triplet_loss(
    anchors: Tensor,
    others: Tensor,
    similarity: Tensor,
    trust: Tensor,
    positives: Tensor,
    *,
    margin: float = 0.3,
    linked: Tensor | None = None,
) -> Tensor:
    """`triplet_loss` with some drawn positives an anchor and all negatives: equal in expectation.

    Args:
        anchors: Unit vectors, shape (B, D).
        others: Shape (B, D).
        similarity: S, shape (B, B).
        trust: ω, shape (B,).
        positives: Columns of the drawn positives, int64, shape (B, P); see `draw_positives`.
        margin: m.
        linked: See `triplet_weights`.

    Returns:
        Scalar; 0 if no triplet is active.
    """
    cosine = anchors @ others.T
    positive, negative = triplet_weights(similarity, trust, linked)
    hinge = (margin - cosine.gather(1, positives)[:, :, None] + cosine[:, None, :]).clamp(min=0)
    weights = (trust * positive.sum(dim=1))[:, None, None] * negative[:, None, :]
    return _mean_active(hinge, weights.expand_as(hinge))


def draw_positives(
    similarity: Tensor, trust: Tensor, *, num_positives: int = 4, generator: torch.Generator | None = None
) -> Tensor:
    """Draw positives of each anchor in proportion to ω_p S_ip, with replacement.

    Args:
        similarity: S, shape (B, B); its diagonal is 1.
        trust: ω, shape (B,).
        num_positives: How many an anchor.
        generator: Draws them.

    Returns:
        Columns, int64, shape (B, num_positives).
    """
    weights = similarity * trust + 1e-12  # an anchor whose own weight is 0 draws anything, and counts 0
    return torch.multinomial(weights, num_positives, replacement=True, generator=generator)


def _mean_active(hinge: Tensor, weights: Tensor) -> Tensor:
    active = (weights * (hinge > 0)).sum()
    return (weights * hinge).sum() / active.clamp(min=torch.finfo(hinge.dtype).tiny)


def decorrelation_loss(audio: Tensor, video: Tensor, *, weight_off: float = 0.005) -> Tensor:
    """Let each dimension agree between sound and picture, and differ from the others.

    [Σ_d (1 − C_dd)² + weight_off · Σ_{d≠e} C_de²] / D, C = correlation of the standardised vectors over the batch.

    Args:
        audio: Shape (B, D).
        video: Shape (B, D).
        weight_off: Weight of what lies off the diagonal.

    Returns:
        Scalar.
    """
    batch, width = audio.shape
    correlation = _standardise(audio).T @ _standardise(video) / batch
    diagonal = correlation.diagonal()
    off = correlation.square().sum() - diagonal.square().sum()
    return ((1 - diagonal).square().sum() + weight_off * off) / width


def _standardise(vectors: Tensor) -> Tensor:
    variance, mean = torch.var_mean(vectors, dim=0, unbiased=False)
    return (vectors - mean) / (variance + 1e-12).sqrt()
