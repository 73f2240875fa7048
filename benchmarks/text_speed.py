"""Searches with words over HTTP on a large embedded index, the text encoder's time included.

    python -m benchmarks.text_speed                                            20,000 segments
    python -m benchmarks.text_speed --segments 100000 --folder /var/tmp/text   1 GB, kept for the next run
    python -m benchmarks.text_speed --bundle DIR                               the text encoder of another bundle

The text tower has the shape of MiniLM-L6 (6 layers, width 384, 12 heads, 30,522 words) and random weights, exported
once through torch. The index has one vector a segment, of width 384 as well, in assets of 20 segments, whose names are
words of UCS names, so that both the vectors and the words have something to find.

encoder   `TextEncoder.embed` alone: wall time and core time of a text
words     `Index.search_words`
http      `POST /v1/search` with `text` to a server process, by meaning, by words, and by both
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.search_http import START_SECONDS, cpu_seconds
from models.bundle.bundle import (
    AUDIO_GRAPH,
    GOLDEN,
    MANIFEST,
    TEXT_GRAPH,
    TOKENIZER,
    Manifest,
    TextSpec,
    describe_file,
    load_bundle,
)
from models.cores import num_cores
from models.media.clip import ClipSpec
from service.encode.text import TextEncoder
from service.index.contract import Segment, WordQuery
from service.index.embedded.index import EmbeddedIndex
from service.index.layout import VectorLayout
from service.index.words import to_search_words
from service.system.modality import Modality

WIDTH, MAX_TOKENS, ASSET_SEGMENTS, WRITERS = 384, 128, 20, 64
VOCABULARY = (
    "door wood metal squeak creak slam rain heavy light thunder dog bark cat meow wind gust whoosh impact glass break "
    "water splash drip fire crackle engine car start idle horn crowd cheer walk street night forest bird chirp insect "
    "steps gravel snow cloth leather paper rustle switch button click beep alarm bell ring phone hum drone rumble wood2"
).split()
TEXTS = (
    "dog barking in the rain",
    "a wooden door squeaks slowly and slams",
    "heavy rain on a metal roof with distant thunder",
    "footsteps on gravel at night",
    "glass break",
    "car engine start and idle",
)


class Tower(nn.Module):
    """The mean of the last hidden states, of unit length."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=30_522,
            hidden_size=WIDTH,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=4 * WIDTH,
            attn_implementation="eager",
        )
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask, int64, (B, L), to vectors (B, D)."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].float()
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="keep bundle and index here; default: a temporary one")
    parser.add_argument(
        "--bundle", type=Path, help="time the text encoder of this bundle alone, and nothing else"
    )
    options = parser.parse_args()
    if options.bundle is not None:
        time_encoder(options.bundle, rounds=options.rounds)
        return
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        bundle = make_bundle(folder / "bundle")
        data = folder / f"data-{options.segments}"
        index = data / "index" / load_bundle(bundle).bundle_id
        build_index(index, num_segments=options.segments)
        print(f"{options.segments} segments, load {os.getloadavg()[0]:.1f} on {num_cores()} cores")
        time_encoder(bundle, rounds=options.rounds)
        time_words(index, rounds=options.rounds)
        time_http(data, bundle, rounds=options.rounds)


def make_bundle(folder: Path) -> Path:
    """Make a bundle that embeds sound and words, once; its audio graph only has the right shapes."""
    if (folder / MANIFEST).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    ids = torch.ones(2, 8, dtype=torch.int64)
    names, dynamic = ("input_ids", "attention_mask"), {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    program = torch.onnx.export(
        Tower().eval(),
        (ids, ids),
        dynamo=True,
        input_names=names,
        output_names=["words"],
        dynamic_shapes=dict.fromkeys(names, dynamic),
        external_data=False,
    )
    assert program is not None
    program.save(folder / TEXT_GRAPH)
    vocabulary = {"[UNK]": 0} | {f"word{n}": n for n in range(1, 30_000)}
    vocabulary |= {word: 30_000 + n for n, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    onnx.save(_audio_graph(), str(folder / AUDIO_GRAPH))
    spec = ClipSpec(num_moments=1)
    track = np.zeros((1, WIDTH), np.float32)
    track[0, 0] = 1.0
    files = {name: {"bytes": 0, "sha256": ""} for name in (AUDIO_GRAPH, TEXT_GRAPH, TOKENIZER, GOLDEN)}
    fields = {
        "name": "minilm-shaped", "tracks": {"audio": (1, WIDTH)}, "clip_spec": spec, "opset": 20, "network": {},
        "training": {}, "agreement": {}, "text": TextSpec(outputs={"audio": "words"}, max_tokens=MAX_TOKENS),
    }  # fmt: skip

    def save(texts: np.ndarray, vectors: np.ndarray) -> None:
        np.savez(
            folder / GOLDEN, samples=np.zeros(16_000, np.float32), num_heard=16_000, audio_track=track,
            texts=texts, text_audio=vectors,
        )  # fmt: skip
        described = {name: describe_file(folder / name) for name in files}
        (folder / MANIFEST).write_text(Manifest(**fields, files=described).to_json())  # type: ignore[arg-type]

    save(np.array(TEXTS[:1]), np.zeros((1, WIDTH), np.float32))
    encoder = TextEncoder(load_bundle(folder), num_threads=1)
    save(np.array(TEXTS), np.stack([encoder.embed(text, target="audio") for text in TEXTS]))
    return folder


def _audio_graph() -> onnx.ModelProto:
    """A graph that gives the first unit vector for every segment."""
    first = np.zeros(WIDTH, np.float32)
    first[0] = 1.0
    nodes = [
        helper.make_node("ReduceMean", ["samples", "last"], ["mean"]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "last"], ["rows"]),
        helper.make_node("Add", ["rows", "first"], ["tracks"]),
    ]
    inputs = [
        helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["B", "S"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"]),
        helper.make_tensor_value_info("heard", TensorProto.INT64, ["B"]),
    ]
    output = helper.make_tensor_value_info("tracks", TensorProto.FLOAT, ["B", 1, WIDTH])
    constants = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in (("last", np.array([-1])), ("zero", np.zeros(1, np.float32)), ("first", first))
    ]
    graph = helper.make_graph(nodes, "sound", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def build_index(folder: Path, *, num_segments: int) -> None:
    """Write random unit vectors under names of words into an embedded index and optimize it, unless it exists."""
    if (folder / "built").exists():
        return
    rng, words = np.random.default_rng(0), random.Random(0)

    def make(first: int, vectors: np.ndarray) -> list[Segment]:
        name = "_".join(word.capitalize() for word in words.choices(VOCABULARY, k=4)) + f"_{first:06d}"
        return [
            Segment(
                asset_id=hashlib.sha256(f"{first}".encode()).hexdigest(),
                path=f"/library/{name}.wav",
                index=number,
                start_seconds=10.0 * number,
                end_seconds=10.0 * number + 10.0,
                media={"container": "wav", "duration_seconds": 200.0},
                audio_track=vector[None],
            )
            for number, vector in enumerate(vectors)
        ]

    started = time.perf_counter()
    with open_index(folder) as index, ThreadPoolExecutor(WRITERS) as pool:
        writes = []
        for first in range(0, num_segments, ASSET_SEGMENTS):
            vectors = rng.standard_normal((ASSET_SEGMENTS, WIDTH)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            writes.append(pool.submit(index.write_asset, make(first, vectors), is_last=True))
        for write in writes:
            write.result()
        written = time.perf_counter()
        index.optimize()
        print(f"written in {written - started:.0f} s, optimized in {time.perf_counter() - written:.0f} s")
    (folder / "built").touch()


def open_index(folder: Path) -> EmbeddedIndex:
    """Open the index of the benchmark."""
    layout = VectorLayout(tracks={"audio": (1, WIDTH)})
    return EmbeddedIndex.open(folder, layout=layout, min_free_bytes=0, call_seconds=300.0)


def time_encoder(bundle: Path, *, rounds: int) -> None:
    """Print wall time and core time of a text, with the threads that the service takes."""
    encoder = TextEncoder(load_bundle(bundle), num_threads=num_cores())
    target: Modality = "audio" if "audio" in encoder.spec.outputs else "video"
    _measure(lambda text: encoder.embed(text, target=target), rounds=1)
    began = time.process_time()
    p50, p95 = _measure(lambda text: encoder.embed(text, target=target), rounds=rounds)
    cpu = (time.process_time() - began) / (rounds * len(TEXTS))
    print(
        f"encoder of {encoder.bundle.bundle_id}: p50 {p50:.2f} ms, p95 {p95:.2f} ms; {cpu * 1e3:.2f} core-ms"
    )


def time_words(folder: Path, *, rounds: int) -> None:
    """Print the time of a search for words alone, through the process of the index."""
    with open_index(folder) as index:
        index.search_words(WordQuery(words=("door",), target="audio", limit=110))
        began = cpu_seconds(index.shard_pid)
        p50, p95 = _measure(
            lambda text: index.search_words(
                WordQuery(words=to_search_words(text), target="audio", limit=110)
            ),
            rounds=rounds,
        )
        cpu = (cpu_seconds(index.shard_pid) - began) / (rounds * len(TEXTS))
    print(f"words: p50 {p50:.2f} ms, p95 {p95:.2f} ms; {cpu * 1e3:.2f} core-ms of the index's process")


def _measure(work: Callable[[str], object], *, rounds: int) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds over all texts."""
    seconds = []
    for _ in range(rounds):
        for text in TEXTS:
            started = time.perf_counter()
            work(text)
            seconds.append(time.perf_counter() - started)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return float(p50), float(p95)


def time_http(data: Path, bundle: Path, *, rounds: int) -> None:
    """Print the time of an answer with ten results, by what finds them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "DATA": data, "BUNDLE": bundle, "PORT": port, "MIN_FREE_BYTES": 0, "OPTIMIZE_SHARE": 1,
        "DEVICE": "cpu", "PRECISION": "fp32",
    }  # fmt: skip
    environment = {**os.environ, **{f"FOLEY_{name}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(port, process)
            for match in ("meaning", "words", "both"):
                _ask(port, match, rounds=rounds, process=process)
        finally:
            process.terminate()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).raise_for_status()
            return
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the service did not start") from None
            time.sleep(0.2)


def _ask(port: int, match: str, *, rounds: int, process: subprocess.Popen[bytes]) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)

    def ask(text: str) -> None:
        body = json.dumps({"text": text, "target": "audio", "match": match}).encode()
        client.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
        response = client.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {answer[:500]!r}")

    _measure(ask, rounds=2)
    began = cpu_seconds(process.pid)
    p50, p95 = _measure(ask, rounds=rounds)
    cpu = (cpu_seconds(process.pid) - began) / (rounds * len(TEXTS))
    print(
        f"http, {match}: p50 {p50:.2f} ms, p95 {p95:.2f} ms; {cpu * 1e3:.2f} core-ms, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
