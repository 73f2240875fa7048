"""The published protocols of retrieval, for whoever has their media: figures beside those of the encoders' authors.

    measured = measure_protocol(load_bundle(path), list_items([manifest]), PROTOCOLS["vggsound"], num_workers=2)

A clip is the first segment of a file. Every sound looks for its picture among all clips and every picture for its
sound; with captions, words look for both, and both for words, where any of a clip's own captions is right. A score is
what the bundle compares by: the mean over moments of cosines, or of dot products. A tie counts against us.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.bundle.bundle import GRAPHS, TEXT_GRAPH, TOKENIZER, Bundle, sound_inputs
from models.inference import onnxruntime
from models.media.clip import Clip
from training.data.listing import Item
from training.data.pairs import Failure, work_on_pairs
from training.data.segments import NoTrainingData
from training.evaluation.evaluate import Recall, recall_of_ranks, true_ranks, unit_tracks

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Published:
    """R@1 that the authors of an encoder, or a benchmark, give for a protocol, in percent; None if they give none."""

    encoder: str
    video_to_audio: float | None
    audio_to_video: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A set of clips that encoders are compared on.

    Attributes:
        clips: What the clips are.
        num_clips: How many there are; with fewer, what belongs together is found more easily.
        published: Figures of others.
    """

    clips: str
    num_clips: int
    published: tuple[Published, ...]


def _give(encoder: str, forth: float | None, back: float | None, source: str) -> Published:
    return Published(encoder=encoder, video_to_audio=forth, audio_to_video=back, source=source)


PROTOCOLS = {
    "vggsound": Protocol(
        clips="VGGSound test, five of each class, as CAV-MAE drew them",
        num_clips=1545,
        published=(
            _give("TG-DP", 31.3, 30.3, "authors, zero-shot"),
            _give("VAB-Encodec", 33.5, 34.9, "authors"),
            _give(
                "PE-AV small",
                35.4,
                None,
                "authors, on their own choice of clips; VGGSound is in the training data",
            ),
            _give("PE-AV base", 40.7, None, "the same"),
            _give("PE-AV large", 48.3, None, "the same"),
        ),
    ),
    "audioset": Protocol(
        clips="AudioSet evaluation, about five of each class, as CAV-MAE drew them",
        num_clips=1725,
        published=(
            _give("TG-DP", 37.4, 37.1, "authors"),
            _give("VAB-Encodec", 39.5, 37.5, "authors"),
        ),
    ),
    "mteb": Protocol(
        clips="VGGSound as MTEB has it",
        num_clips=696,
        published=(
            _give("PE-AV small", 39.1, 49.0, "MTEB; VGGSound is in the training data"),
            _give("PE-AV base", 42.5, 56.5, "the same"),
            _give("PE-AV large", 56.6, 69.5, "the same"),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a bundle reached.

    Attributes:
        num_clips: Clips that were embedded.
        num_captions: Their captions.
        recalls: By direction, such as `video_to_audio` or `text_to_audio`.
        failed: Files that gave nothing, and why.
        left_out: What was not measured, in words.
    """

    num_clips: int
    num_captions: int
    recalls: dict[str, Recall]
    failed: tuple[Failure, ...]
    left_out: tuple[str, ...]


def find_missing(items: Sequence[Item]) -> list[Path]:
    """Find the files of a manifest that are not there.

    Args:
        items: What `list_items` lists.

    Returns:
        Their paths, in order.
    """
    files = [path for item in items if (path := item.path or item.wav) is not None]
    return [path for path in files if not path.is_file()]


def measure_protocol(
    bundle: Bundle,
    items: Sequence[Item],
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Embed the first segment of each file and its captions, and measure every direction that the bundle compares.

    Args:
        bundle: Of any family.
        items: Files with picture and sound, and what is said of them.
        num_workers: Processes that decode.
        on_progress: Called with the files done and their total.

    Returns:
        What was measured.

    Raises:
        NoTrainingData: If no file has both.
    """
    failed: list[Failure] = []
    captions: list[tuple[str, ...]] = []
    tracks: dict[str, list[Vectors]] = {modality: [] for modality in bundle.manifest.tracks}
    run = _open_graphs(bundle)
    spec = bundle.manifest.clip_spec
    for found in work_on_pairs(
        items, spec, copy.copy, num_workers=num_workers, first_only=True, on_progress=on_progress
    ):
        if isinstance(found, Failure):
            failed.append(found)
            continue
        number, clip = found
        for modality, track in run(clip).items():
            tracks[modality].append(track)
        captions.append(items[number].captions)
    if not captions:
        raise NoTrainingData(f"none of {len(items)} files has a first segment with picture and sound")
    left_out = [] if bundle.manifest.compares else [f"{bundle.bundle_id} does not compare sound with picture"]
    embedded = {modality: _as_compared(bundle, np.stack(rows)) for modality, rows in tracks.items()}
    recalls = _compare_media(embedded) if bundle.manifest.compares else {}
    if not any(captions):
        left_out.append("the manifest has no captions: words were not measured")
    elif bundle.manifest.text is None:
        left_out.append(f"{bundle.bundle_id} embeds no words")
    else:
        recalls |= _compare_words(bundle, embedded, captions)
    return Measured(
        num_clips=len(captions),
        num_captions=sum(map(len, captions)),
        recalls=recalls,
        failed=tuple(failed),
        left_out=tuple(left_out),
    )


def _open_graphs(bundle: Bundle) -> Callable[[Clip], dict[str, Vectors]]:
    sessions = {modality: open_session(bundle.path / GRAPHS[modality]) for modality in bundle.manifest.tracks}

    def run(clip: Clip) -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        if "audio" in sessions:
            assert clip.samples is not None, "a pair has sound"
            names = [given.name for given in sessions["audio"].get_inputs()]
            lengths, heard = np.array([len(clip.samples)]), np.array([clip.num_heard])
            given = sound_inputs(names, clip.samples[None], lengths, heard)
            found["audio"] = sessions["audio"].run(None, given)[0][0]
        if "video" in sessions:
            assert clip.frames is not None, "a pair has a picture"
            found["video"] = sessions["video"].run(None, {"frames": clip.frames[None]})[0][0]
        return found

    return run


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Open a graph on the GPU if this ONNX Runtime has one, else on the CPU.

    Args:
        graph: ONNX file.

    Returns:
        The session.
    """
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(graph, providers=providers)


def _as_compared(bundle: Bundle, tracks: Vectors) -> Vectors:
    return unit_tracks(tracks) if bundle.manifest.similarity == "cosine" else tracks.astype(np.float32)


def _compare_media(tracks: dict[str, Vectors]) -> dict[str, Recall]:
    audio, video = tracks["audio"], tracks["video"]
    scores = audio.reshape(len(audio), -1) @ video.reshape(len(video), -1).T
    return {
        "audio_to_video": recall_of_ranks(true_ranks(scores)),
        "video_to_audio": recall_of_ranks(true_ranks(scores.T)),
    }


def _compare_words(
    bundle: Bundle, tracks: dict[str, Vectors], captions: Sequence[Sequence[str]]
) -> dict[str, Recall]:
    owners = np.repeat(np.arange(len(captions)), [len(said) for said in captions])
    texts = embed_texts(bundle, [text for said in captions for text in said])
    recalls = {}
    for modality, vectors in texts.items():
        scores = vectors @ tracks[modality].mean(axis=1).T  # (captions, clips)
        recalls[f"text_to_{modality}"] = recall_of_ranks(rank_owners(scores, owners))
        recalls[f"{modality}_to_text"] = recall_of_ranks(rank_captions(scores.T, owners))
    return recalls


def rank_owners(scores: Vectors, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank the clip of each caption; equal scores rank before it.

    Args:
        scores: Of every clip for every caption, shape (C, N).
        owners: The clip of each caption, shape (C,).

    Returns:
        Ranks from 1, shape (C,).
    """
    own = scores[np.arange(len(owners)), owners][:, None]
    return np.asarray((~(scores < own)).sum(axis=1), np.int64)


def rank_captions(scores: Vectors, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank the best of each clip's own captions among those of others; clips without one are left out.

    Args:
        scores: Of every caption for every clip, shape (N, C).
        owners: The clip of each caption, shape (C,).

    Returns:
        Ranks from 1, one for each clip with captions.
    """
    ranks = []
    for clip in np.unique(owners):
        is_own = owners == clip
        ranks.append(1 + int((~(scores[clip][~is_own] < scores[clip][is_own].max())).sum()))
    return np.array(ranks, np.int64)


def embed_texts(bundle: Bundle, texts: Sequence[str]) -> dict[str, Vectors]:
    """Embed texts one by one; what is longer than the bundle takes is cut, as the protocols do.

    Args:
        bundle: One that embeds words.
        texts: Any texts.

    Returns:
        Vectors (N, D) by the modality that they compare with.
    """
    spec = bundle.manifest.text
    assert spec is not None, "asked only of a bundle with words"
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
    tokenizer.enable_truncation(spec.max_tokens)
    tokenizer.no_padding()
    session = open_session(bundle.path / TEXT_GRAPH)
    outputs = list(dict.fromkeys(spec.outputs.values()))
    rows: dict[str, list[Vectors]] = {output: [] for output in outputs}
    for text in texts:
        ids = np.array([tokenizer.encode(spec.prefix + text).ids], np.int64)
        found = session.run(outputs, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for output, vector in zip(outputs, found, strict=True):
            rows[output].append(vector[0])
    return {modality: np.stack(rows[output]) for modality, output in spec.outputs.items()}
