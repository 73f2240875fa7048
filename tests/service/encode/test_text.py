"""Words into vectors: what tokenizer and graph give, what is refused, and how callers share the encoder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.bundle.bundle import GOLDEN, TEXT_GRAPH, TOKENIZER, BrokenBundle, Bundle, load_bundle
from models.inference import onnxruntime
from service.encode.batching import QueueFull
from service.encode.engines.contract import EncoderFailure, GoldenMismatch
from service.encode.queue import BatchLimits
from service.encode.text import TextEncoder, TextQueue, TextTooLong, UnusableText
from service.system.caller import Caller, CallerGone
from service.system.modality import NotEmbedded
from tests.support.bundles import HEADS, MAX_TOKENS, WORDS, make_worded, rehash


@pytest.fixture(scope="module")
def encoder(worded_bundle: Bundle) -> TextEncoder:
    return TextEncoder(worded_bundle, num_threads=1)


@pytest.mark.parametrize("target", ["audio", "video"])
def test_a_text_gets_what_the_graph_gives_for_its_words(encoder: TextEncoder, target: Any) -> None:
    ids = np.array([[1 + WORDS.index("dog"), 1 + WORDS.index("rain"), 0]])  # the last word is unknown
    session = onnxruntime.InferenceSession(str(encoder.bundle.path / TEXT_GRAPH))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (expected,) = session.run([HEADS[target]], inputs)[0]
    found = encoder.embed("Dog rain xylophone", target=target)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_the_golden_texts(encoder: TextEncoder) -> None:
    assert encoder.check_golden() < 1e-6


def test_a_published_limit_of_the_tokenizer_cuts_nothing(encoder: TextEncoder) -> None:
    assert len(encoder.tokenize(" ".join(["dog"] * MAX_TOKENS))) == MAX_TOKENS


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UnusableText, "at least one word"),
        (" \t\n", UnusableText, "at least one word"),
        (" ".join(["dog"] * 9), TextTooLong, r"has 9 tokens, bundle worded-.* takes 8"),
        ("d" * 5000, TextTooLong, "has 5000 characters, at most 4096"),
    ],
)
def test_texts_that_are_refused(
    encoder: TextEncoder, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encoder.embed(text, target="audio")


def test_a_bundle_without_words(bundle_path: Path) -> None:
    with pytest.raises(NotEmbedded, match=r"starter-.* embeds no words"):
        TextEncoder(load_bundle(bundle_path), num_threads=1)


def test_words_that_compare_with_sound_alone(tmp_path: Path) -> None:
    encoder = TextEncoder(make_worded(tmp_path / "heard", heads=("audio",)), num_threads=1)
    assert encoder.embed("dog", target="audio").shape == (128,)
    with pytest.raises(NotEmbedded, match="compare with audio, not with video"):
        encoder.embed("dog", target="video")


def break_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER).write_text("{}")


def break_graph(folder: Path) -> None:
    (folder / TEXT_GRAPH).write_bytes(b"no graph")


def exchange_words(folder: Path) -> None:
    """Another tokenizer than that of the export."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    text = tokenizer.to_str().replace('"dog":1', '"dog":2').replace('"barking":2', '"barking":1')
    (folder / TOKENIZER).write_text(text.replace('"door":4', '"door":5').replace('"night":5', '"night":4'))


def drop_texts(folder: Path) -> None:
    with np.load(folder / GOLDEN) as arrays:
        kept = {**arrays, "texts": arrays["texts"][:0]}
        np.savez(folder / GOLDEN.removesuffix(".npz"), **kept)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (break_tokenizer, BrokenBundle),
        (break_graph, EncoderFailure),
        (exchange_words, GoldenMismatch),
        (drop_texts, GoldenMismatch),
    ],
)
def test_bundles_that_are_refused(tmp_path: Path, change: Any, error: type[Exception]) -> None:
    folder = make_worded(tmp_path / "bundle").path
    change(folder)
    with pytest.raises(error):
        TextEncoder(load_bundle(rehash(folder)), num_threads=1).check_golden()


def test_callers_share_it_and_are_refused_when_too_many_wait(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, ran = threading.Event(), threading.Event(), []

    def run(tokens: Any, target: Any) -> Any:
        begun.set()
        ran.append(len(tokens))
        assert may_end.wait(30)
        return np.stack([np.ones(128, np.float32)])

    monkeypatch.setattr(encoder, "run", run)
    queue = TextQueue(encoder, BatchLimits(max_queued=1, num_runs=1))
    leaving, errors = Caller(), []

    def ask(caller: Caller) -> None:
        try:
            queue.of(caller).embed("dog", target="audio")
        except CallerGone as exc:
            errors.append(exc)

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in (Caller(), leaving)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    while queue.batcher.stats().num_queued["query"] == 0:
        threading.Event().wait(0.001)
    with pytest.raises(QueueFull, match="wait for the encoder"):
        queue.of(Caller()).embed("dog", target="audio")
    leaving.leave()
    threads[1].join(30)
    may_end.set()
    threads[0].join(30)
    queue.close()
    assert len(errors) == 1
    assert ran == [1]  # nothing was embedded for the caller that left
