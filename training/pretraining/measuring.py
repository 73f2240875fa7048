"""Measuring a run while it goes: zero-shot retrieval on held-out media."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.network.tgdp import Tgdp
from training.data.segments import Segments
from training.evaluation.evaluate import embed_segments, retrieval

if TYPE_CHECKING:
    from training.pretraining.pretrain import Run


def evaluate_both(run: Run, validation: Segments) -> dict[str, Any] | None:
    """Measure zero-shot retrieval of the student and of its average on held-out media, in the first process.

    Args:
        run: A run at any step.
        validation: Held-out media.

    Returns:
        Retrieval by name, JSON values; None in the other processes.
    """
    if not run.processes.is_first:
        return None
    scores = {}
    for name, network in (("student", run.student), ("teacher", run.teacher.network)):
        plain = Tgdp(run.config.network).to(run.processes.device).eval()  # other shapes: nothing compiled
        plain.load_state_dict(network.state_dict())
        scores[name] = retrieval(*embed_segments(plain, validation)).to_json()
    return scores
