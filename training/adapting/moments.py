"""Fits the network that weighs moments to stored tracks, and measures it: the loop behind `foley-train agreement`.

    network = fit_agreement(read, num_clips, config=AgreementConfig())
    measure_agreement(network, audio, video, seed=0)

A step draws clips and puts runs of another clip's sound into most of them; the network learns which moments are the
clip's own (`training.adapting.agreement`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from models.bundle.moments import moment_weights
from training.adapting.agreement import MomentAgreement, draw_foreign
from training.evaluation.evaluate import true_ranks

Floats = NDArray[np.float32]
Read = Callable[[str, NDArray[np.int64]], Floats]
BEST = 4
"""The rival that needs no model: the mean of the best moments of each pair."""


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """How the network is fitted; the defaults are those that were measured.

    Attributes:
        num_epochs: Passes over the clips.
        max_steps: At most so many steps.
        batch_size: Clips of a step.
        learning_rate: Of AdamW, highest of the cycle.
        hidden: Hidden units.
        seed: Of everything random.
    """

    num_epochs: int = 40
    max_steps: int = 12_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    hidden: int = 64
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """R@1 of picture → sound in percent, and how well own moments are told from foreign ones.

    Attributes:
        clean: Of clips as they are, every moment alike.
        clean_weighted: The same with weights.
        uniform: About half of each sound is another clip's, every moment alike.
        best_four: The same, with the mean of the best four moments of each pair.
        weighted: The same with weights.
        true_mask: The same with weights that know which moments are the clip's own.
        auc: Of the network's logits, own moments against foreign ones.
        cosine_auc: Of the plain cosine of sound and picture.
        flagged: Share of the moments of clips as they are that are called off screen.
        missed: Share of the foreign moments that are not.
    """

    clean: float
    clean_weighted: float
    uniform: float
    best_four: float
    weighted: float
    true_mask: float
    auc: float
    cosine_auc: float
    flagged: float
    missed: float

    def to_json(self) -> dict[str, float]:
        """The figures as JSON values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def fit_agreement(
    read: Read,
    num_clips: int,
    *,
    width: int,
    config: AgreementConfig,
    on_step: Callable[[int, int, float], None] = lambda *_: None,
) -> MomentAgreement:
    """Fit the network.

    Args:
        read: Gives the unit rows of clips by modality and numbers, float32, (len, T, D), T of 2 or more.
        num_clips: N, two at least.
        width: Width D of the tracks.
        config: How.
        on_step: Called with the steps done, all steps, and the loss.

    Returns:
        The network, in evaluation mode.

    Raises:
        ValueError: If there are too few clips.
    """
    if num_clips < 2:
        raise ValueError(f"two clips with sound and picture are the least, got {num_clips}")
    torch.manual_seed(config.seed)
    network = MomentAgreement(width, config.hidden)
    batch = min(config.batch_size, num_clips)
    num_steps = max(2, min(config.num_epochs * max(1, num_clips // batch), config.max_steps))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=num_steps, pct_start=0.1 if num_steps != 10 else 0.2
    )  # a warm-up of exactly one step divides by 0
    random = torch.Generator().manual_seed(config.seed)
    order = np.zeros(0, np.int64)
    for step in range(num_steps):
        if len(order) < batch:
            order = torch.randperm(num_clips, generator=random).numpy()
        chosen, order = np.sort(order[:batch]), order[batch:]
        audio, video = (torch.from_numpy(read(name, chosen)) for name in ("audio", "video"))
        mixed, is_own = draw_foreign(audio, generator=random)
        loss = F.binary_cross_entropy_with_logits(network(mixed, video), is_own.float())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        cycle.step()
        on_step(step + 1, num_steps, float(loss.detach()))
    return network.eval()


def to_arrays(network: MomentAgreement) -> dict[str, Floats]:
    """The arrays that a bundle keeps of the network; see `models.bundle.moments`."""
    return {name: array.detach().numpy().copy() for name, array in network.state_dict().items()}


def mix_halves(audio: Floats, *, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Put another clip's sound into about half of every clip: one run of 3/8 to 5/8 of the moments.

    Args:
        audio: Tracks of at least two clips, shape (N, T, D).
        seed: Of what is drawn.

    Returns:
        The tracks, and which moments are the clip's own, shape (N, T).
    """
    length = audio.shape[1]
    mixed, is_own = draw_foreign(
        torch.from_numpy(audio),
        share=1.0,
        lengths=(max(1, 3 * length // 8), max(1, 5 * length // 8)),
        generator=torch.Generator().manual_seed(seed),
    )
    return mixed.numpy(), is_own.numpy()


def measure_agreement(
    judge: Callable[[Floats, Floats], Floats], audio: Floats, video: Floats, *, seed: int
) -> Measured:
    """Search with each picture among all sounds, as they are and with about half of each sound foreign.

    Args:
        judge: Gives logits (N, T) of unit rows of sound and picture, (N, T, D) each.
        audio: Unit rows of clips that taught nothing, shape (N, T, D).
        video: The same of their pictures.
        seed: Of the foreign sound.

    Returns:
        The figures.
    """
    mixed, is_own = mix_halves(audio, seed=seed)
    logits, clean_logits = judge(mixed, video), judge(audio, video)
    clean, cosines = _cosines(video, audio), _cosines(video, mixed)
    best = np.sort(cosines, axis=0)[-min(BEST, len(cosines)) :].mean(axis=0)
    return Measured(
        clean=_recall_at_1(clean.mean(axis=0)),
        clean_weighted=_recall_at_1(_weighted(clean, moment_weights(clean_logits))),
        uniform=_recall_at_1(cosines.mean(axis=0)),
        best_four=_recall_at_1(best),
        weighted=_recall_at_1(_weighted(cosines, moment_weights(logits))),
        true_mask=_recall_at_1(_weighted(cosines, is_own / is_own.mean(axis=1, keepdims=True))),
        auc=_auc(logits, is_own),
        cosine_auc=_auc((mixed * video).sum(axis=-1), is_own),
        flagged=float((clean_logits < 0).mean()),
        missed=float((logits[~is_own] >= 0).mean()),
    )


def _cosines(queries: Floats, items: Floats) -> Floats:
    """Cosine of every query and item in each moment, (T, N, N)."""
    return np.asarray(np.matmul(queries.transpose(1, 0, 2), items.transpose(1, 2, 0)), np.float32)


def _weighted(cosines: Floats, weights: NDArray[Any]) -> NDArray[Any]:
    """Mean over moments, with weights (N, T) of the items."""
    found: NDArray[Any] = (cosines * weights.T[:, None, :]).mean(axis=0)
    return found


def _recall_at_1(scores: NDArray[Any]) -> float:
    return 100 * float((true_ranks(np.asarray(scores, np.float32)) == 1).mean())


def _auc(scores: NDArray[Any], is_own: NDArray[np.bool_]) -> float:
    """How often an own moment scores above a foreign one; equal scores count half."""
    foreign = np.sort(scores[~is_own])
    below, up_to = (np.searchsorted(foreign, scores[is_own], side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(foreign)))
