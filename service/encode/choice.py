"""The fastest engine and precision that runs here and agrees with float32: tried one after another, with reasons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from models.bundle.bundle import Agreement, BrokenBundle, Bundle, NoScalableNorm
from service.encode.agreement import AgreementStore, measure_agreement
from service.encode.engines.candidates import EXACT, Candidate, check_hardware, find_variant, open_candidate
from service.encode.engines.contract import (
    DeviceMissing,
    EncoderFailure,
    Engine,
    EngineMissing,
    EngineName,
    EngineOptions,
    Graphs,
    PrecisionRefused,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A faster candidate that does not serve, and why; expected if machine or bundle do not have it."""

    candidate: Candidate
    reason: str
    was_expected: bool


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What serves, its agreement with float32 (None for float32 itself), and the faster candidates passed over."""

    candidate: Candidate
    agreement: Agreement | None = None
    passed_over: tuple[PassedOver, ...] = ()

    def __str__(self) -> str:
        parts = [str(self.candidate)]
        if self.agreement is not None:
            parts.append(str(self.agreement))
        parts += [f"not {passed.candidate}: {passed.reason}" for passed in self.passed_over]
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {
            "engine": self.candidate.engine,
            "precision": self.candidate.precision,
            "engine_version": self.candidate.version,
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "passed_over": [
                {"candidate": str(passed.candidate), "reason": passed.reason} for passed in self.passed_over
            ],
        }


def open_fastest(
    bundle: Bundle, wished: Sequence[Candidate], options: EngineOptions, store: AgreementStore
) -> tuple[Engine, EngineChoice]:
    """Open the first of the wished candidates, fastest first, that runs here and agrees with float32.

    The choice is logged, as a warning if a faster one failed. If none runs, the error is that of the last one.
    """
    passed_over: list[PassedOver] = []
    broken: set[EngineName] = set()
    for candidate in wished:
        is_last = candidate is wished[-1]
        if candidate.engine in broken and not is_last:
            continue
        is_here = False
        try:
            check_hardware(candidate)
            graphs = load_graphs(bundle, candidate)
            is_here = True
            agreement = _agreement(bundle, candidate, graphs, options, store)
            engine = open_candidate(candidate, graphs, options)
        except (EncoderFailure, BrokenBundle, NoScalableNorm) as exc:
            if is_last:
                raise
            was_expected = isinstance(exc, EngineMissing) and not is_here
            passed_over.append(PassedOver(candidate=candidate, reason=str(exc), was_expected=was_expected))
            if isinstance(exc, DeviceMissing):
                broken.add(candidate.engine)
        else:
            choice = EngineChoice(candidate=candidate, agreement=agreement, passed_over=tuple(passed_over))
            _log(choice, engine.provider)
            return engine, choice
    raise AssertionError("there is at least one candidate")


def load_graphs(bundle: Bundle, candidate: Candidate) -> Graphs:
    """The files that a candidate runs: those of the bundle, or of its variant."""
    variant = find_variant(candidate, bundle)
    return Graphs.of(bundle.manifest, bundle.path if variant is None else variant.path)


def _agreement(
    bundle: Bundle, candidate: Candidate, graphs: Graphs, options: EngineOptions, store: AgreementStore
) -> Agreement | None:
    """How far a candidate is from float32, measured now if it never was; refused if it is too far."""
    if candidate.precision == EXACT:
        return None
    agreement = store.load(bundle, candidate)
    if agreement is None:
        open_candidate(candidate, graphs, options)  # can it at all? Measuring takes longer
        logger.warning("measuring once how far %s is from float32 on this machine", candidate)
        agreement = measure_agreement(bundle, candidate, options)
        store.save(bundle, candidate, agreement)
    if shortfalls := agreement.shortfalls():
        raise PrecisionRefused(f"{candidate} is too far from float32: {', '.join(shortfalls)}; {agreement}")
    return agreement


def _log(choice: EngineChoice, provider: str) -> None:
    failed = any(not passed.was_expected for passed in choice.passed_over)
    logger.log(logging.WARNING if failed else logging.INFO, "the encoder runs on %s: %s", provider, choice)
