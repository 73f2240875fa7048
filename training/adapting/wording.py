"""Fits the projection from sentence vectors to the space of stored tracks: the loop behind `foley-train text`.

    z_c = unit(P e),  e a frozen sentence vector;  loss = InfoNCE(z_c, z_a) + InfoNCE(z_c, z_v), temperature .05

Equal texts share the target and are no negatives of each other. A clip without a stream counts for the other alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.adapting.enrichment import caption_loss
from training.evaluation.evaluate import true_ranks

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WordingConfig:
    """How the projection is fitted; the defaults are those that were measured.

    Attributes:
        num_epochs: Passes over the clips.
        max_steps: At most so many steps.
        batch_size: Clips of a step.
        learning_rate: Of AdamW.
        temperature: Divides the cosines.
        seed: Of everything random.
    """

    num_epochs: int = 60
    max_steps: int = 12_000
    batch_size: int = 128
    learning_rate: float = 3e-3
    temperature: float = 0.05
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Worded:
    """Clips with texts.

    Attributes:
        vectors: Unit vectors of the clips by modality, float32, (N, D); zeros where a clip lacks it.
        has: Which clips have each modality, bool, (N,).
        texts: Texts of each clip, as rows of `features`; none is empty.
        features: Sentence vectors of all texts, float32, (M, F).
    """

    vectors: Mapping[str, Floats]
    has: Mapping[str, NDArray[np.bool_]]
    texts: Sequence[Sequence[int]]
    features: Floats

    def choose(self, places: NDArray[np.int64]) -> Worded:
        """Some of the clips."""
        return Worded(
            vectors={name: rows[places] for name, rows in self.vectors.items()},
            has={name: rows[places] for name, rows in self.has.items()},
            texts=[self.texts[place] for place in places.tolist()],
            features=self.features,
        )


def fit_wording(clips: Worded, modalities: Sequence[str], config: WordingConfig) -> Floats:
    """Fit one projection to the modalities that share a space.

    Args:
        clips: Two at least.
        modalities: Which of their vectors.
        config: How.

    Returns:
        P, float32, shape (D, F).

    Raises:
        ValueError: If there are too few clips.
    """
    count = len(clips.texts)
    if count < 2:
        raise ValueError(f"two clips with texts are the least, got {count}")
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    width = clips.vectors[modalities[0]].shape[1]
    projection = nn.Linear(clips.features.shape[1], width, bias=False)
    optimiser = torch.optim.AdamW(projection.parameters(), lr=config.learning_rate)
    features = torch.from_numpy(clips.features)
    vectors = {name: torch.from_numpy(clips.vectors[name]) for name in modalities}
    batch = min(config.batch_size, count)
    order = np.zeros(0, np.int64)
    for _ in range(min(config.num_epochs * max(1, count // batch), config.max_steps)):
        if len(order) < batch:
            order = generator.permutation(count)
        chosen, order = order[:batch], order[batch:]
        said = np.array([generator.choice(clips.texts[place]) for place in chosen.tolist()])
        projected = projection(features[said])
        loss: Tensor = projected.sum() * 0
        for name, rows in vectors.items():
            held = clips.has[name][chosen]
            same = torch.from_numpy(said[held][:, None] == said[held][None])
            if held.sum() > 1:
                loss = loss + caption_loss(
                    rows[chosen[held]],
                    projected[torch.from_numpy(held)],
                    same,
                    temperature=config.temperature,
                )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return np.asarray(projection.weight.detach().numpy(), np.float32).copy()


def measure_wording(clips: Worded, projections: Mapping[str, Floats]) -> dict[str, float | int]:
    """Ask with the first text of each clip for its sound and its picture, among all.

    Args:
        clips: That taught nothing.
        projections: P by modality.

    Returns:
        R@10 in percent by modality, `at_10_audio` and `at_10_video`, of chance, `at_10_chance`, and `num_clips`.
    """
    found: dict[str, float | int] = {"num_clips": len(clips.texts)}
    said = np.array([texts[0] for texts in clips.texts], np.int64)
    for name, projection in projections.items():
        held = clips.has[name]
        words = F.normalize(torch.from_numpy(clips.features[said[held]] @ projection.T), dim=1).numpy()
        ranks = true_ranks(words @ clips.vectors[name][held].T)
        found[f"at_10_{name}"] = round(100 * float((ranks <= 10).mean()), 2) if len(ranks) else 0.0
    found["at_10_chance"] = round(min(100.0, 1000 / max(1, len(clips.texts))), 2)
    return found
