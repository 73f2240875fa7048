"""The probe `--head cae`: sound and picture enrich each other, moment by moment, before classes are scored (CAE-AV).

    moments = linear(norm([CASE(CASTE(audio, video)) of both]))                (B, T, C + 1), the last is background
    scores  = mean of the moments' class scores                                (B, C)

CASTE and CASE are those of `training.adapting.enrichment`; tokens are the rows of tracks (L = 1) or patches. Captions,
where clips have some, are asked by CASE and learned with its losses; other clips ask a learned token. A label
`rain@2-7` is true between seconds 2 and 7 of its clip alone: then moments learn too, and are measured as AVE is, by the
share of seconds whose class, or background, is named right. What has seen both modalities scores classes only; it
never becomes a track that is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.adapting.enrichment import Case, Caste, caption_loss, choice_entropy, consistency_loss
from training.evaluation.embedding import EmbeddedMedia
from training.evaluation.probe import ProbeResult, count_classes, describe, label_rows, list_classes
from training.evaluation.probe_head import Classes, ProbeConfig, classification_loss
from training.evaluation.spans import NUM_SECONDS, read_seconds

WEIGHT = 0.1
"""Of each of CASE's three losses."""
MODALITIES = ("audio", "video")

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CaeClips:
    """Labelled clips with tokens.

    Attributes:
        tokens: By modality, float32, norm √D, shape (N, T, L, D).
        is_true: Which classes are true of which clip, bool, shape (N, C).
        seconds: Class of each second, C for background, int64, shape (N, 10); None if no label has a span.
        captions: Vector of the captions by modality, NaN where a clip has none, shape (N, D); None for none.
    """

    tokens: Mapping[str, Floats]
    is_true: NDArray[np.bool_]
    seconds: NDArray[np.int64] | None = None
    captions: Mapping[str, Floats] | None = None


class CaeHead(nn.Module):
    """CASTE and CASE under a classifier of moments.

    Args:
        width: Width D of the tokens.
        num_classes: C.
        num_moments: T.
        num_heads: Attention heads; divides the width.
    """

    def __init__(self, width: int, num_classes: int, *, num_moments: int, num_heads: int) -> None:
        super().__init__()
        self.caste = nn.ModuleDict({name: Caste(width, width) for name in MODALITIES})
        self.case = Case(dict.fromkeys(MODALITIES, width), num_heads=num_heads, num_moments=num_moments)
        self.no_caption = nn.Parameter(0.02 * torch.randn(width))
        self.norm = nn.LayerNorm(2 * width)
        self.linear = nn.Linear(2 * width, num_classes + 1)
        self.scale = width**0.5

    def forward(
        self, tokens: Mapping[str, Tensor], captions: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        """Score moments.

        Args:
            tokens: By modality, shape (B, T, L, D).
            captions: Unit vectors by modality, NaN for none, shape (B, D); None for none at all.

        Returns:
            Logits, shape (B, T, C + 1), and what CASE says of each modality, rows B·T.
        """
        batch, length = next(iter(tokens.values())).shape[:2]
        mixed = {
            name: self.caste[name](rows, tokens["video" if name == "audio" else "audio"])
            for name, rows in tokens.items()
        }
        asked = {name: self._captions(name, captions, batch, length) for name in tokens}
        noise = None
        if self.training:
            shape = {name: rows.shape[:3] for name, rows in mixed.items()}
            noise = {
                name: -torch.empty(size[0] * size[1], size[2], device=self.no_caption.device)
                .exponential_()
                .log()
                for name, size in shape.items()
            }
        found = self.case({name: rows.flatten(0, 1) for name, rows in mixed.items()}, asked, noise)
        moments = torch.cat([found[name]["tokens"].mean(1) for name in MODALITIES], dim=-1)
        logits: Tensor = self.linear(self.norm(moments)).reshape(batch, length, -1)
        return logits, found

    def _captions(self, name: str, captions: Mapping[str, Tensor] | None, batch: int, length: int) -> Tensor:
        """One caption token of every moment, (B·T, 1, D)."""
        vectors = self.no_caption.expand(batch, -1)
        if captions is not None:
            is_there = captions[name].isfinite().all(dim=1, keepdim=True)
            vectors = torch.where(is_there, self.scale * captions[name].nan_to_num(), vectors)
        return vectors.repeat_interleave(length, dim=0)[:, None]


def caption_losses(
    found: Mapping[str, Mapping[str, Tensor]], captions: Mapping[str, Tensor] | None, length: int
) -> Tensor:
    """CASE's losses: captions of clips that have one, agreement of sound and picture, a sure choice; each × .1.

    Args:
        found: What `CaeHead` returns of CASE.
        captions: As it was given.
        length: Moments T of a clip.

    Returns:
        Scalar.
    """
    projected = {name: _by_clip(found[name]["projected"], length) for name in MODALITIES}
    loss = consistency_loss(projected["audio"], projected["video"])
    loss = loss + sum(choice_entropy(found[name]["probabilities"]) for name in MODALITIES) / 2
    if captions is not None:
        is_there = captions["audio"].isfinite().all(dim=1)
        if int(is_there.sum()) > 1:
            given = captions["audio"][is_there]
            is_same = (given[:, None] == given[None]).all(dim=2)
            for name in MODALITIES:
                said = _by_clip(found[name]["caption"], length)[is_there].mean(1)
                loss = loss + caption_loss(projected[name][is_there].mean(1), said, is_same) / 2
    return WEIGHT * loss


def _by_clip(rows: Tensor, length: int) -> Tensor:
    """(B·T, X) → (B, T, X)."""
    return rows.reshape(-1, length, rows.shape[-1])


def train_cae(
    clips: CaeClips,
    config: ProbeConfig,
    *,
    classes: Classes,
    num_heads: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> CaeHead:
    """Train the head on frozen tokens; the same seed gives the same head on a CPU.

    Args:
        clips: Labelled clips.
        config: How it learns; layers and modality are not read.
        classes: Whether one class is true of a clip, or several may be.
        num_heads: Attention heads of CASE.
        on_epoch: Called after every epoch with its number and mean loss.

    Returns:
        The head in evaluation mode, on the GPU where there is one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    num_clips, length, _, width = clips.tokens["audio"].shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = CaeHead(width, clips.is_true.shape[1], num_moments=length, num_heads=num_heads).to(device)
        steps = config.num_epochs * -(-num_clips // config.batch_size)
        optimiser = torch.optim.AdamW(
            head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=max(steps, 2), pct_start=max(0.1, 2 / max(steps, 3))
        )
        head.train()
        for epoch in range(1, config.num_epochs + 1):
            total = 0.0
            for rows in torch.split(torch.randperm(num_clips), config.batch_size):
                loss = _loss(head, clips, rows.numpy(), classes, device)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimiser.step()
                cycle.step()
                total += float(loss.detach()) * len(rows)
            if on_epoch:
                on_epoch(epoch, total / num_clips)
    return head.eval()


def _loss(
    head: CaeHead, clips: CaeClips, rows: NDArray[np.int64], classes: Classes, device: torch.device
) -> Tensor:
    tokens, captions = _take(clips, rows, device)
    logits, found = head(tokens, captions)
    loss = classification_loss(
        clip_scores(logits), torch.from_numpy(clips.is_true[rows]).to(device), classes=classes
    )
    if clips.seconds is not None:
        seconds = torch.from_numpy(clips.seconds[rows]).to(device)
        loss = loss + F.cross_entropy(to_seconds(logits).flatten(0, 1), seconds.flatten())
    return loss + caption_losses(found, captions, logits.shape[1])


def _take(
    clips: CaeClips, rows: NDArray[np.int64], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    tokens = {name: torch.from_numpy(found[rows]).to(device) for name, found in clips.tokens.items()}
    if clips.captions is None:
        return tokens, None
    return tokens, {name: torch.from_numpy(found[rows]).to(device) for name, found in clips.captions.items()}


def clip_scores(moments: Tensor) -> Tensor:
    """Scores of clips: the mean of their moments' logits, (B, T, C + 1) → (B, C)."""
    return moments[..., :-1].mean(dim=1)


def to_seconds(moments: Tensor) -> Tensor:
    """Logits of the seconds of 10 s, each the mean of the moments whose middle lies in it, (B, T, X) → (B, 10, X).

    A second without any, where there are fewer moments than seconds, has those of the nearest.
    """
    length = moments.shape[1]
    middles = (torch.arange(length) + 0.5) * NUM_SECONDS / length
    matrix = torch.zeros(NUM_SECONDS, length)
    for second in range(NUM_SECONDS):
        inside = (middles >= second) & (middles < second + 1)
        if not inside.any():
            inside = torch.arange(length) == int((middles - second - 0.5).abs().argmin())
        matrix[second, inside] = 1 / inside.sum()
    return matrix.to(moments.device) @ moments


@torch.no_grad()
def score_cae(head: CaeHead, clips: CaeClips, *, batch_size: int = 64) -> tuple[Floats, NDArray[np.int64]]:
    """Score clips and name their seconds with a trained head.

    Args:
        head: In evaluation mode.
        clips: Whose labels are not read.
        batch_size: Clips at a time.

    Returns:
        Logits of the clips, (N, C), and the class of each second, C for background, (N, 10).
    """
    device, scores, named = head.no_caption.device, [], []
    for first in range(0, len(clips.is_true), batch_size):
        rows = np.arange(first, min(first + batch_size, len(clips.is_true)))
        logits, _ = head(*_take(clips, rows, device))
        scores.append(clip_scores(logits).float().cpu().numpy())
        named.append(to_seconds(logits).argmax(dim=2).cpu().numpy())
    return np.concatenate(scores), np.concatenate(named)


def probe_cae(
    training: EmbeddedMedia,
    validation: EmbeddedMedia,
    config: ProbeConfig,
    *,
    num_heads: int,
    num_tokens: int = 1,
    captions: Mapping[str, Mapping[str, NDArray[np.float32]]] | None = None,
    classes: Classes | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> ProbeResult:
    """`probe` with the head of CAE-AV, which sees both modalities; labels with a span teach moments too.

    Args:
        training: Labelled clips to learn from.
        validation: Labelled clips to measure on.
        config: How the head learns.
        num_heads: Attention heads of the head.
        num_tokens: Tokens L of a moment that lie side by side in the rows of tracks.
        captions: Vectors of the captions of a file by its name, by modality.
        classes: Whether one class is true of a clip, or several may be; None to tell from the labels.
        on_epoch: Called after every epoch with its number and mean loss.

    Returns:
        mAP or top-1, and the share of seconds named right.
    """
    names = list_classes(training, validation)
    classes = classes or count_classes(training, validation)
    learnt, held_out = (
        _cae_clips(media, names, classes, num_tokens, captions) for media in (training, validation)
    )
    head = train_cae(learnt, config, classes=classes, num_heads=num_heads, on_epoch=on_epoch)
    scores, named = score_cae(head, held_out)
    found = describe(scores, learnt.is_true, held_out.is_true, names, classes, "both")
    if held_out.seconds is None or learnt.seconds is None:
        return found
    return replace(found, seconds_right=round(float((named == held_out.seconds).mean()) * 100, 4))


def _cae_clips(
    media: EmbeddedMedia,
    names: tuple[str, ...],
    classes: Classes,
    num_tokens: int,
    captions: Mapping[str, Mapping[str, NDArray[np.float32]]] | None,
) -> CaeClips:
    rows, is_true = label_rows(media, names, classes=classes)
    tokens = {}
    for name, found in (("audio", media.audio), ("video", media.video)):
        cut = found[rows].reshape(len(rows), found.shape[1], num_tokens, -1)
        norms = np.linalg.norm(cut, axis=-1, keepdims=True)
        tokens[name] = (cut / np.maximum(norms, 1e-12) * cut.shape[-1] ** 0.5).astype(np.float32)
    said = None
    if captions is not None:
        none = np.full(tokens["audio"].shape[-1], np.nan, np.float32)
        said = {
            name: np.stack([captions.get(media.names[row], {}).get(name, none) for row in rows])
            for name in tokens
        }
    seconds = read_seconds([media.labels[row] for row in rows], names)
    return CaeClips(tokens=tokens, is_true=is_true, seconds=seconds, captions=said)
