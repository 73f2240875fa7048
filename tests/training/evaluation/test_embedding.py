"""Media to tracks: the numbers of one clip at a time, in the order of the files, with what could not be read."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.media.clip import ClipSpec, decode_clip
from models.network.export import torch_tracks
from models.network.geometry import TgdpConfig
from models.network.tgdp import Tgdp
from tests.support.paths import REPOSITORY
from training.checkpoint import BrokenCheckpoint, save_checkpoint
from training.corpus.synthesis import write_corpus
from training.data.listing import BadListing, Item, list_items
from training.data.packing import Packing
from training.data.pairs import Failure, work_on_pairs
from training.data.segments import NoTrainingData, PairedSegments
from training.data.shards import write_shards
from training.evaluation import embedder as embedder_module
from training.evaluation.embedder import NetworkEmbedder, NoSuchWeights, open_embedder
from training.evaluation.embedding import embed_data, embed_media, embed_prepared
from training.evaluation.evaluate import embed_segments

TINY = TgdpConfig(
    width=16,
    num_heads=2,
    depth=1,
    decoder_width=16,
    decoder_heads=2,
    decoder_depth=1,
    audio_patch=32,
    video_patch=32,
)


@pytest.fixture(scope="module")
def network() -> Tgdp:
    torch.manual_seed(0)
    return Tgdp(TINY).eval()


def test_files_become_tracks_in_their_order(network: Tgdp, corpus: Path, segments: PairedSegments) -> None:
    progress: list[tuple[int, int]] = []
    media = embed_data(
        NetworkEmbedder("tiny", network),
        [corpus],
        num_workers=1,
        on_progress=lambda *done: progress.append(done),
    )
    assert len(media.names) > 4
    assert media.names == segments.paths
    assert media.labels == segments.labels
    assert any(media.labels)
    assert {failure.path for failure in media.failed} == {failure["path"] for failure in segments.failed}
    assert {Path(failure.path).name: failure.reason.split(":")[0] for failure in media.failed}[
        "broken.mp4"
    ] == "not_media"
    assert media.num_files == 7
    assert progress == [(done, 7) for done in range(1, 8)]
    for row, name in enumerate(media.names):  # a batch of 4, then one of 1: as one at a time
        expected = torch_tracks(network, decode_clip(name, ClipSpec()))
        assert np.abs(media.audio[row] - expected.audio).max() < 1e-5
        assert np.abs(media.video[row] - expected.video).max() < 1e-5


def test_shards_become_the_tracks_of_their_files(
    network: Tgdp, corpus: Path, segments: PairedSegments, tmp_path: Path
) -> None:
    write_shards(list_items([corpus]), tmp_path, ClipSpec(), Packing(), num_workers=1)
    embedder = NetworkEmbedder("tiny", network)
    found, expected = embed_data(embedder, [tmp_path], num_workers=1), embed_prepared(embedder, segments)
    assert (found.names, found.labels, found.num_files) == (segments.paths, segments.labels, 7)
    assert (found.audio * expected.audio).sum(axis=2).min() > 0.9999
    assert (found.video * expected.video).sum(axis=2).min() > 0.99  # JPEG
    with pytest.raises(BadListing, match="is a shard, but other data is not"):
        embed_data(embedder, [tmp_path, corpus])


class Prepared(SimpleNamespace):
    """Segments in memory."""

    def __len__(self) -> int:
        return len(self.lengths)

    def frames_of(self, row: int):
        return self.frames[row]

    def samples_of(self, row: int):
        return self.samples[row]


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    rng = np.random.default_rng(0)
    lengths = np.array([160_000, 32_000, 90_000])
    samples = rng.normal(size=(3, 160_000)).astype(np.float32) / 9
    samples[1, 24_000:] = 0
    samples[2, 90_000:] = 0
    return Prepared(
        frames=rng.integers(0, 256, (3, 16, 224, 224, 3)).astype(np.uint8),
        samples=samples,
        lengths=lengths,
        heard=lengths - np.array([0, 8_000, 0]),
        paths=("a.mp4", "a.mp4", "b.mp4"),
        labels=(("rain",), ("rain",), ()),
        failed=({"path": "c.mp4", "reason": "empty"},),
    )


def test_prepared_segments_are_embedded_whatever_their_length(network: Tgdp, prepared: Prepared) -> None:
    embedder = NetworkEmbedder("tiny", network)
    media = embed_prepared(embedder, prepared)
    with torch.no_grad():
        sound = (prepared.samples, prepared.lengths, prepared.heard)
        audio = network.audio_track(*map(torch.from_numpy, sound))
        video = network.video_track(torch.from_numpy(prepared.frames))
    assert np.abs(media.audio - audio.numpy()).max() < 1e-6
    assert np.abs(media.video - video.numpy()).max() < 1e-6
    assert media.names == prepared.paths
    assert media.labels == prepared.labels
    assert media.num_files == 3
    assert media.failed[0].path == "c.mp4"
    assert embed_prepared(embedder, prepared, every_segment=False).names == ("a.mp4", "b.mp4")
    plain = embed_segments(network, prepared, limit=2)
    assert np.array_equal(plain[0], media.audio[:2])
    assert len(plain[1]) == 2


def test_one_segment_of_each_file_or_all(network: Tgdp, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = SimpleNamespace(
        num_heard=1, samples=np.zeros(16_000, np.float32), frames=np.zeros((16, 224, 224, 3), np.uint8)
    )

    def work_on_pairs(items, spec, work, *, num_workers, first_only, on_progress):
        numbers = [0, 1] if first_only else [0, 0, 1]
        return iter([(number, work(clip)) for number in numbers])

    monkeypatch.setattr("training.evaluation.embedding.work_on_pairs", work_on_pairs)
    items = [Item(path=Path("a.mp4"), labels=("rain",)), Item(path=Path("b.mp4"))]
    embedder = NetworkEmbedder("tiny", network)
    assert embed_media(embedder, items).names == ("a.mp4", "b.mp4")
    every = embed_media(embedder, items, every_segment=True)
    assert every.names == ("a.mp4", "a.mp4", "b.mp4")
    assert every.labels == (("rain",), ("rain",), ())


def test_only_the_first_segment_of_a_file_is_decoded(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path, num_scenes=1, seed=0, split="demo", separate_fraction=1.0)
    items = [Item(path=corpus / "0000.mp4"), Item(path=tmp_path / "0000-picture.mp4")]
    found = list(
        work_on_pairs(items, ClipSpec(segment_seconds=2.0), copy.copy, num_workers=1, first_only=True)
    )
    (number, clip), failure = found
    assert (number, clip.start_seconds, clip.end_seconds) == (0, 0.0, 2.0)
    assert failure.reason == "no_pair: its first segment lacks picture or sound"


def test_a_checkpoint_has_two_sets_of_weights_and_a_bundle_one(
    network: Tgdp, prepared: Prepared, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    teacher = Tgdp(TINY).eval()
    run = {"step": 7, "config": {"name": "tiny", "network": TINY.to_json()}}
    save_checkpoint(tmp_path / "checkpoint", network, teacher, torch.optim.AdamW(network.parameters()), run)
    expected = {"student": network, "teacher": teacher}
    for weights, of in ((None, "student"), ("student", "student"), ("teacher", "teacher")):
        embedder = open_embedder(tmp_path / "checkpoint", weights=weights)
        assert embedder.name == f"tiny, step 7, {of}"
        assert embedder.num_heads == 2
        found = embed_prepared(embedder, prepared, limit=1)
        audio, _ = embed_segments(expected[of], prepared, limit=1)
        assert np.abs(found.audio - audio).max() < 1e-5
    (tmp_path / "checkpoint/teacher.safetensors").unlink()
    with pytest.raises(BrokenCheckpoint, match="is not a checkpoint"):
        open_embedder(tmp_path / "checkpoint")


def test_a_bundle_gives_the_tracks_that_it_recorded() -> None:
    starter = REPOSITORY / "models/starter"
    embedder = open_embedder(starter)
    golden = embedder_module.load_bundle(starter).golden()
    length = np.array([len(golden.samples)])
    audio, video = embedder.embed(golden.samples[None], length, length, golden.frames[None])
    assert np.abs(audio[0] - golden.audio_track).max() < 1e-4
    assert np.abs(video[0] - golden.video_track).max() < 1e-4
    assert embedder.num_heads == 4
    with pytest.raises(NoSuchWeights, match="a bundle has one set of weights, so 'teacher'"):
        open_embedder(starter, weights="teacher")


def test_media_without_a_pair_are_refused_with_the_reason(
    network: Tgdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(path="broken.mp4", reason="not_media: this is not a supported media file")
    monkeypatch.setattr("training.evaluation.embedding.work_on_pairs", lambda *_, **__: iter([failure]))
    with pytest.raises(NoTrainingData, match=r"none of 1 files has .*broken.mp4: not_media"):
        embed_media(NetworkEmbedder("tiny", network), [Item(path=Path("broken.mp4"))])
