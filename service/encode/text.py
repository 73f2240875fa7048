"""Words into the vectors that compare with sound or picture: the third graph of a bundle that embeds words.

    encoder = TextEncoder(bundle, num_threads=2)
    encoder.embed("dog barking in the rain", target="audio")    # (D,)

Always ONNX Runtime on the processor, in float32: a text is short. Many callers share an encoder through a queue
(`TextQueue`), which refuses those that would wait too long.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import TEXT_GRAPH, TOKENIZER, BrokenBundle, Bundle, TextSpec
from service.encode.batching import Batcher
from service.encode.engines.contract import EncoderFailure, GoldenMismatch
from service.encode.engines.onnx_cpu import CPU, open_session, session_options
from service.encode.queue import BatchLimits, Priority
from service.system.caller import Caller
from service.system.failure import Failure
from service.system.modality import MODALITIES, Modality, NotEmbedded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GOLDEN_TOLERANCE = 1e-4
MAX_TOKENIZER_BYTES = 64 << 20
MAX_TEXT_CHARS = 4096


class UnusableText(Failure):
    """A text that cannot be embedded; `errors` name the parameter at fault."""

    code = "invalid_parameter"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errors = [{"parameter": "text", "message": message}]


class TextTooLong(UnusableText):
    """A text has more characters or tokens than a query may have."""

    code = "text_too_long"


class TextEncoder:
    """The text graph and the tokenizer of one verified bundle. Any thread may call.

    Raises `NotEmbedded` for a bundle without words, `BrokenBundle` or `EncoderFailure` if its files cannot be loaded.
    """

    def __init__(self, bundle: Bundle, *, num_threads: int) -> None:
        self.bundle = bundle
        self.spec = _spec_of(bundle)
        self._tokenizer = _open_tokenizer(bundle)
        self._session = open_session(bundle.path / TEXT_GRAPH, session_options(num_threads), [CPU])
        outputs = {output.name for output in self._session.get_outputs()}
        if missing := set(self.spec.outputs.values()) - outputs:
            raise BrokenBundle(f"{bundle.path / TEXT_GRAPH} has no output {', '.join(sorted(missing))}")

    def tokenize(self, text: str) -> NDArray[np.int64]:
        """Ids of the tokens of a text, shape (L,); raises `UnusableText` without words, `TextTooLong`."""
        if not text.strip():
            raise UnusableText("a text needs at least one word")
        if len(text) > MAX_TEXT_CHARS:
            raise TextTooLong(f"the text has {len(text)} characters, at most {MAX_TEXT_CHARS} are allowed")
        ids = self._tokenizer.encode(self.spec.prefix + text).ids
        if len(ids) > self.spec.max_tokens:
            raise TextTooLong(
                f"the text has {len(ids)} tokens, bundle {self.bundle.bundle_id} takes {self.spec.max_tokens}"
            )
        return np.array(ids, np.int64)

    def run(self, tokens: Sequence[NDArray[np.int64]], target: Modality) -> NDArray[np.float32]:
        """Embed N tokenized texts, to compare with `target`: float32, shape (N, D)."""
        return np.stack([self._run(ids, target) for ids in tokens])

    def _run(self, ids: NDArray[np.int64], target: Modality) -> NDArray[np.float32]:
        inputs = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        try:
            vectors = np.asarray(self._session.run([self.spec.outputs[target]], inputs)[0])
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types for an input it cannot run
            raise EncoderFailure(f"ONNX Runtime failed: {exc}") from exc
        width = self.bundle.manifest.tracks[target][1]
        if vectors.shape != (1, width) or not np.isfinite(vectors).all():
            raise EncoderFailure(f"the text graph gave {vectors.shape}, expected (1, {width}), all finite")
        found: NDArray[np.float32] = vectors[0].astype(np.float32, copy=False)
        return found

    def embed(self, text: str, *, target: Modality) -> NDArray[np.float32]:
        """The vector of a text that compares with `target`, float32, shape (D,), as long as it is compared.

        Raises `UnusableText` or `TextTooLong`, `NotEmbedded` if words do not compare with the target.
        """
        check_target(self.spec, self.bundle, target)
        found: NDArray[np.float32] = self.run([self.tokenize(text)], target)[0]
        return found

    def check_golden(self) -> float:
        """Embed the golden texts; returns the largest difference of any number, `GoldenMismatch` above 1e-4."""
        golden = self.bundle.golden()
        found = {to: [self.embed(text, target=to) for text in golden.texts] for to in _targets(self.spec)}
        if not golden.texts or any(golden.text_vectors[to].shape != np.shape(found[to]) for to in found):
            raise GoldenMismatch(f"{self.bundle.bundle_id} has no golden texts, or of another width")
        difference = max(float(np.abs(found[to] - golden.text_vectors[to]).max()) for to in found)
        if not difference <= GOLDEN_TOLERANCE:
            raise GoldenMismatch(
                f"golden texts of {self.bundle.bundle_id} differ by {difference:.2e}, allowed {GOLDEN_TOLERANCE:.0e}"
            )
        return difference


class TextQueue:
    """A text encoder for many callers: `limits.num_runs` texts at a time, `max_queued` wait, others are refused."""

    def __init__(self, encoder: TextEncoder, limits: BatchLimits) -> None:
        self.encoder = encoder
        runs = {target: functools.partial(encoder.run, target=target) for target in _targets(encoder.spec)}
        self.batcher = Batcher(runs, limits)

    def of(self, caller: Caller, *, priority: Priority = "query") -> QueuedTexts:
        """The encoder as one caller sees it."""
        return QueuedTexts(self, caller, priority)

    def close(self) -> None:
        """Refuse what waits, and stop."""
        self.batcher.close()


class QueuedTexts:
    """The text encoder as one caller sees it: a place in its queue."""

    def __init__(self, texts: TextQueue, caller: Caller, priority: Priority) -> None:
        self._texts = texts
        self._caller = caller
        self._priority = priority

    def embed(self, text: str, *, target: Modality) -> NDArray[np.float32]:
        """The vector of a text; see `TextEncoder.embed`, and `Batcher.encode` for further errors."""
        encoder = self._texts.encoder
        check_target(encoder.spec, encoder.bundle, target)
        rows: list[Any] = [encoder.tokenize(text)]
        (found,) = self._texts.batcher.encode(
            rows, modality=target, caller=self._caller, priority=self._priority
        )
        return np.asarray(found)


def check_target(spec: TextSpec, bundle: Bundle, target: Modality) -> None:
    """Raise `NotEmbedded` unless words compare with the modality."""
    if target not in spec.outputs:
        raise NotEmbedded(
            f"words of bundle {bundle.bundle_id} compare with {' and '.join(spec.outputs)}, not with {target}"
        )


def _targets(spec: TextSpec) -> list[Modality]:
    return [modality for modality in MODALITIES if modality in spec.outputs]


def _spec_of(bundle: Bundle) -> TextSpec:
    if bundle.manifest.text is None:
        raise NotEmbedded(f"bundle {bundle.bundle_id} embeds no words")
    return bundle.manifest.text


def _open_tokenizer(bundle: Bundle) -> Tokenizer:
    from tokenizers import Tokenizer  # noqa: PLC0415 - 30 ms of every command; most bundles embed no words

    path = bundle.path / TOKENIZER
    if (num_bytes := path.stat().st_size) > MAX_TOKENIZER_BYTES:
        raise BrokenBundle(f"{path} has {num_bytes} bytes, at most {MAX_TOKENIZER_BYTES} are allowed")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the package raises plain Exception
        raise BrokenBundle(f"{path} cannot be read: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
