"""The graph of a library's labels: GRaSP over bootstraps of the teacher's logits, and plainer rivals beside it.

    found = find_graph(logits)      # (N, 2C) of sound and picture, out of fold
    found.skeleton(0.6)             # pairs that are joined in at least 60 % of the runs

GRaSP is causal-learn's (MIT; the extra `[graph]`). It draws from Python's global `random`, which is seeded here and put
back. An edge says which labels go together, not what causes what.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DEPTH, PENALTY = 3, 2.0
NUM_RUNS, LEAST = 20, 0.6
INSTALL = "the graph needs causal-learn: pip install 'foley-av[graph]'"


class GraphUnavailable(RuntimeError):
    """The package that searches for the graph is not installed."""


@dataclass(frozen=True, kw_only=True)
class FoundGraph:
    """How often each edge was found.

    Attributes:
        directed: Share of the runs with i → j at [i, j], shape (P, P).
        undirected: Share with i — j, symmetric.
    """

    directed: Floats
    undirected: Floats

    @property
    def joined(self) -> Floats:
        """Share of the runs in which two nodes are joined in any way, symmetric, shape (P, P)."""
        joined: Floats = self.directed + self.directed.T + self.undirected
        return joined

    def skeleton(self, least: float = LEAST) -> NDArray[np.bool_]:
        """The pairs that are joined in at least this share of the runs, symmetric."""
        return self.joined >= least - 1e-9

    def arrows(self, least: float = LEAST) -> NDArray[np.bool_]:
        """The edges of which one direction alone reaches the share: i → j at [i, j]."""
        return self.directed >= least - 1e-9


def find_graph(
    rows: Floats, *, num_runs: int = NUM_RUNS, seed: int = 7, on_run: Callable[[int], None] = lambda _: None
) -> FoundGraph:
    """Search for the graph in bootstrapped rows.

    Args:
        rows: Logits of clips, shape (N, P), any scale.
        num_runs: How many bootstraps.
        seed: Draws the rows and the order of search.
        on_run: Called with the number of each finished run.

    Returns:
        Frequencies; the same for the same seed.

    Raises:
        GraphUnavailable: Without the extra `[graph]`.
    """  # noqa: DOC502 - raised where it is imported
    search = _load_search()
    draws = np.random.RandomState(seed)
    num_nodes = rows.shape[1]
    directed, undirected = np.zeros((num_nodes, num_nodes)), np.zeros((num_nodes, num_nodes))
    state = random.getstate()
    try:
        random.seed(seed)
        for run in range(num_runs):
            matrix = search(standardise(rows[draws.randint(len(rows), size=len(rows))]))
            directed += (matrix == -1) & (matrix.T == 1)
            undirected += (matrix == -1) & (matrix.T == -1)
            on_run(run + 1)
    finally:
        random.setstate(state)
    return FoundGraph(directed=directed / num_runs, undirected=undirected / num_runs)


def _load_search() -> Callable[[Floats], NDArray[Any]]:
    try:
        from causallearn.search.PermutationBased.GRaSP import grasp  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise GraphUnavailable(INSTALL) from exc

    def search(rows: Floats) -> NDArray[Any]:
        parameters = {"lambda_value": PENALTY}
        found = grasp(rows, "local_score_BIC_from_cov", depth=DEPTH, parameters=parameters, verbose=False)
        matrix: NDArray[Any] = np.asarray(found.graph)
        return matrix

    return search


def standardise(rows: Floats) -> Floats:
    """Columns of mean 0 and variance 1; one that is constant stays 0. float64, shape (N, P)."""
    rows = rows.astype(np.float64)
    deviation = rows.std(axis=0)
    standardised: Floats = (rows - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return standardised


def bic_score(covariance: Floats, num_rows: int, node: int, parents: list[int]) -> float:
    """What GRaSP maximises for a node and its parents: −n/2 (1 + ln σ²) − λ (|Pa| + 1) ln n."""
    variance = covariance[node, node]
    if parents:
        joint = covariance[np.ix_(parents, parents)]
        variance -= covariance[node, parents] @ np.linalg.solve(joint, covariance[parents, node])
    return float(-num_rows / 2 * (1 + np.log(variance)) - PENALTY * (len(parents) + 1) * np.log(num_rows))


def partial_correlations(rows: Floats) -> Floats:
    """Correlation of each two columns with all others held fixed, symmetric, diagonal 0, shape (P, P)."""
    standardised = standardise(rows)
    precision = np.linalg.pinv(standardised.T @ standardised / len(rows))
    scale = np.sqrt(np.outer(precision.diagonal(), precision.diagonal()))
    found: Floats = -precision / scale
    np.fill_diagonal(found, 0.0)
    return found


def label_lift(soft: Floats, truth: NDArray[np.bool_]) -> Floats:
    """The plain rival: how much likelier a class is on clips of another one.

    Args:
        soft: Out-of-fold probabilities of the nodes, shape (N, P).
        truth: Which clips are annotated with a class, shape (N, C).

    Returns:
        Mean of column j over the clips annotated c, over its mean on clips annotated neither c nor its own class of
        j (column j is class j mod C), shape (C, P); NaN where there is nothing to compare with.
    """
    num_classes = truth.shape[1]
    lift = np.full((num_classes, soft.shape[1]), np.nan)
    for one in range(num_classes):
        for column in range(soft.shape[1]):
            neither = ~truth[:, one] & ~truth[:, column % num_classes]
            if truth[:, one].any() and neither.any():
                lift[one, column] = soft[truth[:, one], column].mean() / max(
                    soft[neither, column].mean(), 1e-12
                )
    return lift
