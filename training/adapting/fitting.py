"""Fits heads to a library's stored tracks: the loop behind `foley-train adapt`.

    heads = fit_heads(clips, config=FitConfig(method="pair"))

Two moments are drawn of each clip a step; the loss of the method is added to terms that need no label: every clip's own
pair (`pair_loss`) and staying near the parent (`stay_loss`). Without them losses of classes destroy what finds a file's
own sound (docs/adapting.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.adapting import losses
from training.adapting.heads import Classifier, Projection, TrackHead, draw_moments, pool_tracks, stay_loss
from training.adapting.interaction import interaction_loss, linked_negatives, soft_labels
from training.adapting.teaching import Schedule, choose_annotated, targets_of, trust_of

Method = Literal["pair", "triplet", "distill", "graph"]
MODALITIES = ("audio", "video")
Vectors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How heads are fitted; the defaults are those that were measured.

    Attributes:
        method: `pair` needs no label; `triplet` is the plain baseline; `distill` teaches itself what labels do not
            say; `graph` adds what a graph of labels joins.
        is_noisy: Whether the classifier of `distill` leaves the heads alone: for labels of which many are wrong.
        trusts_labels: Whether every label counts at every step.
        num_epochs: Passes over the clips.
        max_steps: At most so many steps.
        batch_size: Clips of a step.
        num_moments: Moments drawn of each.
        learning_rate: Of AdamW, highest of the cycle.
        weight_pair: Weight of the own pairs.
        hidden: Hidden width of the heads; None: `clamp(N / 20, 16, D)` for `pair`, else D.
        weight_stay: Weight of staying; None: 1 for `pair`, else .1.
        common_width: Width of the common space, if the modalities have spaces of their own.
        seed: Of everything random.
    """

    method: Method = "pair"
    is_noisy: bool = False
    trusts_labels: bool = False
    num_epochs: int = 30
    max_steps: int = 6_000
    batch_size: int = 128
    num_moments: int = 2
    learning_rate: float = 1e-3
    weight_pair: float = 0.5
    hidden: int | None = None
    weight_stay: float | None = None
    common_width: int = 128
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What is learned from.

    Attributes:
        read: Gives unit rows by modality, numbers of clips (B,) and moments of each (B, M), float32, (B, M, D).
        num_clips: N.
        shapes: (T, D) by modality.
        shares_space: Whether sound and picture compare before.
        truth: Labels, bool, shape (N, C); None for none.
        has_many: Whether a clip may have several.
        graph: Of the labels, float32, shape (2C, 2C), for `graph`.
    """

    read: Callable[[str, NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
    num_clips: int
    shapes: Mapping[str, tuple[int, int]]
    shares_space: bool = True
    truth: NDArray[np.bool_] | None = None
    has_many: bool = False
    graph: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was learned: a head for each modality, and the classifier of `distill` and `graph`."""

    heads: Mapping[str, nn.Module]
    classifier: Classifier | None


def make_heads(clips: Clips, config: FitConfig) -> dict[str, nn.Module]:
    """Make untrained heads: residual ones, or projections if sound and picture do not compare yet."""
    torch.manual_seed(config.seed)
    if not clips.shares_space:
        return {name: Projection(clips.shapes[name][1], config.common_width) for name in MODALITIES}
    width = clips.shapes["audio"][1]
    default = min(max(clips.num_clips // 20, 16), width) if config.method == "pair" else width
    return {name: TrackHead(width, config.hidden or default) for name in MODALITIES}


def fit_heads(
    clips: Clips, config: FitConfig, *, on_step: Callable[[int, int, float], None] = lambda *_: None
) -> Fitted:
    """Fit heads.

    Args:
        clips: At least two.
        config: How.
        on_step: Called with the steps done, all steps, and the loss.

    Returns:
        The heads, in evaluation mode.

    Raises:
        ValueError: If the method needs labels or a graph and there are none, or there are too few clips.
    """
    if clips.num_clips < 2:
        raise ValueError(f"two clips with sound and picture are the least, got {clips.num_clips}")
    if config.method != "pair" and clips.truth is None:
        raise ValueError(f"{config.method} needs labels")
    if config.method == "graph" and clips.graph is None:
        raise ValueError("graph needs a graph of the labels: foley-train graph")
    fitting = Fitting(clips, config)
    generator = np.random.default_rng(config.seed)
    batch = min(config.batch_size, clips.num_clips)
    per_epoch = max(1, clips.num_clips // batch)
    num_steps = min(config.num_epochs * per_epoch, config.max_steps)
    optimiser = torch.optim.AdamW(
        fitting.parameters(), lr=config.learning_rate, weight_decay=0.01, fused=True
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=max(num_steps, 2), pct_start=_warm_up(num_steps)
    )
    order = np.zeros(0, np.int64)
    for step in range(num_steps):
        if len(order) < batch:
            order = generator.permutation(clips.num_clips)
        chosen, order = np.sort(order[:batch]), order[batch:]
        loss = fitting.loss(chosen, step, num_steps)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(fitting.parameters(), 1.0)
        optimiser.step()
        cycle.step()
        on_step(step + 1, num_steps, float(loss.detach()))
    return Fitted(
        heads={name: head.eval() for name, head in fitting.heads.items()}, classifier=fitting.classifier
    )


def _warm_up(num_steps: int) -> float:
    """Share of the steps in which the rate rises: a tenth, but never exactly one step (torch divides by 0 then)."""
    return max(0.1, 2 / max(num_steps, 3)) if num_steps <= 20 else 0.1


class Fitting:
    """The heads, the classifier and the loss of a step.

    Args:
        clips: What is learned from.
        config: How.
    """

    def __init__(self, clips: Clips, config: FitConfig) -> None:
        self.clips, self.config = clips, config
        self.heads = make_heads(clips, config)
        self.classifier: Classifier | None = None
        if clips.truth is not None and config.method in ("distill", "graph"):
            width = clips.shapes["audio"][1] if clips.shares_space else config.common_width
            self.classifier = Classifier(width, clips.truth.shape[1])
        self.stay = (
            (1.0 if config.method == "pair" else 0.1) if config.weight_stay is None else config.weight_stay
        )
        self.random = torch.Generator().manual_seed(config.seed)
        self.graph = None if clips.graph is None else torch.from_numpy(clips.graph)

    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        found = [parameter for head in self.heads.values() for parameter in head.parameters()]
        return found + (list(self.classifier.parameters()) if self.classifier is not None else [])

    def loss(self, chosen: NDArray[np.int64], step: int, num_steps: int) -> Tensor:
        """The loss of some clips at a step."""
        vectors, stay = self._embed(chosen)
        return self.combine(vectors, stay, chosen, step, num_steps)

    def combine(
        self, vectors: Vectors, stay: Tensor, chosen: NDArray[np.int64], step: int, num_steps: int
    ) -> Tensor:
        """The loss of vectors (B, D) of some clips, which moved by `stay` from where they were."""
        loss = self.config.weight_pair * losses.pair_loss(vectors["audio"], vectors["video"])
        loss = loss + self.stay * stay
        if self.config.method == "pair" or self.clips.truth is None:
            return loss
        truth = torch.from_numpy(self.clips.truth[chosen]).float()
        if self.config.method == "triplet":
            return loss + self._triplets(vectors, truth, truth, truth.any(dim=1).float(), None)
        return loss + self._distilled(vectors, truth, step, num_steps)

    def _embed(self, chosen: NDArray[np.int64]) -> tuple[Vectors, Tensor]:
        vectors: dict[str, Tensor] = {}
        stay = torch.zeros(())
        state = self.random.get_state()
        for name in MODALITIES:
            self.random.set_state(state)  # the same moments of sound and picture
            length, _ = self.clips.shapes[name]
            moments = draw_moments(len(chosen), length, self.config.num_moments, self.random)
            tracks = torch.from_numpy(self.clips.read(name, chosen, moments.numpy()))
            adapted = self.heads[name](tracks)
            if self.clips.shares_space:
                stay = stay + stay_loss(adapted, tracks)
            vectors[name] = pool_tracks(adapted)
        return vectors, stay

    def _distilled(self, vectors: Vectors, truth: Tensor, step: int, num_steps: int) -> Tensor:
        assert self.classifier is not None
        has_many, has_label = self.clips.has_many, truth.any(dim=1)
        schedule = Schedule(num_steps=num_steps, end=1.0 if self.config.trusts_labels else 0.2)
        share = schedule.share(step)
        annotated = choose_annotated(has_label, torch.rand(len(truth), generator=self.random), share)
        logits = {
            name: self.classifier(rows.detach() if self.config.is_noisy else rows)
            for name, rows in vectors.items()
        }
        progress = step / max(1, num_steps - 1)
        trust = progress if self.config.trusts_labels else schedule.trust(share)
        targets = {name: targets_of(logits[name], truth, annotated, has_many=has_many) for name in MODALITIES}
        labelled = sum(
            losses.label_loss(logits[name], truth, annotated, has_many=has_many) for name in MODALITIES
        )
        loss = labelled / 2
        if self.graph is not None and self.config.method == "graph":
            soft = {name: soft_labels(rows, has_many=has_many) for name, rows in logits.items()}
            loss = loss + interaction_loss(
                vectors["audio"], vectors["video"], soft["audio"], soft["video"], self.graph
            )
            return loss + self._triplets(
                vectors, targets["audio"], targets["video"], trust_of(annotated, trust), soft
            )
        return loss + self._triplets(
            vectors, targets["audio"], targets["video"], trust_of(annotated, trust), None
        )

    def _triplets(
        self,
        vectors: Vectors,
        audio_targets: Tensor,
        video_targets: Tensor,
        trust: Tensor,
        soft: Vectors | None,
    ) -> Tensor:
        similarity = losses.alignment(audio_targets, video_targets, has_many=self.clips.has_many)
        total = torch.zeros(())
        for anchors, others, towards in (("audio", "video", similarity), ("video", "audio", similarity.T)):
            positives = losses.draw_positives(towards, trust, generator=self.random)
            linked = None
            if soft is not None and self.graph is not None:
                linked = linked_negatives(dict(soft), self.graph, anchors=anchors)
            total = total + losses.sampled_triplet_loss(
                vectors[anchors], vectors[others], towards, trust, positives, linked=linked
            )
        return total / 2


@torch.no_grad()
def apply_head(head: nn.Module, tracks: NDArray[np.float32], *, batch: int = 256) -> NDArray[np.float32]:
    """Adapt tracks (N, T, D), unit rows, to (N, T, D'), some at a time."""
    parts = [
        head(torch.from_numpy(tracks[first : first + batch])).numpy()
        for first in range(0, len(tracks), batch)
    ]
    adapted: NDArray[np.float32] = np.concatenate(parts)
    return adapted
